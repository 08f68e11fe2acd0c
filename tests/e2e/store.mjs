// Getting a model, against a server that misbehaves on purpose: the extension as it ships, a real browser, its real storage.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, sleep } from '../browser/cdp.mjs'
import { REPOSITORY } from '../browser/chromium.mjs'
import { CHUNK, Mirror, hashes, pinned, textChunks, tinyModel } from '../browser/mirror.mjs'
import { check, scenario } from './harness.mjs'
/** @import { Browser, Tab } from '../browser/chromium.mjs' */
/** @import { Stage } from './harness.mjs' */
/** @import { FailureCode, ModelState, ToEngine } from '../../offscreen/pkg/engine.js' */

const HOST = 'models.test'
const ADDRESS = `http://${HOST}/tiny`
const ID = 'own-tiny'

/** Made once: it is never changed. */
const TINY = tinyModel()
const WEIGHTS = /** @type {Buffer} */ (TINY.get('model.safetensors'))
const NEEDED = textChunks(WEIGHTS).map((n) => `model.safetensors:${n}`)
const WITH_HASHES = new Map([...TINY, ['sotto-manifest.json', pinned(TINY)]])

/** An own page of the extension that speaks to the engine, as the models page does. @param {Browser} browser */
async function talk (browser) {
  const tab = await browser.open(`${browser.origin}/popup/popup.html`)
  await tab.eval(async () => {
    const window = /** @type {any} */ (globalThis)
    window.toldRefused = []
    const answer = await chrome.runtime.sendMessage({ type: 'ensureEngine' })
    if (answer.error) throw new Error(answer.error)
    window.enginePort = chrome.runtime.connect({ name: 'sotto' })
    window.enginePort.onMessage.addListener((/** @type {any} */ message) => {
      if (message.type === 'models') window.toldModels = message
      if (message.type === 'refused') window.toldRefused.push(message.reason)
    })
    window.enginePort.postMessage({ type: 'models' })
  })
  await expect('the models are told', () => tab.eval('globalThis.toldModels?.models.length > 0'), 60_000)
  return new Page(tab)
}

class Page {
  /** @param {Tab} tab */
  constructor (tab) {
    this.tab = tab
  }

  /** @param {ToEngine} message */
  say (message) {
    return this.tab.eval((/** @type {any} */ message) => /** @type {any} */ (globalThis).enginePort.postMessage(message), message)
  }

  /** @returns {Promise<ModelState | undefined>} */
  state (id = ID) {
    return this.tab.eval((/** @type {any} */ id) => /** @type {any} */ (globalThis).toldModels?.models.find((/** @type {any} */ m) => m.id === id), id)
  }

  /** Waits until a model is in one of these states. @param {ModelState['status']['state'][]} states @param {string} [id] @returns {Promise<ModelState>} */
  async until (states, id = ID, ms = 60_000) {
    let last
    try {
      return await expect(`${id} is ${states}`, async () => {
        last = await this.state(id)
        // An own model that is not here is not listed at all.
        return states.includes(last?.status.state ?? 'notHere') && (last ?? /** @type {ModelState} */ ({ status: { state: 'notHere' } }))
      }, ms, 50)
    } catch (error) {
      throw new Error(`${id} is not ${states} but ${JSON.stringify(last)}`, { cause: error })
    }
  }

  /** Goes on, and has left the state that it was in. */
  async resume () {
    await this.say({ type: 'resumeGet', model: ID })
    await this.until(['getting', 'here'])
  }

  /** Fails with that code, and says what to do. @param {FailureCode} code @param {string} [id] */
  async fails (code, id = ID, ms = 60_000) {
    const { status } = await this.until(['failed'], id, ms)
    check(status.state === 'failed' && status.reason.code === code, `not ${code}: ${JSON.stringify(status)}`)
    check(status.reason.message.length > 20 && status.reason.nextStep.length > 10, `no words: ${JSON.stringify(status.reason)}`)
    return status.reason
  }

