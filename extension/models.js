// The models page: what there is, what is here, and everything that can be done about it. It holds no state of its own: each
// message from the engine is drawn anew into the same cards.
import { NO_ADDRESS, askCancel, askDelete, askGet, askGetFrom, askImport, failure, graphics, webAddress } from './model-dialogs.js'
import { chosenFiles, droppedFiles } from './chosen-files.js'
import { bytes, checkedAgainst, duration, goodFor, nextSmaller, part, percent, progress, standing } from './model-words.js'
/** @import { FromEngine, Machine, ModelState } from '../offscreen/pkg/engine.js' */
/** @import { Chosen } from './chosen-files.js' */
/** @typedef {Extract<FromEngine, { type: 'models' }>} All */

const { h, icon, look, EnginePort } = __sotto
document.adoptedStyleSheets = [look()]

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function $ (id, type) {
  const element = document.getElementById(id)
  if (!(element instanceof type)) throw new Error(`models.html has no ${id}`)
  return element
}
const [list, problem, waiting, machineFacts, own, drop, fromAddress, settings, status] = ['models', 'problem', 'waiting', 'machine', 'own', 'drop', 'from-address', 'settings', 'status'].map((id) => $(id, HTMLElement))
const [file, folder, address] = ['file', 'folder', 'address'].map((id) => $(id, HTMLInputElement))
const announce = (/** @type {string} */ text) => { status.textContent = text }

/** The last message. @type {All | null} */
let all = null
/** @type {Map<string, ModelCard>} */
const cards = new Map()
/** The model whose files are being chosen, or empty. */
let importFor = ''

const port = new EnginePort({ onMessage: receive, greeting: [{ type: 'models' }] })

/** @param {FromEngine} message */
function receive (message) {
  if ('reason' in message) return showProblem(message.reason)
  if (message.type === 'status' && message.engine.state === 'failed') return showProblem(message.engine.reason)
  if (message.type === 'models') show(message)
}

/** @param {Failure} reason */
function showProblem ({ message, nextStep }) {
  problem.replaceChildren(failure(message, nextStep))
}

/** @param {All} message */
function show (message) {
  const first = !all
  all = message
  waiting.hidden = true
  own.hidden = machineFacts.hidden = settings.hidden = false
  drawIdle(message.machine.idleMinutes)
  fromAddress.hidden = !message.machine.downloadsAllowed
  drawMachine(message.machine, message.models)
  const gone = new Set(cards.keys())
  for (const [i, model] of message.models.entries()) {
    gone.delete(model.id)
    const card = cards.get(model.id) ?? new ModelCard()
    cards.set(model.id, card)
    if (list.children[i] !== card.element) list.insertBefore(card.element, list.children[i] ?? null)
    card.draw(model, message)
  }
  for (const id of gone) {
    cards.get(id)?.element.remove()
    cards.delete(id)
  }
  if (first) follow()
}

/** What the address asks for: `#id` shows a model, `#get:id` asks whether to get it. */
function follow () {
  const [, get, id] = /^#(get:)?([\w.-]+)$/.exec(location.hash) ?? []
  const model = all?.models.find((model) => model.id === id)
  if (!model) return
  // Loading the page again must not ask again.
  history.replaceState(null, '', location.pathname)
  cards.get(model.id)?.element.scrollIntoView({ block: 'center' })
  if (get && model.status.state === 'notHere') askToGet(model)
}
addEventListener('hashchange', follow)

/** @param {Machine} machine @param {ModelState[]} models */
function drawMachine (machine, models) {
  const kept = models.filter(({ origin }) => origin !== 'packaged').reduce((sum, { diskBytes }) => sum + diskBytes, 0)
  fill(machineFacts, [
    ['Graphics', graphics(machine)],
    ['Room for more', typeof machine.freeBytes === 'number' ? bytes(machine.freeBytes) : 'The browser does not say'],
    ['Kept in this browser’s private storage', kept > 0 ? bytes(kept) : 'Nothing yet',
      kept > 0 ? machine.persisted ? 'kept even when the disk runs full' : 'the browser may clear it when the disk runs full' : '']
  ])
}

