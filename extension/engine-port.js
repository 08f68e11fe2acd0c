// A port straight to the engine's document, for the popup and the in-page card. Classic script: both load it.
// The service worker only makes the document exist; it may die at any time without this port noticing.
/** A request without a terminal message yet: its question (when asked here), the last `seq` received, and how it stands.
 *  @typedef {{ conversation: string, ask: ToEngine | null, seq: number, queued: boolean, heard: number, resumed: boolean }} OpenRequest */
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  /** The one message to the service worker. */
  const ENSURE_ENGINE = 'ensureEngine'
  const RETRY_DELAYS = [0, 100, 400, 1500]
  const RECONNECT_MS = 1000
  /** Refusals after which no open request gets an answer. @type {Failure['code'][]} */
  const ENDS = ['engineStopped', 'conversationGone']
  /** The engine reports progress every few seconds; a request silent for longer has lost its port or its engine. */
  const SILENCE_MS = 30_000

  const ENGINE_STOPPED = /** @type {const} */ ({
    code: 'engineStopped',
    message: 'The engine stopped before the answer was finished.',
    nextStep: 'Try again: it starts anew.'
  })
  const EXTENSION_RELOADED = /** @type {const} */ ({
    code: 'engineStopped',
    message: 'Sotto was updated or reloaded since this page was opened.',
    nextStep: 'Refresh the page, then try again.'
  })

  const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms))

  class EnginePort {
    /** @type {chrome.runtime.Port | null} */
    #port = null
    /** @type {Promise<void> | null} */
    #connecting = null
    /** @type {Map<string, OpenRequest>} */
    #open = new Map()
    /** @type {ToEngine[]} */
    #waiting = []
    #closed = false
    /** Connections tried since something was last heard. */
    #attempts = 0
    #watch = 0
    #onMessage
    #greeting

    /** @param {EnginePortOptions} options */
    constructor ({ onMessage, greeting = [] }) {
      this.#onMessage = onMessage
      this.#greeting = greeting
      this.#connect()
    }

    /** @param {ToEngine} message */
    send (message) {
      if (message.type === 'ask') this.#track(message.request, message.conversation, message)
      if (message.type === 'forget') this.#forgetConversation(message.conversation)
      if (this.#port) this.#post(message)
      else {
        this.#waiting.push(message)
        this.#connect()
      }
    }

    close () {
      this.#closed = true
      clearInterval(this.#watch)
      this.#port?.disconnect()
      this.#port = null
    }

    /** @param {string} request @param {string} conversation @param {ToEngine | null} ask */
    #track (request, conversation, ask) {
      this.#open.set(request, { conversation, ask, seq: -1, queued: false, heard: Date.now(), resumed: false })
      this.#watch ||= setInterval(() => this.#checkSilence(), 2000)
    }

    #connect () {
      if (this.#closed) return
      this.#connecting ??= this.#openPort().finally(() => { this.#connecting = null })
    }

    async #openPort () {
      while (this.#attempts < RETRY_DELAYS.length) {
        await sleep(RETRY_DELAYS[this.#attempts++])
        if (this.#closed) return
        if (!chrome.runtime?.id) return this.#failAll(EXTENSION_RELOADED)
        try {
          const answer = await chrome.runtime.sendMessage({ type: ENSURE_ENGINE })
          if (answer?.error) throw new Error(answer.error)
          const port = chrome.runtime.connect({ name: 'sotto' })
          port.onMessage.addListener((message) => this.#receive(message))
          port.onDisconnect.addListener(() => {
            void chrome.runtime?.lastError
            if (this.#port !== port) return
            this.#port = null
            if (this.#open.size) this.#connect()
            // An engine that ends each time must not be started in a circle.
            else if (this.#greeting.length) setTimeout(() => this.#connect(), RECONNECT_MS)
          })
          this.#port = port
          for (const message of this.#greeting) this.#post(message)
          this.#resume()
          for (const message of this.#waiting.splice(0)) this.#post(message)
          return
        } catch (error) {
          if (!chrome.runtime?.id) return this.#failAll(EXTENSION_RELOADED)
          console.warn('Sotto: the engine is not reachable yet:', error)
        }
      }
      this.#attempts = 0
      this.#failAll(ENGINE_STOPPED)
    }

    /** Asks for what was missed of each unfinished request. */
    #resume () {
      for (const [request, open] of this.#open) {
        const { conversation, ask, seq } = open
        if (ask && this.#waiting.includes(ask)) continue
        open.resumed = true
        if (seq >= 0) this.#post({ type: 'resume', request, afterSeq: seq })
        // Nothing came back: whether the question arrived is to be seen from what the conversation holds.
        else this.#post({ type: 'attach', conversation })
      }
    }

    /** @param {ToEngine} message */
    #post (message) {
      try {
        this.#port?.postMessage(message)
      } catch {
        // The port broke just now; its onDisconnect is on the way, but a message must not be lost in between.
        this.#port = null
        this.#waiting.push(message)
        this.#connect()
      }
    }

    /** @param {FromEngine} message */
    #receive (message) {
      if (message.type !== 'refused') this.#attempts = 0
      for (const state of this.#open.values()) state.heard = Date.now()
      if (message.type === 'refused') {
        // An engine that has ended, or does not know what is open, will not answer it either. Other refusals are about other things.
        if (this.#open.size && ENDS.includes(message.reason.code)) this.#failAll(message.reason)
        else this.#onMessage(message)
        return
      }
      if (message.type === 'attached') this.#askLost(message.conversation, message.requests)
      if (message.type !== 'update') return this.#onMessage(message)
      const { request, seq, event } = message
      // The tail of a request that ended here (or was never followed) is nobody's.
      if (!this.#open.has(request) && seq !== 0) return
      if (!this.#open.has(request)) this.#track(request, message.conversation, null)
      const state = /** @type {OpenRequest} */ (this.#open.get(request))
      if (seq <= state.seq) return
      if (seq > state.seq + 1) return this.#post({ type: 'resume', request, afterSeq: state.seq })
      state.seq = seq
      state.queued = event.kind === 'queued'
      state.resumed = false
      if (event.kind === 'done' || event.kind === 'stopped' || event.kind === 'failed') this.#forgetRequest(request)
      this.#onMessage(message)
    }

    /** Asks again what did not arrive. @param {string} conversation @param {string[]} arrived */
    #askLost (conversation, arrived) {
      for (const [request, open] of this.#open) {
        if (open.resumed && open.ask && open.seq < 0 && open.conversation === conversation && !arrived.includes(request)) this.#post(open.ask)
      }
    }

    #checkSilence () {
      // A page is not told when its extension is reloaded under it.
      if (!chrome.runtime?.id) return this.#failAll(EXTENSION_RELOADED)
      for (const state of this.#open.values()) {
        if (state.queued || Date.now() - state.heard < SILENCE_MS) continue
        if (state.resumed) return this.#failAll(ENGINE_STOPPED)
        for (const other of this.#open.values()) other.heard = Date.now()
        const port = this.#port
        this.#port = null
        port?.disconnect()
        this.#connect()
      }
    }

    /** Ends every open request here, for an engine that can no longer do it.
     *  @param {Failure} reason */
    #failAll (reason) {
      this.#waiting = []
      if (!this.#open.size) return this.#onMessage({ type: 'status', engine: { state: 'failed', reason } })
      for (const [request, { seq }] of [...this.#open]) {
        this.#forgetRequest(request)
        this.#onMessage({ type: 'update', request, conversation: '', seq: seq + 1, event: { kind: 'failed', reason } })
      }
    }

    /** @param {string} conversation */
    #forgetConversation (conversation) {
      this.#waiting = this.#waiting.filter((message) => !('conversation' in message && message.conversation === conversation))
      for (const [request, open] of this.#open) if (open.conversation === conversation) this.#forgetRequest(request)
    }

    /** @param {string} request */
    #forgetRequest (request) {
      this.#open.delete(request)
      if (this.#open.size) return
      clearInterval(this.#watch)
      this.#watch = 0
    }
  }

  /** Conversations about this document, forgotten when it goes. @type {Set<string>} */
  const conversations = new Set()
  /** @type {EnginePort | null} */
  let keeper = null

  /** @param {string} conversation */
  function forgetOnLeave (conversation) {
    conversations.add(conversation)
    if (keeper) return
    // The port is open before it is needed: while a page is being left there is no time to open one.
    keeper = new EnginePort({ onMessage: () => {} })
    addEventListener('pagehide', () => {
      for (const id of conversations) keeper?.send({ type: 'forget', conversation: id })
      conversations.clear()
      keeper?.close()
      keeper = null
    }, { once: true })
  }

  Object.assign(__sotto, { EnginePort, forgetOnLeave })
})()
