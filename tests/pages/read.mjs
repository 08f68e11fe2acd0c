// Prints exactly the text that the engine would get from a page, then how much of it was read. `cargo xtask read URL`.
//   node tests/pages/read.mjs URL [--words N]
import { parseArgs } from 'node:util'
import { pathToFileURL } from 'node:url'
import { sleep, until } from '../browser/cdp.mjs'
import { Browser } from '../browser/chromium.mjs'
import { World } from './world.mjs'
/** @import { PageText } from './world.mjs' */

/** A page that still fetches after this long is read as it is. */
const SETTLE_MS = 8000

/**
 * Opens an address in Chromium and reads the page as the extension does.
 * @param {string} url
 * @param {number} [maxWords]
 * @returns {Promise<PageText>}
 */
export async function readUrl (url, maxWords) {
  const browser = await Browser.start({ extension: null })
  try {
    const tab = await browser.open('about:blank', { complete: false })
    await tab.send('Page.enable')
    await tab.send('Network.enable')
    /** @type {Set<string>} */
    const busy = new Set()
    let lastSeen = performance.now()
    tab.on('Network.requestWillBeSent', ({ requestId, request }) => {
      // The end of one without a network is not reported.
      if (/^(?:data|blob):/.test(request.url)) return
      busy.add(requestId)
      lastSeen = performance.now()
    })
    for (const ended of ['Network.loadingFinished', 'Network.loadingFailed']) {
      tab.on(ended, ({ requestId }) => {
        busy.delete(requestId)
        lastSeen = performance.now()
      })
    }
    let loaded = false
    tab.on('Page.loadEventFired', () => { loaded = true })
    const { errorText } = await tab.send('Page.navigate', { url }, 60_000)
    if (errorText) throw new Error(`${url} could not be opened: ${errorText.replace(/^net::/, '')}`)
    await until(() => loaded, 30_000)
    // Pages made by scripts come after the load event: wait until the network has been quiet for half a second.
    await until(() => performance.now() - lastSeen > 500 && !busy.size, SETTLE_MS)
    await sleep(100)
    return await (await World.in(tab)).call('readPage', ...(maxWords ? [maxWords] : []))
  } finally {
    await browser.stop()
  }
}

/** What was left out, if anything, and how much was read. @param {PageText} page */
export function coverage ({ wordsRead, wordsTotal, unread }) {
  const number = (/** @type {number} */ n) => n.toLocaleString('en-US')
  return `${unread.length ? `Not read: ${unread.join(', ')}\n` : ''}${number(wordsRead)} of ${number(wordsTotal)} words`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { values, positionals: [url] } = parseArgs({ allowPositionals: true, options: { words: { type: 'string' } } })
  if (!url || !URL.canParse(url)) {
    console.error('usage: node tests/pages/read.mjs URL [--words N] (http:, https: or file:)')
    process.exit(2)
  }
  try {
    const page = await readUrl(url, Number(values.words) || undefined)
    // Not before all is written, but without waiting for timers.
    process.stdout.write(`${page.text}\n\n${coverage(page)}\n`, () => process.exit(0))
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exit(1)
  }
}
