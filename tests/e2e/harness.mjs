// One scenario: a fresh browser with the built extension, a web of our own, real gestures; and at its end, whatever it was
// about, the proof that the extension spoke to nobody and threw nothing.
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Browser, REPOSITORY } from '../browser/chromium.mjs'
import { Display } from '../browser/display.mjs'
import { Web, folder, page } from '../browser/web.mjs'
/** @import { Tab } from '../browser/chromium.mjs' */

export const OUT = join(REPOSITORY, 'out/e2e')
/** The hosts a scenario's web has. They are not secure contexts, as many pages are not. */
export const NEWS = 'http://news.test'
export const ARTICLE = `${NEWS}/article/page.html`

/**
 * @typedef {object} Stage
 * @property {Browser} browser
 * @property {Display} display
 * @property {Web} web
 * @property {(text: string) => void} note prints a figure beside the result
 * @property {(html: string, host?: string) => Promise<Tab>} openPage shows a page of this HTML on a host of its own
 * @property {() => Promise<void>} restart ends the browser as a user does, and starts it again with the same profile
 */

/**
 * @typedef {object} Options
 * @property {string[]} [flags] more flags for the browser
 * @property {'hardware' | 'software'} [gpu]
 * @property {string[]} [downloads] beginnings of the only addresses that the extension may ask for, since the user asks it to
 * @property {string[]} [attempts] beginnings of addresses that the scenario has it ask for, to see that nothing gets out
 */

/** @type {{ name: string, options: Options, body: (stage: Stage) => Promise<void> }[]} */
const scenarios = []

/** @param {string} name @param {(stage: Stage) => Promise<void>} body @param {Options} [options] */
export function scenario (name, body, options = {}) {
  scenarios.push({ name, options, body })
}

/** @param {unknown} condition @param {string} what @returns {asserts condition} */
export function check (condition, what) {
  if (!condition) throw new Error(what)
}

/** As a reader compares: white space does not count. @param {string} text */
export const flat = (text) => text.replace(/\s+/g, ' ').trim()

/** Lines that failures may take at the end of the output: whoever reads a log reads its end. */
const SUMMARY_LINES = 34
const SUMMARY_WIDTH = 240

/** The failed scenarios once more, each with the beginning of what was wrong. @param {{ name: string, problem: string }[]} failures @param {number} ran */
function summary (failures, ran) {
  const each = Math.max(1, Math.floor(SUMMARY_LINES / failures.length) - 1)
  const lines = failures.flatMap(({ name, problem }) => [`FAIL ${name}`, ...problem.split('\n').filter((line) => line.trim()).slice(0, each).map((line) => `     ${line.slice(0, SUMMARY_WIDTH)}`)])
  return [`${failures.length} of ${ran} scenarios failed:`, ...lines].join('\n')
}

/**
 * Runs the scenarios whose name holds `only`; answers how many failed. One that fails is run once more: real clicks and keys on a
 * display get lost on a busy machine. Which needed that is said at the end, and failing twice is failing.
 * @param {string} only
 */
export async function runAll (only = '') {
  mkdirSync(OUT, { recursive: true })
  const chosen = scenarios.filter(({ name }) => name.includes(only))
  const display = await Display.start()
  /** @type {{ name: string, problem: string }[]} */
  const failures = []
  /** @type {string[]} */
  const again = []
  try {
    for (const { name, options, body } of chosen) {
      const attempt = async () => {
        const start = performance.now()
        /** @type {string[]} */
        const notes = []
        const problem = await run(display, name, options, body, (text) => notes.push(text))
        const time = `${((performance.now() - start) / 1000).toFixed(1)} s`
        process.stdout.write(`${problem ? 'FAIL' : 'PASS'} ${name} (${[time, ...notes].join('; ')})${problem ? `\n     ${problem.replaceAll('\n', '\n     ')}` : ''}\n`)
        return problem
      }
      if (!await attempt()) continue
      const problem = await attempt()
      if (problem) failures.push({ name, problem })
      else again.push(name)
    }
  } finally {
    display.stop()
  }
  if (!chosen.length) throw new Error(`no scenario's name contains "${only}"`)
  if (!failures.length) console.log(`${chosen.length} scenarios passed${again.length ? `, ${again.length} at the second try: ${again.join(', ')}` : ''}`)
  if (failures.length) console.log(`\n${summary(failures, chosen.length)}`)
  return failures.length
}

