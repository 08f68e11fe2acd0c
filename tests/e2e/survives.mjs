// What happens around an answer must not break it: a dead service worker, a second tab, no network, a page that goes away.
import { card, finished, lastTurn } from '../browser/answers.mjs'
import { expect } from '../browser/cdp.mjs'
import { onPage } from '../browser/entries.mjs'
import { chooseMenu, openPopup } from '../browser/gestures.mjs'
import { check, scenario } from './harness.mjs'
import { summarize } from './popup.mjs'
import { CLOCK, FERRY, LONG } from './texts.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

/** @param {Session} tab */
const cardWrites = (tab) => expect('the model writes', async () => {
  const now = await card(tab)
  return now?.running && now.text && now
}, 120_000, 10)

scenario('service worker killed while it writes', async ({ browser, display, openPage }) => {
  const tab = await openPage(LONG)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  const before = await cardWrites(tab)
  await browser.killServiceWorker(tab)
  const end = await finished(() => card(tab))
  check(!end.failure, end.failure)
  check(end.text.length > before.text.length, `nothing came after the service worker died: "${end.text}"`)
  // The next gesture wakes it.
  await browser.killServiceWorker(tab).catch(() => {})
  const other = await openPage(FERRY)
  await chooseMenu(display, other, '#p1', onPage('s'))
  const next = await finished(() => card(other))
  check(!next.failure && next.passages.length > 0, `after it was woken: ${next.failure}`)
})

scenario('service worker killed while the popup is answered', async ({ browser, openPage }) => {
  const tab = await openPage(LONG)
  const popup = await openPopup(browser, tab)
  await summarize(popup)
  const before = await expect('the model writes', async () => {
    const now = await lastTurn(popup)
    return now?.running && now.text && now
  }, 120_000, 10)
  await browser.killServiceWorker(tab)
  const end = await finished(() => lastTurn(popup))
  check(!end.failure && end.text.length > before.text.length, `it did not go on: ${end.failure || end.text}`)
})

/** Words that stand in one page only. */
const FERRY_WORDS = /ferry|quillon|vessery|harbour|merrin|landing stage/i
const CLOCK_WORDS = /clock|tolbrand|sandrel|pendulum|watchmaker/i

scenario('two tabs at once: queued, and no word crosses', async ({ display, openPage, note }) => {
  const ferry = await openPage(FERRY)
  await chooseMenu(display, ferry, '#p1', onPage('s'))
  await expect('the first answer begins', async () => (await card(ferry))?.running, 30_000, 10)
  const clock = await openPage(CLOCK)
  await chooseMenu(display, clock, '#p1', onPage('s'))
  let queued = false
  const second = await expect('the second answer ends', async () => {
    const now = await card(clock)
    queued ||= /waiting/i.test(now?.progress ?? '')
    return now && !now.running && now
  }, 120_000, 10)
  await ferry.front()
  const first = await finished(() => card(ferry))
  check(!first.failure && !second.failure, `${first.failure} ${second.failure}`)
  const all = (/** @type {typeof first} */ answer) => [...answer.passages, answer.text].join('\n')
  check(FERRY_WORDS.test(all(first)) && CLOCK_WORDS.test(all(second)), 'an answer is not about its page')
  check(!CLOCK_WORDS.test(all(first)), `the clock is in the ferry's answer: ${all(first)}`)
  check(!FERRY_WORDS.test(all(second)), `the ferry is in the clock's answer: ${all(second)}`)
  note(queued ? 'the second one waited' : 'the first one had ended')
})

scenario('network cut', async ({ browser, display, openPage, web }) => {
  const tab = await openPage(LONG)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  await cardWrites(tab)
  web.cut = true
  await tab.send('Network.enable')
  await tab.send('Network.emulateNetworkConditions', { offline: true, latency: 0, downloadThroughput: -1, uploadThroughput: -1 })
  const end = await finished(() => card(tab))
  check(!end.failure && end.text, `while the network was cut: ${end.failure}`)
  // And an answer begun without a network.
  const popup = await openPopup(browser, tab)
  await summarize(popup)
  const offline = await finished(() => lastTurn(popup))
  check(!offline.failure && offline.passages.length > 0 && offline.text, `offline: ${offline.failure}`)
})

scenario('first answer without any network', async ({ display, openPage, web }) => {
  const tab = await openPage(FERRY)
  web.cut = true
  await chooseMenu(display, tab, '#p1', onPage('s'))
  const end = await finished(() => card(tab))
  check(!end.failure && end.passages.length > 0 && end.text, `offline from the start: ${end.failure}`)
})

scenario('page left while it writes', async ({ display, openPage }) => {
  const tab = await openPage(LONG)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  await cardWrites(tab)
  await tab.send('Page.navigate', { url: 'http://news.test/article/page.html' })
  await expect('the other page is there', () => tab.eval('location.pathname === "/article/page.html" && document.readyState === "complete"'))
  check(!await card(tab), 'a card from the page before')
  // The engine is free again: nobody waits behind an answer that nobody reads.
  const next = await openPage(FERRY)
  await chooseMenu(display, next, '#p1', onPage('s'))
  await expect('the next answer begins', async () => {
    const now = await card(next)
    check(!/waiting/i.test(now?.progress ?? ''), 'the next answer waits behind the abandoned one')
    return now && (now.passages.length > 0 || !now.running)
  }, undefined, 5)
  check(!(await finished(() => card(next))).failure, 'the next answer failed')
})

scenario('tab closed while it writes', async ({ display, openPage }) => {
  const tab = await openPage(LONG)
  await chooseMenu(display, tab, '#p1', onPage('s'))
  await cardWrites(tab)
  await tab.close()
  const next = await openPage(FERRY)
  await chooseMenu(display, next, '#p1', onPage('s'))
  check(!(await finished(() => card(next))).failure, 'the next answer failed')
})
