// The main job, shown: an article, a right-click, Summarize, and the answer as it streams.
//   node tests/browser/demo.mjs [--page URL] [--shots DIR] [--gpu] [--close]
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { card, finished, lastTurn, middleOf } from './answers.mjs'
import { sleep, until } from './cdp.mjs'
import { Browser, REPOSITORY, screenshot, shortcut } from './chromium.mjs'
import { Display } from './display.mjs'
import { onPage, onSelection } from './entries.mjs'
import { chooseMenu, clickAt, closePopup, openPopup, press } from './gestures.mjs'
import { Web, folder } from './web.mjs'
/** @import { Tab } from './chromium.mjs' */

const { values: options } = parseArgs({ options: { page: { type: 'string' }, shots: { type: 'string' }, gpu: { type: 'boolean' }, close: { type: 'boolean' } } })
const shots = resolve(options.shots ?? join(REPOSITORY, 'out/demo'))
mkdirSync(shots, { recursive: true })

const own = Display.own()
const keepOpen = Boolean(process.env.DISPLAY || process.env.WAYLAND_DISPLAY) && !options.close
const display = process.env.WAYLAND_DISPLAY && !own ? null : own ?? await Display.start()
const web = await Web.start()
web.serve('127.0.0.1', folder(join(REPOSITORY, 'tests/pages')))
const url = options.page ?? `http://127.0.0.1:${web.port}/article/page.html`
// On Wayland nothing may click for the user: the browser shows itself there and the shortcut stands in for the menu.
const seen = display ?? /** @type {any} */ ({ env: {} })
const browser = await Browser.start({ display: seen, gpu: options.gpu ? 'hardware' : undefined })

const line = (/** @type {string} */ text = '') => process.stdout.write(`${text}\n`)
const seconds = (/** @type {number} */ ms) => `${(ms / 1000).toFixed(2)} s`

/**
 * Summarizes the page, or all of it below its first paragraphs, and prints the answer while it comes.
 * @param {Tab} tab @param {string} name @param {'page' | 'selection'} what
 */
async function summarize (tab, name, what) {
  const selector = await tab.eval((what) => {
    const paragraphs = [...document.querySelectorAll('main p, article p, p, h1, h2')].filter((p) => (p.textContent ?? '').trim())
    const inView = (/** @type {Element} */ element) => {
      const box = element.getBoundingClientRect()
      return box.top >= 0 && box.bottom < innerHeight && box.width > 100
    }
    // A selection that begins elsewhere shares no beginning with the page: nothing of it has been read before.
    const from = paragraphs[Math.min(2, paragraphs.length - 1)]
    if (what === 'selection') {
      from.scrollIntoView({ block: 'start', behavior: 'instant' })
      getSelection()?.setBaseAndExtent(from, 0, paragraphs[paragraphs.length - 1], paragraphs[paragraphs.length - 1].childNodes.length)
    }
    const found = what === 'selection' ? from : paragraphs.find(inView) ?? document.body
    found.setAttribute('data-sotto-demo', '')
    return '[data-sotto-demo]'
  }, what)
  let start
  if (display) {
    const entry = what === 'page' ? onPage('s') : onSelection('s')
    start = await chooseMenu(display, tab, selector, entry, { screenshot: join(shots, `${name}-menu.png`) })
  } else {
    start = performance.now()
    await press(tab, shortcut('summarize'))
  }
  let first = 0
  let passagesAt = 0
  let printed = ''
  let progress = ''
  const answer = await until(async () => {
    const now = await card(tab)
    if (!now) return null
    if (now.passages.length && !passagesAt) {
      passagesAt = performance.now()
      line(`\n${now.passagesLabel} (${seconds(passagesAt - start)} after the gesture; ${now.coverage})`)
      for (const passage of now.passages) line(`  | ${passage}`)
    }
    if (!now.text && now.progress && now.progress !== progress) {
      progress = now.progress
      if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K  ${progress}`)
    }
    if (now.text && !first) {
      first = performance.now()
      if (process.stdout.isTTY) process.stdout.write('\r\x1b[K')
      line(`\n${now.label || 'Answer'}`)
      process.stdout.write('  ')
    }
    if (now.text.startsWith(printed)) process.stdout.write(now.text.slice(printed.length).replaceAll('\n', '\n  '))
    else process.stdout.write(`\n  (written anew)\n  ${now.text.replaceAll('\n', '\n  ')}`)
    printed = now.text
    return !now.running && now
  }, 300_000, 15)
  line()
  if (!answer) throw new Error('no answer within five minutes')
  for (const notice of answer.notices) line(`  note: ${notice}`)
  if (answer.failure) throw new Error(answer.failure)
  const details = Object.entries(answer.details).map(([key, value]) => `${key}: ${value}`).join(', ')
  if (details) line(`  ${details}`)
  return { firstWord: first ? first - start : 0, keySentences: passagesAt ? passagesAt - start : 0 }
}

let failure = null
try {
  line(`Opening ${url}`)
  const tab = await browser.open(url)
  const cold = await summarize(tab, 'cold', 'page')
  await sleep(200)
  await tab.screenshot(join(shots, 'card-light.png'))
  if (display) await display.screenshot(join(shots, 'window.png'))
  await tab.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: 'dark' }] })
  await tab.screenshot(join(shots, 'card-dark.png'))
  await tab.send('Emulation.setEmulatedMedia', { features: [] })

  line('\nNow a selection, in a new tab, with the model loaded:')
  const again = await browser.open(url)
  const warm = await summarize(again, 'warm', 'selection')

  const popup = await openPopup(browser, again)
  await until(() => popup.eval('!document.querySelector("#summarize").disabled'))
  await clickAt(popup, await middleOf(popup, '#summarize'))
  await finished(() => lastTurn(popup))
  for (const scheme of ['light', 'dark']) {
    await popup.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
    await screenshot(popup, join(shots, `popup-${scheme}.png`))
  }
  await closePopup(browser, again)

  line(`\ngesture to key sentences  cold ${seconds(cold.keySentences)}, warm ${seconds(warm.keySentences)}`)
  line(`gesture to first word     cold ${seconds(cold.firstWord)}, warm ${seconds(warm.firstWord)}`)
  line(`screenshots               ${shots}`)
  if (keepOpen) {
    line('\nThe browser stays open for playing; close it to end.')
    await again.front()
    await browser.gone
  }
} catch (error) {
  failure = error
  if (display) await display.screenshot(join(shots, 'failed.png')).catch(() => {})
} finally {
  if (keepOpen && !failure) browser.discard()
  else {
    const log = await browser.stop()
    const ours = log?.requests.filter(({ url, initiator }) => initiator.startsWith(browser.origin) && /^(https?|wss?):/.test(url)) ?? []
    line(`network requests made by the extension: ${ours.length}`)
    if (ours.length) failure ??= new Error(ours.map(({ url }) => url).join(', '))
  }
  web.close()
  display?.stop()
}
if (failure) {
  line(`FAIL ${failure instanceof Error ? failure.message : failure}`)
  for (const message of browser.console.slice(-20)) line(`  ${message}`)
  process.exit(1)
}
process.exit(0)
