// What a user of a model of full size waits for, in the extension itself: the folder is dropped on the models page (no network), the
// browser is ended and started, then a summary on a cold engine, a question after it, and a summary of another page.
//   node tests/bench/product.mjs DIR [--gpu] [--shots DIR]
// `sotto-cli synth e2b-mobile DIR` writes a folder of full size. Needs no display; needs its bytes twice on the disk.
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { button, finished, lastTurn } from '../browser/answers.mjs'
import { expect, until } from '../browser/cdp.mjs'
import { Browser, REPOSITORY, adapterIsThere, screenshot } from '../browser/chromium.mjs'
import { clickAt, openPopup } from '../browser/gestures.mjs'
import { Web, folder } from '../browser/web.mjs'
import { answer, cardOf, click, dialog, modelsPage } from '../e2e/models.mjs'
import { ask, summarize } from '../e2e/popup.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

const { values: options, positionals: [model] } = parseArgs({ allowPositionals: true, options: { gpu: { type: 'boolean' }, shots: { type: 'string' } } })
if (!model) throw new Error('usage: node tests/bench/product.mjs DIR [--gpu] [--shots DIR]')

const MINUTES = 60_000
/** Random weights seldom find an end. */
const WRITES_MS = 20_000
const shots = resolve(options.shots ?? join(REPOSITORY, 'out/product'))
mkdirSync(shots, { recursive: true })

const line = (/** @type {string} */ text) => process.stdout.write(`${text}\n`)
const seconds = (/** @type {number} */ ms) => `${(ms / 1000).toFixed(2)} s`

/** Memory in use on an NVIDIA card, or ''. */
function cardMemory () {
  try {
    return execFileSync('nvidia-smi', ['--query-gpu=memory.used', '--format=csv,noheader'], { encoding: 'utf8' }).trim()
  } catch {
    return ''
  }
}

/**
 * Acts, and waits for the model's first word and the answer's end, or stops it.
 * @param {Session} popup @param {string} what @param {() => Promise<void>} act
 */
async function measured (popup, what, act) {
  const before = (await lastTurn(popup))?.heading
  const start = performance.now()
  await act()
  await expect('the model writes', async () => {
    const turn = await lastTurn(popup)
    if (turn?.failure) throw new Error(turn.failure)
    return turn && turn.heading !== before && turn.text.length > 0
  }, 10 * MINUTES, 5)
  const first = performance.now() - start
  const ended = await until(async () => !(await lastTurn(popup))?.running, WRITES_MS)
  const memory = cardMemory()
  if (!ended) await clickAt(popup, await button(popup, 'stop'))
  const turn = await finished(() => lastTurn(popup))
  if (turn.failure) throw new Error(turn.failure)
  line(`${what}: first word ${seconds(first)} after the click; ${JSON.stringify(turn.details)}${memory && `; card ${memory}`}`)
}

const web = await Web.start()
web.serve('news.test', folder(join(REPOSITORY, 'tests/pages')))
/** @type {Parameters<typeof Browser.start>[0]} */
const start = { web, gpu: options.gpu ? 'hardware' : undefined }
const empty = cardMemory()
if (empty) line(`card before the browser: ${empty}`)
let browser = await Browser.start(start)

const page = await modelsPage(browser)
if (options.gpu) await adapterIsThere(page)
const began = performance.now()
await page.eval('document.querySelector("#drop").scrollIntoView()')
const data = { items: [], files: [resolve(model)], dragOperationsMask: 1 }
for (const type of ['dragEnter', 'dragOver', 'drop']) await page.send('Input.dispatchDragEvent', { type, x: 300, y: 300, data })
await expect('it asks', () => dialog(page), 20_000)
await answer(page, 'yes')
const id = await expect('it has a card', () => page.eval(() => [...document.querySelectorAll('.model')].find(({ id }) => id.startsWith('own-'))?.id), MINUTES)
const here = await expect('it is here', async () => {
  const card = await cardOf(page, id)
  if (card?.failure) throw new Error(card.failure)
  return card?.state === 'here' && card
}, 10 * MINUTES)
line(`imported in ${seconds(performance.now() - began)}: ${JSON.stringify(here.facts)}`)
await click(page, id, 'use')
await expect('it is in use', async () => (await cardOf(page, id))?.chip === 'In use', MINUTES)
await screenshot(page, join(shots, 'models.png'))

// What the browser kept of the device's programs is in its profile: a second start finds them, as a user's does.
await browser.stop({ keep: true })
browser = await Browser.start({ ...start, profile: browser.profile })
if (options.gpu) {
  const other = await modelsPage(browser)
  await adapterIsThere(other)
  await other.close()
}
const tab = await browser.open('http://news.test/article/page.html')
const popup = await openPopup(browser, tab)
await measured(popup, 'summary, engine cold', () => summarize(popup))
await screenshot(popup, join(shots, 'summary.png'))
await measured(popup, 'question', () => ask(popup, 'What does it cost?'))
await screenshot(popup, join(shots, 'question.png'))
await measured(popup, 'another question', () => ask(popup, 'And who pays for it?'))
line((await popup.eval('document.querySelector("#device")?.title || document.querySelector("#device")?.innerText || ""')))
await browser.stop()
web.close()
process.exit(0)
