// A bridge between the host document and the engine, nothing else.
import { destroyAtInternalErrors } from './devices.js'
/** @typedef {{ kind: 'connect' | 'disconnect', client: string } | { kind: 'receive', client: string, message: ToEngine } | { kind: 'answer', ask: number, done: boolean } | { kind: 'policy', policy: Policy }} ToWorker */

/** The smallest module with a relaxed SIMD instruction: the engine is built with them and, for other browsers, without. */
const RELAXED_SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11])

destroyAtInternalErrors()

async function start () {
  const { default: init, Session } = WebAssembly.validate(RELAXED_SIMD) ? await import('./pkg/engine.js') : await import('./pkg/engine_plain.js')
  await init()
  return new Session((/** @type {string} */ client, /** @type {FromEngine} */ message) => postMessage({ client, message }), askHost)
}

/** What the host document was asked to do and has not answered yet. @type {Map<number, (done: boolean) => void>} */
const asked = new Map()
let asks = 0

/** @param {OfHost} what @returns {Promise<boolean>} */
function askHost (what) {
  const ask = ++asks
  postMessage({ ask, what })
  return new Promise((resolve) => asked.set(ask, resolve))
}

/** Messages come before the module is compiled: they wait for this promise, in order. */
const session = start()

const crashed = (/** @type {unknown} */ error) => postMessage({ crashed: error instanceof Error ? error.stack ?? error.message : String(error) })
session.catch(crashed)
addEventListener('unhandledrejection', (event) => crashed(event.reason))

addEventListener('message', async ({ data }) => {
  const to = /** @type {ToWorker} */ (data)
  if (to.kind === 'answer') {
    asked.get(to.ask)?.(to.done)
    return void asked.delete(to.ask)
  }
  try {
    const engine = await session
    if (to.kind === 'receive') engine.receive(to.client, to.message)
    else if (to.kind === 'policy') engine.set_policy(to.policy)
    else engine[to.kind](to.client)
  } catch (error) {
    crashed(error)
  }
})