/** @param {Display} display @param {string} name @param {Options} options @param {(stage: Stage) => Promise<void>} body @param {(text: string) => void} note */
async function run (display, name, options, body, note) {
  const web = await Web.start()
  web.serve('news.test', folder(join(REPOSITORY, 'tests/pages')))
  /** @type {string[]} */
  const problems = []
  /** @type {Browser | null} */
  let browser = null
  const { downloads = [], attempts = [], ...start } = options
  try {
    browser = await Browser.start({ display, web, ...start })
    let pages = 0
    /** @type {Stage} */
    const stage = {
      browser, display, web, note,
      openPage: async (/** @type {string} */ html, host = `page${++pages}.test`) => {
        web.serve(host, page(html))
        return stage.browser.open(`http://${host}/`)
      },
      restart: async () => {
        problems.push(...silence(stage.browser, await stage.browser.stop({ keep: true }), web, downloads, attempts))
        stage.browser = browser = await Browser.start({ display, web, ...start, profile: stage.browser.profile })
      }
    }
    await body(stage)
  } catch (error) {
    problems.push(error instanceof Error ? String(error.stack) : String(error))
    await display.screenshot(join(OUT, `${name.replace(/\W+/g, '-')}.png`)).catch(() => {})
    if (browser) problems.push(...browser.console.slice(-12))
  }
  if (browser) {
    problems.push(...browser.console.filter((line) => / exception: /.test(line)))
    const log = await browser.stop()
    problems.push(...silence(browser, log, web, downloads, attempts))
  }
  web.close()
  // What a scenario that ended early left on the screen must not meet the next one.
  await display.key('Escape').catch(() => {})
  return problems.join('\n')
}

/** Played by ourselves. */
const STORE = 'chromewebstore.google.com'
/** Chromium looks for updates, the time and accounts, and checks in for push messages, by itself; none of it carries an
 *  initiator, which the network stack writes down for whatever the extension does. */
const BROWSERS_OWN = /^((update|clients\d|android\.clients|accounts|www|content-autofill|optimizationguide-pa|safebrowsing|redirector)\.(google|googleapis|gvt1)\.com)$/

/**
 * What breaks the promise that nothing leaves the machine: three witnesses (the extension's own contexts, the browser's
 * network stack, the proxy all traffic must pass).
 * @param {Browser} browser
 * @param {Awaited<ReturnType<Browser['stop']>>} log
 * @param {Web} web
 * @param {string[]} downloads
 * @param {string[]} attempts
 */
function silence (browser, log, web, downloads, attempts) {
  const begins = (/** @type {string} */ url, /** @type {string[]} */ list) => list.some((start) => url.startsWith(start))
  const remote = (/** @type {string} */ url) => !begins(url, downloads) && !/^(chrome-extension|chrome|data|blob|about|devtools|view-source):/.test(url)
  const problems = browser.requests.filter(({ url }) => remote(url) && !begins(url, attempts)).map(({ url, from }) => `the extension requested ${url} (${from})`)
  if (!log) return [...problems, 'the browser did not end by itself, so its net log cannot be read']
  for (const { url, initiator } of log.requests) {
    if (remote(url) && initiator.startsWith('chrome-extension:')) problems.push(`the network stack saw ${url} from ${initiator}`)
  }
  for (const { url, method } of web.requests) {
    const { hostname, search } = new URL(method === 'CONNECT' ? `https://${url}` : url)
    // Pages of the scenarios ask for themselves and their icons, with nothing attached.
    if (method === 'GET' && begins(url, downloads)) continue
    const expected = hostname.endsWith('.test') || hostname === STORE ? method === 'GET' && !search : BROWSERS_OWN.test(hostname)
    if (!expected) problems.push(`the proxy saw ${method} ${url}`)
  }
  return problems
}

/** @param {string} path relative to the repository */
export const fixture = (path) => readFileSync(join(REPOSITORY, path), 'utf8')
