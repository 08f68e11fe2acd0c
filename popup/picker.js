// Which model answers, at the foot of the popup: a quiet line, a list behind it, and a download's progress while there is one.
import { nextUp, percent, progress, standing } from '../extension/model-words.js'
/** @import { ModelState, ToEngine } from '../offscreen/pkg/engine.js' */
/** @typedef {Extract<FromEngine, { type: 'models' }>} All */

const { h, icon } = __sotto
/** A tab: this popup closes when a file is to be picked. @param {string} [hash] */
const page = (hash = '') => ({ href: `../extension/models.html${hash}`, target: '_blank' })

/**
 * @typedef {object} PickerParts
 * @property {HTMLButtonElement} button shows the list
 * @property {HTMLElement} name inside the button
 * @property {HTMLElement} list
 * @property {HTMLElement} coming the download's line
 * @property {HTMLElement} offer a larger model, where the popup is empty
 */

export class ModelPicker {
  #parts
  #send
  #announce
  /** @type {All | null} */
  #all = null
  /** What the parts were last drawn from: they are drawn again only for something new, so that the focus stays. */
  #drawn = { list: '', coming: '', offer: '' }
  /** States at the last message, to say a change once. @type {Map<string, string>} */
  #states = new Map()
  #line = h('span')
  #fill = h('i')
  #bar = h('div', { class: 'bar', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100' }, this.#fill)
  #toggle = h('button', { type: 'button', class: 'round' })

