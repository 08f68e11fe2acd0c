// Pages that Chrome keeps extensions away from: the popup says why, and what to do instead.
import { expect } from '../browser/cdp.mjs'
import { shortcut } from '../browser/chromium.mjs'
import { openPopup, press } from '../browser/gestures.mjs'
import { page } from '../browser/web.mjs'
import { check, scenario } from './harness.mjs'
/** @import { Tab } from '../browser/chromium.mjs' */
/** @import { Stage } from './harness.mjs' */

/** The smallest PDF with a word on a page. */
const PDF = `%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Contents 4 0 R/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj
4 0 obj<</Length 40>>stream
BT /F1 24 Tf 20 40 Td (Minutes) Tj ET
endstream endobj
trailer<</Root 1 0 R>>`

/** @type {Record<string, { open: (stage: Stage) => Promise<Tab>, says: RegExp }>} */
const PAGES = {
  'chrome://': { says: /browser itself/i, open: ({ browser }) => browser.open('chrome://version/') },
  'view-source:': {
    // Chrome does not even tell the address of such a tab, so the words may be the general ones.
    says: /source of a page|does not let extensions read/i,
    open: async ({ browser }) => {
      const tab = await browser.open('view-source:http://news.test/article/page.html', { complete: false })
      await expect('the source is shown', () => tab.eval('document.querySelectorAll("td").length > 3'))
      return tab
    }
  },
  'PDF viewer': {
    says: /PDF viewer/i,
    open: async ({ browser, web }) => {
      web.serve('papers.test', (_url, response) => { response.writeHead(200, { 'content-type': 'application/pdf' }).end(PDF) })
      const tab = await browser.open('http://papers.test/minutes', { complete: false })
      await expect('the viewer is shown', () => tab.eval('location.hostname === "papers.test" && document.readyState === "complete"').catch(() => false))
      return tab
    }
  },
  'web store': {
    says: /extension store/i,
    // The address decides, so a page of ours stands in for the store's own.
    open: async ({ browser, web }) => {
      web.serve('chromewebstore.google.com', page('<!doctype html><title>Store</title><h1>Extensions</h1><p>Many of them, described at length.</p>'))
      await web.secure()
      return browser.open('https://chromewebstore.google.com/')
    }
  },
  'a page that did not load': {
    says: /did not load/i,
    open: async ({ browser, web }) => {
      web.serve('down.test', (_url, _response, request) => { request.socket.destroy() })
      const tab = await browser.open('http://down.test/', { complete: false })
      // Between two documents there is nothing to ask.
      await expect('the error page is shown', () => tab.eval('location.href.startsWith("chrome-error:") && document.readyState === "complete"').catch(() => false))
      return tab
    }
  },
  'an empty page': { says: /no text to read/i, open: ({ openPage }) => openPage('<!doctype html><title>Empty</title><body></body>') }
}

/** What the popup says instead of an answer. @param {import('../browser/cdp.mjs').Session} popup */
const said = (popup) => expect('the popup says why', () => popup.eval('document.querySelector("#empty .failure")?.innerText'))

for (const [name, { open, says }] of Object.entries(PAGES)) {
  scenario(`${name}: the popup says why it cannot be read`, async (stage) => {
    const tab = await open(stage)
    const popup = await openPopup(stage.browser, tab)
    const text = await said(popup)
    check(says.test(text), `it says "${text}"`)
    check(text.split(/[.!]\s/).length >= 2, `no next step: "${text}"`)
  }, { flags: ['--ignore-certificate-errors'] })
}

scenario('the shortcut on a page that cannot be read opens the popup with the reason', async (stage) => {
  const tab = await PAGES['chrome://'].open(stage)
  await press(tab, shortcut('summarize'))
  const text = await said(await stage.browser.extensionPage('popup/popup.html'))
  check(PAGES['chrome://'].says.test(text), `it says "${text}"`)
})