const idle = $('idle', HTMLSelectElement)
idle.addEventListener('change', () => port.send({ type: 'setIdle', minutes: Number(idle.value) }))

/** @param {number} minutes */
function drawIdle (minutes) {
  const choices = [...new Set([5, 15, 60, 240, minutes])].filter((choice) => choice > 0).sort((a, b) => a - b)
  if (idle.options.length !== choices.length + 1) {
    idle.replaceChildren(...choices.map((choice) => h('option', { value: choice }, duration(60 * choice))), h('option', { value: 0 }, 'Never'))
  }
  idle.value = String(minutes)
}

/** Draws label and value pairs, those with a value. @param {HTMLElement} into @param {[string, string, string?][]} facts */
function fill (into, facts) {
  const shown = JSON.stringify(facts)
  if (into.dataset.shown === shown) return
  into.dataset.shown = shown
  into.replaceChildren(...facts.filter(([, value]) => value).map(([name, value, small]) =>
    h('div', {}, h('dt', {}, name), h('dd', {}, value, small ? h('small', {}, ` ${small}`) : null))))
}

/** @typedef {{ name: string, label: string, look: 'solid' | 'plain' | 'quiet', icon?: string, act: (model: ModelState, all: All) => void }} Action */

/** @type {Record<string, Action>} */
const ACTIONS = {
  get: { name: 'get', label: 'Get', look: 'solid', icon: 'download', act: (model) => askToGet(model) },
  use: { name: 'use', label: 'Use', look: 'solid', act: ({ id }) => port.send({ type: 'use', model: id }) },
  useAgain: { name: 'use', label: 'Use', look: 'plain', act: ({ id }) => port.send({ type: 'use', model: id }) },
  pause: { name: 'pause', label: 'Pause', look: 'plain', icon: 'pause', act: ({ id }) => port.send({ type: 'pauseGet', model: id }) },
  resume: { name: 'resume', label: 'Resume', look: 'solid', icon: 'play', act: ({ id }) => port.send({ type: 'resumeGet', model: id }) },
  again: { name: 'again', label: 'Try again', look: 'solid', icon: 'restart', act: ({ id }) => port.send({ type: 'resumeGet', model: id }) },
  cancel: { name: 'cancel', label: 'Cancel', look: 'quiet', act: askToCancel },
  import: { name: 'import', label: 'From files', look: 'quiet', icon: 'folder', act: ({ id }) => choose(folder, id) },
  check: { name: 'check', label: 'Check', look: 'quiet', icon: 'shield', act: ({ id }) => port.send({ type: 'check', model: id }) },
  delete: { name: 'delete', label: 'Delete', look: 'quiet', icon: 'remove', act: askToDelete }
}

/** What can be done with a model now. @param {ModelState} model @param {All} all @returns {Action[]} */
function actions ({ id, origin, status, fit }, { machine, current }) {
  const { get, use, useAgain, pause, resume, again, cancel, check } = ACTIONS
  switch (status.state) {
    case 'notHere': return [...(machine.downloadsAllowed && fit.fits ? [get] : []), ACTIONS.import]
    case 'getting': return [pause, cancel]
    case 'paused': return [resume, cancel]
    case 'checking': return []
    case 'failed': return [again, cancel]
    case 'here': {
      const taken = id === current || !fit.fits
      if (origin === 'packaged') return taken ? [] : [useAgain]
      return [...(taken ? [] : [use]), check, ACTIONS.delete]
    }
  }
}

