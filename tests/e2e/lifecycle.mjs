// A model's life: put away when unused, loaded again, carried over a lost graphics device.
import { expect } from '../browser/cdp.mjs'
import { check, scenario } from './harness.mjs'
/** @import { Session } from '../browser/cdp.mjs' */
/** @import { Browser } from '../browser/chromium.mjs' */
/** @import { EngineState, Event, FromEngine, Source, Task, ToEngine } from '../../offscreen/pkg/engine.js' */

const TEXT = 'The ferry between Quillon and the island of Vessery will run again from the first of May.'

/** A client of the engine, as the popup is, that keeps what it hears. */
class Client {
  /** @param {Session} page */
  constructor (page) {
    this.page = page
  }

  /** Opens a port from a document of the extension that has no port of its own. @param {Browser} browser */
  static async open (browser) {
    const page = await browser.open(`${browser.origin}/manifest.json`)
    await page.eval(async () => {
      const scope = /** @type {any} */ (globalThis)
      await chrome.runtime.sendMessage({ type: 'ensureEngine' })
      scope.heard = []
      scope.port = chrome.runtime.connect({ name: 'sotto' })
      scope.port.onMessage.addListener((/** @type {unknown} */ message) => scope.heard.push(message))
    })
    return new Client(page)
  }

  /** @param {ToEngine} message */
  send (message) {
    return this.page.eval((message) => { /** @type {any} */ (globalThis).port.postMessage(message) }, message)
  }

  /** @returns {Promise<FromEngine[]>} */
  heard () {
    return this.page.eval(() => /** @type {any} */ (globalThis).heard)
  }

  /** The engine's states so far, oldest first. @returns {Promise<EngineState[]>} */
  async states () {
    return (await this.heard()).flatMap((message) => message.type === 'status' ? [message.engine] : [])
  }

  /** @param {EngineState['state']} state @param {number} [ms] */
  async reaches (state, ms = 60_000) {
    return expect(`the engine is ${state}`, async () => {
      const last = (await this.states()).at(-1)
      return last?.state === state && last
    }, ms)
  }

  /** @param {string} request @param {Task} task @param {string} [conversation] */
  ask (request, task, conversation = request) {
    const words = TEXT.split(' ').length
    /** @type {Source} */
    const source = { kind: 'selection', text: TEXT, title: 'Ferry', url: 'https://ferry.test/', lang: 'en', wordsRead: words, wordsTotal: words, unread: [], incognito: false }
    return this.send({ type: 'ask', request, conversation, task, source })
  }

  /** What happened to a request so far, and the text that stands. @param {string} request */
  async answer (request) {
    /** @type {Event[]} */
    const events = (await this.heard()).flatMap((message) => message.type === 'update' && message.request === request ? [message.event] : [])
    let text = ''
    for (const event of events) {
      if (event.kind === 'text') text += event.text
      if (event.kind === 'rewritten') text = event.text
    }
    const end = events.find(({ kind }) => kind === 'done' || kind === 'stopped' || kind === 'failed')
    return { events, text, end, notices: events.flatMap((event) => event.kind === 'notice' ? [event.text] : []) }
  }

  /** @param {string} request @param {number} [ms] */
  async done (request, ms = 120_000) {
    const answer = await expect(`${request} ends`, async () => {
      const now = await this.answer(request)
      return now.end && now
    }, ms, 50)
    check(answer.end?.kind === 'done', `${request}: ${JSON.stringify(answer.end)}`)
    return answer
  }
}

scenario('an unused model is put away, and comes back when it is needed', async ({ browser }) => {
  const client = await Client.open(browser)
  await client.send({ type: 'setIdle', minutes: 0.02 })
  await client.send({ type: 'warm' })
  await client.reaches('ready')
  await client.reaches('idle', 10_000)
  await client.ask('r1', { kind: 'explain' })
  check((await client.done('r1')).text, 'no text after the model came back')
  await client.reaches('idle', 10_000)
  const states = (await client.states()).map(({ state }) => state)
  check(states.filter((state) => state === 'ready').length === 2, `states: ${states}`)
  // Zero is never.
  await client.send({ type: 'setIdle', minutes: 0 })
  await client.send({ type: 'warm' })
  await client.reaches('ready')
  await new Promise((resolve) => setTimeout(resolve, 3000))
  check((await client.states()).at(-1)?.state === 'ready', 'it was put away against the setting')
})

/**
 * Makes the worker's graphics adapter look like hardware, since the engine passes over software, and keeps the devices it
 * opens where they can be destroyed.
 * @param {Browser} browser
 */
async function reachDevices (browser) {
  const worker = await expect('the engine runs', () => browser.workers.at(-1))
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    scope.devices = []
    const request = scope.GPUAdapter.prototype.requestDevice
    scope.GPUAdapter.prototype.requestDevice = async function (/** @type {unknown[]} */ ...options) {
      const device = await request.apply(this, options)
      scope.devices.push(device)
      return device
    }
    Object.defineProperty(scope.GPUAdapter.prototype, 'info', {
      get: () => ({ vendor: 'test', architecture: '', device: '', description: 'Test adapter', isFallbackAdapter: false, subgroupMinSize: 4, subgroupMaxSize: 4 })
    })
  })
  return {
    destroy: () => worker.eval(() => /** @type {any} */ (globalThis).devices.at(-1).destroy()),
    count: () => worker.eval(() => /** @type {any} */ (globalThis).devices.length)
  }
}

scenario('a lost graphics device: the answer goes on where it was', async ({ browser, note }) => {
  const client = await Client.open(browser)
  const devices = await reachDevices(browser)
  await client.ask('whole', { kind: 'explain' })
  const whole = await client.done('whole', 300_000)
  check((await client.states()).some((state) => state.state === 'ready' && state.device.includes('Test adapter')), 'it does not run on the adapter')

  await client.ask('lost', { kind: 'explain' })
  const before = await expect('text', async () => {
    const { text } = await client.answer('lost')
    return text.length > 25 && text
  }, 300_000, 10)
  await devices.destroy()
  const lost = await client.done('lost', 300_000)
  check(lost.text.startsWith(before), `"${before}" did not stay: "${lost.text}"`)
  check(lost.text === whole.text, `it went on otherwise than without the loss: "${lost.text}", not "${whole.text}"`)
  check(await devices.count() === 2, `${await devices.count()} devices were opened`)

  // Lost while nothing runs.
  await devices.destroy()
  await client.ask('after', { kind: 'explain' })
  check((await client.done('after', 300_000)).text === whole.text, 'it is another answer after a loss between requests')
  note(`${whole.events.length} events`)
}, { gpu: 'software' })

scenario('a graphics device lost again and again: the CPU takes over, and says so', async ({ browser }) => {
  const client = await Client.open(browser)
  const devices = await reachDevices(browser)
  await client.ask('r1', { kind: 'explain' })
  for (let losses = 1; losses <= 3; losses++) {
    await expect(`device ${losses}`, async () => await devices.count() >= losses, 120_000)
    await expect('text', async () => (await client.answer('r1')).text.length > 20 * losses, 300_000, 10)
    await devices.destroy()
  }
  const answer = await client.done('r1', 300_000)
  check(answer.notices.some((text) => /graphics device failed.*CPU/s.test(text)), `notices: ${answer.notices}`)
  const ready = await client.reaches('ready')
  check(ready.state === 'ready' && ready.device.startsWith('CPU'), JSON.stringify(ready))
}, { gpu: 'software' })
