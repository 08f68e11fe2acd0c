// The popup: a conversation about the active tab's document.
import { readTab, run } from '../extension/tab.js'
import { ModelPicker } from './picker.js'
/** @import { EngineState, Failure, FromEngine, Source, Task } from '../offscreen/pkg/engine.js' */
/** @typedef {{ task: Task, selectionText: string, title: string, url: string, incognito: boolean, tabId: number, failure: Failure, at: number }} Handoff */

const { h, icon, number, look, AnswerView, EnginePort } = __sotto
document.adoptedStyleSheets = [look()]

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function $ (id, type) {
  const element = document.getElementById(id)
  if (!(element instanceof type)) throw new Error(`popup.html has no ${id}`)
  return element
}
const [transcript, empty, engineFailure, loading] = ['transcript', 'empty', 'engine-failure', 'loading'].map((id) => $(id, HTMLElement))
const form = $('form', HTMLFormElement)
const question = $('question', HTMLTextAreaElement)
const [send, stop, summarize, fresh] = ['send', 'stop', 'summarize', 'fresh'].map((id) => $(id, HTMLButtonElement))
send.append(icon('send'))
stop.append(icon('stop'))
fresh.append(icon('fresh'))

const announce = (/** @type {string} */ text) => { $('status', HTMLElement).textContent = text }

/** Where passages can be shown. @type {{ tabId: number, documentId: string } | null} */
let place = null
/** What questions are about; sent with the first one only. @type {Source | null} */
let source = null
let conversation = ''
/** Whether the engine has the source. */
let known = false
/** Answers on screen, oldest first. @type {Map<string, AnswerView>} */
const turns = new Map()
/** The turn kept in sight, until the user scrolls. @type {HTMLElement | null} */
let following = null

const port = new EnginePort({ onMessage: receive, greeting: [{ type: 'models' }] })
port.send({ type: 'warm' })
const picker = new ModelPicker(
  { button: $('model', HTMLButtonElement), name: $('model-name', HTMLElement), list: $('models', HTMLElement), coming: $('coming', HTMLElement), offer: $('offer', HTMLElement) },
  (message) => port.send(message), announce)
question.focus()
start()

async function start () {
  const handoff = await takeHandoff()
  if (handoff) return startFrom(handoff)
  const [tab] = await chrome.tabs.query({ active: true, lastFocusedWindow: true })
  if (!tab?.id) return
  $('title', HTMLElement).textContent = tab.title || 'This page'
  const page = await readTab(tab)
  if (page.failure) return showUnreadable(page.failure)
  source = page.source
  place = { tabId: tab.id, documentId: page.documentId }
  // The address is part of it: a single-page site changes its text without changing its document.
  conversation = `${tab.id}/${page.documentId}/${source.url.split('#')[0]}`
  showSource(source)
  ready()
  port.send({ type: 'attach', conversation })
  await run({ target: { tabId: tab.id, documentIds: [page.documentId] }, func: (id) => __sotto.forgetOnLeave(id), args: [conversation] })
}

/** What the service worker left: a task on a page that cannot show a card. @returns {Promise<Handoff | null>} */
async function takeHandoff () {
  const { handoff } = await chrome.storage.session.get('handoff')
  await chrome.storage.session.remove('handoff')
  const left = /** @type {Handoff | undefined} */ (handoff)
  return left && Date.now() - left.at < 10_000 ? left : null
}

/** @param {Handoff} left */
function startFrom ({ task, selectionText, title, url, incognito, tabId, failure }) {
  $('title', HTMLElement).textContent = title || 'This page'
  const words = selectionText.split(/\s+/).filter(Boolean).length
  if (!words) return showUnreadable(failure)
  source = { kind: 'selection', text: selectionText, title, url, lang: '', wordsRead: words, wordsTotal: words, unread: [], incognito }
  conversation = `${tabId}/selection/${crypto.randomUUID()}`
  showSource(source)
  ready()
  ask(task)
}

/** @param {Source} read */
function showSource ({ title, kind, wordsRead, wordsTotal, unread }) {
  $('title', HTMLElement).textContent = title || 'This page'
  const amount = wordsRead < wordsTotal ? `${number(wordsRead)} of ${number(wordsTotal)} words` : `${number(wordsRead)} words`
  const parts = [`${kind === 'page' ? '' : 'Selection, '}${amount} read`, ...unread.map((what) => `not read: ${what}`)]
  const line = $('coverage', HTMLElement)
  line.textContent = parts.join(' · ')
  line.title = line.textContent
}

function ready () {
  const selection = source?.kind !== 'page'
  question.placeholder = selection ? 'Ask about the selection' : 'Ask about this page'
  summarize.replaceChildren(selection ? 'Summarize the selection' : 'Summarize this page')
  question.disabled = summarize.disabled = false
  send.disabled = !question.value.trim()
  question.focus()
}

/** @param {Failure} failure */
function showUnreadable ({ message, nextStep }) {
  empty.replaceChildren(h('div', { class: 'failure', role: 'alert' }, icon('info'), h('p', {}, h('strong', {}, message), ' ', nextStep)))
  form.hidden = true
}

/** @param {Task} task */
function ask (task) {
  const request = crypto.randomUUID()
  addTurn(request, task)
  port.send({ type: 'ask', request, conversation, task, source: known ? undefined : source ?? undefined })
  known = true
}

