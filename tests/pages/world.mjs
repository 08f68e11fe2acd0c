// The extension's page scripts in an isolated world of a tab, as `chrome.scripting.executeScript` would run them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from '../browser/chromium.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

const SCRIPTS = ['extract-page.js', 'show-passage.js', 'replace-text.js'].map((name) => {
  const path = join(REPOSITORY, 'extension', name)
  return `${readFileSync(path, 'utf8')}\n//# sourceURL=${path}`
})

/** @typedef {{ kind: string, text: string, title: string, url: string, lang: string, wordsRead: number, wordsTotal: number, unread: string[] }} PageText */

export class World {
  /** @param {Session} tab @param {number} contextId */
  constructor (tab, contextId) {
    this.tab = tab
    this.contextId = contextId
  }

  /** @param {Session} tab */
  static async in (tab) {
    const { frameTree } = await tab.send('Page.getFrameTree')
    const { executionContextId } = await tab.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id, worldName: 'sotto' })
    const world = new World(tab, executionContextId)
    await world.load()
    return world
  }

  /** Also what a second gesture on the same page does. */
  async load () {
    for (const script of SCRIPTS) await this.#evaluate(script)
  }

  /**
   * Calls a function of `__sotto`, or evaluates one of ours, with JSON arguments.
   * @param {string} expression @param {...any} args @returns {Promise<any>}
   */
  call (expression, ...args) {
    return this.#evaluate(`(${expression.includes('=>') ? expression : `__sotto.${expression}`})(${args.map((arg) => JSON.stringify(arg)).join()})`)
  }

  /** @param {string} expression */
  async #evaluate (expression) {
    const { result, exceptionDetails: failure } = await this.tab.send('Runtime.evaluate', { expression, contextId: this.contextId, returnByValue: true, awaitPromise: true }, 60_000)
    if (failure) throw new Error(failure.exception?.description ?? failure.text)
    return result.value
  }
}
