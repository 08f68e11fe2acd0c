// Pictures of the models page and of the popup in every state of a download, as the shipped extension shows them: a model of two
// gigabytes comes from a local server, is paused, refused, and comes to its end.
//   node tests/browser/models-shots.mjs [DIR]
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { answer, click, dialog, modelsPage, permit, reaches } from '../e2e/models.mjs'
import { middleOf } from './answers.mjs'
import { expect, sleep } from './cdp.mjs'
import { Browser, REPOSITORY, screenshot } from './chromium.mjs'
import { Display } from './display.mjs'
import { clickAt, openPopup, type } from './gestures.mjs'
import { Mirror, pinned, tinyModel } from './mirror.mjs'
import { Web, folder } from './web.mjs'
/** @import { Session } from './cdp.mjs' */

const E2B = 'gemma-4-e2b'
const shots = resolve(process.argv[2] ?? join(REPOSITORY, 'out/models'))
mkdirSync(shots, { recursive: true })

const files = tinyModel(6_500_000)
files.set('sotto-manifest.json', pinned(files))
const mirror = new Mirror(files, `/${E2B}/`)
mirror.speed = 20e6

const display = await Display.start()
const web = await Web.start()
web.serve('models.example.org', mirror.handler)
web.serve('news.test', folder(join(REPOSITORY, 'tests/pages')))
const browser = await Browser.start({ display, web })

/** @param {Session} page @param {string} name */
async function shoot (page, name) {
  for (const scheme of ['light', 'dark']) {
    await page.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
    await sleep(250)
    await screenshot(page, join(shots, `${name}-${scheme}.png`))
  }
  await page.send('Emulation.setEmulatedMedia', { features: [] })
}

/** The popup over an article. @param {(popup: Session) => Promise<unknown>} look */
async function inPopup (look) {
  const tab = await browser.open('http://news.test/article/page.html')
  const popup = await openPopup(browser, tab)
  await expect('the popup names the model', () => popup.eval('document.querySelector("#model").hidden === false && document.querySelector("#question").disabled === false'), 30_000)
  await look(popup)
  await popup.eval('close()').catch(() => {})
  await tab.close()
}

const page = await modelsPage(browser)
await shoot(page, 'page')
await inPopup(async (popup) => {
  await sleep(500)
  await shoot(popup, 'popup-offer')
  await clickAt(popup, await middleOf(popup, '#model'))
  await shoot(popup, 'popup-list')
})
await page.front()
await click(page, E2B, 'get')
await expect('it asks', () => dialog(page))
await shoot(page, 'question')
await page.eval('document.querySelector("dialog details").open = true')
await clickAt(page, await middleOf(page, '#mirror'))
await type(page, `http://models.example.org/${E2B}`)
await shoot(page, 'question-mirror')
await answer(page, 'yes')
await permit(page, display, true)
await reaches(page, E2B, 'getting')
await expect('a third is here', async () => Number((await page.eval('document.querySelector("#gemma-4-e2b .bar").getAttribute("aria-valuenow")'))) > 33, 200_000, 200)
await shoot(page, 'downloading')
await inPopup((popup) => shoot(popup, 'popup-downloading'))
await page.front()
await click(page, E2B, 'pause')
await reaches(page, E2B, 'paused')
await shoot(page, 'paused')
mirror.trouble = () => ({ status: 403 })
await click(page, E2B, 'resume')
await reaches(page, E2B, 'failed', 60_000)
await shoot(page, 'failed')
await inPopup((popup) => shoot(popup, 'popup-failed'))
mirror.trouble = () => null
mirror.speed = 0
await page.front()
await click(page, E2B, 'again')
await reaches(page, E2B, 'here', 200_000)
await shoot(page, 'here')
await inPopup((popup) => shoot(popup, 'popup-here'))
await page.front()
await click(page, E2B, 'delete')
await expect('it asks', () => dialog(page))
await shoot(page, 'delete')
await browser.stop()
web.close()
display.stop()
process.stdout.write(`${shots}\n`)
process.exit(0)