/** @param {Task} task */
function heading (task) {
  switch (task.kind) {
    case 'summarize': return 'Summary'
    case 'explain': return 'Explained simply'
    case 'rewrite': return { clearer: 'Clearer', shorter: 'Shorter', formal: 'More formal', friendly: 'Friendlier', fixGrammar: 'Grammar mended' }[task.style]
    case 'question': return task.question
  }
}

/** @param {string} request @param {Task} task */
function addTurn (request, task) {
  const where = place
  const view = new AnswerView({
    announce,
    onRetry: () => {
      // An engine that lost the conversation has lost its text too.
      if (view.failure?.code === 'conversationGone' || view.failure?.code === 'engineStopped') known = false
      ask(task)
    },
    onPassage: where ? (passage) => show(where, passage) : undefined
  })
  turns.set(request, view)
  empty.hidden = true
  fresh.hidden = false
  const turn = h('section', { class: 'turn' }, h('h2', {}, heading(task)), view.element)
  transcript.append(turn)
  showRunning()
  following = turn
  turn.scrollIntoView({ block: 'start' })
}
addEventListener('wheel', () => { following = null }, { passive: true })

/** @param {{ tabId: number, documentId: string }} where @param {Passage} passage */
async function show ({ tabId, documentId }, { text, start, end }) {
  try {
    const { result } = await run({ target: { tabId, documentIds: [documentId] }, func: (wanted) => __sotto.showPassage(wanted), args: [{ text, start, end }] })
    return result ?? false
  } catch {
    return false
  }
}

/** @param {FromEngine} message */
function receive (message) {
  if ('reason' in message) return showFailure(message.reason)
  switch (message.type) {
    case 'status': return showEngine(message.engine)
    case 'models': return picker.draw(message)
    case 'attached': known ||= message.requests.length > 0; return
    case 'update': {
      const { request, event } = message
      if (event.kind === 'started' && !turns.has(request)) addTurn(request, event.task)
      const view = turns.get(request)
      view?.apply(event)
      showRunning()
      // Follows a growing answer until its own beginning would leave the window: it is read from there.
      if (event.kind !== 'text') following?.scrollIntoView({ block: 'start' })
    }
  }
}

/** What runs now is shown above the input, where it stays in sight; the engine takes one request after the other. */
function showRunning () {
  const [view] = running()
  stop.hidden = !view
  const now = $('now', HTMLElement)
  if (view && now.firstChild !== view.progress) now.replaceChildren(view.progress)
  if (!view) now.replaceChildren()
}
const running = () => [...turns.values()].filter((view) => view.running)

function stopAll () {
  for (const [request, view] of turns) if (view.running) port.send({ type: 'stop', request })
}

/** @param {EngineState} engine */
function showEngine (engine) {
  for (const view of running()) view.applyState(engine)
  loading.hidden = engine.state !== 'loading' || running().length > 0
  $('device', HTMLElement).hidden = engine.state !== 'ready'
  engineFailure.hidden = true
  switch (engine.state) {
    case 'idle': return
    case 'loading': {
      const megabytes = (/** @type {number} */ bytes) => number(Math.round(bytes / 1e6))
      $('loading-text', HTMLElement).textContent = `Loading ${engine.model}: ${megabytes(engine.doneBytes)} of ${megabytes(engine.totalBytes)} MB`
      const bar = $('loading-bar', HTMLElement)
      const percent = Math.round(100 * engine.doneBytes / Math.max(1, engine.totalBytes))
      bar.setAttribute('aria-valuenow', String(percent))
      const fill = bar.firstElementChild
      if (fill instanceof HTMLElement) fill.style.width = `${percent}%`
      return
    }
    case 'ready':
      $('device-name', HTMLElement).textContent = `Runs on ${engine.device}`
      $('device-reason', HTMLElement).textContent = engine.deviceReason
      $('advice', HTMLElement).textContent = engine.advice
      return
    case 'failed': return showFailure(engine.reason)
  }
}

/** @param {Failure} reason */
function showFailure ({ message, nextStep }) {
  engineFailure.textContent = `${message} ${nextStep}`
  engineFailure.hidden = false
  announce(engineFailure.textContent)
}

form.addEventListener('submit', (event) => {
  event.preventDefault()
  const text = question.value.trim()
  if (!text || !source) return
  question.value = ''
  send.disabled = true
  ask({ kind: 'question', question: text })
})
question.addEventListener('input', () => { send.disabled = !question.value.trim() || !source })
question.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  form.requestSubmit()
})
// Escape closes the list of models first, then stops what is being written; only then does it close the popup.
addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return
  if (picker.close()) return event.preventDefault()
  if (!running().length) return
  event.preventDefault()
  stopAll()
})
stop.addEventListener('click', stopAll)
summarize.addEventListener('click', () => ask({ kind: 'summarize' }))
fresh.addEventListener('click', () => {
  stopAll()
  port.send({ type: 'forget', conversation })
  turns.clear()
  showRunning()
  known = false
  for (const turn of transcript.querySelectorAll('.turn')) turn.remove()
  empty.hidden = false
  fresh.hidden = true
  announce('New conversation')
  question.focus()
})