  async here (id = ID, ms = 60_000) {
    const state = await this.until(['here', 'failed'], id, ms)
    check(state.status.state === 'here', `it failed: ${JSON.stringify(state.status)}`)
    return { ...state, status: state.status }
  }

  /** What lies in the browser's storage: names in the model's folder, and the hash of each stored chunk as "path:number". @param {string} [id] */
  stored (id = ID) {
    return this.tab.eval(async (/** @type {string} */ id, /** @type {number} */ chunkBytes) => {
      const root = await navigator.storage.getDirectory()
      const models = await root.getDirectoryHandle('models', { create: true })
      const folder = await models.getDirectoryHandle(id).catch(() => null)
      if (!folder) return null
      /** @type {string[]} */
      const names = []
      for await (const name of /** @type {any} */ (folder).keys()) names.push(name)
      const file = async (/** @type {string} */ name) => (await folder.getFileHandle(name)).getFile()
      const name = ['manifest.json', 'part.json'].find((name) => names.includes(name))
      if (!name) return { names, chunks: {} }
      const manifest = JSON.parse(await (await file(name)).text())
      const data = await file(manifest.data)
      /** @type {Record<string, string>} */
      const chunks = {}
      for (const { path, bytes, chunks: list } of manifest.files) {
        for (const { index, at, done } of list) {
          if (!done) continue
          const part = data.slice(at, at + Math.min(chunkBytes, bytes - index * chunkBytes))
          const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', await part.arrayBuffer()))
          chunks[`${path}:${index}`] = [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('')
        }
      }
      return { names: names.sort(), chunks }
    }, id, CHUNK)
  }

  /** Chooses files, as a picker does, and hands them to the engine. @param {string[]} paths @param {string} [model] */
  async import (paths, model) {
    await this.tab.eval(() => {
      document.querySelector('#chosen')?.remove()
      const input = Object.assign(document.createElement('input'), { type: 'file', multiple: true, id: 'chosen' })
      document.body.append(input)
    })
    const { root } = await this.tab.send('DOM.getDocument')
    const { nodeId } = await this.tab.send('DOM.querySelector', { nodeId: root.nodeId, selector: '#chosen' })
    await this.tab.send('DOM.setFileInputFiles', { nodeId, files: paths })
    await this.tab.eval((/** @type {string | null} */ model) => {
      const input = /** @type {HTMLInputElement} */ (document.querySelector('#chosen'))
      const channel = new BroadcastChannel('sotto-import')
      channel.postMessage({ model, files: [...input.files ?? []] })
      channel.close()
    }, model ?? null)
  }
}

/** Everything needed is stored, byte for byte. @param {Page} page @param {Map<string, Buffer>} [files] */
async function isWhole (page, files = TINY) {
  const stored = await page.stored()
  check(stored, 'nothing is stored')
  check(stored.names.join() === `${stored.names[0]},manifest.json`, `the folder holds ${stored.names}`)
  const all = [...files].flatMap(([path, bytes]) => hashes(bytes).map((hash, n) => [`${path}:${n}`, hash]))
  const wanted = Object.fromEntries(all.filter(([key]) => !key.startsWith('model.safetensors:') || NEEDED.includes(key)))
  const differing = Object.keys({ ...wanted, ...stored.chunks }).filter((key) => wanted[key] !== stored.chunks[key])
  check(!differing.length, `stored otherwise than served: ${differing}`)
}

/** @param {Stage} stage @param {Map<string, Buffer>} [files] */
async function begin ({ browser, web }, files = WITH_HASHES) {
  const mirror = new Mirror(files)
  web.serve(HOST, mirror.handler)
  return { mirror, page: await talk(browser) }
}

const GET = /** @type {ToEngine} */ ({ type: 'getFrom', address: ADDRESS })
const ONLY_MIRROR = { downloads: [`${ADDRESS}/`] }

scenario('a model from a mirror: got, checked, mended, deleted', async (stage) => {
  const { mirror, page } = await begin(stage)
  check(await page.state() === undefined && !mirror.asked.length, 'something was asked before the click')
  await page.say(GET)
  const here = await page.here()
  check(here.status.verifiedAgainst === 'pinned', `verified against ${here.status.verifiedAgainst}`)
  const weights = mirror.chunks.filter((key) => key.startsWith('model.safetensors:'))
  check(weights.join() === NEEDED.join(), `asked for ${weights}`)
  await isWhole(page)
  check(here.diskBytes === here.fetchBytes && here.fetchBytes < WEIGHTS.length, `${here.diskBytes} of ${here.fetchBytes} bytes`)
  // Damage on the disk is found, and just that is fetched again.
  await page.tab.eval(async (/** @type {string} */ id) => {
    const root = await navigator.storage.getDirectory()
    const folder = await (await root.getDirectoryHandle('models')).getDirectoryHandle(id)
    const file = await (await folder.getFileHandle('data-1')).createWritable({ keepExistingData: true })
    await file.write({ type: 'write', position: 20_000_000, data: new Uint8Array(16) })
    await file.close()
  }, ID)
  await page.say({ type: 'check', model: ID })
  await page.fails('wrongBytes')
  mirror.asked = []
  await page.resume()
  await page.here()
  check(mirror.chunks.filter((key) => key.startsWith('model.safetensors:')).length === 1, `mended with ${mirror.chunks}`)
  await isWhole(page)
  mirror.asked = []
  await page.say({ type: 'delete', model: ID })
  await page.until(['notHere'])
  check(await page.stored() === null, 'something is left')
  await sleep(1000)
  check(!mirror.asked.length && await page.state() === undefined, 'it came back')
}, ONLY_MIRROR)

scenario('what passes is tried again: cut, busy, damaged on the way', async (stage) => {
  const { mirror, page } = await begin(stage)
  mirror.trouble = ({ path, from, nth }) => {
    if (path !== 'model.safetensors' || nth > 0) return null
    return [null, { cut: true }, { status: 429, headers: { 'retry-after': '1' } }, { status: 503 }, { corrupt: true }][from / CHUNK] ?? null
  }
  const start = performance.now()
  await page.say(GET)
  await page.here()
  check(performance.now() - start > 1000, 'Retry-After was not honoured')
  const twice = mirror.chunks.filter((key, i, all) => all.indexOf(key) !== i)
  check(twice.join() === NEEDED.slice(1, 5).join(), `asked twice: ${twice}`)
  await isWhole(page)
}, ONLY_MIRROR)

scenario('pause, resume, cancel', async (stage) => {
  const { mirror, page } = await begin(stage, TINY)
  mirror.speed = 1 << 22
  await page.say(GET)
  await expect('some of it is here', async () => {
    const status = (await page.state())?.status
    return status?.state === 'getting' && status.done > CHUNK && status.bytesPerSecond > 0
  }, 60_000)
  await page.say({ type: 'pauseGet', model: ID })
  const paused = await page.until(['paused'])
  const before = await page.stored()
  const asked = mirror.asked.length
  await sleep(500)
  check(mirror.asked.length === asked, 'it asks on while it is paused')
  mirror.speed = 0
  mirror.asked = []
  await page.say({ type: 'resumeGet', model: ID })
  const here = await page.here()
  check(here.status.verifiedAgainst === 'firstDownload', here.status.verifiedAgainst)
  const again = Object.keys(before?.chunks ?? {}).filter((key) => mirror.chunks.includes(key))
  check(!again.length, `fetched again: ${again} (${JSON.stringify(paused.status)})`)
  await isWhole(page)
  await page.say({ type: 'delete', model: ID })
  await page.until(['notHere'])
  mirror.speed = 1 << 21
  await page.say(GET)
  await expect('it begins anew', async () => (await page.state())?.status.state === 'getting' && mirror.asked.length > 3, 60_000)
  await page.say({ type: 'cancelGet', model: ID })
  await page.until(['notHere'])
  check(await page.stored() === null, 'something is left after it was cancelled')
}, ONLY_MIRROR)

scenario('the browser ends in the middle, and it goes on later', async (stage) => {
  const { mirror, page } = await begin(stage, TINY)
  // The rest hangs: what is stored then is known.
  mirror.trouble = ({ path, from }) => path === 'model.safetensors' && from >= 3 * CHUNK ? { status: 503, headers: { 'retry-after': '60' } } : null
  await page.say(GET)
  await expect('three chunks are here', async () => {
    // While it is written to, the data file cannot always be read.
    const stored = await page.stored().catch(() => null)
    return Object.keys(stored?.chunks ?? {}).filter((key) => key.startsWith('model.safetensors:')).length === 3
  }, 60_000)
  const waiting = (await page.state())?.status
  check(waiting?.state === 'getting' && waiting.waiting.includes('busy'), `it does not say that it waits: ${JSON.stringify(waiting)}`)
  await stage.restart()
  mirror.trouble = () => null
  mirror.asked = []
  const later = await talk(stage.browser)
  const paused = await later.until(['paused'])
  check(paused.status.state === 'paused' && paused.status.done > 3 * CHUNK, JSON.stringify(paused.status))
  await sleep(500)
  check(!mirror.asked.length, 'it went on without a click')
  await later.say({ type: 'resumeGet', model: ID })
  await later.here()
  const weights = mirror.chunks.filter((key) => key.startsWith('model.safetensors:'))
  check(weights.join() === NEEDED.slice(3).join(), `asked for ${weights}`)
  await isWhole(later)
}, ONLY_MIRROR)

const forWeights = (/** @type {import('../browser/mirror.mjs').Trouble} */ trouble) => (/** @type {import('../browser/mirror.mjs').Asked} */ { path, from }) =>
  path === 'model.safetensors' && from === CHUNK ? trouble : null

/** What the server does, and what it is called. @type {[string, import('../browser/mirror.mjs').Trouble, FailureCode, RegExp][]} */
const FAILURES = [
  ['403', { status: 403 }, 'blocked', /403/],
  ['404', { status: 404 }, 'notFound', /model\.safetensors/],
  ['a page of a proxy', { page: true }, 'blocked', /web page/],
  ['no ranges', { whole: true }, 'noRanges', /whole/],
  ['damaged twice', { corrupt: true }, 'wrongBytes', /bytes 8388608 to 16777215/],
  ['429 for long', { status: 429, headers: { 'retry-after': '3600' } }, 'serverBusy', /60 minutes/],
  ['a shorter file', { headers: { 'content-range': `bytes ${CHUNK}-${2 * CHUNK - 1}/${WEIGHTS.length - 1}` } }, 'sourceChanged', /bytes now/]
]

scenario('each failure has words, and nothing that came is lost', async (stage) => {
  const { mirror, page } = await begin(stage)
  for (const [what, trouble, code, words] of FAILURES) {
    mirror.trouble = forWeights(trouble)
    await page.say(GET)
    const reason = await page.fails(code).catch((error) => { throw new Error(`${what}: ${error.message}`) })
    check(words.test(reason.message), `${what}: ${reason.message}`)
    mirror.trouble = () => null
    const before = Object.keys((await page.stored())?.chunks ?? {})
    mirror.asked = []
    await page.resume()
    await page.here().catch((error) => { throw new Error(`after ${what}: ${error.message}`) })
    const again = before.filter((key) => mirror.chunks.includes(key))
    check(before.length > 2 && !again.length, `after ${what} fetched again: ${again}`)
    await isWhole(page)
    await page.say({ type: 'delete', model: ID })
    await page.until(['notHere'])
  }
}, ONLY_MIRROR)

scenario('a source that changes, hides, or is not there', async (stage) => {
  const { mirror, page } = await begin(stage, TINY)
  // Another version of the file takes its place in the middle. Without known hashes that is the end.
  mirror.trouble = ({ path, from }) => path === 'model.safetensors' && from > 0 ? { etag: '"new"' } : null
  await page.say(GET)
  check(/ETag/.test((await page.fails('sourceChanged')).message), 'it does not say what changed')
  await page.say({ type: 'cancelGet', model: ID })
  await page.until(['notHere'])
  // With known hashes an ETag says nothing: servers behind one name differ in them.
  mirror.files = WITH_HASHES
  await page.say(GET)
  await page.here()
  await page.say({ type: 'delete', model: ID })
  await page.until(['notHere'])
  // A server that does not let its headers be read.
  mirror.trouble = () => null
  mirror.files = TINY
  mirror.headers = { 'access-control-allow-origin': '*' }
  await page.say(GET)
  check(/Content-Range/.test((await page.fails('noRanges')).message), 'it does not name the header')
  await page.say({ type: 'cancelGet', model: ID })
  await page.until(['notHere'])
  mirror.files = WITH_HASHES
  await page.say(GET)
  await page.here()
  // A known model with a file of another length.
  await page.say({ type: 'get', model: 'gemma-4-e2b', mirror: ADDRESS })
  mirror.files = TINY
  mirror.headers['access-control-expose-headers'] = 'Content-Range'
  const { message } = await page.fails('sourceChanged', 'gemma-4-e2b')
  check(/should have 6204/.test(message), message)
  // Nothing there, no such name.
  await page.say({ type: 'getFrom', address: 'http://nobody.test/tiny2' })
  await page.fails('networkFailed', 'own-tiny2')
  await page.say({ type: 'getFrom', address: 'ftp://models.test/tiny' })
  await expect('it is refused', () => page.tab.eval('globalThis.toldRefused.length === 1'), 60_000)
  check((await page.here()).status.state === 'here', 'the stored model was harmed')
}, { downloads: [`${ADDRESS}/`, 'http://nobody.test/tiny2/'] })

scenario('two windows at once, and a second engine', async (stage) => {
  const { mirror, page } = await begin(stage)
  mirror.speed = 1 << 20
  const second = await talk(stage.browser)
  await Promise.all([page.say(GET), second.say(GET)])
  await expect('both see it', async () => (await page.state())?.status.state === 'getting' && (await second.state())?.status.state === 'getting', 60_000)
  // The engine's document in a tab of its own: another worker on the same storage.
  const other = await stage.browser.open(`${stage.browser.origin}/offscreen/offscreen.html`)
  await other.eval((/** @type {string} */ address) => {
    const worker = new Worker('worker.js', { type: 'module' })
    const window = /** @type {any} */ (globalThis)
    worker.onmessage = ({ data }) => {
      if (data.message?.type === 'models') window.toldModels = data.message
      if (data.ask) worker.postMessage({ kind: 'answer', ask: data.ask, done: true })
    }
    worker.postMessage({ kind: 'connect', client: 'x' })
    worker.postMessage({ kind: 'receive', client: 'x', message: { type: 'models' } })
    worker.postMessage({ kind: 'receive', client: 'x', message: { type: 'getFrom', address } })
  }, ADDRESS)
  await new Page(other).fails('atWorkElsewhere')
  await other.close()
  mirror.speed = 0
  await page.here()
  await second.here()
  const weights = mirror.chunks.filter((key) => key.startsWith('model.safetensors:'))
  check(weights.join() === NEEDED.join(), `asked for ${weights}`)
  await isWhole(page)
}, ONLY_MIRROR)

scenario('files of this computer, without a network', async (stage) => {
  const { browser, web } = stage
  web.cut = true
  const page = await talk(browser)
  const folder = mkdtempSync(join(tmpdir(), 'sotto-model-'))
  try {
    const paths = [...TINY].map(([name, bytes]) => {
      writeFileSync(join(folder, name), bytes)
      return join(folder, name)
    })
    await page.import(paths)
    const here = await page.here('own-folder')
    check(here.status.verifiedAgainst === 'import', here.status.verifiedAgainst)
    const stored = await page.stored('own-folder')
    check(stored?.chunks['model.safetensors:2'] === hashes(WEIGHTS)[2], 'stored otherwise than chosen')
    const gguf = join(REPOSITORY, 'tests/golden/shapes/llama3-gguf/model.gguf')
    await page.import([gguf])
    await page.here('own-model')
    // A second import that fails leaves the first alone.
    writeFileSync(join(folder, 'model.gguf'), 'GGUF, but no more than that')
    await page.import([join(folder, 'model.gguf')])
    await page.fails('notAModel', 'own-model')
    check((await page.stored('own-model'))?.names.includes('manifest.json'), 'the model that was here is gone')
    await page.say({ type: 'cancelGet', model: 'own-model' })
    await page.until(['here'], 'own-model')
    // Files that are none.
    await page.import([join(folder, 'config.json')])
    await page.fails('notFound', 'own-folder')
  } finally {
    rmSync(folder, { recursive: true })
  }
})

scenario('the network lock opens for a download, for it alone, and closes', async (stage) => {
  const { mirror, page } = await begin(stage)
  const other = new Mirror(WITH_HASHES)
  stage.web.serve('other.test', other.handler)
  const reaches = (/** @type {string} */ url, method = 'GET') =>
    page.tab.eval((/** @type {string} */ url, /** @type {string} */ method) => fetch(url, { method }).then(() => true, () => false), url, method)
  check(!await reaches(`${ADDRESS}/config.json`) && !mirror.asked.length, 'open before a download')
  mirror.speed = 1 << 22
  await page.say(GET)
  await expect('it is getting', async () => (await page.state())?.status.state === 'getting' && mirror.asked.length > 4, 60_000)
  check(!await reaches('http://other.test/tiny/config.json') && !other.asked.length, 'open for another host')
  const before = mirror.asked.length
  check(!await reaches(`${ADDRESS}/config.json`, 'POST'), 'open for more than GET')
  // The browser has some POSTs of its own, to other hosts.
  const posts = stage.web.requests.filter(({ method, url }) => method === 'POST' && new URL(url).hostname === HOST)
  check(!posts.length && mirror.asked.length >= before, `a POST came through: ${posts.map(({ url }) => url)}`)
  await page.say({ type: 'pauseGet', model: ID })
  await page.until(['paused'])
  await expect('the lock is closed', () => page.tab.eval('chrome.declarativeNetRequest.getSessionRules().then((rules) => rules.length === 0)'), 60_000)
  mirror.asked = []
  check(!await reaches(`${ADDRESS}/config.json`) && !mirror.asked.length, 'open after it was paused')
  // What a page may say is not what a card may say: asked from a web page's own process, nothing is fetched.
  const rules = await page.tab.eval('chrome.runtime.sendMessage({ type: "network", to: [{ kind: "hub" }] }).then(() => chrome.declarativeNetRequest.getSessionRules(), () => chrome.declarativeNetRequest.getSessionRules())')
  check(rules.length === 0, 'a page that is not the engine opened the lock')
}, { ...ONLY_MIRROR, attempts: ['http://other.test/'] })

scenario('the hub, over TLS and by way of another host', async (stage) => {
  await stage.web.secure()
  const cdn = new Mirror(new Map([['config.json', Buffer.from('{}')]]), '/')
  stage.web.serve('huggingface.co', (_url, response) => {
    response.writeHead(302, { location: 'https://cdn.test/config.json', 'access-control-allow-origin': '*' }).end()
  })
  stage.web.serve('cdn.test', cdn.handler)
  const page = await talk(stage.browser)
  await page.say({ type: 'get', model: 'gemma-4-e2b', mirror: undefined })
  const { message } = await page.fails('sourceChanged', 'gemma-4-e2b')
  check(/config\.json on huggingface\.co/.test(message) && /2 bytes/.test(message), message)
  check(cdn.chunks.join() === 'config.json:0', `the other host was asked for ${cdn.chunks}`)
  const urls = stage.web.requests.map(({ url }) => url).filter((url) => url.includes('huggingface.co'))
  check(urls.every((url) => url.startsWith('https://huggingface.co/google/gemma-4-E2B-it-qat-mobile-transformers/resolve/')), `${urls}`)
}, { downloads: ['https://huggingface.co/google/', 'https://cdn.test/'], flags: ['--ignore-certificate-errors'] })
