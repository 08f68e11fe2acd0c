// What a user does: select, right-click, press keys, click the toolbar button. The menu needs a display; the rest does not.
import { expect, sleep, until } from './cdp.mjs'
/** @import { Session } from './cdp.mjs' */
/** @import { Browser, Tab } from './chromium.mjs' */
/** @import { Display } from './display.mjs' */

/** Selects everything in the element and answers the text. @param {Session} page @param {string} selector */
export const select = (page, selector) => page.eval((selector) => {
  const element = document.querySelector(selector)
  if (!element) throw new Error(`nothing matches ${selector}`)
  element.scrollIntoView({ block: 'center', behavior: 'instant' })
  if (element instanceof HTMLTextAreaElement || element instanceof HTMLInputElement) {
    element.focus()
    element.select()
    return element.value
  }
  const range = document.createRange()
  range.selectNodeContents(element)
  const selection = /** @type {Selection} */ (getSelection())
  selection.removeAllRanges()
  selection.addRange(range)
  return String(selection)
}, selector)

/** A point of the element in the viewport that no link, picture or field covers (unless it is the field itself).
 *  @param {Session} page @param {string} selector @param {{ x: number, y: number }} [at] */
export const pointIn = (page, selector, at) => page.eval((selector, at) => {
  const element = document.querySelector(selector)
  if (!element) throw new Error(`nothing matches ${selector}`)
  const boxes = [...element.getClientRects()]
  if (at) return { x: boxes[0].left + at.x, y: boxes[0].top + at.y }
  for (const box of boxes) {
    for (const [fx, fy] of [[0.5, 0.5], [0.1, 0.5], [0.02, 0.5], [0.3, 0.3], [0.7, 0.7], [0.9, 0.9]]) {
      const x = box.left + box.width * fx
      const y = box.top + box.height * fy
      const hit = document.elementFromPoint(x, y)
      if (hit && (hit === element || (element.contains(hit) && !hit.closest('a, img, video, input, textarea')))) return { x, y }
    }
  }
  throw new Error(`no free point in ${selector}`)
}, selector, at)

/** Where a point of the viewport is on the screen, once the window stands still. @param {Session} page @param {{ x: number, y: number }} point */
export async function onScreen (page, point) {
  let last = ''
  return expect('the window stands still', async () => {
    const now = await page.eval(({ x, y }) => {
      // The side panel widens the difference; without it, half of it is the window's frame.
      const frame = outerWidth - innerWidth > 40 ? 4 : (outerWidth - innerWidth) / 2
      const scale = devicePixelRatio
      return [Math.round((screenX + frame + x) * scale), Math.round((screenY + outerHeight - innerHeight - frame + y) * scale)]
    }, point)
    const same = String(now) === last
    last = String(now)
    return same && now
  }, undefined, 60)
}

/** A menu's window is there before it listens; until then the menu behind it takes the keys. */
const MENU_SETTLES = 200

/**
 * Right-clicks a point and goes by keys to an entry of the extension's submenu.
 * @param {Display} display
 * @param {Tab} tab
 * @param {string} selector
 * @param {{ up: number, letters: string[] }} entry how many rows from the bottom the extension stands, then one unique letter per level
 * @param {{ screenshot?: string, at?: { x: number, y: number } }} [options] `at`: where in the element to click, from its top left corner
 * @returns {Promise<number>} when the last key was pressed, `performance.now()`
 */
export async function chooseMenu (display, tab, selector, { up, letters }, { screenshot, at } = {}) {
  const [x, y] = await onScreen(tab, await pointIn(tab, selector, at))
  await display.contextMenu(x, y)
  await sleep(MENU_SETTLES)
  const openSub = () => display.key(...Array(up).fill('Up'), 'Right')
  if (!await display.menuAfter(openSub)) throw new Error('the extension has no submenu in the context menu')
  await sleep(MENU_SETTLES)
  for (const letter of letters.slice(0, -1)) {
    if (!await display.menuAfter(() => display.key(letter))) throw new Error(`no submenu behind "${letter}"`)
    await sleep(MENU_SETTLES)
  }
  if (screenshot) await display.screenshot(screenshot)
  const pressed = performance.now()
  await display.key(/** @type {string} */ (letters.at(-1)))
  return pressed
}

