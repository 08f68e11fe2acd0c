// Reads what a reader of the page can see, as light Markdown, with a map from the text back to the page's nodes. Classic
// script for the extension's isolated world.
//
// One walk over the live, composed tree (shadow roots, slots, frames of the same site) writes a flat list of tokens and
// drops what cannot be seen; a pass over the tokens finds the main text; another writes it. Nothing recurses: pages nest as
// deep as they like. The page is not trusted: nodes are touched through getters of their prototypes only, because a form's
// fields (and a document's named images) stand in for properties of the same name.

/** @typedef {{ at: number, length: number, node: WeakRef<Text>, offset: number }} Segment a stretch of text that stands in the page as it is, but for the kind of white space */
/** @typedef {{ text: string, segments: Segment[] }} Reading */
/** @typedef {{ element: WeakRef<HTMLInputElement | HTMLTextAreaElement>, start: number, end: number, text: string } | { host: WeakRef<HTMLElement>, range: Range, text: string }} Field a selection that can be replaced */
/** @typedef {{ readings: Reading[], field: Field | null, readAll: () => Reading }} PageState shared with show-passage.js and replace-text.js */
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  if (Object.hasOwn(__sotto, 'readPage')) return
  const state = /** @type {PageState} */ (/** @type {any} */ (__sotto))

  /** Words given to the engine unless the caller says otherwise. */
  const MAX_WORDS = 12_000
  /** Bounds on hostile pages; far above what people read. */
  const MAX_NODES = 400_000
  const MAX_CHARS = 6_000_000
  const MAX_STYLED_DEPTH = 600
  /** Below this share of the visible text, what was taken for the main text is not trusted. */
  const LEAST_SHARE = 0.15
  /** Lists in lists and quotes in quotes deeper than this are not indented further. */
  const MAX_INDENT = 8
  /** Rows and columns in which a table's cell is written again, and how much of that there may be in all. */
  const MAX_SPAN = 1000
  const MAX_SPANNED_COLUMN = 100
  const MAX_REPEATED = 100_000
  /** Readings that passages can still be shown from: a page's and a card's, and one before each. */
  const KEPT_READINGS = 4

  /** @param {object} prototype @param {string} name @returns {(of: any) => any} */
  const getter = (prototype, name) => {
    const get = /** @type {() => any} */ (Object.getOwnPropertyDescriptor(prototype, name)?.get)
    return (of) => get.call(of)
  }
  /** @template {(...args: any[]) => any} F @param {F} method @returns {(of: any, ...args: Parameters<F>) => ReturnType<F>} */
  const method = (method) => (of, ...args) => method.apply(of, args)
  const nodeType = getter(Node.prototype, 'nodeType')
  const firstChild = getter(Node.prototype, 'firstChild')
  const nextSibling = getter(Node.prototype, 'nextSibling')
  const parentNode = getter(Node.prototype, 'parentNode')
  const textContent = getter(Node.prototype, 'textContent')
  const ownerDocument = getter(Node.prototype, 'ownerDocument')
  const data = getter(CharacterData.prototype, 'data')
  const localName = getter(Element.prototype, 'localName')
  const openRoot = getter(Element.prototype, 'shadowRoot')
  const clientWidth = getter(Element.prototype, 'clientWidth')
  const clientHeight = getter(Element.prototype, 'clientHeight')
  const scrollWidth = getter(Element.prototype, 'scrollWidth')
  const scrollHeight = getter(Element.prototype, 'scrollHeight')
  const scrollTop = getter(Element.prototype, 'scrollTop')
  const scrollLeft = getter(Element.prototype, 'scrollLeft')
  const documentElement = getter(Document.prototype, 'documentElement')
  const defaultView = getter(Document.prototype, 'defaultView')
  const contentType = getter(Document.prototype, 'contentType')
  const titleOf = getter(Document.prototype, 'title')
  const documentActive = getter(Document.prototype, 'activeElement')
  const shadowActive = getter(ShadowRoot.prototype, 'activeElement')
  const host = getter(ShadowRoot.prototype, 'host')
  const frameDocument = getter(HTMLIFrameElement.prototype, 'contentDocument')
  const oldFrameDocument = getter(HTMLFrameElement.prototype, 'contentDocument')
  const editable = getter(HTMLElement.prototype, 'isContentEditable')
  const attribute = method(Element.prototype.getAttribute)
  const hasAttribute = method(Element.prototype.hasAttribute)
  const rectOf = method(Element.prototype.getBoundingClientRect)
  const queryAll = method(Element.prototype.querySelectorAll)
  const checkVisibility = method(Element.prototype.checkVisibility)
  const assignedNodes = method(HTMLSlotElement.prototype.assignedNodes)

  const ELEMENT = 1
  const TEXT = 3
  const ROOT = 11

  /** Elements that an author may hang a shadow tree on; others are not asked about closed ones, which takes longer. */
  const HOSTS = /-|^(?:article|aside|blockquote|body|div|footer|h[1-6]|header|main|nav|p|section|span)$/

  /** An element's shadow tree, open or closed: a reader sees both. Only an extension's own world can reach closed ones.
   *  @param {Element} element @returns {ShadowRoot | null} */
  function shadowRoot (element) {
    const open = openRoot(element)
    if (open || !HOSTS.test(localName(element))) return open
    try {
      return /** @type {ShadowRoot | null} */ (globalThis.chrome?.dom?.openOrClosedShadowRoot(/** @type {HTMLElement} */ (element))) ?? null
    } catch {
      // The browser does not take every element that has such a name for one of its own.
      return null
    }
  }

  // ---------------------------------------------------------------------------------------------------- what to leave out

  /** Never text of the page: code, pictures, and fields, whose values are the user's own. `sotto-card` is our card. */
  const SKIPPED = new Set(['script', 'style', 'noscript', 'template', 'head', 'meta', 'link', 'title', 'svg', 'canvas', 'audio', 'video', 'img', 'map',
    'input', 'textarea', 'select', 'option', 'datalist', 'output', 'progress', 'meter', 'rt', 'rp', 'embed', 'applet', 'sotto-card'])
  /** Elements that a flex row makes into blocks although they still read as one line. */
  const INLINE = new Set(['a', 'abbr', 'b', 'bdi', 'bdo', 'button', 'cite', 'code', 'data', 'em', 'i', 'kbd', 'label', 'mark', 'small', 'span', 'strong', 'sub', 'sup', 'time', 'u'])
  const ASIDE_ROLES = new Set(['navigation', 'banner', 'contentinfo', 'complementary', 'search', 'dialog', 'alertdialog', 'menu', 'menubar', 'toolbar', 'tablist', 'tooltip', 'listbox', 'tree'])
  /** Names that authors give to what stands around a text. */
  const ASIDE_NAMES = /(?<!(?:no|has|with|without|is)[-_]?)(?<![a-z])(?:ads?|advert\w*|sponsor(?:s|ed)?|promos?|shar(?:e|ing)|social|newsletter|subscribe|sign-?up|related|recommend(?:ed|ations?)|recirc|trending|most-read|breadcrumbs?|side-?bar|nav|navbar|navigation|menu|toc|masthead|footer|skip-?(?:link|to-content|nav)?|pop-?up|modal|overlay|toolbar|paginat(?:ion|or)|pager|outbrain|taboola)(?![a-z])/i
  const CONSENT_NAMES = /(?<![a-z])(?:cookies?|consent|gdpr|onetrust|cookie-?\w+)(?![a-z])/i
  /** Links beside a heading that are not a part of it. */
  const HEADING_TOOLS = /edit-?section|anchor|permalink|header-?link/i
  /** Characters that show nothing, change the direction, or smuggle text: stripped. Joiners stay where scripts and emoji need them. */
  const UNSEEN = /[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]+|(?<![\p{M}\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f\p{sc=Arabic}\p{sc=Deva}\p{sc=Beng}\p{sc=Mlym}\p{sc=Sinh}\p{sc=Knda}\p{sc=Telu}\p{sc=Taml}\p{sc=Mong}])[\u200c\u200d]+|(?<=[\u200c\u200d])[\u200c\u200d]+|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]+/gu
  const PERHAPS_UNSEEN = /[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\udb40-\udb43]/
  /** Scripts written without spaces: a word is found by a dictionary, a character says about as much as two or three letters. */
  const UNSPACED = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/u

  /** @param {string} text */
  const clean = (text) => (PERHAPS_UNSEEN.test(text) ? text.replace(UNSEEN, '') : text)
  /** @param {string} text */
  const oneLine = (text) => clean(text).replace(/\s+/g, ' ').trim()

  /** @typedef {[number, number, number, number]} Colour */
  /** @type {Map<string, Colour | null>} */
  const colours = new Map()

  /** @param {string} css @returns {Colour | null} red, green and blue to 255 and alpha to 1; null for spaces of colour we cannot compare */
  function colour (css) {
    let found = colours.get(css)
    if (found !== undefined) return found
    const numbers = (css.match(/-?[\d.]+(?:e-?\d+)?/g) ?? []).map(Number)
    if (/^rgba?\(/.test(css)) found = [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1]
    else if (/^color\(srgb /.test(css)) found = [numbers[0] * 255, numbers[1] * 255, numbers[2] * 255, numbers[3] ?? 1]
    else found = null
    if (colours.size > 5000) colours.clear()
    colours.set(css, found)
    return found
  }

  /** What an element inherits from those around it, as far as seeing and writing are concerned.
   *  @typedef {object} Around
   *  @property {Window & typeof globalThis} view
   *  @property {number} depth
   *  @property {CSSStyleDeclaration | null} style of the element itself
   *  @property {string} own the element's display
   *  @property {string} position the element's
   *  @property {string} display of the nearest box
   *  @property {Colour | null} background behind the text; null when it is a picture or mixed
   *  @property {Around} box the nearest one that is not inline
   *  @property {number} indented whether its first line is pushed out of sight: 0 not asked yet, 1 no, 2 yes
   *  @property {{ rect: DOMRect, positioned: boolean } | null} window that hides what lies outside of it
   *  @property {number} x how far scrolling brings things into view
   *  @property {number} y
   *  @property {number} token the nearest token
   *  @property {boolean} link
   *  @property {boolean} titled in a heading, a summary or a list's term
   *  @property {boolean} main in the main part of a page
   *  @property {boolean} quoted
   *  @property {boolean} pre in preformatted text
   *  @property {number} text 0 not asked yet, 1 its own text is seen, 2 it is not
   *  @property {number} keep as in a token; -1 not asked yet
   */

  /**
   * Whether an element can be seen, and what its children inherit. Null: nothing inside it can be.
   * @param {Element} element @param {string} tag @param {Around} around @returns {Around | null}
   */
  function enter (element, tag, around) {
    const { view } = around
    const style = view.getComputedStyle(element)
    const depth = around.depth + 1
    // The browser asks all ancestors for each property: deeper than any author writes, only the text's own element is asked.
    if (depth > MAX_STYLED_DEPTH) return { ...around, depth, style, own: INLINE.has(tag) ? 'inline' : 'block', position: 'static', indented: 0, text: 0, keep: -1 }
    const { display } = style
    if (display === 'none' || Number(style.opacity) < 0.05) return null
    /** @type {Around} */
    const inside = { ...around, depth, style, own: display, position: 'static', indented: 0, text: 0, keep: -1 }
    const behind = colour(style.backgroundColor)
    if (!behind || (behind[3] > 0 && behind[3] < 0.99)) inside.background = null
    else if (behind[3]) inside.background = behind
    if (display === 'contents') return inside
    inside.display = display
    if (display !== 'inline') inside.box = inside
    if (display === 'inline' || tag === 'html' || tag === 'body') return inside

    const position = inside.position = style.position
    const placed = position === 'absolute' || position === 'fixed'
    // Out of the flow it lies over something that only painting would tell.
    if (placed && behind?.[3] === 0) inside.background = null
    if (style.contentVisibility === 'hidden') return null
    const { transform, clipPath } = style
    if (transform !== 'none' && /^matrix(?:3d)?\(0, 0, 0, 0,/.test(transform)) return null
    if (clipPath !== 'none' && /^(?:inset\((?:[5-9]\d|1\d\d)(?:\.\d+)?%|circle\(0(?:px|%)?[ )]|polygon\(0(?:px|%)? 0(?:px|%)?(?:, 0(?:px|%)? 0(?:px|%)?)*\))/.test(clipPath)) return null
    if (placed && clippedAway(style)) return null

    if (position === 'fixed' || (position === 'absolute' && !around.window?.positioned)) inside.window = null
    const rect = rectOf(element)
    const empty = !rect.width || !rect.height
    const right = rect.right + (position === 'fixed' ? 0 : inside.x)
    const bottom = rect.bottom + (position === 'fixed' ? 0 : inside.y)
    if (empty ? bottom < 0 : bottom <= 0) return null
    if (empty ? right < 0 : right <= 0) {
      // In a right-to-left page the left side can be scrolled to.
      if (position === 'fixed' || view.getComputedStyle(documentElement(ownerDocument(element))).direction !== 'rtl') return null
    }
    if (placed && !empty && rect.left >= view.innerWidth) {
      if (position === 'fixed' || rect.left + inside.x >= scrollWidth(documentElement(ownerDocument(element)))) return null
    }
    if (position === 'fixed' && !empty && rect.top >= view.innerHeight) return null
    if (inside.window && !empty && outside(rect, inside.window.rect)) return null

    const { overflow } = style
    if (overflow !== 'visible') {
      const [overflowX, overflowY = overflowX] = overflow.split(' ')
      const [width, height] = [clientWidth(element), clientHeight(element)]
      const hides = (/** @type {string} */ overflow) => overflow === 'hidden' || overflow === 'clip'
      if ((hides(overflowX) && width <= 1) || (hides(overflowY) && height <= 1)) return null
      if (!hides(overflowX) || !hides(overflowY)) {
        inside.window = null
        inside.x += scrollLeft(element)
        inside.y += scrollTop(element)
      } else if (height < view.innerHeight * 0.9 && (scrollHeight(element) > height + 8 || scrollWidth(element) > width + 8)) {
        inside.window = { rect, positioned: position !== 'static' || transform !== 'none' }
      }
    }
    return inside
  }

  /** @param {DOMRect} rect @param {DOMRect} window */
  const outside = (rect, window) => rect.bottom <= window.top + 1 || rect.top >= window.bottom - 1 || rect.right <= window.left + 1 || rect.left >= window.right - 1

  /** The old `clip: rect()` with nothing left. @param {CSSStyleDeclaration} style */
  function clippedAway (style) {
    const clip = style.getPropertyValue('clip')
    if (!clip.startsWith('rect')) return false
    const [top, right, bottom, left] = clip.slice(5).split(/[\s,]+/).map((side) => (side.startsWith('auto') ? NaN : parseFloat(side)))
    return right - left <= 1 || bottom - top <= 1
  }

  /** Whether text straight inside an element can be seen. @param {Element} element @param {Around} inside */
  function textSeen (element, inside) {
    const style = /** @type {CSSStyleDeclaration} */ (inside.style)
    if (style.visibility !== 'visible') return false
    if (inside.depth > MAX_STYLED_DEPTH && !checkVisibility(element, { opacityProperty: true, contentVisibilityAuto: false })) return false
    if (parseFloat(style.fontSize) < 2) return false
    const box = inside.own === 'inline' ? inside.box : inside
    box.indented ||= parseFloat(/** @type {CSSStyleDeclaration} */ (box.style).textIndent) < -400 ? 2 : 1
    if (box.indented === 2) return false
    const ink = colour(style.webkitTextFillColor)
    if (!ink) return true
    if (ink[3] < 0.05) return painted(element, inside.view).clipped
    const { background } = inside
    if (!background || ink[3] < 0.99) return true
    const apart = Math.max(Math.abs(ink[0] - background[0]), Math.abs(ink[1] - background[1]), Math.abs(ink[2] - background[2]))
    return apart > 8 || style.textShadow !== 'none' || painted(element, inside.view).behind || overPicture(element)
  }

  /** Whether a background image lies behind an element's text, or shows through its letters. @param {Element} element @param {Window} view */
  function painted (element, view) {
    let behind = false
    for (let at = /** @type {Node | null} */ (element), i = 0; at && nodeType(at) === ELEMENT && i < 100; at = above(at), i++) {
      const { backgroundImage, backgroundClip } = view.getComputedStyle(/** @type {Element} */ (at))
      if (backgroundImage === 'none') continue
      if (backgroundClip === 'text') return { behind: true, clipped: true }
      behind = true
    }
    return { behind, clipped: false }
  }

  /** @param {Node} node */
  const above = (node) => parentNode(node) ?? (node instanceof ShadowRoot ? host(node) : null)

  /** Whether a picture lies behind or before an element, which then may show up against it. @param {Element} element */
  function overPicture (element) {
    const rect = rectOf(element)
    let near = element
    for (let i = 0; i < 5; i++) {
      const parent = parentNode(near)
      if (!parent || nodeType(parent) !== ELEMENT) return false
      near = parent
      const pictures = queryAll(near, 'img, video, canvas, svg')
      for (let k = 0; k < Math.min(pictures.length, 20); k++) if (!outside(rectOf(pictures[k]), rect)) return true
    }
    return false
  }

  // ------------------------------------------------------------------------------------------------------------- the walk

  const OPEN = 0
  const CLOSE = 1
  const WORDS = 2
  const BREAK = 3

  /** @typedef {'block' | 'heading' | 'list' | 'item' | 'pre' | 'quote' | 'table' | 'row' | 'cell' | 'term' | 'code' | 'quotation' | 'struck' | 'power' | 'link' | 'apart'} What */
  /**
   * @typedef {object} Token
   * @property {number} kind
   * @property {What} what
   * @property {Text | null} node
   * @property {string} text of the page, or a mark of ours
   * @property {number} offset where the text begins in its node
   * @property {number} keep white space as it is: 0 no, 1 line breaks, 2 all
   * @property {number} level of a heading; first number of a list; columns that a cell spans; 1 for a paragraph
   * @property {number} row of a row, which one it is, the unseen ones counted too; of a cell, how many it spans
   * @property {boolean} head a table's head
   * @property {number} parent
   * @property {number} end of an element
   * @property {number} aside 0 no; else it stands beside the text, and is left out: 1 unless it holds 40 % of the page, 2 unless 80 %, 3 as 1 unless it reads as text
   * @property {boolean} editing typed by the user: leave it out unless it holds half of the page
   * @property {string} hint 'main' or 'article'
   * @property {boolean} dropped
   * @property {number} any all characters inside
   * @property {number} chars those not dropped
   * @property {number} links those in links
   * @property {number} own those of its own lines
   * @property {number} ownLinks
   * @property {number} good those in paragraphs
   * @property {number} noise those in labels and menus
   * @property {boolean} hasMain
   * @property {boolean} hasTitle
   */

  /** A part of the page: from one point of the tree to another.
   *  @typedef {{ startContainer: Node, startOffset: number, endContainer: Node, endOffset: number }} Bounds */

  /** @typedef {{ tokens: Token[], frames: number, closed: number, cutOff: boolean }} Walk */

  /** @param {Node} node @param {number} n @returns {Node | null} */
  function child (node, n) {
    let at = firstChild(node)
    for (let i = 0; i < n && at; i++) at = nextSibling(at)
    return at
  }

  /**
   * Writes down what can be seen under a node.
   * @param {Element} root
   * @param {Around} around
   * @param {Bounds | null} bounds
   * @returns {Walk}
   */
  function walk (root, around, bounds) {
    /** @type {Token[]} */
    const tokens = []
    /** @type {Walk} */
    const result = { tokens, frames: 0, closed: 0, cutOff: false }
    let nodes = 0
    let chars = 0
    let rows = 0
    /** @type {{ node: Node, element: Element, around: Around, next: Node | null, assigned: Node[] | null, at: number, token: number }[]} */
    const stack = []

    let on = !bounds
    let done = false
    /** @type {Node | null} */ let startBefore = null
    /** @type {Node | null} */ let startAfterAll = null
    /** @type {Node | null} */ let endBefore = null
    /** @type {Node | null} */ let endAfterAll = null
    if (bounds) {
      if (nodeType(bounds.startContainer) !== TEXT) {
        startBefore = child(bounds.startContainer, bounds.startOffset)
        if (!startBefore) startAfterAll = bounds.startContainer
      }
      if (nodeType(bounds.endContainer) !== TEXT) {
        endBefore = child(bounds.endContainer, bounds.endOffset)
        if (!endBefore) endAfterAll = bounds.endContainer
      }
    }

    /** @param {number} kind @param {What} what @param {number} parent @returns {Token} */
    const add = (kind, what, parent) => {
      const token = { kind, what, node: null, text: '', offset: 0, keep: 0, level: 0, row: 0, head: false, parent, end: 0, aside: 0, editing: false, hint: '', dropped: false, any: 0, chars: 0, links: 0, own: 0, ownLinks: 0, good: 0, noise: 0, hasMain: false, hasTitle: false }
      tokens.push(token)
      return token
    }

    /** @param {Node} node the element, or a root that stands for its content @param {Element} element @param {Around} inside @param {number} token */
    const push = (node, element, inside, token) => {
      let assigned = null
      if (node === element && localName(element) === 'slot' && element instanceof HTMLSlotElement) {
        const list = assignedNodes(element)
        if (list.length) assigned = list
      }
      stack.push({ node, element, around: inside, next: assigned ? null : firstChild(node), assigned, at: 0, token })
    }

    /** @param {Text} node @param {Element} element @param {Around} inside */
    const readText = (node, element, inside) => {
      let text = data(node)
      let offset = 0
      if (bounds) {
        if (node === bounds.startContainer) {
          on = true
          offset = bounds.startOffset
        }
        if (!on) return
        if (node === bounds.endContainer) {
          done = true
          text = text.slice(0, bounds.endOffset)
        }
        text = text.slice(offset)
      }
      if (!text) return
      const blank = !/\S/.test(text)
      const previous = tokens.at(-1)
      const keep = inside.pre ? 2 : (blank && previous?.kind !== WORDS) || !/[^\S ]| {2}/.test(text) ? 0 : keeps(inside)
      // Between blocks, white space is only how the source is laid out.
      if (blank && !keep && previous && previous.kind !== WORDS && (previous.kind === BREAK || isBlock(previous.what))) return
      if (!inside.text) inside.text = textSeen(element, inside) ? 1 : 2
      if (inside.text === 2) return
      if (!blank && inside.window && !isAround(node, inside.window.rect)) return
      const token = add(WORDS, 'block', inside.token)
      token.node = node
      token.text = text
      token.offset = offset
      token.keep = keep
      const size = blank ? 0 : text.length > 400 || keep ? text.replace(/\s+/g, ' ').length : text.trim().length
      token.any = token.chars = UNSPACED.test(text.slice(0, 60)) ? size * 2.5 : size
      token.links = inside.link ? token.chars : 0
      chars += text.length
    }

    /** @param {Node} node @param {Around} outer */
    const visit = (node, outer) => {
      const type = nodeType(node)
      if (bounds) {
        if (node === startBefore) on = true
        if (node === endBefore) done = true
        if (done) return
      }
      if (type === TEXT) return readText(/** @type {Text} */ (node), /** @type {Element} */ (stack[stack.length - 1].element), outer)
      if (type !== ELEMENT) return
      const element = /** @type {Element} */ (node)
      const tag = localName(element)
      if (tag === 'br') {
        if (on) add(BREAK, 'block', outer.token)
        return
      }
      if (tag === 'iframe' || tag === 'frame') return readFrame(element, tag, outer)
      if (tag === 'wbr' || SKIPPED.has(tag)) return
      if (tag === 'tr') rows++
      const inside = enter(element, tag, outer)
      if (!inside) return
      const role = attribute(element, 'role') ?? ''
      if (role === 'textbox' || role === 'searchbox' || role === 'combobox' || role === 'progressbar' || role === 'slider' || role === 'spinbutton') {
        if (!bounds) return
      }
      if (!bounds && (tag === 'button' || role === 'button') && !outer.titled && !hasAttribute(element, 'contenteditable')) return
      if (tag === 'sup' && !bounds && isNoteMark(element)) return
      if (!bounds && outer.titled && HEADING_TOOLS.test(attribute(element, 'class') ?? '')) return
      const token = open(element, tag, role, inside, outer)
      if (token) {
        token.parent = outer.token
        if (token.what === 'row') token.row = rows
        inside.token = tokens.length
        tokens.push(token)
      }
      if (tag === 'details' && !hasAttribute(element, 'open')) {
        // Only its first summary is seen; the browser keeps the rest in a shadow tree of its own.
        for (let at = firstChild(element); at; at = nextSibling(at)) {
          if (nodeType(at) !== ELEMENT || localName(at) !== 'summary') continue
          stack.push({ node: element, element, around: inside, next: null, assigned: [at], at: 0, token: token ? inside.token : -1 })
          result.closed++
          return
        }
        result.closed++
        if (token) tokens.pop()
        return
      }
      const shadow = shadowRoot(element)
      push(shadow ?? element, element, inside, token ? inside.token : -1)
    }

    /** @param {Element} element @param {string} tag @param {Around} outer */
    const readFrame = (element, tag, outer) => {
      if (!on) return
      const inside = enter(element, tag, outer)
      if (!inside) return
      const rect = rectOf(element)
      if (rect.width < 20 || rect.height < 20 || inside.style?.visibility !== 'visible') return
      const inner = tag === 'iframe' ? frameDocument(element) : oldFrameDocument(element)
      const view = inner && defaultView(inner)
      const top = inner && documentElement(inner)
      if (!view || !top) {
        result.frames++
        return
      }
      const token = add(OPEN, 'block', outer.token)
      const into = { ...ground(view), link: outer.link, main: outer.main, token: tokens.length - 1 }
      token.aside = asideness(element, tag, '', inside, outer)
      const content = enter(top, 'html', into)
      if (content) push(top, top, content, tokens.length - 1)
      else tokens.pop()
    }

    if (root === documentElement(ownerDocument(root)) || !bounds) visitRoot(root)
    else push(shadowRoot(root) ?? root, root, { ...around, token: addRoot() }, 0)

    /** @param {Element} top */
    function visitRoot (top) {
      const inside = enter(top, localName(top), around)
      if (!inside) return
      push(top, top, { ...inside, token: addRoot() }, 0)
    }
    function addRoot () {
      add(OPEN, 'block', -1)
      return 0
    }

    while (stack.length && !done) {
      const frame = stack[stack.length - 1]
      let node
      if (frame.assigned) node = frame.assigned[frame.at++]
      else {
        node = frame.next
        if (node) frame.next = nextSibling(node)
      }
      if (node) {
        if (++nodes > MAX_NODES || chars > MAX_CHARS) {
          result.cutOff = true
          break
        }
        visit(node, frame.around)
        continue
      }
      if (frame.node === startAfterAll || frame.element === startAfterAll) on = true
      if (frame.node === endAfterAll || frame.element === endAfterAll) done = true
      leave()
    }
    while (stack.length) leave()
    return result

    function leave () {
      const { token } = /** @type {typeof stack[0]} */ (stack.pop())
      if (token < 0) return
      tokens[token].end = tokens.length
      add(CLOSE, tokens[token].what, token)
    }
  }

  /** How a document's outermost element stands before anything is known. @param {Window & typeof globalThis} view @returns {Around} */
  function ground (view) {
    const top = documentElement(view.document)
    const dark = top && view.getComputedStyle(top).colorScheme.includes('dark')
    const around = /** @type {Around} */ ({ view, depth: 0, style: null, own: 'block', position: 'static', keep: -1, display: 'block', indented: 1, background: dark ? null : [255, 255, 255, 1], window: null, x: view.scrollX, y: view.scrollY, token: -1, link: false, titled: false, main: false, quoted: false, pre: false, text: 0 })
    around.box = around
    return around
  }

  /** @param {What} what */
  const isBlock = (what) => what !== 'code' && what !== 'quotation' && what !== 'struck' && what !== 'power' && what !== 'link' && what !== 'apart'

  /** @param {Around} inside */
  function keeps (inside) {
    if (inside.keep < 0) {
      const style = /** @type {any} */ (inside.style)
      const space = style.whiteSpaceCollapse ?? style.whiteSpace
      inside.keep = space === 'collapse' || space === 'normal' || space === 'nowrap' ? 0 : space === 'preserve-breaks' || space === 'pre-line' ? 1 : 2
    }
    return inside.keep
  }

  /** @param {Text} node @param {DOMRect} window */
  function isAround (node, window) {
    const range = new Range()
    range.selectNodeContents(node)
    const rect = range.getBoundingClientRect()
    return !rect.width || !rect.height || !outside(rect, window)
  }

  /** A raised number that leads to a note says nothing by itself. @param {Element} element */
  function isNoteMark (element) {
    const text = textContent(element)
    return text.length < 12 && /^\s*[[(]?[\w*†‡ ,]{1,6}[\])]?\s*$/.test(text) && (queryAll(element, 'a[href*="#"]').length > 0 || /^\s*\[/.test(text))
  }

  /**
   * How far an element stands beside the text.
   * @param {Element} element @param {string} tag @param {string} role @param {Around} inside @param {Around} outer
   */
  function asideness (element, tag, role, inside, outer) {
    if (tag === 'main' || tag === 'html' || tag === 'body') return 0
    const names = `${attribute(element, 'class') ?? ''} ${attribute(element, 'id') ?? ''}`
    if (names.length > 1 && CONSENT_NAMES.test(names)) return 2
    if (inside.position === 'fixed' || role === 'dialog' || role === 'alertdialog') return 2
    if (tag === 'nav' || tag === 'aside' || ASIDE_ROLES.has(role)) return 1
    if (tag === 'footer') return outer.quoted ? 0 : 1
    if (tag === 'header') return outer.main ? 0 : 1
    if (names.length > 1 && tag !== 'p' && tag !== 'article' && ASIDE_NAMES.test(names)) return 3
    return 0
  }

  /**
   * The token that an element begins, if its place in the text needs one.
   * @param {Element} element @param {string} tag @param {string} role @param {Around} inside @param {Around} outer
   * @returns {Token | null}
   */
  function open (element, tag, role, inside, outer) {
    const display = inside.own
    const inline = display === 'contents' || display.startsWith('inline') || display.startsWith('ruby')
    /** @type {What | ''} */
    let what = inline ? '' : 'block'
    let level = 0
    let text = ''
    let head = false
    switch (tag) {
      case 'h1': case 'h2': case 'h3': case 'h4': case 'h5': case 'h6':
        what = 'heading'
        level = Number(tag[1])
        break
      case 'ul': case 'menu': if (!inline) what = 'list'; break
      case 'ol': {
        if (inline) break
        what = 'list'
        const start = parseInt(attribute(element, 'start') ?? '1', 10)
        level = Number.isFinite(start) ? start : 1
        text = 'ol'
        break
      }
      case 'li': case 'dd': {
        if (inline) break
        what = 'item'
        const value = tag === 'li' ? parseInt(attribute(element, 'value') ?? '', 10) : NaN
        if (Number.isFinite(value)) [level, text] = [value, 'value']
        break
      }
      case 'dt': what = 'term'; break
      case 'summary': what = 'block'; break
      case 'pre': case 'listing': case 'xmp':
        // A file of plain text is shown in such an element, and is no code.
        if (contentType(ownerDocument(element)) !== 'text/html' && !/xml/.test(contentType(ownerDocument(element)))) inside.pre = true
        else if (!outer.pre) {
          what = 'pre'
          text = languageOf(element)
          inside.pre = true
        }
        break
      case 'blockquote': what = 'quote'; inside.quoted = true; break
      case 'table': if (role !== 'presentation' && role !== 'none') what = 'table'; break
      case 'tr': what = 'row'; break
      case 'thead': case 'tbody': case 'tfoot': what = ''; break
      case 'th': case 'td':
        what = 'cell'
        level = Math.min(Math.max(parseInt(attribute(element, 'colspan') ?? '1', 10) || 1, 1), 20)
        head = tag === 'th'
        break
      case 'hr': what = 'block'; break
      case 'p': level = 1; break
      case 'code': case 'kbd': case 'samp': if (!inside.pre && !outer.titled && inline) what = 'code'; break
      case 'q': what = 'quotation'; break
      case 'del': case 's': case 'strike': if (inline) what = 'struck'; break
      case 'sup': if (/^\s*[-−+]?(?:\d{1,4}|[ikmnptxy])\s*$/.test(textContent(element).slice(0, 20))) what = 'power'; break
      case 'a': inside.link = hasAttribute(element, 'href'); break
    }
    if (role === 'heading' && what !== 'heading') {
      what = 'heading'
      level = Math.min(Math.max(parseInt(attribute(element, 'aria-level') ?? '2', 10) || 2, 1), 6)
    } else if (role === 'list' && what === 'block') what = 'list'
    else if (role === 'listitem' && what === 'block') what = 'item'
    if (what === 'heading' || what === 'term' || tag === 'summary') inside.titled = true
    if (what === 'block' && INLINE.has(tag) && /flex|grid/.test(outer.display)) what = 'apart'
    if (inline && !what && (display === 'inline-block' || display === 'inline-flex')) what = 'apart'
    if (tag === 'a' && inside.link && !outer.link && !what) what = 'link'
    const ours = attribute(element, 'contenteditable')
    const editing = ours !== null && ours !== 'false'
    if (!what && !editing) return null

    /** @type {Token} */
    const token = { kind: OPEN, what: what || 'block', node: null, text, offset: 0, keep: 0, level, row: 0, head, parent: -1, end: 0, aside: 0, editing, hint: '', dropped: false, any: 0, chars: 0, links: 0, own: 0, ownLinks: 0, good: 0, noise: 0, hasMain: false, hasTitle: false }
    if (what && isBlock(what)) {
      token.aside = asideness(element, tag, role, inside, outer)
      if (tag === 'main' || role === 'main') token.hint = 'main'
      else if (tag === 'article' || role === 'article' || attribute(element, 'itemprop') === 'articleBody') token.hint = 'article'
      if (token.hint) inside.main = true
      token.hasMain = token.hint === 'main'
      token.hasTitle = tag === 'h1'
    }
    if (what === 'cell') token.row = rowsSpanned(element)
    return token
  }

  /** How many rows a table's cell stands in: those it asks for, but no more than there are. @param {Element} cell */
  function rowsSpanned (cell) {
    const asked = parseInt(attribute(cell, 'rowspan') ?? '1', 10)
    if (!(asked >= 0) || asked === 1) return 1
    let rows = 1
    const own = parentNode(cell)
    // Zero means: to the end of the table's head, body or foot.
    for (let at = own && nextSibling(own); at && rows < (asked || MAX_SPAN) && rows < MAX_SPAN; at = nextSibling(at)) {
      if (nodeType(at) === ELEMENT && localName(at) === 'tr') rows++
    }
    return rows
  }

  /** @param {Element} element */
  function languageOf (element) {
    let names = attribute(element, 'class') ?? ''
    for (let at = firstChild(element); at; at = nextSibling(at)) if (nodeType(at) === ELEMENT && localName(at) === 'code') names += ` ${attribute(at, 'class') ?? ''}`
    return /(?:^|\s)(?:lang(?:uage)?|brush|highlight-source)[-:]\s?([\w+#-]{1,20})/.exec(names)?.[1] ?? ''
  }

  // -------------------------------------------------------------------------------------------------------- the main text

  /** Adds up each element's text, and drops what stands beside the text. @param {Token[]} tokens */
  function weigh (tokens) {
    let total = 0
    for (const { kind, any } of tokens) if (kind === WORDS) total += any
    let dropped = 0
    let droppedLinks = 0
    for (let i = tokens.length - 1; i >= 0; i--) {
      const token = tokens[i]
      const parent = tokens[token.parent]
      if (token.kind === WORDS) {
        parent.any += token.any
        parent.chars += token.chars
        parent.own += token.chars
        parent.links += token.links
        parent.ownLinks += token.links
        continue
      }
      if (token.kind !== OPEN) continue
      if (isBlock(token.what) && token.own) {
        const words = token.own - token.ownLinks
        // Short items, cells and headings go with the paragraphs around them; other short lines are labels and menus.
        if (token.ownLinks >= token.own / 2) token.noise += token.own
        else if (token.own >= 40) token.good += words
        else if (token.what === 'block' && !token.level) token.noise += token.own
        else token.good += words / 2
      }
      if (token.aside === 1) token.dropped = token.any < total * 0.4 && !token.hasMain
      // A name alone may mislead ("sharing-a-repository"): much text with few links is kept.
      else if (token.aside === 3) token.dropped = token.any < total * 0.4 && !token.hasMain && !(token.good > 400 && token.links < token.chars * 0.25)
      else if (token.aside === 2) token.dropped = token.any < total * 0.8 && !token.hasMain
      if (token.editing && token.any < total * 0.5) token.dropped = true
      if (!parent) continue
      parent.any += token.any
      if (token.dropped) {
        dropped += token.chars
        droppedLinks += token.links
        continue
      }
      parent.chars += token.chars
      parent.links += token.links
      parent.good += token.good
      parent.noise += token.noise
      if (!isBlock(token.what)) {
        parent.own += token.own
        parent.ownLinks += token.ownLinks
      }
      parent.hasMain ||= token.hasMain
      parent.hasTitle ||= token.hasTitle
    }
    return { total, dropped, droppedLinks }
  }

  /** Which element holds the main text, by its authors' hints or else by where paragraphs are. @param {Token[]} tokens */
  function mainToken (tokens) {
    let main = -1
    /** @type {number[]} */
    const articles = []
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]
      if (token.kind !== OPEN) continue
      if (token.dropped) {
        i = token.end
        continue
      }
      if (token.hint === 'main' && token.chars && (main < 0 || token.chars > tokens[main].chars)) main = i
      if (token.hint === 'article' && token.chars) articles.push(i)
    }
    const all = tokens[0]
    /** @param {number} inside @param {number} share */
    const oneArticle = (inside, share) => articles.find((i) => i > inside && i < tokens[inside].end && tokens[i].good >= tokens[inside].good * share && tokens[i].good > 200)
    /** Lists of other articles weigh much, but only the page's own stands under its title. @param {number} inside */
    const titledArticle = (inside) => {
      const titled = articles.filter((i) => i >= inside && i < tokens[inside].end && tokens[i].hasTitle && tokens[i].good >= tokens[inside].good * 0.2 && tokens[i].good > 400)
      return titled.length === 1 ? titled[0] : undefined
    }
    if (main >= 0 && tokens[main].good >= all.good * 0.2) return oneArticle(main, 0.75) ?? titledArticle(main) ?? main
    const titled = titledArticle(0)
    if (titled !== undefined) return titled
    if (articles.length) {
      let best = articles[0]
      for (const i of articles) if (tokens[i].chars > tokens[best].chars) best = i
      const sum = articles.reduce((sum, i) => (tokens[i].end > tokens[best].end && i < best ? sum : sum + tokens[i].good), 0)
      while (best > 0 && tokens[best].good < sum * 0.75) best = tokens[best].parent
      if (tokens[best].good >= all.good * 0.4 && tokens[best].good) return best
    }
    let best = 0
    let most = 0
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]
      if (token.kind !== OPEN || !isBlock(token.what)) continue
      if (token.dropped) {
        i = token.end
        continue
      }
      if (!token.good) continue
      const score = token.good * (token.good / (token.good + token.noise)) ** 1.5
      if (score > most) [best, most] = [i, score]
    }
    // Its title may stand just outside.
    for (let at = tokens[best].parent; at >= 0 && !tokens[best].hasTitle && tokens[at].chars <= tokens[best].chars * 1.4; at = tokens[at].parent) if (tokens[at].hasTitle) best = at
    return best
  }

  // ---------------------------------------------------------------------------------------------------------- the writing

  class Writer {
    /** @type {string[]} */
    parts = []
    length = 0
    /** @type {Segment[]} */
    segments = []
    /** What each line begins with. @type {{ first: string, rest: string, begun: boolean }[]} */
    containers = []
    /** Line breaks before the next word. */
    lines = 0
    space = false
    lineStart = true
    /** After a mark that its text must touch. */
    glued = false
    /** Above zero inside a table's cell. */
    flat = 0
    /** Characters that may still be written a second time. */
    #repeatable = MAX_REPEATED
    /** @type {WeakMap<Text, WeakRef<Text>>} */
    #references = new WeakMap()

    /** @param {string} text */
    put (text) {
      this.parts.push(text)
      this.length += text.length
    }

    /** @param {number} lines */
    gap (lines) {
      if (this.flat) this.gapInLine()
      else if (this.lines < lines) this.lines = lines
    }

    newLine () {
      if (this.flat) this.gapInLine()
      else this.lines++
    }

    gapInLine () {
      if (!this.lineStart && !this.glued) this.space = true
    }

    /** Writes what separates the next word from the last one. */
    flush () {
      if (this.lines) {
        if (this.length) {
          const blank = this.containers.map(({ rest, begun }) => (begun ? rest : '')).join('').trimEnd()
          this.put(`\n${`${blank}\n`.repeat(Math.min(this.lines, 40) - 1)}`)
          this.lineStart = true
        }
        this.lines = 0
        this.space = false
      }
      if (this.lineStart) {
        for (const container of this.containers) {
          this.put(container.begun ? container.rest : container.first)
          container.begun = true
        }
        this.lineStart = false
      } else if (this.space) this.put(' ')
      this.space = this.glued = false
    }

    /** @param {string} text a mark of ours @param {boolean} [glued] */
    mark (text, glued = false) {
      this.flush()
      this.put(text)
      this.glued = glued
    }

    /** @param {Text} node @param {number} offset @param {string} text */
    append (node, offset, text) {
      this.flush()
      if (this.flat && text.includes('|')) {
        for (let at = 0; at < text.length;) {
          const bar = text.indexOf('|', at + 1)
          const end = bar < 0 ? text.length : bar
          if (text[at] === '|') this.put('\\')
          this.#segment(node, offset + at, text.slice(at, end))
          at = end
        }
      } else this.#segment(node, offset, text)
    }

    /** @param {Text} node @param {number} offset @param {string} text */
    #segment (node, offset, text) {
      let reference = this.#references.get(node)
      if (!reference) this.#references.set(node, reference = new WeakRef(node))
      this.segments.push({ at: this.length, length: text.length, node: reference, offset })
      this.put(text)
    }

    /** Where the writing stands, for {@link Writer.since}. */
    get place () {
      return { at: this.length, part: this.parts.length, segment: this.segments.length }
    }

    /** What has been written since then, with its own map. @param {Writer['place']} place @returns {Reading} */
    since ({ at, part, segment }) {
      return { text: this.parts.slice(part).join(''), segments: this.segments.slice(segment).map((piece) => ({ ...piece, at: piece.at - at })) }
    }

    /** Writes a cell once more, as wide as it is; false when that has been done too often. @param {Reading} reading @param {number} columns */
    repeat ({ text, segments }, columns) {
      const cost = text.length + 4 * columns
      if (cost > this.#repeatable) return false
      this.#repeatable -= cost
      this.put(' ')
      for (const piece of segments) this.segments.push({ ...piece, at: piece.at + this.length })
      this.put(`${text} |${'  |'.repeat(columns - 1)}`)
      return true
    }

    /** @param {Token} token */
    words ({ node, text, offset, keep }) {
      const of = /** @type {Text} */ (node)
      const write = keep === 2 && !this.flat ? this.#kept : keep === 1 && !this.flat ? this.#lines : this.#collapsed
      if (!PERHAPS_UNSEEN.test(text)) return write.call(this, of, text, offset)
      let at = 0
      for (const { index, 0: { length } } of text.matchAll(UNSEEN)) {
        if (index > at) write.call(this, of, text.slice(at, index), offset + at)
        at = index + length
      }
      if (at < text.length) write.call(this, of, text.slice(at), offset + at)
    }

    /** @param {Text} node @param {string} text @param {number} offset */
    #collapsed (node, text, offset) {
      let start = -1
      let foreign = false
      const { length } = text
      for (let i = 0; i <= length; i++) {
        const white = i < length && isWhite(text.charCodeAt(i))
        if (i < length && !white) {
          if (start < 0) start = i
          continue
        }
        if (start < 0) {
          if (white) this.gapInLine()
          continue
        }
        // One white character between two words stays in the run, so that the map has few pieces.
        if (white && i + 1 < length && !isWhite(text.charCodeAt(i + 1))) {
          foreign ||= text[i] !== ' '
          continue
        }
        const run = text.slice(start, i)
        this.append(node, offset + start, foreign ? run.replace(/\s/g, ' ') : run)
        start = -1
        foreign = false
        if (white) this.gapInLine()
      }
    }

    /** @param {Text} node @param {string} text @param {number} offset */
    #lines (node, text, offset) {
      let at = 0
      for (const line of text.split('\n')) {
        if (at) this.newLine()
        this.#collapsed(node, line, offset + at)
        at += line.length + 1
      }
    }

    /** @param {Text} node @param {string} text @param {number} offset */
    #kept (node, text, offset) {
      let at = 0
      for (const line of text.split('\n')) {
        if (at) this.lines++
        const shown = line.replace(/[\r\f\v]/g, ' ').replace(/\s+$/, at + line.length < text.length ? '' : '$&')
        if (shown) this.append(node, offset + at, shown.replace(/\xa0/g, ' '))
        at += line.length + 1
      }
    }
  }

  /** @param {number} code */
  const isWhite = (code) => code <= 32 || code === 0xa0 || (code >= 0x2000 && code <= 0x200a) || code === 0x2028 || code === 0x2029 || code === 0x202f || code === 0x205f || code === 0x3000 || code === 0x1680

  /**
   * Writes the tokens from one on as light Markdown.
   * @param {Token[]} tokens @param {number} first @param {boolean} everything also what stands beside the text
   * @returns {Reading}
   */
  function write (tokens, first, everything) {
    const writer = new Writer()
    const last = tokens[first].end
    const prose = tokens[first].good
    /** @type {{ ordered: boolean, number: number, indented: boolean }[]} */
    const lists = []
    /** Tables being written: whether as rows; cells, columns and head cells of this row; whether a head may still come; by column, cells that reach down into later rows.
     *  @type {{ data: boolean, cells: number, columns: number, heads: number, headDue: boolean, rows: number, row: number, begun: Writer['place'], spans: Map<number, { until: number, columns: number, reading: Reading }> }[]} */
    const tables = []
    let items = 0
    let fence = ''
    /** @type {{ indented: boolean }[]} */
    const opened = []

    /** @param {string} begin @param {string} rest */
    const indent = (begin, rest) => {
      const indented = writer.containers.length < MAX_INDENT && !writer.flat
      if (indented) writer.containers.push({ first: begin, rest, begun: false })
      opened.push({ indented })
    }
    const outdent = () => { if (opened.pop()?.indented) writer.containers.pop() }
    const blockGap = () => writer.gap(items ? 1 : 2)

    /** Writes the cells of earlier rows that reach into this one, where the next cell would stand: each row can be read by itself.
     *  @param {typeof tables[0]} table */
    const spanned = (table) => {
      for (let span = table.spans.get(table.columns); span; span = table.spans.get(table.columns)) {
        if (table.row >= span.until || !writer.repeat(span.reading, span.columns)) {
          table.spans.delete(table.columns)
          break
        }
        table.columns += span.columns
      }
    }

    for (let i = first; i <= last; i++) {
      const token = tokens[i]
      if (token.kind === WORDS) {
        writer.words(token)
        continue
      }
      if (token.kind === BREAK) {
        if (writer.lines < 2) writer.newLine()
        continue
      }
      const table = tables.at(-1)
      if (token.kind === OPEN) {
        const besides = !everything && i !== first && (token.dropped || (token.what === 'list' || token.what === 'block') && token.chars > 0 && token.links > token.chars * 0.8 && token.ownLinks < token.own * 0.8 + 1 && token.chars * 5 < prose && token.links > 60)
        if (besides || (!token.any && token.what !== 'cell')) {
          if (isBlock(token.what)) blockGap()
          else if (token.what === 'apart') writer.gapInLine()
          i = token.end
          continue
        }
        switch (token.what) {
          case 'block': blockGap(); break
          case 'heading':
            blockGap()
            if (!items && !writer.flat) writer.mark(`${'#'.repeat(token.level)} `, true)
            break
          case 'list':
            writer.gap(items ? 1 : 2)
            lists.push({ ordered: token.text === 'ol', number: token.level, indented: false })
            break
          case 'item': {
            writer.gap(1)
            const list = lists.at(-1)
            if (token.text === 'value' && list) list.number = token.level
            if (writer.flat && list?.number && !writer.glued) writer.put(';')
            const marker = list?.ordered ? `${list.number}. ` : '- '
            if (list) list.number++
            indent(marker, ' '.repeat(marker.length))
            items++
            break
          }
          case 'term': writer.gap(items ? 1 : 2); break
          case 'quote':
            blockGap()
            indent('> ', '> ')
            break
          case 'pre':
            blockGap()
            if (writer.flat) break
            fence = longestFence(tokens, i)
            writer.mark(fence + token.text)
            writer.lines = 1
            break
          case 'table': {
            const data = !writer.flat && isData(tokens, i)
            blockGap()
            tables.push({ data, cells: 0, columns: 0, heads: 0, headDue: true, rows: 0, row: 0, begun: writer.place, spans: new Map() })
            break
          }
          case 'row':
            if (!table?.data) {
              blockGap()
              break
            }
            writer.gap(table.rows++ ? 1 : 2)
            writer.mark('|')
            table.cells = table.columns = table.heads = 0
            table.row = token.row
            break
          case 'cell':
            if (!table?.data) {
              blockGap()
              break
            }
            spanned(table)
            table.cells++
            table.columns += token.level
            if (token.head) table.heads++
            writer.put(' ')
            table.begun = writer.place
            writer.glued = true
            writer.flat++
            break
          case 'code':
            if (fence) break
            writer.mark('`', true)
            break
          case 'quotation': writer.mark('"', true); break
          case 'struck': writer.mark('~~', true); break
          case 'power': if (!writer.space && !writer.lineStart && !writer.lines) writer.mark('^', true); break
          case 'apart': writer.gapInLine(); break
        }
        continue
      }
      const { what, level, row } = tokens[token.parent]
      switch (what) {
        case 'block': case 'heading': blockGap(); break
        case 'list':
          lists.pop()
          blockGap()
          break
        case 'item':
          items--
          outdent()
          writer.gap(1)
          break
        case 'term': writer.gap(1); break
        case 'quote':
          outdent()
          blockGap()
          break
        case 'pre':
          if (writer.flat) break
          writer.lines = 1
          writer.mark(fence)
          fence = ''
          blockGap()
          break
        case 'table':
          tables.pop()
          blockGap()
          break
        case 'row':
          if (!table?.data) {
            blockGap()
            break
          }
          spanned(table)
          for (const [column, { until }] of table.spans) {
            if (until <= table.row) continue
            // A row that ends before its neighbour's cell reaches in has nothing there.
            while (table.columns < column) {
              writer.put('  |')
              table.columns++
            }
            spanned(table)
          }
          if (table.headDue && table.heads === table.cells && table.cells > 1) {
            writer.lines = 1
            writer.mark(`|${' --- |'.repeat(table.columns)}`)
          }
          table.headDue = false
          writer.gap(1)
          break
        case 'cell':
          if (!table?.data) {
            blockGap()
            break
          }
          writer.flat--
          writer.lines = 0
          writer.space = writer.glued = false
          if (row > 1 && table.columns <= MAX_SPANNED_COLUMN) table.spans.set(table.columns - level, { until: table.row + row, columns: level, reading: writer.since(table.begun) })
          writer.put(` |${'  |'.repeat(level - 1)}`)
          break
        case 'code': if (!fence) writer.put('`'); break
        case 'quotation': writer.put('"'); break
        case 'struck': writer.put('~~'); break
        case 'apart': writer.gapInLine(); break
      }
    }
    const text = writer.parts.join('').trimEnd()
    return { text, segments: writer.segments.filter(({ at }) => at < text.length) }
  }

  /** Whether a table holds data; many only arrange a page. @param {Token[]} tokens @param {number} table */
  function isData (tokens, table) {
    let rows = 0
    let cells = 0
    let widest = 0
    for (let i = table + 1; i < tokens[table].end; i++) {
      const { kind, what, any } = tokens[i]
      if (kind !== OPEN) continue
      if (what === 'table' || what === 'pre' || (what === 'heading' && i > table + 1 && any > 80)) return false
      if (what === 'row') {
        rows++
        cells = 0
      } else if (what === 'cell') {
        widest = Math.max(widest, ++cells)
        if (any > 1500) return false
      }
    }
    return rows > 1 && widest > 1
  }

  /** @param {Token[]} tokens @param {number} pre */
  function longestFence (tokens, pre) {
    let fence = '```'
    for (let i = pre + 1; i < tokens[pre].end; i++) {
      for (const run of tokens[i].kind === WORDS ? tokens[i].text.match(/`{3,}/g) ?? [] : []) if (run.length >= fence.length) fence = '`'.repeat(Math.min(run.length + 1, 20))
    }
    return fence
  }

  // ------------------------------------------------------------------------------------------------------ words, sentences

  const SAMPLE = 40_000

  /** @param {string} text */
  function countWords (text) {
    if (!UNSPACED.test(text)) {
      let words = 0
      const pattern = /[\p{L}\p{N}]\S*/gu
      while (pattern.test(text)) words++
      return words
    }
    // Looking words up is slow: the rest of a very long text is taken to be like its beginning.
    const sample = text.slice(0, SAMPLE)
    let words = 0
    for (const { isWordLike } of new Intl.Segmenter(undefined, { granularity: 'word' }).segment(sample)) if (isWordLike) words++
    return Math.round(words * text.length / sample.length)
  }

  /** Where the word after the last one allowed begins. @param {string} text @param {number} words */
  function wordOffset (text, words) {
    let seen = 0
    if (!UNSPACED.test(text)) {
      for (const { index } of text.matchAll(/[\p{L}\p{N}]\S*/gu)) if (seen++ === words) return index
      return text.length
    }
    for (const { index, isWordLike } of new Intl.Segmenter(undefined, { granularity: 'word' }).segment(text)) if (isWordLike && seen++ === words) return index
    return text.length
  }

  /** The longest beginning of whole sentences within a number of words. @param {string} text @param {number} words */
  function cut (text, words) {
    const end = wordOffset(text, words)
    const from = Math.max(0, end - 4000)
    // With a little of what follows, so that a sentence that ends here is seen to end.
    const sentences = new Intl.Segmenter(undefined, { granularity: 'sentence' }).segment(text.slice(from, end + 40))
    let to = 0
    let previous = ''
    for (const { index, segment } of sentences) {
      // The browser takes the point of an abbreviation for the end of a sentence.
      if (index + from <= end && !/(?:^|[\s(])(?:\p{L}|Mrs?|Ms|Dr|Prof|St|No|Nr|vs|e\.g|i\.e|z\.\s?B|ca|Fig|approx)\.\s*$/u.test(previous)) to = index
      previous = segment
    }
    let kept = text.slice(0, to ? from + to : end).trimEnd()
    const line = kept.lastIndexOf('\n') + 1
    // A row of a table is read whole or not at all.
    if (kept.startsWith('|', line) && !kept.endsWith('|') && line) kept = kept.slice(0, line).trimEnd()
    const fences = kept.match(/^[> ]*`{3,}/gm) ?? []
    return fences.length % 2 ? `${kept}\n${fences.at(-1)}` : kept
  }

  /**
   * @param {Source['kind']} kind @param {Reading} whole @param {number} maxWords @param {string[]} unread
   * @returns {PageText}
   */
  function deliver (kind, whole, maxWords, unread) {
    const wordsTotal = countWords(whole.text)
    let { text, segments } = whole
    let wordsRead = wordsTotal
    if (wordsTotal > maxWords) {
      text = cut(whole.text, maxWords)
      segments = segments.filter(({ at }) => at < text.length)
      wordsRead = Math.min(countWords(text), wordsTotal)
    }
    remember({ text, segments })
    const top = documentElement(document)
    const lang = top ? attribute(top, 'lang') || attribute(top, 'xml:lang') || '' : ''
    return { kind, text, title: oneLine(titleOf(document)), url: location.href, lang: lang.trim(), wordsRead, wordsTotal, unread }
  }

  /** @param {Reading} reading */
  function remember (reading) {
    state.readings = [...state.readings.slice(1 - KEPT_READINGS), reading]
    return reading
  }

  /** @param {number} n @param {string} one @param {string} many */
  const counted = (n, one, many) => (n === 1 ? `1 ${one}` : `${n} ${many}`)

  // ------------------------------------------------------------------------------------------------------------ the page

  /** @param {number} [maxWords] @returns {PageText} */
  function readPage (maxWords = MAX_WORDS) {
    const top = documentElement(document)
    // The PDF viewer is a page around a frame that nobody else may read.
    if (!top || contentType(document) === 'application/pdf') return deliver('page', { text: '', segments: [] }, maxWords, [])
    const { tokens, frames, closed, cutOff } = walk(top, ground(window), null)
    const unread = []
    if (frames) unread.push(counted(frames, 'frame of another site', 'frames of other sites'))
    if (closed) unread.push(counted(closed, 'closed section', 'closed sections'))
    if (cutOff) unread.push('the rest of a very large page')
    if (!tokens.length) return deliver('page', { text: '', segments: [] }, maxWords, unread)
    const { total, dropped, droppedLinks } = weigh(tokens)
    let root = mainToken(tokens)
    let everything = false
    const visible = total - droppedLinks
    if (tokens[root].chars < visible * LEAST_SHARE) {
      root = 0
      everything = total - dropped < visible * LEAST_SHARE
    }
    return deliver('page', write(tokens, root, everything), maxWords, unread)
  }

  /** All that can be seen, for finding a passage in a page that has changed. */
  function readAll () {
    const top = documentElement(document)
    const tokens = top ? walk(top, ground(window), null).tokens : []
    if (!tokens.length) return { text: '', segments: [] }
    weigh(tokens)
    return write(tokens, 0, true)
  }

  // ------------------------------------------------------------------------------------------------------- the selection

  /** The focused element, in whatever shadow root or frame of this site. */
  function focused () {
    let active = documentActive(document)
    for (let i = 0; active && i < 100; i++) {
      const tag = localName(active)
      const inner = tag === 'iframe' ? frameDocument(active) : tag === 'frame' ? oldFrameDocument(active) : null
      const shadow = shadowRoot(active)
      const next = inner ? documentActive(inner) : shadow ? shadowActive(shadow) : null
      if (!next) break
      active = next
    }
    return /** @type {Element | null} */ (active)
  }

  /** @param {number} [maxWords] @returns {PageText | null} null when nothing is selected */
  function readSelection (maxWords = MAX_WORDS) {
    state.field = null
    const active = focused()
    const tag = active ? localName(active) : ''
    if (active && (tag === 'textarea' || tag === 'input')) {
      const field = /** @type {HTMLInputElement | HTMLTextAreaElement} */ (active)
      const { selectionStart: start, selectionEnd: end } = field
      // Only what was selected, and never a password.
      if (start !== null && end !== null && start < end && field.type !== 'password') {
        const text = field.value.slice(start, end)
        state.field = { element: new WeakRef(field), start, end, text }
        return deliver('field', { text: clean(text.replace(/\r\n?/g, '\n')), segments: [] }, Infinity, [])
      }
    }
    const view = active ? defaultView(ownerDocument(active)) ?? window : window
    for (const at of new Set([view, window])) {
      const found = selected(at, active)
      if (found) return found.field ? deliver('field', found.reading, Infinity, []) : deliver('selection', found.reading, maxWords, found.unread)
    }
    return null
  }

  /** @param {Window & typeof globalThis} view @param {Element | null} active */
  function selected (view, active) {
    const selection = view.getSelection()
    if (!selection?.rangeCount) return null
    const words = selection.toString()
    const bounds = boundsOf(view, selection, active)
    if (!bounds) return null
    const root = commonRoot(bounds)
    const around = root && surroundings(root, view)
    let reading = { text: '', segments: /** @type {Segment[]} */ ([]) }
    /** @type {string[]} */
    const unread = []
    if (root && around) {
      const { tokens, frames } = walk(root, around, bounds)
      if (frames) unread.push(counted(frames, 'frame of another site', 'frames of other sites'))
      if (tokens.length) {
        weigh(tokens)
        reading = write(tokens, 0, true)
      }
    }
    if (!/\S/.test(reading.text)) return null
    const editor = root && editorOf(root)
    if (editor) state.field = { host: new WeakRef(editor), range: selection.getRangeAt(0).cloneRange(), text: words }
    return { reading, field: Boolean(editor), unread }
  }

  /** Where the selection begins and ends, also inside shadow roots. @param {Window & typeof globalThis} view @param {Selection} selection @param {Element | null} active @returns {Bounds | null} */
  function boundsOf (view, selection, active) {
    const range = selection.getRangeAt(0)
    if (!range.collapsed) return range
    const composed = /** @type {any} */ (selection).getComposedRanges
    if (!composed) return null
    const roots = []
    for (let at = /** @type {Node | null} */ (active); at; at = parentNode(at) ?? (nodeType(at) === ROOT && at instanceof ShadowRoot ? host(at) : null)) if (at instanceof ShadowRoot) roots.push(at)
    for (const element of queryAll(documentElement(view.document), '*')) {
      const root = shadowRoot(element)
      if (root) roots.push(...rootsIn(root))
    }
    const [found] = composed.call(selection, { shadowRoots: roots })
    return found && (found.startContainer !== found.endContainer || found.startOffset !== found.endOffset) ? found : null
  }

  /** @param {ShadowRoot} root @returns {ShadowRoot[]} it and those in it */
  function rootsIn (root) {
    const roots = [root]
    for (let i = 0; i < roots.length && i < 5000; i++) {
      for (const element of DocumentFragment.prototype.querySelectorAll.call(roots[i], '*')) {
        const inner = shadowRoot(element)
        if (inner) roots.push(inner)
      }
    }
    return roots
  }

  /** The element that a walk over a selection begins at. @param {Bounds} bounds @returns {Element | null} */
  function commonRoot ({ startContainer, endContainer }) {
    const chain = new Set()
    for (let at = /** @type {Node | null} */ (startContainer); at; at = above(at)) chain.add(at)
    let common = /** @type {Node | null} */ (endContainer)
    while (common && !chain.has(common)) common = above(common)
    while (common && nodeType(common) !== ELEMENT) common = above(common)
    if (!common) return null
    // Rows and items alone would lose what they belong to.
    const part = /^(?:tr|tbody|thead|tfoot|table|ul|ol|dl)$/
    while (part.test(localName(common)) && parentNode(common) && nodeType(parentNode(common)) === ELEMENT) common = parentNode(common)
    return /** @type {Element} */ (common)
  }

  /** What an element inherits, from the outermost one in. Null when it cannot be seen. @param {Element} element @param {Window & typeof globalThis} view @returns {Around | null} */
  function surroundings (element, view) {
    const chain = []
    for (let at = /** @type {Node | null} */ (element); at; at = above(at)) if (nodeType(at) === ELEMENT) chain.push(/** @type {Element} */ (at))
    let around = /** @type {Around | null} */ (ground(view))
    for (const at of chain.reverse()) {
      const tag = localName(at)
      if (SKIPPED.has(tag)) return null
      around = around && enter(at, tag, around)
      if (!around) return null
      if (tag === 'pre') around.pre = true
    }
    return around
  }

  /** The element whose text the user may edit around a node. @param {Element} element @returns {HTMLElement | null} */
  function editorOf (element) {
    let editor = null
    for (let at = /** @type {Node | null} */ (element); at && nodeType(at) === ELEMENT && at instanceof HTMLElement && editable(at); at = parentNode(at)) editor = at
    return editor
  }

  state.readings ??= []
  state.field ??= null
  Object.assign(__sotto, { readPage, readSelection, readAll })
})()
