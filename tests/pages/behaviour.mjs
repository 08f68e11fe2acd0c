// What reading, showing and replacing do, on pages made to be awkward. Each answers what is wrong, or nothing.
import assert from 'node:assert/strict'
import { page } from '../browser/web.mjs'
import { World } from './world.mjs'
/** @import { Browser, Tab } from '../browser/chromium.mjs' */
/** @import { Web } from '../browser/web.mjs' */
/** @import { PageText } from './world.mjs' */

/** @typedef {(browser: Browser, web: Web) => Promise<string>} Test */

let hosts = 0

/**
 * A test of one page.
 * @param {string} html
 * @param {(world: World, tab: Tab) => Promise<void>} test
 * @returns {Test}
 */
const on = (html, test) => async (browser, web) => {
  const host = `behaviour${++hosts}.test`
  web.serve(host, page(`<!doctype html><html lang="en"><meta charset="utf-8"><title>Test</title>${html}`))
  const tab = await browser.open(`http://${host}/`)
  try {
    await test(await World.in(tab), tab)
    return ''
  } finally {
    await tab.close()
  }
}

/** @type {(world: World, ...args: any[]) => Promise<PageText>} */
const readPage = (world, ...args) => world.call('readPage', ...args)
/** @type {(world: World, ...args: any[]) => Promise<PageText | null>} */
const readSelection = (world, ...args) => world.call('readSelection', ...args)

/** Presses Ctrl+Z as a user does. @param {Tab} tab */
async function undo (tab) {
  await tab.send('Input.dispatchKeyEvent', { type: 'keyDown', key: 'z', code: 'KeyZ', windowsVirtualKeyCode: 90, modifiers: 2, commands: ['undo'] })
  await tab.send('Input.dispatchKeyEvent', { type: 'keyUp', key: 'z', code: 'KeyZ', windowsVirtualKeyCode: 90, modifiers: 2 })
}

/** The words that are painted, as the page itself can see them. @param {Tab} tab @returns {Promise<string | null>} */
const painted = (tab) => tab.eval(() => {
  const highlight = CSS.highlights.get('sotto-passage')
  return highlight ? [...highlight].map((range) => String(range)).join('') : null
})

/** Selects from the beginning of one text to the end of another, in the main world.
 *  @param {Tab} tab @param {string} from @param {string} to */
const select = (tab, from, to) => tab.eval((from, to) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  const range = document.createRange()
  let begun = false
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const text = /** @type {Text} */ (node).data
    if (!begun && text.includes(from)) {
      range.setStart(node, text.indexOf(from))
      begun = true
    }
    if (begun && text.includes(to)) {
      range.setEnd(node, text.indexOf(to) + to.length)
      break
    }
  }
  const selection = /** @type {Selection} */ (getSelection())
  selection.removeAllRanges()
  selection.addRange(range)
}, from, to)

const STRUCTURED = `
  <h2>Plans for <em>spring</em></h2>
  <p>First paragraph, with a <a href="#">link</a> in it.</p><p style="display:none">INVISIBLE</p>
  <ul><li>One thing</li><li>Another thing</li><li>A third thing</li></ul>
  <table><tr><th>Month</th><th>Rain</th></tr><tr><td>May</td><td>40 mm</td></tr><tr><td>June</td><td>55 mm</td></tr></table>
  <pre>if (x) {
    y()
}</pre><p>Last words.</p>`

