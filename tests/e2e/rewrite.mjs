// Rewriting a selection in a field, and putting the new words in its place, so that the page's own undo takes them back.
import { button, card, finished } from '../browser/answers.mjs'
import { expect } from '../browser/cdp.mjs'
import { onField, onSelection } from '../browser/entries.mjs'
import { chooseMenu, clickAt } from '../browser/gestures.mjs'
import { check, flat, scenario } from './harness.mjs'
/** @import { Session } from '../browser/cdp.mjs' */

/** Sentences a small model rewrites well enough to pass its own checks; the first that does is replaced. */
const TRIES = [
  { letters: ['r', 'm'], text: "Hey guys, the demo's gonna be late, the server died again. We'll ping you tomorrow around 10." },
  { letters: ['r', 's'], text: 'I just wanted to write to you in order to let you know that, due to the fact that it will rain very hard on Saturday, we have made the decision to postpone the garden party until Sunday.' },
  { letters: ['r', 'f'], text: 'Employees must submit their expense reports by Thursday. Late reports will not be paid this month.' },
  { letters: ['r', 'g'], text: 'Their going to meet us at the airport, but they dont know which terminal.' }
]

const BEFORE = 'Dear all, '
const AFTER = ' Greetings, Ana.'

/** Selects the sentence between the two others. @param {Session} page @param {string} text */
const selectInArea = (page, text) => page.eval((BEFORE, AFTER, text) => {
  const area = /** @type {HTMLTextAreaElement} */ (document.querySelector('textarea'))
  area.focus()
  area.select()
  // Typed, not set: only then has the page something to undo.
  document.execCommand('insertText', false, BEFORE + text + AFTER)
  area.setSelectionRange(BEFORE.length, BEFORE.length + text.length)
}, BEFORE, AFTER, text)

const value = (/** @type {Session} */ page) => page.eval('document.querySelector("textarea").value')

scenario('rewrite in a text area, replace, undo', async ({ display, openPage, note }) => {
  const tab = await openPage('<!doctype html><html lang="en"><title>Mail</title><textarea style="width: 500px; height: 120px; margin: 80px"></textarea>')
  const refused = []
  for (const { letters, text } of TRIES) {
    await selectInArea(tab, text)
    const original = await value(tab)
    // On the selected words: a click beside them would end the selection.
    await chooseMenu(display, tab, 'textarea', onField(...letters), { at: { x: 140, y: 12 } })
    const answer = await finished(() => card(tab))
    const same = flat(answer.text) === flat(text)
    if (same || !answer.actions.includes('replace')) {
      check(same || answer.failure || answer.notices.length, 'no Replace, and no word why')
      refused.push(letters.join(''))
      await clickAt(tab, await button(tab, 'close'))
      continue
    }
    await clickAt(tab, await button(tab, 'replace'))
    const replaced = await expect('the field changes', async () => {
      const now = await value(tab)
      return now !== original && now
    })
    check(replaced.startsWith(BEFORE) && replaced.endsWith(AFTER), `the words around it changed: "${replaced}"`)
    check(flat(replaced.slice(BEFORE.length, -AFTER.length)) === flat(answer.text), `not what the card showed: "${replaced}"`)
    await tab.eval('document.querySelector("textarea").focus()')
    await display.key('ctrl+z')
    await expect('undo brings the sentence back', async () => await value(tab) === original)
    note(refused.length ? `tried ${refused.length + 1} sentences` : 'first try')
    return
  }
  throw new Error(`no rewrite passed the model's checks (${refused.join(', ')})`)
})

scenario('rewrite in an editable page', async ({ display, openPage }) => {
  const tab = await openPage('<!doctype html><html lang="en"><title>Editor</title><div id="e" contenteditable style="width: 500px; margin: 80px; font-size: 18px"></div>')
  for (const { letters, text } of TRIES) {
    await tab.eval((text) => {
      const editor = /** @type {HTMLElement} */ (document.querySelector('#e'))
      editor.focus()
      document.execCommand('selectAll')
      document.execCommand('insertText', false, text)
      document.execCommand('selectAll')
    }, text)
    await chooseMenu(display, tab, '#e', onField(...letters))
    const answer = await finished(() => card(tab))
    if (flat(answer.text) === flat(text) || !answer.actions.includes('replace')) {
      await clickAt(tab, await button(tab, 'close'))
      continue
    }
    await clickAt(tab, await button(tab, 'replace'))
    await expect('the editor changes', async () => flat(await tab.eval('document.querySelector("#e").innerText')) === flat(answer.text))
    await tab.eval('document.querySelector("#e").focus()')
    await display.key('ctrl+z')
    await expect('undo brings the sentence back', async () => flat(await tab.eval('document.querySelector("#e").innerText')) === flat(text))
    return
  }
  throw new Error('no rewrite passed the model\'s checks')
})

scenario('rewrite of text that cannot be edited offers no Replace', async ({ display, openPage }) => {
  const tab = await openPage(`<!doctype html><html lang="en"><title>Notice</title><p id="p" style="margin: 80px">${TRIES[0].text}</p>`)
  await tab.eval('getSelection().selectAllChildren(document.querySelector("#p"))')
  await chooseMenu(display, tab, '#p', onSelection(...TRIES[0].letters))
  const answer = await finished(() => card(tab))
  check(!answer.actions.includes('replace'), 'Replace is offered for a page that cannot be edited')
})

scenario('explain a selection', async ({ display, openPage }) => {
  const tab = await openPage('<!doctype html><html lang="en"><title>Batteries</title><p id="p" style="margin: 80px; width: 600px">When a phone battery gets old, it holds less charge than when it was new. A lithium-ion battery works by moving ions between two electrodes. Each trip is almost, but not perfectly, reversible: a thin film forms on the anode and slowly traps lithium that can no longer take part.</p>')
  await tab.eval('getSelection().selectAllChildren(document.querySelector("#p"))')
  await chooseMenu(display, tab, '#p', onSelection('e'))
  const answer = await finished(() => card(tab))
  check(!answer.failure, answer.failure)
  check(answer.text.length > 20, `no explanation: "${answer.text}"`)
})
