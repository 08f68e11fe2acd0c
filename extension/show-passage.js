// Shows a passage of the text that was read in its place in the page: scrolls there and paints it, without touching the
// page's tree. Classic script; needs extract-page.js.
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  if (Object.hasOwn(__sotto, 'showPassage')) return
  const state = /** @type {PageState} */ (/** @type {any} */ (__sotto))
  const NAME = 'sotto-passage'
  const CSS_TEXT = `::highlight(${NAME}) { background-color: #ffd84d; color: #1c1400; }`

  /** What is painted now. @type {(() => void)[]} */
  let painted = []

  /** Without white space and marks of ours, so that a passage is found however it is laid out. @param {string} text */
  const plain = (text) => text.replace(/^[ \t]*(?:#{1,6} |> |[-*] |\d+\. |`{3,}.*$)+/gm, '').replace(/^\|(?: --- \|)+$/gm, '').replace(/[\s|`~"^\\]+/g, '')

  /**
   * The page's own words between two places of a reading. Null when any of them is gone or says something else now.
   * @param {Reading} reading @param {number} start @param {number} end @returns {Range[] | null}
   */
  function rangesOf ({ text, segments }, start, end) {
    /** @type {Range[]} */
    const ranges = []
    let low = 0
    for (let high = segments.length; low < high;) {
      const middle = (low + high) >> 1
      const { at, length } = segments[middle]
      if (at + length <= start) low = middle + 1
      else high = middle
    }
    for (; low < segments.length && segments[low].at < end; low++) {
      const { at, length, node, offset } = segments[low]
      const from = Math.max(start, at)
      const to = Math.min(end, at + length)
      const words = node.deref()
      if (!words?.isConnected) return null
      const [first, last] = [offset + from - at, offset + to - at]
      if (words.data.slice(first, last).replace(/\s/g, ' ') !== text.slice(from, to).replace(/\s/g, ' ')) return null
      const previous = ranges.at(-1)
      // Words of one line are painted with the space between them.
      const joined = previous && /^ ?$/.test(text.slice(segments[low - 1].at + segments[low - 1].length, from)) && previous.endContainer.getRootNode() === words.getRootNode()
      if (previous && joined) previous.setEnd(words, last)
      else {
        const range = words.ownerDocument.createRange()
        range.setStart(words, first)
        range.setEnd(words, last)
        ranges.push(range)
      }
    }
    return ranges.length ? ranges : null
  }

  /** Looks for a passage in the page as it is now. @param {string} passage @returns {Range[] | null} */
  function search (passage) {
    const wanted = plain(passage)
    if (!wanted) return null
    const reading = state.readAll()
    let page = ''
    /** Where each segment begins in `page`. @type {number[]} */
    const begins = []
    const { text, segments } = reading
    for (const { at, length } of segments) {
      begins.push(page.length)
      page += text.slice(at, at + length).replace(/[\s|`~"^\\]+/g, '')
    }
    const found = page.indexOf(wanted)
    if (found < 0) return null
    /** Back to an offset of the text. @param {number} offset */
    const back = (offset) => {
      let low = 0
      for (let high = begins.length; high - low > 1;) {
        const middle = (low + high) >> 1
        if (begins[middle] <= offset) low = middle
        else high = middle
      }
      const { at, length } = segments[low]
      let left = offset - begins[low]
      for (let i = at; i < at + length; i++) if (!/[\s|`~"^\\]/.test(text[i]) && left-- === 0) return i
      return at + length
    }
    return rangesOf(reading, back(found), back(found + wanted.length - 1) + 1)
  }

  /** @param {Range[]} ranges */
  function paint (ranges) {
    clearPassage()
    /** Frames of the same site have registries of their own. @type {Map<Window & typeof globalThis, Range[]>} */
    const views = new Map()
    for (const range of ranges) {
      const view = range.startContainer.ownerDocument?.defaultView
      if (view) views.set(view, [...views.get(view) ?? [], range])
    }
    for (const [view, inView] of views) {
      view.CSS.highlights.set(NAME, new view.Highlight(...inView))
      painted.push(() => view.CSS.highlights.delete(NAME))
      const sheet = new view.CSSStyleSheet()
      sheet.replaceSync(CSS_TEXT)
      for (const root of new Set(inView.map((range) => /** @type {Document | ShadowRoot} */ (range.startContainer.getRootNode())))) {
        root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet]
        painted.push(() => { root.adoptedStyleSheets = [...root.adoptedStyleSheets].filter((other) => other !== sheet) })
      }
    }
  }

  /** @param {Range} range */
  function scrollTo (range) {
    const { parentElement } = range.startContainer
    parentElement?.scrollIntoView({ block: 'center', inline: 'nearest', behavior: 'instant' })
    const view = range.startContainer.ownerDocument?.defaultView
    const { top, bottom } = range.getBoundingClientRect()
    // The middle of a long paragraph is not where the passage is.
    if (view && (top < 0 || bottom > view.innerHeight)) view.scrollBy({ top: top - view.innerHeight / 3, behavior: 'instant' })
  }

  /**
   * Scrolls to a passage and paints it.
   * @param {Passage} passage `start` and `end` count UTF-16 units of the text that was read
   * @returns {boolean} false when the page no longer shows it
   */
  function showPassage ({ text, start, end }) {
    const reading = state.readings.findLast((reading) => reading.text.slice(start, end) === text)
    const ranges = (reading && rangesOf(reading, start, end)) ?? search(text)
    if (!ranges || ranges.every((range) => !range.getClientRects().length)) return false
    paint(ranges)
    scrollTo(ranges[0])
    return true
  }

  function clearPassage () {
    for (const undo of painted) {
      try {
        undo()
      } catch (error) {
        // A frame that went away took its highlight with it.
        console.debug('Sotto: a highlight is already gone:', error)
      }
    }
    painted = []
  }

  Object.assign(__sotto, { showPassage, clearPassage })
})()
