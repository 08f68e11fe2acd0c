// Draws the updates of one request. Classic script: the popup and the in-page card load it. What a model or a page wrote is
// data here: it becomes text nodes and a few known elements, never HTML.
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  const HTML = 'http://www.w3.org/1999/xhtml'
  const SVG = 'http://www.w3.org/2000/svg'

  /** Outlines on a 16-unit square. @type {Record<string, string>} */
  const ICONS = {
    chevron: 'M4.5 6.5L8 10l3.5-3.5',
    close: 'M4 4l8 8M12 4l-8 8',
    copy: 'M6.5 5.5h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-6a1 1 0 0 1-1-1v-6a1 1 0 0 1 1-1zM10.5 5.5v-2a1 1 0 0 0-1-1h-6a1 1 0 0 0-1 1v6a1 1 0 0 0 1 1h2',
    done: 'M3.5 8.5l3 3 6-7',
    download: 'M8 2.8v7.4M4.8 7.2L8 10.4l3.2-3.2M3 13.2h10',
    file: 'M4.2 2.2h4.9l3 3v8.6H4.2zM9 2.4v3h3',
    folder: 'M2.2 12.6V3.9h4l1.4 1.6h6.2v7.1z',
    info: 'M8 14.2A6.2 6.2 0 1 0 8 1.8a6.2 6.2 0 0 0 0 12.4zM8 7.4v3.6M8 4.9v.1',
    open: 'M6.5 3.5H3.4v9.1h9.1V9.5M9.2 2.9h3.9v3.9M13 3L7.6 8.4',
    pause: 'M5.4 3.6v8.8M10.6 3.6v8.8',
    pen: 'M3 13l.7-2.9L10.8 3a1.2 1.2 0 0 1 1.7 0l.5.5a1.2 1.2 0 0 1 0 1.7L5.9 12.3 3 13z',
    quote: 'M3 4.5h10M3 8h10M3 11.5h6',
    play: 'M5 3.2l7.2 4.8L5 12.8z',
    remove: 'M3 4.4h10M6.4 4.2V2.6h3.2v1.6M4.4 4.6l.6 8.8h6l.6-8.8M6.9 7v4M9.1 7v4',
    replace: 'M3 5.5h8.5M9 3l2.5 2.5L9 8M13 10.5H4.5M7 8l-2.5 2.5L7 13',
    restart: 'M3 8a5 5 0 1 0 1.6-3.7M3 2.5v3h3',
    fresh: 'M8 3.2v9.6M3.2 8h9.6',
    shield: 'M8 1.9l5 1.8v4c0 3-2 5.3-5 6.4-3-1.1-5-3.4-5-6.4v-4zM5.7 7.9l1.7 1.7 3-3.3',
    send: 'M8 13V3.5M3.8 7.5L8 3.3l4.2 4.2',
    stop: 'M4.5 4.5h7v7h-7z',
    warn: 'M8 2.2l6.3 11.3H1.7L8 2.2zM8 6.5v3.2M8 11.6v.1'
  }

  /** @param {string} tag @param {NodeAttributes} attributes @param {(Node | string | null)[]} children */
  function h (tag, attributes = {}, ...children) {
    const element = document.createElementNS(HTML, tag)
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === 'function') element.addEventListener(name, value)
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : String(value))
    }
    element.append(...children.filter((child) => child !== null))
    return /** @type {any} */ (element)
  }

  /** @param {string} tag @param {Record<string, string | number>} attributes @param {Element[]} children */
  function draw (tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag)
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value))
    element.append(...children)
    return element
  }

  /** @param {string} name */
  function icon (name) {
    return draw('svg', { viewBox: '0 0 16 16', width: 16, height: 16, fill: 'none', stroke: 'currentColor', 'stroke-width': 1.4, 'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'aria-hidden': 'true' }, draw('path', { d: ICONS[name] }))
  }

  /** The mark of icons/mark.svg. A page may not load our files, so it is drawn here. */
  function mark () {
    return draw('svg', { viewBox: '0 0 128 128', width: 20, height: 20, 'aria-hidden': 'true' },
      draw('rect', { x: 4, y: 4, width: 120, height: 120, rx: 30, fill: '#17695c' }),
      draw('g', { fill: 'none', 'stroke-width': 14, 'stroke-linecap': 'round' },
        draw('path', { d: 'M34 40h60', stroke: '#fff' }),
        draw('path', { d: 'M34 64h40', stroke: '#cfe5e0' }),
        draw('path', { d: 'M34 88h18', stroke: '#97c6bc' })))
  }

  const number = (/** @type {number} */ value) => value.toLocaleString('en-US', { maximumFractionDigits: value < 10 ? 1 : 0 })
  const seconds = (/** @type {number} */ value) => value < 1 ? 'less than 1 s' : value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`
  const words = (/** @type {string} */ text) => text.trim() ? text.trim().split(/\s+/).length : 0

  /** Inline Markdown: code, bold, italic. Links and images stay what was written: text. @param {string} text @returns {(Node | string)[]} */
  function inline (text) {
    const nodes = []
    let rest = text
    while (rest) {
      const found = /`([^`\n]+)`|\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])|(?<!\w)_(?=\S)([^_\n]+?)(?<=\S)_(?!\w)/.exec(rest)
      if (!found) break
      if (found.index) nodes.push(rest.slice(0, found.index))
      if (found[1] !== undefined) nodes.push(h('code', {}, found[1]))
      else if (found[2] !== undefined) nodes.push(h('strong', {}, ...inline(found[2])))
      else nodes.push(h('em', {}, ...inline(found[3] ?? found[4])))
      rest = rest.slice(found.index + found[0].length)
    }
    if (rest) nodes.push(rest)
    return nodes
  }

  /** Cuts light Markdown into blocks: fences, headings, runs of list items, paragraphs. @param {string} text @returns {string[]} */
  function blocks (text) {
    /** @type {string[]} */
    const found = []
    let fence = false
    let open = false
    for (const line of text.split('\n')) {
      const item = /^\s*([-*+]|\d+[.)])\s+/.test(line)
      const last = found.at(-1) ?? ''
      if (fence || (open && line.trim() && !/^(#{1,6} |```)/.test(line) && item === isList(last))) found[found.length - 1] = `${last}\n${line}`
      else if (line.trim()) found.push(line)
      if (line.startsWith('```')) fence = !fence
      open = fence || (line.trim() !== '' && !line.startsWith('#') && !line.startsWith('```'))
    }
    return found
  }
  const isList = (/** @type {string} */ block) => /^\s*([-*+]|\d+[.)])\s+/.test(block)

  /** @param {string} block @returns {HTMLElement} */
  function renderBlock (block) {
    const heading = /^#{1,6}\s+(.*)/.exec(block)
    if (heading) return h('h4', { dir: 'auto' }, ...inline(heading[1]))
    if (block.startsWith('```')) return h('pre', { tabindex: '0' }, h('code', {}, block.replace(/^```.*\n?/, '').replace(/\n?```\s*$/, '')))
    if (isList(block)) {
      const items = block.split('\n').map((line) => h('li', { dir: 'auto' }, ...inline(line.replace(/^\s*([-*+]|\d+[.)])\s+/, ''))))
      const first = /^\s*(\d+)/.exec(block)
      return first ? h('ol', { start: first[1] }, ...items) : h('ul', {}, ...items)
    }
    return h('p', { dir: 'auto' }, ...inline(block.replace(/\n/g, ' ')))
  }

  const markdown = (/** @type {string} */ text) => blocks(text).map(renderBlock)

  /** Copies where pages without a secure context have no clipboard object; whether the browser allowed it.
   *  @param {string} text @param {HTMLElement} near */
  async function copy (text, near) {
    try {
      await navigator.clipboard.writeText(text)
      return true
    } catch {
      const focused = /** @type {HTMLElement | null} */ (/** @type {ShadowRoot | Document} */ (near.getRootNode()).activeElement)
      const area = h('textarea', { class: 'hidden-text', 'aria-hidden': 'true' })
      area.value = text
      near.append(area)
      area.select()
      const copied = document.execCommand('copy')
      area.remove()
      focused?.focus()
      return copied
    }
  }

  class AnswerView {
    #options
    /** @type {{ label: string, note: string, items: Passage[] } | null} */
    #passages = null
    #label = ''
    #text = ''
    /** Sources of the blocks now in `#prose`, so that only what changed is drawn again: a reader may be selecting text. @type {string[]} */
    #drawn = []
    #timer = 0
    #announcedWriting = false
    running = true
    /** @type {Failure | null} */
    failure = null

    #passagesBox = h('section', { class: 'passages', hidden: true })
    #draftLabel = h('h3', { class: 'label' })
    #prose = h('div', { class: 'prose', 'aria-busy': 'true' })
    #draft = h('section', { class: 'draft', hidden: true }, this.#draftLabel, this.#prose)
    #progressText = h('span', {}, 'Starting')
    #fill = h('i')
    #bar = h('div', { class: 'bar unknown', role: 'progressbar', 'aria-label': 'Progress' }, this.#fill)
    progress = h('div', { class: 'progress' }, this.#progressText, this.#bar)
    #notices = h('div', {})
    #failureBox = h('div', { class: 'failure', hidden: true })
    #actions = h('div', { class: 'actions' })
    #details = h('details', { class: 'details', hidden: true })
    element = h('div', { class: 'answer', 'data-state': 'running' }, this.#passagesBox, this.#draft, this.#notices, this.#failureBox, this.#details,
      h('div', { class: 'controls' }, this.progress, this.#actions))

    /** @param {AnswerOptions} options */
    constructor (options) {
      this.#options = options
      this.#drawActions()
    }

    /** @param {EngineEvent} event */
    apply (event) {
      switch (event.kind) {
        case 'started': return this.#options.announce('Reading')
        case 'queued': return this.#say(event.ahead === 1 ? 'Waiting for one other answer' : `Waiting for ${event.ahead} other answers`)
        case 'passages': return this.#showPassages(event)
        case 'reading': return this.#showReading(event.doneWords, event.totalWords, event.secondsLeft ?? null)
        case 'writing': return this.#startWriting(event.label)
        case 'text': this.#text += event.text; return this.#drawSoon()
        case 'rewritten': this.#text = event.text; return this.#drawSoon()
        case 'notice': this.#notices.append(h('p', { class: 'notice' }, icon('info'), h('span', {}, event.text))); return
        case 'done': return this.#end('done', event.stats)
        case 'stopped': return this.#end('stopped', event.stats)
        case 'failed': this.failure = event.reason; return this.#end('failed', null)
        default: return unhandled(event)
      }
    }

    /** What Copy puts on the clipboard. */
    get plainText () {
      const quotes = this.#passages?.items.map((item) => item.text).join('\n\n')
      const draft = this.#text.trim()
      return [quotes, quotes && draft && this.#label, draft].filter(Boolean).join('\n\n')
    }

    /** @param {Extract<EngineEvent, { kind: 'passages' }>} event */
    #showPassages (event) {
      this.#passages = event
      const { onPassage, announce } = this.#options
      const note = h('p', { class: 'aside' }, event.note)
      const item = (/** @type {Passage} */ passage) => h('li', {}, onPassage
        ? h('button', { type: 'button', class: 'passage', dir: 'auto', title: 'Show in the page', click: async () => {
            note.textContent = await onPassage(passage) ? event.note : 'The page no longer shows this sentence.'
            if (note.textContent !== event.note) announce(note.textContent)
          } }, passage.text)
        : h('blockquote', { class: 'passage', dir: 'auto' }, passage.text))
      this.#passagesBox.replaceChildren(...[
        event.label ? h('h3', { class: 'label' }, icon('quote'), event.label) : null,
        event.items.length ? h('ul', {}, ...event.items.map(item)) : null,
        note
      ].filter((node) => node !== null))
      this.#passagesBox.hidden = false
      if (event.items.length) announce(`${event.label}: ${event.items.length}`)
      this.#drawActions()
    }

    /** @param {number} done @param {number} total @param {number | null} left */
    #showReading (done, total, left) {
      const rest = left === null ? '' : `, ${seconds(left)} left`
      this.#say(`Reading ${number(done)} of ${number(total)} words${rest}`)
      this.#fillBar(total ? done / total : 0)
    }

    /** Loading is part of the wait for this answer. @param {EngineState} engine */
    applyState (engine) {
      if (!this.running || engine.state !== 'loading') return
      const megabytes = (/** @type {number} */ bytes) => number(Math.round(bytes / 1e6))
      this.#say(`Loading ${engine.model}: ${megabytes(engine.doneBytes)} of ${megabytes(engine.totalBytes)} MB`)
      this.#fillBar(engine.totalBytes ? engine.doneBytes / engine.totalBytes : 0)
    }

    /** @param {string} label */
    #startWriting (label) {
      this.#label = label
      this.#draftLabel.replaceChildren(...(label ? [icon('pen'), label] : []))
      this.#draftLabel.hidden = !label
      this.#draft.classList.toggle('set-apart', label !== '')
      this.#say('Writing')
      this.#fillBar(null)
      if (!this.#announcedWriting) this.#options.announce('Writing')
      this.#announcedWriting = true
    }

    /** @param {string} text */
    #say (text) {
      this.#progressText.textContent = text
    }

    /** @param {number | null} part From 0 to 1, or null when nobody knows. */
    #fillBar (part) {
      this.#bar.classList.toggle('unknown', part === null)
      if (part === null) {
        this.#bar.removeAttribute('aria-valuenow')
        this.#fill.style.width = ''
      } else {
        const percent = String(Math.round(100 * Math.min(1, part)))
        this.#bar.setAttribute('aria-valuenow', percent)
        this.#fill.style.width = `${percent}%`
      }
    }

    /** A few times a second: faster than anyone reads, and cheap. (Animation frames stop in tabs out of sight.) */
    #drawSoon () {
      this.#timer ||= setTimeout(() => this.#draw(), 33)
    }

    #draw () {
      clearTimeout(this.#timer)
      this.#timer = 0
      const sources = blocks(this.#text)
      for (let i = 0; i < sources.length; i++) {
        if (sources[i] === this.#drawn[i]) continue
        const block = renderBlock(sources[i])
        const old = this.#prose.children[i]
        if (old) old.replaceWith(block)
        else this.#prose.append(block)
      }
      while (this.#prose.children.length > sources.length) this.#prose.lastElementChild?.remove()
      this.#drawn = sources
      if (this.#draft.hidden !== !sources.length) {
        this.#draft.hidden = !sources.length
        this.#drawActions()
      }
    }

    /** @param {'done' | 'stopped' | 'failed'} how @param {Stats | null} stats */
    #end (how, stats) {
      this.running = false
      this.element.dataset.state = how
      this.#draw()
      this.#prose.setAttribute('aria-busy', 'false')
      this.progress.hidden = true
      const count = words(this.#text)
      const size = count ? `, ${number(count)} words` : ''
      if (how === 'done') this.#options.announce(`Answer ready${size}`)
      if (how === 'stopped') {
        this.#notices.append(h('p', { class: 'notice' }, icon('stop'), h('span', {}, count ? 'Stopped. What was written stays.' : 'Stopped before anything was written.')))
        this.#options.announce(`Stopped${size}`)
      }
      if (this.failure) {
        this.#failureBox.replaceChildren(icon('warn'), h('p', {}, h('strong', {}, this.failure.message), ' ', this.failure.nextStep))
        this.#failureBox.hidden = false
        this.#options.announce(`${this.failure.message} ${this.failure.nextStep}`)
      }
      if (stats) this.#showDetails(stats)
      this.#drawActions()
    }

    /** @param {Stats} stats */
    #showDetails (stats) {
      const rows = [
        ['Model', stats.model],
        ['Device', stats.device],
        ['Speed', stats.writtenTokens > 1 ? `${number(stats.tokensPerSecond)} tokens/s` : ''],
        ['First word after', stats.writtenTokens ? `${stats.firstTextSeconds.toFixed(1)} s` : ''],
        ['Read, written', stats.model ? `${number(stats.promptTokens)}, ${number(stats.writtenTokens)} tokens` : ''],
        ['Context used', stats.contextSize ? `${number(stats.contextUsed)} of ${number(stats.contextSize)} tokens` : '']
      ].filter(([, value]) => value)
      if (!rows.length) return
      this.#details.replaceChildren(h('summary', {}, 'Details'), h('dl', {}, ...rows.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])))
      this.#details.hidden = false
    }

    #drawActions () {
      const { onStop, onRetry, onReplace, announce } = this.#options
      const written = this.#text.trim()
      const button = (/** @type {string} */ name, /** @type {string} */ label, /** @type {(event: MouseEvent) => void} */ click) =>
        h('button', { type: 'button', class: 'quiet', 'data-action': name, click }, icon(name === 'retry' ? 'restart' : name), h('span', {}, label))
      const buttons = []
      if (!this.running && written && onReplace) buttons.push(button('replace', 'Replace', () => onReplace(written)))
      if (this.#passages?.items.length || written) {
        buttons.push(button('copy', 'Copy', async (event) => {
          const pressed = /** @type {HTMLElement} */ (event.currentTarget)
          const copied = await copy(this.plainText, this.element)
          pressed.replaceChildren(icon(copied ? 'done' : 'copy'), h('span', {}, copied ? 'Copied' : 'Not copied'))
          announce(copied ? 'Copied' : 'The browser did not allow copying. Select the text and copy it with the keyboard.')
          setTimeout(() => pressed.replaceChildren(icon('copy'), h('span', {}, 'Copy')), 1600)
        }))
      }
      if (this.running && onStop) buttons.push(button('stop', 'Stop', onStop))
      if (!this.running) buttons.push(button('retry', this.failure ? 'Try again' : 'Retry', onRetry))
      // A button that keeps its place keeps the focus too.
      const focused = /** @type {ShadowRoot | Document} */ (this.#actions.getRootNode()).activeElement?.getAttribute('data-action')
      this.#actions.replaceChildren(...buttons)
      if (focused) buttons.find((b) => b.dataset.action === focused || (focused === 'stop' && b.dataset.action === 'retry'))?.focus()
    }
  }

  /** @param {never} event */
  function unhandled (event) {
    console.warn('Sotto: an event this version does not know:', event)
  }

  Object.assign(__sotto, { h, icon, mark, markdown, number, AnswerView })
})()
