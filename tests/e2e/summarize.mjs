// Right-click → Summarize, on a selection and on a page: the main job.
import { button, card, finished, middleOf } from '../browser/answers.mjs'
import { expect, sleep, until } from '../browser/cdp.mjs'
import { shortcut } from '../browser/chromium.mjs'
import { onPage, onSelection } from '../browser/entries.mjs'
import { chooseMenu, clickAt, press, select } from '../browser/gestures.mjs'
import { ARTICLE, check, flat, scenario } from './harness.mjs'
import { FERRY } from './texts.mjs'
/** @import { Answer } from '../browser/answers.mjs' */
/** @import { Session } from '../browser/cdp.mjs' */

/** What must hold for every finished summary. @param {Answer} answer @param {string} source */
function isSummary (answer, source) {
  check(!answer.failure, `failed: ${answer.failure}`)
  check(answer.passages.length > 0, 'no key sentences')
  for (const passage of answer.passages) check(flat(source).includes(flat(passage)), `not word for word from the page: "${passage}"`)
  check(/key sentences/i.test(answer.passagesLabel), `heading of the key sentences: "${answer.passagesLabel}"`)
  check(answer.text.length > 20, `no text from the model: "${answer.text}"`)
  check(/draft by/i.test(answer.label), `the draft is not labelled: "${answer.label}"`)
  check(/tokens\/s/.test(answer.details.Speed ?? ''), `no speed in the details: ${JSON.stringify(answer.details)}`)
  check(answer.details.Model && answer.details.Device, `no model or device in the details: ${JSON.stringify(answer.details)}`)
  check(answer.actions.includes('copy') && answer.actions.includes('retry') && !answer.actions.includes('stop'), `buttons at the end: ${answer.actions}`)
}

/** @param {Session} page */
const pageText = (page) => page.eval('document.body.innerText')

scenario('summarize a selection', async ({ display, openPage, note }) => {
  const tab = await openPage(FERRY)
  const text = await select(tab, 'main')
  const start = await chooseMenu(display, tab, '#p1', onSelection('s'))
  const first = await expect('key sentences', async () => (await card(tab))?.passages.length && performance.now(), 30_000)
  const answer = await finished(() => card(tab))
  isSummary(answer, text)
  const words = text.split(/\s+/).filter(Boolean).length
  const read = Number(/([\d,]+) words/.exec(answer.coverage)?.[1].replaceAll(',', ''))
  check(Math.abs(read - words) <= 2, `coverage says "${answer.coverage}", the selection has ${words} words`)
  note(`key sentences after ${Math.round(first - start)} ms`)
})

scenario('summarize a page', async ({ browser, display, note }) => {
  // More than once: the grant of a gesture sometimes reaches the page late, and then a product that does not wait is caught.
  for (let i = 0; i < 3; i++) {
    const tab = await browser.open(ARTICLE)
    const selector = await tab.eval(() => {
      const paragraph = [...document.querySelectorAll('p')].find((p) => p.getBoundingClientRect().top > 0 && (p.textContent ?? '').length > 80)
      if (!paragraph) throw new Error('the article has no paragraph')
      paragraph.setAttribute('data-test', 'here')
      return '[data-test=here]'
    })
    const start = await chooseMenu(display, tab, selector, onPage('s'))
    const first = await expect('text from the model', async () => {
      const now = await card(tab)
      return now && (now.text || !now.running) && performance.now()
    }, 120_000, 15)
    note(`${i ? 'warm' : 'cold'} first word ${((first - start) / 1000).toFixed(2)} s`)
    isSummary(await finished(() => card(tab)), await pageText(tab))
    await tab.close()
  }
})

scenario('keyboard shortcut summarizes', async ({ openPage }) => {
  const tab = await openPage(FERRY)
  await press(tab, shortcut('summarize'))
  isSummary(await finished(() => card(tab)), await pageText(tab))
  await press(tab, 'Escape')
  await expect('Escape closes the finished card', async () => !await card(tab))
})

scenario('a key sentence shows its place in the page', async ({ display, openPage }) => {
  const tab = await openPage(FERRY.replace('</h1>', '</h1><div style="height: 3000px"></div>'))
  await chooseMenu(display, tab, 'h1', onPage('s'))
  const answer = await finished(() => card(tab))
  check(await tab.eval('scrollY') === 0, 'the page moved before anything was clicked')
  await clickAt(tab, await middleOf(tab, 'button.passage'))
  await expect('the page scrolls to the sentence', () => tab.eval('scrollY > 500'))
  await sleep(800)
  const visible = await tab.eval((/** @type {string} */ words) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (!(node.textContent ?? '').includes(words)) continue
      const range = document.createRange()
      range.selectNode(node)
      const box = range.getBoundingClientRect()
      return box.bottom > 0 && box.top < innerHeight
    }
    return false
  }, answer.passages[answer.passages.length - 1].split(' ').slice(0, 4).join(' '))
  check(visible, 'the sentence is not in sight')
})

scenario('what stands in a closed shadow root is read, and shown', async ({ display, openPage }) => {
  const shown = `<div style="height: 3000px"></div>${FERRY.slice(FERRY.indexOf('<main'), FERRY.indexOf('</main>'))}`
  const tab = await openPage(`<!doctype html><html lang="en"><title>Ferry</title><h1>A ferry</h1><div id="host"></div>
    <script>document.querySelector('#host').attachShadow({ mode: 'closed' }).innerHTML = ${JSON.stringify(shown).replaceAll('<', '\\u003c')}</script>`)
  await chooseMenu(display, tab, 'h1', onPage('s'))
  isSummary(await finished(() => card(tab)), shown.replace(/<[^>]*>/g, ' '))
  await clickAt(tab, await middleOf(tab, 'button.passage'))
  await expect('the page scrolls to the sentence', () => tab.eval('scrollY > 500'))
})

scenario('copy puts the answer on the clipboard', async ({ browser, display, openPage }) => {
  const tab = await openPage(FERRY)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  const answer = await finished(() => card(tab))
  await clickAt(tab, await button(tab, 'copy'))
  await expect('the button says so', () => tab.eval('document.querySelector("sotto-card").shadowRoot.querySelector("[data-action=copy]").textContent.includes("Copied")'))
  const notepad = await browser.open('http://news.test/missing')
  await notepad.eval('document.body.innerHTML = "<textarea style=\'width: 90vw; height: 80vh\'></textarea>"')
  // The display's keys go to whatever has the focus, which a new tab gets when its window manager is done with it.
  await display.click(640, 500)
  await expect('the text field has the focus', () => notepad.eval('document.hasFocus() && document.activeElement.matches("textarea")'))
  const pasted = await expect('the text can be pasted', async () => {
    await display.key('ctrl+v')
    return until(() => notepad.eval('document.querySelector("textarea").value'), 2000)
  })
  for (const passage of answer.passages) check(flat(pasted).includes(flat(passage)), `the clipboard lacks "${passage}"`)
  check(flat(pasted).includes(flat(answer.text)), 'the clipboard lacks the draft')
})
