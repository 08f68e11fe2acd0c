// The card in the page: shows one answer, near what was selected. Classic script, put into a page on a gesture only; putting
// it in again does nothing.
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  if (Object.hasOwn(__sotto, 'openCard')) return
  const { h, icon, mark, number, look, AnswerView, EnginePort } = __sotto

  const NAME = 'sotto-card'
  /** Pages without a secure connection have no `randomUUID`. */
  const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16).padStart(8, '0')).join('')
  const GAP = 12
  const USUAL_HEIGHT = 360

  const css = /* css */ `
    /* The page's own rules reach the host but not past "important"; nothing of them reaches inside. */
    :host {
      all: initial !important;
      display: block !important;
      position: fixed !important;
      inset: auto !important;
      margin: 0 !important;
      padding: 0 !important;
      border: 0 !important;
      overflow: visible !important;
      background: none !important;
      z-index: 2147483647 !important;
      width: min(400px, calc(100vw - 24px)) !important;
      left: var(--left) !important;
      top: var(--top) !important;
      color-scheme: light dark !important;
    }
    .card { display: flex; flex-direction: column; max-height: min(560px, var(--room)); border: 1px solid var(--line); border-radius: 16px; box-shadow: var(--shadow); overflow: hidden; }
    .card:focus { outline: none; }
    header { display: flex; align-items: center; gap: 10px; padding: 10px 10px 8px 16px; cursor: grab; touch-action: none; user-select: none; }
    header:active { cursor: grabbing; }
    header h2 { flex: 1; min-width: 0; font-size: var(--body); font-weight: 650; line-height: 1.35; }
    header small { display: block; font-size: var(--small); font-weight: 400; color: var(--muted); }
    .body { overflow-y: auto; overscroll-behavior: contain; padding: 4px 16px 0; scrollbar-width: thin; scrollbar-color: var(--line) transparent; }
    /* In sight at the foot of a long answer. */
    .controls { position: sticky; bottom: 0; margin-inline: -16px; padding: 6px 16px; background: var(--paper); border-top: 1px solid var(--line); }
    .controls .progress { padding-top: 4px; }
  `

  /** @param {Task} task @param {Source['kind']} kind */
  function heading (task, kind) {
    const what = kind === 'page' ? 'this page' : 'the selection'
    switch (task.kind) {
      case 'summarize': return `Summary of ${what}`
      case 'explain': return `${what[0].toUpperCase()}${what.slice(1)}, explained`
      case 'rewrite': return { clearer: 'Clearer', shorter: 'Shorter', formal: 'More formal', friendly: 'Friendlier', fixGrammar: 'Grammar mended' }[task.style]
      case 'question': return task.question
    }
  }

  /** The one card of this document. @type {Card | null} */
  let current = null

  class Card {
    #order
    #source
    #conversation
    /** The request now shown. */
    #request = ''
    /** @type {AnswerView | null} */
    #view = null
    #focusBefore = document.activeElement
    #host = h(/** @type {'div'} */ (NAME))
    #status = h('p', { class: 'hidden-text', role: 'status' })
    #body = h('div', { class: 'body' })
    #card
    #port

    /** @param {CardOrder} order @param {Source} source */
    constructor (order, source) {
      this.#order = order
      this.#source = source
      this.#conversation = `${order.tabId}/${order.documentId}/${newId()}`
      const coverage = source.wordsRead < source.wordsTotal
        ? `${number(source.wordsRead)} of ${number(source.wordsTotal)} words read`
        : `${number(source.wordsRead)} ${source.wordsRead === 1 ? 'word' : 'words'} read`
      const unread = source.unread.length ? `; not read: ${source.unread.join(', ')}` : ''
      const header = h('header', { pointerdown: (event) => this.#drag(event) },
        mark(),
        h('h2', {}, heading(order.task, source.kind), h('small', {}, coverage + unread)),
        h('button', { type: 'button', class: 'round', 'aria-label': 'Close', title: 'Close (Esc)', 'data-action': 'close', click: () => this.close() }, icon('close')))
      this.#card = h('section', { class: 'sotto card', role: 'dialog', 'aria-label': `Sotto: ${heading(order.task, source.kind)}`, tabindex: '-1', keydown: (event) => this.#key(event) }, header, this.#body, this.#status)
      const shadow = this.#host.attachShadow({ mode: 'open' })
      const sheet = new CSSStyleSheet()
      sheet.replaceSync(css)
      shadow.adoptedStyleSheets = [look(), sheet]
      shadow.append(this.#card)
      // Keys pressed in the card are not shortcuts of the page.
      for (const type of ['keydown', 'keyup', 'keypress']) this.#host.addEventListener(type, (event) => event.stopPropagation())
      this.#port = new EnginePort({ onMessage: (message) => {
        if (message.type === 'status') this.#view?.applyState(message.engine)
        if (message.type === 'update' && message.request === this.#request) this.#view?.apply(message.event)
      } })
    }

    open () {
      // A card left by an older version of the extension cannot be reached any more.
      for (const old of document.querySelectorAll(NAME)) old.remove()
      document.documentElement.append(this.#host)
      this.#place(selectionBox())
      // The top layer: above everything of the page, whatever its z-index.
      this.#host.popover = 'manual'
      this.#host.showPopover()
      this.#card.focus({ preventScroll: true })
      addEventListener('pagehide', this.#leave, { once: true })
      addEventListener('resize', this.#keepInside)
      this.ask()
    }

    ask () {
      if (this.#view?.running) this.#port.send({ type: 'stop', request: this.#request })
      this.#request = newId()
      const view = new AnswerView({
        onStop: () => this.#port.send({ type: 'stop', request: this.#request }),
        onRetry: () => this.ask(),
        onPassage: (passage) => __sotto.showPassage(passage),
        onReplace: this.#source.kind === 'field' ? (text) => this.#replace(text) : undefined,
        announce: (text) => { this.#status.textContent = text }
      })
      this.#view = view
      this.#body.replaceChildren(view.element)
      this.#port.send({ type: 'ask', request: this.#request, conversation: this.#conversation, task: this.#order.task, source: this.#source })
    }

    close () {
      this.#leave()
      removeEventListener('pagehide', this.#leave)
      removeEventListener('resize', this.#keepInside)
      this.#host.remove()
      __sotto.clearPassage()
      if (current === this) current = null
      if (this.#focusBefore instanceof HTMLElement && this.#focusBefore.isConnected) this.#focusBefore.focus({ preventScroll: true })
    }

    /** Nothing is kept for a card that is gone. */
    #leave = () => {
      this.#port.send({ type: 'forget', conversation: this.#conversation })
      this.#port.close()
    }

    /** @param {string} text */
    #replace (text) {
      const result = __sotto.replaceText(text, this.#source.text)
      if (result.ok) return this.close()
      this.#view?.apply({ kind: 'notice', text: result.message })
    }

    /** @param {KeyboardEvent} event */
    #key (event) {
      if (event.key !== 'Escape') return
      event.preventDefault()
      if (this.#view?.running) this.#port.send({ type: 'stop', request: this.#request })
      else this.close()
    }

    /** @param {DOMRect | null} near */
    #place (near) {
      const [width, height] = [400, USUAL_HEIGHT]
      if (near && near.bottom + GAP + height <= innerHeight) this.#moveTo(near.left, near.bottom + GAP)
      else if (near && near.right + GAP + width <= innerWidth) this.#moveTo(near.right + GAP, Math.min(near.top, innerHeight - height - GAP))
      // With little room, the corner is better than covering what is being read.
      else this.#moveTo(innerWidth, GAP)
    }

    /** @param {number} left @param {number} top */
    #moveTo (left, top) {
      const box = this.#host.getBoundingClientRect()
      const clamp = (/** @type {number} */ value, /** @type {number} */ most) => Math.round(Math.max(GAP, Math.min(value, most)))
      const y = clamp(top, innerHeight - Math.min(box.height, USUAL_HEIGHT) - GAP)
      this.#host.style.setProperty('--left', `${clamp(left, document.documentElement.clientWidth - box.width - GAP)}px`)
      this.#host.style.setProperty('--top', `${y}px`)
      // It grows while an answer streams, but not out of the window.
      this.#host.style.setProperty('--room', `${Math.max(USUAL_HEIGHT / 2, innerHeight - y - GAP)}px`)
    }

    #keepInside = () => {
      const box = this.#host.getBoundingClientRect()
      this.#moveTo(box.left, box.top)
    }

    /** @param {PointerEvent} event */
    #drag (event) {
      const header = /** @type {HTMLElement} */ (event.currentTarget)
      if (event.button !== 0 || /** @type {Element} */ (event.target).closest('button')) return
      const box = this.#host.getBoundingClientRect()
      const [dx, dy] = [event.clientX - box.left, event.clientY - box.top]
      const move = (/** @type {PointerEvent} */ at) => this.#moveTo(at.clientX - dx, at.clientY - dy)
      header.setPointerCapture(event.pointerId)
      header.addEventListener('pointermove', move)
      header.addEventListener('lostpointercapture', () => header.removeEventListener('pointermove', move), { once: true })
    }
  }

  /** Where the selection (or the field it is in) stands in the window. */
  function selectionBox () {
    const active = document.activeElement
    if (active instanceof HTMLTextAreaElement || active instanceof HTMLInputElement) return active.getBoundingClientRect()
    const selection = getSelection()
    if (!selection?.rangeCount || selection.isCollapsed) return null
    const box = selection.getRangeAt(0).getBoundingClientRect()
    return box.bottom > 0 && box.top < innerHeight ? box : null
  }

  /** @param {CardOrder} order @returns {Source} */
  function readSource ({ from, selectionText, incognito }) {
    const selection = from === 'page' ? null : __sotto.readSelection()
    if (selection?.text.trim()) return { ...selection, incognito }
    if (from === 'page' || (from === 'selectionOrPage' && !selectionText.trim())) return { ...__sotto.readPage(), incognito }
    const words = selectionText.split(/\s+/).filter(Boolean).length
    return { kind: 'selection', text: selectionText, title: document.title, url: location.href, lang: document.documentElement.lang, wordsRead: words, wordsTotal: words, unread: [], incognito }
  }

  __sotto.openCard = (order) => {
    if (document.contentType === 'application/pdf') return { shown: false, reason: 'pdf' }
    const source = readSource(order)
    if (!source.text.trim()) return { shown: false, reason: 'nothingToRead' }
    current?.close()
    current = new Card(order, source)
    current.open()
    return { shown: true }
  }
})()
