// Puts text in place of the selection that was read from a field, as if typed: the page hears of it, and Undo takes it back.
// Classic script; needs extract-page.js.
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  if (Object.hasOwn(__sotto, 'replaceText')) return
  const state = /** @type {PageState} */ (/** @type {any} */ (__sotto))
  const COPY = 'Copy the answer and paste it yourself.'
  /** @param {string} why */
  const no = (why) => ({ ok: false, message: `${why} ${COPY}` })

  /** Typing is the only change that a field's Undo knows. @param {Document} page @param {string} text */
  const type = (page, text) => Document.prototype.execCommand.call(page, 'insertText', false, text)

  /** @param {HTMLInputElement | HTMLTextAreaElement} element @param {{ start: number, end: number, text: string }} field @param {string} text */
  function replaceInInput (element, { start, end, text: before }, text) {
    if (!element.isConnected) return no('The field is no longer in the page.')
    if (element.disabled || element.readOnly) return no('The field cannot be edited.')
    if (element.value.slice(start, end) !== before) return no('The text in the field has changed since you selected it.')
    const oneLine = element.localName === 'input' ? text.replace(/\s*\n\s*/g, ' ') : text
    const rest = element.value.length - (end - start)
    if (element.maxLength >= 0 && rest + oneLine.length > element.maxLength) return no('The answer is longer than the field allows.')
    const expected = element.value.slice(0, start) + oneLine + element.value.slice(end)
    element.focus({ preventScroll: true })
    element.setSelectionRange(start, end)
    if (!type(element.ownerDocument, oneLine)) return no('The field does not accept the text.')
    return element.value === expected ? { ok: true, message: 'Replaced.' } : no('The page changed the text while it was put in.')
  }

  /** @param {HTMLElement} host @param {Range} range @param {string} before @param {string} text */
  function replaceInEditor (host, range, before, text) {
    if (!host.isConnected) return no('The editor is no longer in the page.')
    if (!host.isContentEditable) return no('The text cannot be edited.')
    const selection = host.ownerDocument.defaultView?.getSelection()
    if (!selection || !host.contains(range.commonAncestorContainer)) return no('The text in the editor has changed since you selected it.')
    host.focus({ preventScroll: true })
    selection.removeAllRanges()
    selection.addRange(range)
    if (selection.toString() !== before) return no('The text in the editor has changed since you selected it.')
    if (!type(host.ownerDocument, text)) return no('The editor does not accept the text.')
    const squash = (/** @type {string} */ of) => of.replace(/\s+/g, '')
    return squash(host.textContent).includes(squash(text)) ? { ok: true, message: 'Replaced.' } : no('The editor changed the text while it was put in.')
  }

  /**
   * Replaces the selection that was read last from a field.
   * @param {string} text
   * @param {string} [original] the source's text: nothing is replaced when another selection was read since
   * @returns {{ ok: boolean, message: string }} a failure says why and what to do
   */
  function replaceText (text, original) {
    const { field } = state
    if (!field) return no('The text was not selected in a field of this page.')
    const same = (/** @type {string} */ one, /** @type {string} */ two) => one.replace(/\s+/g, '') === two.replace(/\s+/g, '')
    if (original !== undefined && 'element' in field && !same(original, field.text)) return no('Another text has been selected since.')
    if ('element' in field) {
      const element = field.element.deref()
      return element ? replaceInInput(element, field, text) : no('The field is no longer in the page.')
    }
    const host = field.host.deref()
    return host ? replaceInEditor(host, field.range.cloneRange(), field.text, text) : no('The editor is no longer in the page.')
  }

  Object.assign(__sotto, { replaceText })
})()
