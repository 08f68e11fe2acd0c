// What an own page of the extension says to the engine and hears from it, where a scenario is not about the interface.
import { expect } from '../browser/cdp.mjs'
import { check } from './harness.mjs'
/** @import { Session } from '../browser/cdp.mjs' */
/** @import { Browser } from '../browser/chromium.mjs' */
/** @import { EngineState, Event, FromEngine, Source, Task, ToEngine } from '../../offscreen/pkg/engine.js' */

const TEXT = 'The ferry between Quillon and the island of Vessery will run again from the first of May.'

/** A client of the engine, as the popup is, that keeps what it hears. */
export class Client {
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

  /** The newest word about the models. */
  async models () {
    const all = (await this.heard()).flatMap((message) => message.type === 'models' ? [message] : [])
    return all.at(-1)
  }

  /** @param {string} id */
  async use (id) {
    const before = (await this.heard()).length
    await this.send({ type: 'use', model: id })
    await expect(`${id} is ready`, async () => (await this.heard()).slice(before).some((message) => message.type === 'status' && message.engine.state === 'ready'), 60_000)
    const last = await this.reaches('ready')
    return last.state === 'ready' ? last : null
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