  /** @param {PickerParts} parts @param {(message: ToEngine) => void} send @param {(text: string) => void} announce */
  constructor (parts, send, announce) {
    this.#parts = parts
    this.#send = send
    this.#announce = announce
    parts.button.append(icon('chevron'))
    parts.button.addEventListener('click', () => this.#open(Boolean(parts.list.hidden)))
    parts.list.addEventListener('keydown', (event) => {
      if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return
      event.preventDefault()
      const rows = [.../** @type {NodeListOf<HTMLElement>} */ (parts.list.querySelectorAll('a, button'))]
      const at = rows.findIndex((row) => row === document.activeElement)
      rows[(at + (event.key === 'ArrowDown' ? 1 : -1) + rows.length) % rows.length].focus()
    })
    parts.coming.append(h('div', { class: 'progress' }, this.#line, this.#bar), this.#toggle)
  }

  /** Closes the list if it is open; answers whether it was. */
  close () {
    const was = !this.#parts.list.hidden
    if (was) this.#open(false)
    return was
  }

  /** @param {boolean} open */
  #open (open) {
    const { list, button } = this.#parts
    list.hidden = !open
    button.setAttribute('aria-expanded', String(open))
    if (open) /** @type {HTMLElement | null} */ (list.querySelector('[aria-current]') ?? list.querySelector('a, button'))?.focus()
    else button.focus()
  }

  /** @param {All} all */
  draw (all) {
    this.#all = all
    const current = all.models.find(({ id }) => id === all.current)
    this.#parts.button.hidden = !current
    if (current) this.#parts.name.textContent = current.name
    this.#drawList(all)
    this.#drawComing(all.models)
    this.#drawOffer(all)
    for (const model of all.models) {
      const state = `${model.status.state} ${model.id === all.current}`
      const before = this.#states.get(model.id)
      if (before !== undefined && before !== state) this.#announce(`${model.name}: ${standing(model, model.id === all.current)}`)
      this.#states.set(model.id, state)
    }
  }

  /** @param {All} all */
  #drawList ({ models, current }) {
    const rows = models.map((model) => ({ model, words: standing(model, model.id === current), inUse: model.id === current }))
    const drawn = JSON.stringify(rows.map(({ model, words, inUse }) => [model.id, model.name, words, inUse, model.fit.fits]))
    if (drawn === this.#drawn.list) return
    this.#drawn.list = drawn
    const { list } = this.#parts
    const focused = list.contains(document.activeElement) ? document.activeElement?.id : ''
    list.replaceChildren(...rows.map(({ model, words, inUse }) => h('li', {}, this.#row(model, words, inUse))),
      h('li', { class: 'last' }, h('a', { id: 'all-models', ...page() }, h('span', {}, 'Models and your own file'), icon('open'))))
    if (focused) document.getElementById(focused)?.focus()
  }

  /** @param {ModelState} model @param {string} words @param {boolean} inUse */
  #row (model, words, inUse) {
    const text = h('span', {}, h('b', {}, model.name), h('small', {}, words))
    const id = `pick-${model.id}`
    if (model.status.state === 'here' && model.fit.fits) {
      return h('button', { type: 'button', id, 'aria-current': inUse ? 'true' : null, click: () => this.#use(model) }, text, inUse ? icon('done') : null)
    }
    return h('a', { id, ...page(`#${model.status.state === 'notHere' && model.fit.fits ? 'get:' : ''}${model.id}`) }, text, icon(model.status.state === 'notHere' && model.fit.fits ? 'download' : 'open'))
  }

  /** @param {ModelState} model */
  #use (model) {
    if (model.id !== this.#all?.current) this.#send({ type: 'use', model: model.id })
    this.close()
  }

  /** The first model that is on its way or stopped on it. @param {ModelState[]} models */
  #drawComing (models) {
    const model = models.find(({ status }) => status.state === 'getting') ?? models.find(({ status }) => status.state === 'failed' || status.state === 'paused')
    const { coming } = this.#parts
    coming.hidden = !model
    if (!model || !('done' in model.status)) return
    const { id, name, status } = model
    const value = String(percent(status.done, status.total))
    this.#line.textContent = status.state === 'getting' ? `${name}: ${progress(status)}`
      : status.state === 'failed' ? `${name}: ${status.reason.message} ${status.reason.nextStep}`
        : `${name}: paused at ${value} %`
    this.#bar.hidden = status.state === 'failed' && status.done === 0
    this.#bar.setAttribute('aria-label', name)
    const known = status.total > 0
    this.#bar.classList.toggle('unknown', !known)
    if (known) this.#bar.setAttribute('aria-valuenow', value)
    else this.#bar.removeAttribute('aria-valuenow')
    this.#fill.style.width = known ? `${value}%` : ''
    coming.dataset.state = status.state
    const drawn = `${id} ${status.state}`
    if (drawn === this.#drawn.coming) return
    this.#drawn.coming = drawn
    const [action, label, symbol] = status.state === 'getting' ? /** @type {const} */ (['pauseGet', 'Pause', 'pause'])
      : status.state === 'failed' ? /** @type {const} */ (['resumeGet', 'Try again', 'restart']) : /** @type {const} */ (['resumeGet', 'Resume', 'play'])
    this.#toggle.replaceChildren(icon(symbol))
    this.#toggle.title = label
    this.#toggle.setAttribute('aria-label', `${label}: ${name}`)
    this.#toggle.dataset.action = action
    this.#toggle.onclick = () => this.#send({ type: action, model: id })
  }

  /** A larger model, said once and small, to whoever still uses the one that comes with Sotto. @param {All} all */
  #drawOffer ({ models, current, machine }) {
    const inUse = models.find(({ id }) => id === current)
    const model = inUse?.origin === 'packaged' ? nextUp(models) : undefined
    const state = model?.status.state
    const what = !model ? '' : state === 'here' ? 'use' : state === 'notHere' && machine.downloadsAllowed ? 'get' : ''
    const { offer } = this.#parts
    offer.hidden = !what
    const drawn = `${what} ${model?.id} ${model?.fetchBytes}`
    if (!model || !what || drawn === this.#drawn.offer) return
    this.#drawn.offer = drawn
    offer.replaceChildren(...(what === 'use'
      ? [`${model.name} is here. `, h('button', { type: 'button', class: 'link', 'data-action': 'use', click: () => this.#use(model) }, `Use ${model.name}`)]
      : [`${inUse?.name} is very small. `, h('a', { class: 'link', ...page(`#get:${model.id}`) }, `Get ${model.name}`), ' for answers in its own words.']))
  }
}