/** @type {Record<string, Test>} */
export const BEHAVIOURS = {
  'a selection keeps its structure': on(STRUCTURED, async (world, tab) => {
    assert.equal(await readSelection(world), null)
    await select(tab, 'paragraph,', 'link')
    const part = await readSelection(world)
    assert.deepEqual([part?.kind, part?.text, part?.wordsRead, part?.wordsTotal], ['selection', 'paragraph, with a link', 4, 4])
    await select(tab, 'for', 'Another')
    assert.equal((await readSelection(world))?.text, '## for spring\n\nFirst paragraph, with a link in it.\n\n- One thing\n- Another')
    await select(tab, 'Another', 'third')
    assert.equal((await readSelection(world))?.text, '- Another thing\n- A third')
    await select(tab, 'May', '55 mm')
    assert.equal((await readSelection(world))?.text, '| May | 40 mm |\n| June | 55 mm |')
    await select(tab, 'x)', 'y()')
    assert.equal((await readSelection(world))?.text, 'x) {\n    y()')
    await tab.eval('getSelection().selectAllChildren(document.body)')
    const all = await readSelection(world)
    assert.match(all?.text ?? '', /^## Plans for spring\n\nFirst.*Last words\.$/s)
    assert.doesNotMatch(all?.text ?? '', /INVISIBLE/)
  }),

  'a selection within a shadow root': on('<div id="host"></div><p>Outside.</p>', async (world, tab) => {
    await tab.eval(`{
      const root = document.getElementById('host').attachShadow({ mode: 'open' })
      root.innerHTML = '<p>Inside the <b>shadow</b> root.</p>'
      const [p] = root.children
      getSelection().setBaseAndExtent(p.firstChild, 7, p.lastChild, 5)
    }`)
    assert.equal((await readSelection(world))?.text, 'the shadow root')
  }),

  'a selection in a frame of the same site': on('<iframe srcdoc="<p id=p>Words in a frame.</p>"></iframe>', async (world, tab) => {
    await tab.eval(`{
      const frame = document.querySelector('iframe')
      frame.focus()
      frame.contentWindow.getSelection().selectAllChildren(frame.contentDocument.getElementById('p'))
    }`)
    assert.equal((await readSelection(world))?.text, 'Words in a frame.')
  }),

  'fields: only what is selected, never a password': on('<input id="i" value="secret before middle secret after"><input id="p" type="password" value="hunter2"><textarea id="t">one\ntwo\nthree</textarea>', async (world, tab) => {
    await tab.eval('i.focus(); i.setSelectionRange(14, 20)')
    const field = await readSelection(world)
    assert.deepEqual([field?.kind, field?.text], ['field', 'middle'])
    await tab.eval('p.focus(); p.select()')
    assert.equal(await readSelection(world), null)
    await tab.eval('t.focus(); t.setSelectionRange(4, 13)')
    assert.equal((await readSelection(world))?.text, 'two\nthree')
    await tab.eval('t.setSelectionRange(4, 4)')
    assert.equal(await readSelection(world), null)
    assert.doesNotMatch((await readPage(world)).text, /secret|hunter2|three/)
  }),

  'replace and undo in an input': on('<input id="i" value="we was late"><script>i.addEventListener("input", (e) => { window.heard = e.isTrusted })</script>', async (world, tab) => {
    await tab.eval('i.focus(); i.setSelectionRange(0, 6)')
    await readSelection(world)
    await tab.eval('i.blur()')
    assert.deepEqual(await world.call('replaceText', 'we\nwere', 'we was'), { ok: true, message: 'Replaced.' })
    assert.equal(await tab.eval('i.value'), 'we were late')
    assert.equal(await tab.eval('window.heard'), true)
    await undo(tab)
    assert.equal(await tab.eval('i.value'), 'we was late')
  }),

  'replace and undo in a textarea': on('<textarea id="t">First line.\nSecond lines.</textarea>', async (world, tab) => {
    await tab.eval('t.focus(); t.setSelectionRange(12, 25)')
    await readSelection(world)
    assert.equal((await world.call('replaceText', 'Two\nlines.')).ok, true)
    assert.equal(await tab.eval('t.value'), 'First line.\nTwo\nlines.')
    await undo(tab)
    assert.equal(await tab.eval('t.value'), 'First line.\nSecond lines.')
  }),

  'replace and undo in an editor': on('<div id="e" contenteditable><p>Kept. <b>Changed words.</b> Kept too.</p></div><p id="other">Elsewhere</p>', async (world, tab) => {
    await select(tab, 'Changed', 'words.')
    const field = await readSelection(world)
    assert.deepEqual([field?.kind, field?.text], ['field', 'Changed words.'])
    await tab.eval('getSelection().selectAllChildren(other)')
    assert.equal((await world.call('replaceText', 'Better words.')).ok, true)
    assert.equal((await tab.eval('e.innerText')).replaceAll('\xa0', ' '), 'Kept. Better words. Kept too.')
    await undo(tab)
    assert.equal(await tab.eval('e.innerText'), 'Kept. Changed words. Kept too.')
  }),

  'nothing is replaced when the text has changed': on('<textarea id="t" maxlength="20">old words</textarea><div id="e" contenteditable>old words</div><p>Page text</p>', async (world, tab) => {
    assert.match((await world.call('replaceText', 'x')).message, /not selected in a field.*Copy/)
    await tab.eval('t.focus(); t.select()')
    await readSelection(world)
    assert.match((await world.call('replaceText', 'x', 'another source')).message, /Another text/)
    assert.match((await world.call('replaceText', 'far too long for this field')).message, /longer than the field allows/)
    await tab.eval('t.readOnly = true')
    assert.match((await world.call('replaceText', 'x')).message, /cannot be edited/)
    await tab.eval('t.readOnly = false; t.value = "new words"')
    assert.match((await world.call('replaceText', 'x')).message, /has changed/)
    assert.equal(await tab.eval('t.value'), 'new words')
    await tab.eval('t.remove()')
    assert.match((await world.call('replaceText', 'x')).message, /no longer/)
    await tab.eval('e.focus(); getSelection().selectAllChildren(e)')
    await readSelection(world)
    await tab.eval('e.firstChild.data = "new text"')
    assert.match((await world.call('replaceText', 'x')).message, /has changed/)
    assert.equal(await tab.eval('e.innerText'), 'new text')
    await select(tab, 'Page', 'text')
    await readSelection(world)
    assert.equal((await world.call('replaceText', 'x')).ok, false)
  }),

  'each passage is shown where it stands': async (browser) => {
    const tab = await browser.open('http://pages.test/article/page.html')
    try {
      const world = await World.in(tab)
      const { text } = await readPage(world)
      let shown = 0
      for (const { 0: sentence, index } of text.matchAll(/[^\s.!?#>][^.!?\n]{30,}[.!?]/g)) {
        const passage = { text: sentence, start: index, end: index + sentence.length }
        assert.equal(await world.call('showPassage', passage), true, sentence)
        assert.equal((await painted(tab))?.replace(/\s+/g, ' '), sentence)
        const inView = await tab.eval(`{
          const [range] = CSS.highlights.get('sotto-passage')
          const { top, bottom } = range.getBoundingClientRect()
          top >= 0 && bottom <= innerHeight
        }`)
        assert.equal(inView, true, `in view: ${sentence}`)
        shown++
      }
      assert.ok(shown > 15, `${shown} sentences`)
      await world.call('clearPassage')
      assert.equal(await painted(tab), null)
      assert.equal(await tab.eval('document.adoptedStyleSheets.length'), 0)
      return ''
    } finally {
      await tab.close()
    }
  },

  'passages across marks, cells, shadow roots and frames': on(`${STRUCTURED}<div id="host"></div><iframe srcdoc="<p>Framed words stand here.</p>"></iframe>`, async (world, tab) => {
    await tab.eval('host.attachShadow({ mode: "open" }).innerHTML = "<p>Shaded words stand here.</p>"')
    const { text } = await readPage(world)
    /** @param {string} words */
    const show = (words) => world.call('showPassage', { text: words, start: text.indexOf(words), end: text.indexOf(words) + words.length })
    assert.equal(await show('## Plans for spring\n\nFirst paragraph, with a link'), true)
    assert.equal(await painted(tab), 'Plans for springFirst paragraph, with a link')
    assert.equal(await show('- Another thing\n- A third thing\n\n| Month | Rain |'), true)
    assert.equal(await painted(tab), 'Another thingA third thingMonthRain')
    assert.equal(await show('Shaded words'), true)
    assert.equal(await painted(tab), 'Shaded words')
    assert.equal(await show('Framed words'), true)
    assert.equal(await painted(tab), null)
    assert.equal(await tab.eval('String([...frames[0].CSS.highlights.get("sotto-passage")][0])'), 'Framed words')
  }),

  'a cell of several rows is read in each, and shown where it stands': on('<table><tr><th rowspan="3">Harbour <i>fees</i></th><td>May</td></tr><tr><td>June</td></tr><tr><td>July</td></tr></table>', async (world, tab) => {
    const { text } = await readPage(world)
    assert.equal(text, '| Harbour fees | May |\n| Harbour fees | June |\n| Harbour fees | July |')
    const start = text.indexOf('| Harbour fees | June')
    assert.equal(await world.call('showPassage', { text: '| Harbour fees | June |', start, end: start + 23 }), true)
    assert.equal(await painted(tab), 'Harbour feesJune')
  }),

  'a table that would grow beyond all bounds does not': on('<table id="t"></table>', async (world, tab) => {
    await tab.eval(`{
      const row = (cells) => '<tr>' + cells + '</tr>'
      t.innerHTML = row(Array.from({ length: 300 }, (_, i) => '<td rowspan="65000">cell number ' + i + ' with many words in it</td>').join('')) + row('<td>x').repeat(3000)
    }`)
    const { text, wordsTotal } = await world.call('() => { const { text, wordsTotal } = __sotto.readPage(); return { text: text.length, wordsTotal } }')
    assert.ok(text < 300_000 && wordsTotal > 3000, `${text} characters, ${wordsTotal} words`)
  }),

  'passages in a page that has changed': on('<article><p id="a">The first sentence stays. The second one moves away soon.</p><p id="b">A third is lost.</p></article>', async (world, tab) => {
    const { text } = await readPage(world)
    /** @param {string} words */
    const show = (words) => world.call('showPassage', { text: words, start: text.indexOf(words), end: text.indexOf(words) + words.length })
    await tab.eval('a.innerHTML = "New words before. <b>The first</b>   sentence\\nstays. The <i>second one</i> moves away soon."; b.textContent = "Something else."')
    assert.equal(await show('The second one moves away soon.'), true)
    assert.equal(await painted(tab), 'The second one moves away soon.')
    assert.equal(await show('The first sentence stays.'), true)
    assert.equal(await painted(tab), 'The first   sentence\nstays.')
    assert.equal(await show('A third is lost.'), false)
    assert.equal(await world.call('showPassage', { text: 'New words before', start: 900, end: 916 }), true)
    await tab.eval('a.hidden = true')
    assert.equal(await show('The first sentence stays.'), false)
  }),

  'the map leads from each piece of text back to its node': async (browser) => {
    for (const name of ['article', 'docs', 'spa', 'frames', 'hidden', 'api-table']) {
      const tab = await browser.open(`http://pages.test/${name}/page.html`)
      const world = await World.in(tab)
      await readPage(world)
      const wrong = await world.call(`() => {
        const { text, segments } = __sotto.readings.at(-1)
        return segments.filter(({ at, length, node, offset }) => node.deref()?.data.slice(offset, offset + length).replace(/\\s/g, ' ') !== text.slice(at, at + length).replace(/\\s/g, ' ')).length + (segments.length ? 0 : 1)
      }`)
      await tab.close()
      assert.equal(wrong, 0, name)
    }
    return ''
  },

  'long texts end at a sentence': on('<article></article>', async (world, tab) => {
    const set = (/** @type {string} */ html) => tab.eval((html) => { document.body.firstElementChild?.setHTMLUnsafe(html) }, html)
    await set(Array.from({ length: 50 }, (_, i) => `<p>Paragraph ${i} has exactly seven words here. It follows e.g. Mr. Smith, who paid 3.50 for tea.</p>`).join(''))
    const some = await readPage(world, 100)
    assert.match(some.text, /(?:words here|for tea)\.$/)
    assert.ok(some.wordsRead <= 100 && some.wordsRead > 80, `${some.wordsRead} read`)
    assert.equal(some.wordsTotal, 50 * 17)
    const all = await readPage(world)
    assert.deepEqual([all.wordsRead, all.wordsTotal], [850, 850])
    await set(`<p>これは文です。${'次の文もここにあります。'.repeat(300)}</p>`)
    const japanese = await readPage(world, 100)
    assert.match(japanese.text, /。$/)
    assert.ok(japanese.wordsRead <= 100 && japanese.wordsRead > 80 && japanese.wordsTotal > 1500, `${japanese.wordsRead} of ${japanese.wordsTotal}`)
    await set(`<p>One.</p><pre>${'line of code\n'.repeat(100)}</pre>`)
    assert.equal((await readPage(world, 50)).text.match(/^```/gm)?.length, 2)
    await set(`<p>${'endless '.repeat(500)}</p>`)
    assert.ok((await readPage(world, 50)).wordsRead > 40)
  }),

  'a second injection changes nothing': on('<p>Some words.</p>', async (world) => {
    await world.call('() => { globalThis.before = __sotto.readPage }')
    await readPage(world)
    await world.load()
    assert.equal(await world.call('() => before === __sotto.readPage && __sotto.readings.length === 1'), true)
  }),

  'a page of fifty thousand nodes and a megabyte': on('<main></main>', async (world, tab) => {
    await tab.eval(`{
      const main = document.querySelector('main')
      for (let i = 0; i < 10000; i++) {
        const p = document.createElement('p')
        p.innerHTML = 'Number ' + i + ' of <b>very many</b> paragraphs, each with <a href="#">a link</a>, so that the page has some fifty thousand nodes in it.'
        main.append(p)
      }
      main.offsetHeight
    }`)
    const times = await world.call('() => Array.from({ length: 3 }, () => { const start = performance.now(); __sotto.readPage(); return Math.round(performance.now() - start) })')
    const source = await readPage(world)
    console.log(`      ${times.join(', ')} ms; ${source.wordsRead} of ${source.wordsTotal} words`)
    assert.equal(source.wordsTotal, 210_000)
    assert.ok(source.wordsRead > 11_900 && source.wordsRead <= 12_000)
  }),

  // The browser itself does not come back from laying out four thousand nested blocks: most of these have no box.
  'a page nested ten thousand deep': on('<style>x-y { display: contents }</style><main></main>', async (world, tab) => {
    await tab.eval(`{
      const top = document.createElement('div')
      let at = top
      for (const [tag, times] of [['ul', 300], ['blockquote', 300], ['x-y', 9000], ['span', 400]]) for (let i = 0; i < times; i++) at = at.appendChild(document.createElement(tag))
      at.innerHTML = 'The words at the bottom of the well <i style="display:none">INVISIBLE</i><b style="opacity:0">FAINT</b> are read all the same.'
      document.querySelector('main').append(top)
    }`)
    const { text } = await readPage(world)
    assert.match(text, /The words at the bottom of the well are read all the same\.$/)
    await tab.eval('getSelection().selectAllChildren(document.body)')
    assert.match((await readSelection(world))?.text ?? '', /bottom of the well/)
  }),

  'a page whose fields stand in for properties': async (browser) => {
    const tab = await browser.open('http://pages.test/form/page.html')
    const world = await World.in(tab)
    await tab.eval('getSelection().selectAllChildren(Document.prototype.querySelector.call(document, "main"))')
    const selection = await readSelection(world)
    await tab.close()
    assert.equal(selection?.title, 'Your account')
    assert.match(selection?.text ?? '', /You can close the account at any time\./)
    assert.doesNotMatch(selection?.text ?? '', /PRIVATE (?:[1-9]|10|11|14|15)\b/)
    return ''
  },

  'pages without text': async (browser, web) => {
    web.serve('empty.test', page('')).serve('pdf.test', (_url, response) => {
      response.writeHead(200, { 'content-type': 'application/pdf' }).end('%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF')
    }).serve('plain.test', (_url, response) => {
      response.writeHead(200, { 'content-type': 'text/plain' }).end('Plain text,\n  as it is.\n')
    })
    for (const [host, text] of [['empty.test', ''], ['pdf.test', ''], ['plain.test', 'Plain text,\n  as it is.']]) {
      const tab = await browser.open(`http://${host}/`)
      const source = await readPage(await World.in(tab))
      await tab.close()
      assert.equal(source.text, text, host)
    }
    return ''
  }
}
