// The way of a model of full size through the interface, on this computer: got from a mirror with a pause, a cut connection, a damaged
// chunk and the browser's end in between; then, without a network and after another restart, a summary and a question.
//   cargo run --profile tools -p sotto-cli -- synth e2b-mobile DIR
//   node tests/browser/walk.mjs DIR [--id gemma-4-e4b] [--gpu] [--shots DIR]
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { answer, cardOf, click, dialog, modelsPage, permit, reaches } from '../e2e/models.mjs'
import { ask, summarize } from '../e2e/popup.mjs'
import { button, finished, lastTurn, middleOf } from './answers.mjs'
import { expect, sleep, until } from './cdp.mjs'
import { Browser, REPOSITORY, screenshot } from './chromium.mjs'
import { Display } from './display.mjs'
import { clickAt, openPopup, type } from './gestures.mjs'
import { CHUNK, Mirror, filesOf, pinned } from './mirror.mjs'
import { Web, folder } from './web.mjs'
/** @import { Session } from './cdp.mjs' */

const { values: options, positionals: [model] } = parseArgs({ allowPositionals: true, options: { id: { type: 'string' }, gpu: { type: 'boolean' }, shots: { type: 'string' } } })
if (!model) throw new Error('usage: node tests/browser/walk.mjs DIR [--gpu] [--shots DIR]; `sotto-cli synth e2b-mobile DIR` writes one')

const ID = options.id ?? 'gemma-4-e2b'
const MINUTES = 60_000
const shots = resolve(options.shots ?? join(REPOSITORY, 'out/walk'))
mkdirSync(shots, { recursive: true })

let last = performance.now()
/** Prints what was done and how long it took. @param {string} what */
function done (what) {
  process.stdout.write(`${((performance.now() - last) / 1000).toFixed(1).padStart(7)} s  ${what}\n`)
  last = performance.now()
}

const files = filesOf(resolve(model))
files.set('sotto-manifest.json', pinned(files))
const mirror = new Mirror(files, `/${ID}/`)
// As a plain file server that is somewhere else.
mirror.speed = 25e6
/** Chunks that went wrong, by what happened to them. @type {Record<string, number>} */
const wrong = {}
let chunks = 0
mirror.trouble = ({ path, from, nth }) => {
  if (path !== 'model.safetensors' || nth) return null
  const trouble = [, { cut: true }, { corrupt: true }][[20, 40].indexOf(++chunks) + 1]
  if (trouble) wrong[Object.keys(trouble)[0]] = from / CHUNK
  return trouble
}
done(`${ID} is hashed: ${[...files.values()].reduce((sum, file) => sum + file.length, 0)} bytes`)

const display = await Display.start()
const web = await Web.start()
web.serve('models.example.org', mirror.handler)
web.serve('news.test', folder(join(REPOSITORY, 'tests/pages')))
/** @type {Parameters<typeof Browser.start>[0]} */
const start = { display, web, gpu: options.gpu ? 'hardware' : undefined }
let browser = await Browser.start(start)

async function restart () {
  await browser.stop({ keep: true })
  browser = await Browser.start({ ...start, profile: browser.profile })
}

/** @param {Session} page @param {string} name */
const shoot = (page, name) => screenshot(page, join(shots, `${name}.png`))

/** @param {Session} page @param {number} percent */
const has = (page, percent) => expect(`${percent} % are here`, async () => Number(await page.eval(`document.querySelector("#${ID} .bar").getAttribute("aria-valuenow")`)) >= percent, 10 * MINUTES, 100)

/** The popup's answer, stopped after a minute: random weights seldom find an end. */
async function ended () {
  const stop = await until(async () => !(await lastTurn(popup))?.running, MINUTES)
  if (!stop) await clickAt(popup, await button(popup, 'stop'))
  return finished(() => lastTurn(popup))
}

let page = await modelsPage(browser)
await click(page, ID, 'get')
await expect('it asks', () => dialog(page))
await shoot(page, '1-question')
await page.eval('document.querySelector("dialog details").open = true')
await clickAt(page, await middleOf(page, '#mirror'))
await type(page, `http://models.example.org/${ID}`)
await answer(page, 'yes')
await permit(page, display, true)
await reaches(page, ID, 'getting')
await has(page, 20)
await shoot(page, '2-downloading')
await click(page, ID, 'pause')
await reaches(page, ID, 'paused')
done('a fifth is here; paused')

await restart()
page = await modelsPage(browser)
const paused = await reaches(page, ID, 'paused')
await shoot(page, '3-after-a-restart')
done(`the browser was ended and started: ${paused.line}`)
mirror.speed = 0
await click(page, ID, 'resume')
await reaches(page, ID, 'here', 10 * MINUTES)
const again = mirror.asked.filter(({ path, nth }) => path === 'model.safetensors' && nth).map(({ from }) => from / CHUNK)
await shoot(page, '4-here')
done(`all of it is here, ${(mirror.sent / 1e9).toFixed(2)} GB sent; chunks that went wrong: ${JSON.stringify(wrong)}, asked for again: ${again}`)
if (Object.keys(wrong).length < 2 || !Object.values(wrong).every((chunk) => again.includes(chunk))) throw new Error('the cut and the damaged chunk were not asked for again')
process.stdout.write(`           ${JSON.stringify((await cardOf(page, ID))?.facts)}\n`)

web.serve('models.example.org', (_, response) => void response.destroy())
await click(page, ID, 'use')
await expect('it is in use', async () => (await cardOf(page, ID))?.chip === 'In use', MINUTES)
await restart()
done('the mirror is gone, the browser was ended and started')
const tab = await browser.open('http://news.test/article/page.html')
const popup = await openPopup(browser, tab)
await summarize(popup)
const asked = performance.now()
await expect('the model writes', async () => ((await lastTurn(popup))?.text ?? '').length > 0, 10 * MINUTES, 20)
const first = performance.now() - asked
await sleep(2000)
await shoot(popup, '5-writing')
const summary = await ended()
await shoot(popup, '6-summary')
if (summary.failure) throw new Error(summary.failure)
done(`a summary, its first word after ${(first / 1000).toFixed(1)} s, the model's load included: ${JSON.stringify(summary.details)}`)
await ask(popup, 'What does it cost?')
const answered = await ended()
if (answered.failure) throw new Error(answered.failure)
await shoot(popup, '7-question')
done(`a question: ${JSON.stringify(answered.details)}`)
await browser.stop()
web.close()
display.stop()
process.exit(0)
