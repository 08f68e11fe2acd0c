// Runs the shipped engine in Chromium outside the extension: the same module, the same worker, pages of this repository.
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { Browser, DIST, REPOSITORY } from './chromium.mjs'
import { Web, file, folder } from './web.mjs'

/** Makes shared memory possible, for whoever is measured beside us. */
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' }
const MODEL = join(DIST, 'models/starter.gguf')

/** @typedef {{ module?: string, device?: 'cpu' | 'reference' | 'gpu', bench?: [number, number][], check?: string, folder?: string, only?: [string, number], tokenizer?: string, text?: string }} Job */

export class Lab {
  /** @param {Web} web @param {Browser} browser */
  constructor (web, browser) {
    this.web = web
    this.browser = browser
  }

  /** @param {{ gpu?: 'hardware' | 'software', flags?: string[] }} [options] */
  static async start ({ gpu, flags = [] } = {}) {
    const web = await Web.start()
    const repository = folder(REPOSITORY, ISOLATED)
    web.serve('127.0.0.1', (url, response, request) => url.pathname === '/model.gguf' ? file(MODEL, response, request, ISOLATED) : repository(url, response, request))
    const browser = await Browser.start({ extension: null, gpu, flags })
    return new Lab(web, browser)
  }

  get origin () {
    return `http://127.0.0.1:${this.web.port}`
  }

  /** @param {Job} job @returns {Promise<any>} */
  async run ({ module = 'engine', ...job }) {
    const weights = job.device ? { model: `${this.origin}/model.gguf`, bytes: statSync(MODEL).size } : {}
    const tab = await this.browser.open(`${this.origin}/tests/browser/lab.html`)
    try {
      return await tab.eval((job) => /** @type {any} */ (window).lab(job), { module, ...weights, ...job })
    } finally {
      await tab.close()
    }
  }

  async stop () {
    await this.browser.stop()
    this.web.close()
  }
}
