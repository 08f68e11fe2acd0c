// Everyone can use it: axe finds nothing, every control is reached by keys, a screen reader hears what happens.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { card, finished, lastTurn, turns } from '../browser/answers.mjs'
import { expect, sleep } from '../browser/cdp.mjs'
import { shortcut } from '../browser/chromium.mjs'
import { onPage } from '../browser/entries.mjs'
import { chooseMenu, openPopup, press, type } from '../browser/gestures.mjs'
import { check, scenario } from './harness.mjs'
import { cardOf, dialog, modelsPage } from './models.mjs'
import { ready } from './popup.mjs'
import { FERRY, LONG } from './texts.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** @param {Session} page @param {string} root a selector; axe goes into open shadow roots by itself @param {string} when */
async function axe (page, root, when) {
  await page.eval(`${AXE}; 0`)
  for (const scheme of ['light', 'dark']) {
    await page.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
    await sleep(300)
    const found = await page.eval((/** @type {string} */ root) => /** @type {any} */ (globalThis).axe.run(root, { resultTypes: ['violations'] })
      .then((/** @type {any} */ result) => result.violations.map((/** @type {any} */ v) => `${v.id}: ${v.help} (${v.nodes.map((/** @type {any} */ n) => n.target.flat().join(' ')).join('; ')})`)), root)
    check(!found.length, `axe, ${when}, ${scheme}:\n${found.join('\n')}`)
  }
  await page.send('Emulation.setEmulatedMedia', { features: [] })
}

scenario('axe: popup before, during and after an answer', async ({ browser, openPage }) => {
  const tab = await openPage(FERRY)
  const popup = await openPopup(browser, tab)
  await ready(popup)
  await axe(popup, 'html', 'empty')
  await press(popup, 'Tab')
  await popup.eval('document.querySelector("#summarize").click()')
  await expect('it runs', () => lastTurn(popup))
  await axe(popup, 'html', 'running')
  await finished(() => lastTurn(popup))
  await popup.eval('document.querySelectorAll("details").forEach((d) => { d.open = true })')
  await axe(popup, 'html', 'finished')
})

scenario('axe: card during and after an answer', async ({ display, openPage }) => {
  const tab = await openPage(LONG)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  await expect('it runs', () => card(tab))
  await axe(tab, 'sotto-card', 'running')
  await finished(() => card(tab))
  await tab.eval('document.querySelector("sotto-card").shadowRoot.querySelectorAll("details").forEach((d) => { d.open = true })')
  await axe(tab, 'sotto-card', 'finished')
})

scenario('axe: models page, its question, the list in the popup', async ({ browser, openPage }) => {
  const page = await modelsPage(browser)
  await axe(page, 'html', 'models')
  await page.eval('document.querySelector("#gemma-4-e2b [data-action=get]").click()')
  await expect('it asks', () => dialog(page))
  await page.eval('document.querySelector("dialog details").open = true')
  await axe(page, 'html', 'the question')
  const popup = await openPopup(browser, await openPage(FERRY))
  await ready(popup)
  await expect('the model is named', () => popup.eval('document.querySelector("#model").hidden === false'), 10_000)
  await popup.eval('document.querySelector("#model").click()')
  await axe(popup, 'html', 'list of models')
})

scenario('axe: popup on a page that cannot be read', async ({ browser }) => {
  const tab = await browser.open('chrome://version/')
  const popup = await openPopup(browser, tab)
  await expect('it says why', () => popup.eval('document.querySelector(".failure")?.textContent'))
  await axe(popup, 'html', 'refused')
})

/** What has the focus, in words. @param {Session} page */
const focused = (page) => page.eval(() => {
  let element = document.activeElement
  while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement
  const name = element?.getAttribute('data-action') || element?.id || element?.className || element?.localName || ''
  const style = element ? getComputedStyle(element) : null
  return { name: String(name), visible: Boolean(element?.matches(':focus-visible') && style && (style.outlineStyle !== 'none' || style.boxShadow !== 'none' || element.matches('textarea, section, main'))) }
})

/** Presses Tab until something has the focus. @param {Session} page @param {(name: string) => boolean} wanted */
async function tabTo (page, wanted) {
  const passed = []
  for (let i = 0; i < 25; i++) {
    const now = await focused(page)
    if (wanted(now.name)) {
      check(now.visible, `the focus on "${now.name}" cannot be seen`)
      return
    }
    passed.push(now.name)
    await press(page, 'Tab')
    await sleep(30)
  }
  throw new Error(`Tab does not reach it; passed ${passed.join(', ')}`)
}

scenario('keyboard only: popup', async ({ browser, openPage }) => {
  const tab = await openPage(FERRY)
  await press(tab, shortcut('_execute_action'))
  const popup = await browser.extensionPage('popup/popup.html')
  await ready(popup)
  check((await focused(popup)).name === 'question', 'typing does not start in the question')
  await type(popup, 'Who is the only baker?')
  await press(popup, 'Enter')
  const answer = await finished(() => lastTurn(popup))
  check(answer.passages.some((text) => text.includes('Merrin')), `closest passages: ${answer.passages}`)
  check(answer.status.length > 5, `a screen reader hears "${answer.status}"`)
  await tabTo(popup, (name) => name === 'copy')
  await tabTo(popup, (name) => name === 'retry')
  await press(popup, 'Enter')
  await expect('Enter on Retry asks again', async () => (await turns(popup)).length === 2)
  await finished(() => lastTurn(popup))
  await tabTo(popup, (name) => name === 'fresh')
  await press(popup, 'Enter')
  await expect('a new conversation', async () => (await turns(popup)).length === 0)
})

scenario('keyboard only: models page', async ({ browser }) => {
  const page = await modelsPage(browser)
  await press(page, 'Tab')
  await tabTo(page, (name) => name === 'get')
  await press(page, 'Enter')
  await expect('it asks', () => dialog(page))
  await tabTo(page, (name) => name === 'no')
  await press(page, 'Enter')
  await expect('no closes it', async () => !await dialog(page))
  check((await focused(page)).name === 'get', 'the focus is lost')
  for (const name of ['import', 'choose-file', 'choose-folder', 'address']) await tabTo(page, (now) => now === name)
  await type(page, 'nonsense')
  await press(page, 'Enter')
  await expect('a wrong address is said', () => page.eval('document.querySelector("#problem").textContent'))
  check((await cardOf(page, 'gemma-4-e2b'))?.state === 'notHere', 'something began')
})

scenario('keyboard only: card', async ({ openPage }) => {
  const tab = await openPage(LONG)
  await press(tab, shortcut('summarize'))
  await expect('the model writes', async () => (await card(tab))?.text, 120_000, 10)
  const inside = () => tab.eval('document.activeElement === document.querySelector("sotto-card")')
  check(await inside(), 'the card does not take the focus')
  await press(tab, 'Escape')
  const stopped = await finished(() => card(tab), 5000)
  check(/stopped/i.test(stopped.status + stopped.notices.join(' ')), 'Escape does not stop the writing')
  for (const name of ['passage', 'copy', 'retry', 'close']) await tabTo(tab, (now) => now === name)
  await press(tab, 'Enter')
  await expect('Enter on Close closes it', async () => !await card(tab))
})
