// Reading what the user sees: the card in a page, the turns of the popup.
import { expect } from './cdp.mjs'
/** @import { Session } from './cdp.mjs' */

/**
 * @typedef {object} Answer
 * @property {string} heading
 * @property {string} coverage
 * @property {string[]} passages
 * @property {string} passagesLabel
 * @property {string} passagesNote
 * @property {string} label what stands over the model's writing
 * @property {string} text the model's writing
 * @property {boolean} running
 * @property {string} progress
 * @property {string} failure
 * @property {string[]} notices
 * @property {string[]} actions names of the buttons
 * @property {Record<string, string>} details
 * @property {string} status the live region
 */

/** Runs in the page: every answer in the card, or in the popup. @param {'card' | 'popup'} where @returns {Answer[]} */
function collect (where) {
  const shadow = document.querySelector('sotto-card')?.shadowRoot ?? null
  const root = where === 'card' ? shadow : document
  if (!root) return []
  const text = (/** @type {Element | null | undefined} */ element) => (element instanceof HTMLElement ? element.innerText : element?.textContent ?? '').trim()
  const shown = (/** @type {Element | null} */ element) => element instanceof HTMLElement && !element.hidden && !element.closest('[hidden]') ? element : null
  return [...root.querySelectorAll('.answer')].map((answer) => {
    const find = (/** @type {string} */ selector) => shown(answer.querySelector(selector))
    const names = [...answer.querySelectorAll('.details dt')].map((dt) => dt.textContent ?? '')
    const values = [...answer.querySelectorAll('.details dd')].map((dd) => dd.textContent ?? '')
    const title = where === 'card' ? root.querySelector('h2') : answer.parentElement?.querySelector('h2')
    return {
      heading: title?.firstChild?.textContent ?? '',
      coverage: text(where === 'card' ? root.querySelector('h2 small') : document.querySelector('#coverage')),
      passages: [...answer.querySelectorAll('.passage')].map(text),
      passagesLabel: text(find('.passages .label')),
      passagesNote: text(find('.passages .aside')),
      label: text(find('.draft .label')),
      text: text(find('.draft .prose')),
      running: answer.getAttribute('data-state') === 'running',
      progress: text(find('.progress') ?? shown(document.querySelector('#now .progress'))),
      failure: text(find('.failure')),
      notices: [...answer.querySelectorAll('.notice')].map(text),
      actions: [...answer.querySelectorAll('[data-action]')].map((button) => button.getAttribute('data-action') ?? ''),
      details: Object.fromEntries(names.map((name, i) => [name, values[i]])),
      status: text(root.querySelector('[role=status]'))
    }
  })
}

/** What the card shows, or null when there is none. @param {Session} page @returns {Promise<Answer | null>} */
export const card = async (page) => (await page.eval(collect, 'card')).at(-1) ?? null

/** The popup's turns, oldest first. @param {Session} popup */
export const turns = (popup) => popup.eval(collect, 'popup')

/** The popup's newest turn. @param {Session} popup @returns {Promise<Answer | null>} */
export const lastTurn = async (popup) => (await turns(popup)).at(-1) ?? null

/** Waits for the end of an answer. @param {() => Promise<Answer | null>} read @param {number} [ms] */
export const finished = (read, ms = 120_000) => expect('the answer ends', async () => {
  const now = await read()
  return now && !now.running && now
}, ms, 50)

/** The middle of a button of the card or popup. @param {Session} page @param {string} action */
export const button = (page, action) => middleOf(page, `[data-action="${action}"]`)

/** The middle of a button that an answer has only while it runs; null when the answer has ended.
 *  @param {Session} page @param {string} action @param {() => Promise<Answer | null>} read */
export async function buttonWhileRunning (page, action, read) {
  const still = standing(page, `[data-action="${action}"]`)
  const found = await expect(`${action} stands still, or the answer ends`, async () => await still() || ((await read())?.running === false && 'ended'), undefined, 20)
  return found === 'ended' ? null : found
}

/** The middle of an element of a page or of the card in it, the last one that matches, once it is drawn and stands still.
 *  @param {Session} page @param {string} selector */
export const middleOf = (page, selector) => expect(`${selector} is drawn and stands still`, standing(page, selector), undefined, 40)

/** A question to be asked again and again: where the middle of an element is, if it is where it was the time before.
 *  @param {Session} page @param {string} selector */
function standing (page, selector) {
  let last = ''
  return async () => {
    const now = await placeOf(page, selector)
    const same = JSON.stringify(now) === last
    last = JSON.stringify(now)
    return same && now
  }
}

/** @param {Session} page @param {string} selector */
const placeOf = (page, selector) => page.eval((selector) => {
  const root = document.querySelector('sotto-card')?.shadowRoot
  const found = [...document.querySelectorAll(selector), ...root?.querySelectorAll(selector) ?? []].at(-1)
  found?.scrollIntoView({ block: 'center', behavior: 'instant' })
  const box = found?.getBoundingClientRect()
  return box?.width ? { x: box.left + box.width / 2, y: box.top + box.height / 2 } : null
}, selector)