const MODIFIERS = /** @type {Record<string, number>} */ ({ alt: 1, ctrl: 2, meta: 4, shift: 8 })
const NAMED = /** @type {Record<string, { code: string, virtual: number, text?: string }>} */ ({
  Enter: { code: 'Enter', virtual: 13, text: '\r' }, Escape: { code: 'Escape', virtual: 27 }, Tab: { code: 'Tab', virtual: 9 }, ' ': { code: 'Space', virtual: 32, text: ' ' }
})

/**
 * A key, with modifiers such as `Alt+Shift+S`, as the browser takes it from a keyboard: shortcuts fire.
 * @param {Session} page
 * @param {string} combination
 */
export async function press (page, combination) {
  const parts = combination.split('+')
  const key = /** @type {string} */ (parts.pop())
  const named = NAMED[key]
  const upper = key.toUpperCase()
  const virtual = named?.virtual ?? upper.charCodeAt(0)
  const modifiers = parts.reduce((sum, name) => sum | MODIFIERS[name.toLowerCase()], 0)
  // Without the native code a shortcut of an extension does not fire.
  const event = { modifiers, key: named ? key : upper, code: named?.code ?? `Key${upper}`, windowsVirtualKeyCode: virtual, nativeVirtualKeyCode: virtual }
  await page.send('Input.dispatchKeyEvent', { ...event, type: named?.text ? 'keyDown' : 'rawKeyDown', ...(named?.text && { text: named.text }) })
  await page.send('Input.dispatchKeyEvent', { ...event, type: 'keyUp' })
}

/** Types text. @param {Session} page @param {string} text */
export const type = (page, text) => page.send('Input.insertText', { text })

/** Clicks a point of a page. @param {Session} page @param {{ x: number, y: number }} point */
export async function clickAt (page, { x, y }) {
  await page.send('Input.dispatchMouseEvent', { type: 'mouseMoved', x, y })
  for (const type of ['mousePressed', 'mouseReleased']) await page.send('Input.dispatchMouseEvent', { type, x, y, button: 'left', buttons: 1, clickCount: 1 })
}

/** Clicks the toolbar button: opens the popup and opens the tab to the extension. @param {Browser} browser @param {Tab} tab @returns {Promise<Session>} the popup */
export async function openPopup (browser, tab) {
  const { cdp, id } = browser
  await tab.front()
  const target = await expect('a tab is in front', async () => {
    const all = await cdp.targets()
    const tabs = all.filter((t) => t.type === 'tab' && !t.url.startsWith('chrome-extension:'))
    // Not every version says which tab is in front; the newest of an address then comes first.
    const { url } = all.find((t) => t.targetId === tab.targetId) ?? {}
    return tabs.find((t) => t.embedderData?.tabActive) ?? tabs.find((t) => t.embedderData === undefined && t.url === url)
  })
  const click = () => cdp.send('Extensions.triggerAction', { id, targetId: target.targetId })
  await click()
  // A click that a busy window lost is made once more, as a user would.
  if (!await until(() => browser.isOpen('popup/popup.html'), 8000)) await click()
  const popup = await browser.extensionPage('popup/popup.html')
  await expect('the popup is drawn', () => popup.eval('document.readyState === "complete"'))
  return popup
}

/** Closes the popup by a click into the page: Escape would stop an answer first. @param {Browser} browser @param {Tab} tab */
export async function closePopup (browser, tab) {
  const isOpen = () => browser.isOpen('popup/popup.html')
  await clickAt(tab, { x: 3, y: 3 })
  if (await until(async () => !await isOpen(), 500)) return
  // A click that does not come from the window system leaves the popup open in some versions.
  const popup = await browser.extensionPage('popup/popup.html')
  await popup.eval('window.close()').catch(() => {})
  await expect('the popup closes', async () => !await isOpen())
}
