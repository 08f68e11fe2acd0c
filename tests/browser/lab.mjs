// Runs the shipped engine in Chromium outside the extension: the same module, the same worker, pages of this repository.
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { Session } from './cdp.mjs'
import { Browser, DIST, REPOSITORY, adapterIsThere } from './chromium.mjs'
import { Web, file, folder } from './web.mjs'
/** @import { Handler } from './web.mjs' */

/** Makes shared memory possible, for whoever is measured beside us. */
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' }
const MODEL = join(DIST, 'models/starter.gguf')

/** @typedef {{ module?: string, device?: 'cpu' | 'reference' | 'gpu' | 'gpu-f16', bench?: [number, number][], check?: string, folder?: string, only?: [string, number], tokenizer?: string, text?: string,
 *   get?: string, readRate?: string, upload?: string, pieces?: number[], stored?: string, weightBytes?: number, tableBytes?: number, floatBytes?: number, cacheBytes?: number }} Job */

export class Lab {
  /** @param {Web} web @param {Browser} browser */
  constructor (web, browser) {
    this.web = web
    this.browser = browser
  }

  /** With `serve`, whatever begins with `/models/` is answered by it. @param {{ gpu?: 'hardware' | 'software', flags?: string[], serve?: Handler }} [options] */
  static async start ({ gpu, flags = [], serve } = {}) {
    const web = await Web.start()
    const repository = folder(REPOSITORY, ISOLATED)
    web.serve('127.0.0.1', (url, response, request) => {
      if (url.pathname === '/model.gguf') return file(MODEL, response, request, ISOLATED)
      return serve && url.pathname.startsWith('/models/') ? serve(url, response, request) : repository(url, response, request)
    })
    const browser = await Browser.start({ extension: null, gpu, flags })
    const lab = new Lab(web, browser)
    if (gpu === 'hardware') {
      const tab = await browser.open(`${lab.origin}/tests/browser/lab.html`)
      await adapterIsThere(tab)
      await tab.close()
    }
    return lab
  }

  get origin () {
    return `http://127.0.0.1:${this.web.port}`
  }

  /** @param {Job} job @param {(worker: Session) => void} [watch] is given the worker that does it @returns {Promise<any>} */
  async run ({ module = 'engine', ...job }, watch) {
    const weights = job.device && !job.stored ? { model: `${this.origin}/model.gguf`, bytes: statSync(MODEL).size } : {}
    const tab = await this.browser.open(`${this.origin}/tests/browser/lab.html`)
    try {
      if (watch) {
        tab.on('Target.attachedToTarget', ({ sessionId, targetInfo }) => watch(new Session(tab.cdp, targetInfo.targetId, sessionId)))
        await tab.send('Target.setAutoAttach', { autoAttach: true, waitForDebuggerOnStart: false, flatten: true })
      }
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