/** One model. Its nodes stay while what they say changes, so that focus and screen readers keep their place. */
class ModelCard {
  #name = h('h2', { tabindex: '-1' })
  #goodFor = h('p')
  #chip = h('span', { class: 'chip' })
  #facts = h('dl', { class: 'facts' })
  #line = h('span')
  #fill = h('i')
  #bar = h('div', { class: 'bar', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100' }, this.#fill)
  #coming = h('div', { class: 'coming', hidden: true }, this.#bar, this.#line)
  #trouble = h('div', { hidden: true })
  #buttons = h('div', { class: 'buttons' })
  element = h('li', { class: 'model' },
    h('div', { class: 'head' }, h('div', {}, this.#name, this.#goodFor), this.#chip),
    this.#facts, this.#coming, this.#trouble, this.#buttons)
  /** Of the last drawing. */
  #state = ''
  #shownButtons = ''
  #shownTrouble = ''

  /** @param {ModelState} model @param {All} all */
  draw (model, all) {
    const { status } = model
    const here = status.state === 'here' || status.state === 'checking'
    const inUse = model.id === all.current && here
    this.element.id = model.id
    this.element.dataset.state = status.state
    this.element.classList.toggle('in-use', inUse)
    this.#name.textContent = model.name
    this.#goodFor.textContent = goodFor(model)
    this.#drawChip(model, inUse)
    fill(this.#facts, [
      ['To download', model.origin === 'known' && !here ? bytes(model.fetchBytes) : ''],
      ['On this computer', model.origin === 'packaged' ? 'Part of Sotto' : here ? bytes(model.diskBytes) : ''],
      ['Licence', model.licence],
      ['From', model.origin === 'packaged' ? '' : model.source],
      ['Checked', status.state === 'here' && model.origin !== 'packaged' ? checkedAgainst(status.verifiedAgainst) : '']
    ])
    this.#drawComing(model)
    this.#drawTrouble(model, all)
    this.#drawButtons(model, all)
    const state = `${status.state} ${inUse}`
    if (this.#state && this.#state !== state) announce(`${model.name}: ${standing(model, inUse)}`)
    this.#state = state
  }

  /** @param {ModelState} model @param {boolean} inUse */
  #drawChip (model, inUse) {
    const { status, fit } = model
    const moving = status.state === 'getting' || status.state === 'checking'
    this.#chip.hidden = moving
    this.#chip.className = `chip ${inUse ? 'good' : status.state === 'failed' || !fit.fits ? 'bad' : ''}`
    const text = inUse ? 'In use' : status.state === 'here' ? 'On this computer' : status.state === 'notHere' && fit.fits ? 'Not here yet' : standing(model, inUse)
    if (this.#chip.textContent !== text) this.#chip.replaceChildren(...(inUse ? [icon('done')] : []), text)
  }

  /** @param {ModelState} model */
  #drawComing ({ name, status }) {
    const amount = 'done' in status && (status.state !== 'failed' || status.done > 0) ? status : null
    this.#coming.hidden = !amount
    if (!amount) return
    const value = String(percent(amount.done, amount.total))
    const known = amount.total > 0
    this.#bar.setAttribute('aria-label', `${name}: ${status.state === 'checking' ? 'checked' : 'fetched'}`)
    this.#bar.classList.toggle('unknown', !known)
    if (known) this.#bar.setAttribute('aria-valuenow', value)
    else this.#bar.removeAttribute('aria-valuenow')
    this.#fill.style.width = known ? `${value}%` : ''
    this.#coming.classList.toggle('still', status.state === 'paused' || status.state === 'failed')
    this.#line.textContent = status.state === 'getting' ? progress(status)
      : status.state === 'checking' ? `Hashing what is stored: ${part(amount.done, amount.total)}`
        : `${part(amount.done, amount.total)} ${status.state === 'paused' ? 'is here, and stays until you go on' : 'is here and kept'}`
  }

  /** Why it does not go on, or cannot be used. @param {ModelState} model @param {All} all */
  #drawTrouble (model, { models, machine }) {
    const { status, fit } = model
    const trouble = []
    if (status.state === 'failed') trouble.push(failure(status.reason.message, status.reason.nextStep))
    if (!fit.fits) {
      const smaller = nextSmaller(models, model)
      trouble.push(failure(fit.reason || 'It does not fit this computer.', smaller && !fit.reason.includes(smaller.name) ? `${smaller.name} fits.` : ''))
    } else if (fit.reason && status.state === 'notHere') trouble.push(h('p', { class: 'fine' }, icon('info'), h('span', {}, fit.reason)))
    if (status.state === 'notHere' && !machine.downloadsAllowed) trouble.push(h('p', { class: 'fine' }, icon('info'), h('span', {}, 'Your organisation has switched downloads off. A model can still be added from files.')))
    const shown = trouble.map((node) => node.textContent).join('\n')
    if (shown === this.#shownTrouble) return
    this.#shownTrouble = shown
    this.#trouble.hidden = !trouble.length
    this.#trouble.replaceChildren(...trouble)
  }

  /** @param {ModelState} model @param {All} all */
  #drawButtons (model, all) {
    const wanted = actions(model, all)
    const shown = wanted.map(({ name }) => name).join()
    if (shown === this.#shownButtons) return
    this.#shownButtons = shown
    const focused = this.#buttons.contains(document.activeElement) ? document.activeElement?.getAttribute('data-action') : null
    const buttons = wanted.map((action) => h('button', {
      type: 'button', class: action.look, 'data-action': action.name, 'aria-label': `${action.label}: ${model.name}`,
      click: () => act(model.id, action)
    }, action.icon ? icon(action.icon) : null, action.label))
    this.#buttons.replaceChildren(...buttons)
    // Whoever pressed Pause finds Resume in its place.
    if (focused) (buttons.find((button) => button.dataset.action === focused) ?? buttons[0] ?? this.#name).focus()
  }
}

/** @param {string} id @param {Action} action */
function act (id, action) {
  problem.replaceChildren()
  const model = all?.models.find((model) => model.id === id)
  if (model && all) action.act(model, all)
}

/** @param {ModelState} model */
async function askToGet (model) {
  if (!all) return
  const answer = await askGet(model, all.machine, all.models)
  if (answer) port.send({ type: 'get', model: model.id, mirror: answer.mirror })
}

/** @param {ModelState} model */
async function askToCancel (model) {
  const { status } = model
  if (await askCancel(model, 'done' in status ? status.done : 0)) port.send({ type: 'cancelGet', model: model.id })
}

/** @param {ModelState} model @param {All} all */
async function askToDelete (model, { models, current }) {
  const inUse = model.id === current
  const fallback = models.find(({ origin }) => origin === 'packaged')
  // One in use goes once the other is in its place: the engine sees to that, and this page may be closed.
  if (await askDelete(model, inUse, fallback?.name ?? '')) port.send({ type: 'delete', model: model.id })
}

/** @param {HTMLInputElement} input @param {string} [model] */
function choose (input, model = '') {
  importFor = model
  input.value = ''
  input.click()
}
$('choose-file', HTMLButtonElement).addEventListener('click', () => choose(file))
$('choose-folder', HTMLButtonElement).addEventListener('click', () => choose(folder))
for (const input of [file, folder]) input.addEventListener('change', () => add(chosenFiles(input.files), importFor))

const getAddress = $('get-address', HTMLButtonElement)
address.addEventListener('input', () => { getAddress.disabled = !address.value.trim() })
address.addEventListener('keydown', (event) => { if (event.key === 'Enter') getAddress.click() })
getAddress.addEventListener('click', async () => {
  problem.replaceChildren()
  const url = webAddress(address.value)
  if (!url || !all) return showProblem({ code: 'notFound', message: NO_ADDRESS, nextStep: '' })
  if (!await askGetFrom(url, all.machine)) return
  port.send({ type: 'getFrom', address: url.href })
  address.value = ''
  getAddress.disabled = true
})

/** @param {Chosen} chosen @param {string} [model] */
async function add ({ files, name }, model) {
  if (!all || !files.length) return
  const answer = await askImport(files, name, all.models, all.machine, model)
  if (!answer) return
  // Files cannot travel over a port. The engine's worker listens since the page is connected.
  const channel = new BroadcastChannel('sotto-import')
  channel.postMessage({ model: answer.model, name, files })
  channel.close()
  announce(`Adding ${name}`)
}

// The whole page takes a drop: a file let go beside the box would otherwise be opened in place of the page.
addEventListener('dragover', (event) => {
  if (!event.dataTransfer?.types.includes('Files')) return
  event.preventDefault()
  document.body.classList.add('dropping')
})
addEventListener('dragleave', (event) => { if (!event.relatedTarget) document.body.classList.remove('dropping') })
addEventListener('drop', async (event) => {
  event.preventDefault()
  document.body.classList.remove('dropping')
  drop.scrollIntoView({ block: 'nearest' })
  if (event.dataTransfer) add(await droppedFiles(event.dataTransfer))
})
