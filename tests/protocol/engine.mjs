// The shipped engine in a worker of its own, which can be ended whatever it still does: plays messages to it and tells what it
// says to each.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { parentPort, workerData } from 'node:worker_threads'
/** @import { FromEngine, ToEngine } from '../../offscreen/pkg/engine.js' */

const { pkg, messages } = /** @type {{ pkg: string, messages: { file: string, value: ToEngine }[] }} */ (workerData)

// The worker's surroundings: no graphics adapter, no network, and storage that the user has blocked.
class Scope { static [Symbol.hasInstance] (/** @type {unknown} */ value) { return value === globalThis } }
/** @type {string[]} */
const fetched = []
const fetch = (/** @type {unknown} */ address) => {
  fetched.push(String(address))
  return Promise.reject(new Error('no network in this test'))
}
const blocked = () => Promise.reject(new DOMException('storage is blocked in this test', 'SecurityError'))
const navigator = { storage: { getDirectory: blocked, estimate: blocked, persisted: blocked, persist: blocked } }
for (const [name, value] of Object.entries({ WorkerGlobalScope: Scope, DedicatedWorkerGlobalScope: Scope, navigator, fetch })) Object.defineProperty(globalThis, name, { value, configurable: true })

// Node's own WebAssembly may know no relaxed SIMD.
const { initSync, Session } = await import(pathToFileURL(join(pkg, 'engine_plain.js')).href)
initSync({ module: readFileSync(join(pkg, 'engine_plain_bg.wasm')) })
/** @type {{ file: string, heard: FromEngine[] }[]} */
const answers = [{ file: 'connect', heard: [] }]
// Nothing may be opened here, so nothing may be fetched either.
const session = new Session((/** @type {string} */ _client, /** @type {FromEngine} */ message) => { answers[answers.length - 1].heard.push(message) }, async () => false)
session.connect('1')
for (const { file, value } of messages) {
  answers.push({ file, heard: [] })
  session.receive('1', value)
}
// What it says later, on its own, is heard too.
answers.push({ file: 'afterwards', heard: [] })
await sleep(500)
parentPort?.postMessage({ answers, fetched })
