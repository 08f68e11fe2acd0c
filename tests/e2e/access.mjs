// Everyone can use it: axe finds nothing, every control is reached by keys, a screen reader hears what happens.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { card, finished, lastTurn, turns } from '../browser/answers.mjs'
import { expect, until } from '../browser/cdp.mjs'
import { shortcut } from '../browser/chromium.mjs'
import { onPage } from '../browser/entries.mjs'
import { chooseMenu, openPopup, press, type } from '../browser/gestures.mjs'
import { check, scenario } from './harness.mjs'
import { cardOf, dialog, modelsPage, withCard } from './models.mjs'
import { ready } from './popup.mjs'
import { FERRY, LONG } from './texts.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** Whether the page has taken a colour scheme over and no colour is on its way to another. @param {string} scheme */
const settled = (scheme) => matchMedia(`(prefers-color-scheme: ${scheme})`).matches &&
  document.getAnimations().every((animation) => !(animation instanceof CSSTransition) || animation.playState === 'finished')

/** @param {Session} page @param {string} root a selector; axe goes into open shadow roots by itself @param {string} when */
async function axe (page, root, when) {
  await page.eval(`${AXE}; 0`)
  for (const scheme of ['light', 'dark']) {
    await page.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
    await expect(`it is drawn in the ${scheme} colours`, () => page.eval(settled, scheme))
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
  await withCard(browser)
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
}, { gpu: 'software' })

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
    // Two neighbours may have one name, so this may end without a change.
    await until(async () => (await focused(page)).name !== now.name, 300, 10)
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
  await withCard(browser)
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
}, { gpu: 'software' })

/** An answer of a few words may end before Escape is pressed, which then closes the card. */
const TRIES = 5

scenario('keyboard only: card', async ({ openPage, note }) => {
  const tab = await openPage(LONG)
  let stopped = false
  for (let i = 1; i <= TRIES && !stopped; i++) {
    await press(tab, shortcut('summarize'))
    await expect('the model writes', async () => (await card(tab))?.text, 120_000, 5)
    check(await tab.eval('document.activeElement === document.querySelector("sotto-card")'), 'the card does not take the focus')
    await press(tab, 'Escape')
    const end = await expect('Escape stops the writing, or closes the finished card', async () => {
      const now = await card(tab)
      return !now ? 'closed' : !now.running && now
    })
    if (end === 'closed') continue
    stopped = /stopped/i.test(end.status + end.notices.join(' '))
    check(stopped, `Escape does not stop the writing: ${JSON.stringify(end)}`)
    note(`try ${i}`)
  }
  check(stopped, `the card was closed ${TRIES} times: Escape closes it while the model writes, or no answer is long enough to be stopped`)
  for (const name of ['passage', 'copy', 'retry', 'close']) await tabTo(tab, (now) => now === name)
  await press(tab, 'Enter')
  await expect('Enter on Close closes it', async () => !await card(tab))
})
