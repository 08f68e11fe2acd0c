// The engine's host: ports from the popup and from cards on one side, the worker with the engine on the other.
/** @typedef {{ client: string, message: FromEngine } | { ask: number, what: OfHost } | { crashed: string }} FromWorker */

/** @type {Map<string, chrome.runtime.Port>} */
const ports = new Map()
let clients = 0
/** @type {Worker | null} */
let worker = null

/** The worker, started when the first port opens and again after a crash. */
function engine () {
  if (worker) return worker
  worker = new Worker('worker.js', { type: 'module' })
  worker.onmessage = ({ data }) => {
    const from = /** @type {FromWorker} */ (data)
    if ('crashed' in from) crash(from.crashed)
    else if ('ask' in from) answer(from.ask, from.what)
    else ports.get(from.client)?.postMessage(from.message)
  }
  worker.onerror = (event) => crash(event.message)
  return worker
}

/** Tells the worker what the organisation has set; only the service worker can read it. */
async function readPolicy () {
  const policy = await chrome.runtime.sendMessage({ type: 'policy' })
  if (policy && !policy.error) engine().postMessage({ kind: 'policy', policy })
}

/** @param {number} ask @param {OfHost} what */
async function answer (ask, what) {
  const asker = worker
  const done = await carryOut(what).catch((error) => {
    console.error('Sotto:', what.kind, error)
    return false
  })
  asker?.postMessage({ kind: 'answer', ask, done })
}

/**
 * What the worker cannot do itself. The network lock is the service worker's: no other context may change rules.
 * @param {OfHost} what
 */
async function carryOut (what) {
  if (what.kind === 'persist') return navigator.storage.persist()
  const answer = await chrome.runtime.sendMessage({ type: 'network', to: what.to })
  if (answer?.error) throw new Error(answer.error)
  return answer?.done === true
}

/** @param {string} what */
function crash (what) {
  console.error('Sotto: the engine crashed:', what)
  worker?.terminate()
  worker = null
  // Whatever it was fetching, it is not any more.
  carryOut({ kind: 'network', to: [] }).catch(() => {})
  /** @type {FromEngine} */
  const message = { type: 'refused', reason: { code: 'engineStopped', message: 'The engine stopped unexpectedly.', nextStep: 'Try again: it starts anew.' } }
  for (const [client, port] of ports) {
    port.postMessage(message)
    port.disconnect()
    ports.delete(client)
  }
}

/** What a card in a web page may send; all else is for the extension's own pages. @type {ToEngine['type'][]} */
const FOR_CARDS = ['ask', 'attach', 'resume', 'stop', 'forget', 'warm']

/**
 * A page's process may speak only about conversations of its own document: what other tabs read stays out of its reach,
 * and so do the models.
 * @param {chrome.runtime.MessageSender | undefined} sender
 * @param {ToEngine} message
 */
function allowed (sender, message) {
  if (sender?.id !== chrome.runtime.id) return false
  if (sender.origin === location.origin) return true
  if (!FOR_CARDS.includes(message?.type)) return false
  return !('conversation' in message) || String(message.conversation).startsWith(`${sender.tab?.id}/${sender.documentId}/`)
}

chrome.runtime.onConnect.addListener((port) => {
  if (port.name !== 'sotto' || port.sender?.id !== chrome.runtime.id) return port.disconnect()
  const client = String(++clients)
  ports.set(client, port)
  if (port.sender.origin === location.origin) readPolicy().catch((error) => console.error('Sotto: the policy cannot be read:', error))
  engine().postMessage({ kind: 'connect', client })
  port.onMessage.addListener((message) => {
    if (allowed(port.sender, message)) return engine().postMessage({ kind: 'receive', client, message })
    port.postMessage({ type: 'refused', reason: { code: 'badMessage', message: 'This page may not ask that.', nextStep: 'Refresh the page and try again.' } })
  })
  port.onDisconnect.addListener(() => {
    if (ports.delete(client)) engine().postMessage({ kind: 'disconnect', client })
  })
})
