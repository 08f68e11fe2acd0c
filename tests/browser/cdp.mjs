// The DevTools protocol over Chromium's debugging pipe: JSON messages, each ended by a zero byte.

/** @param {number} ms @returns {Promise<void>} */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** How long a busy machine may take for what a user sees at once; what must be quick is timed by the test that says so. */
const PATIENCE_MS = 20_000

/** @template T @typedef {Exclude<T, false | null | undefined | 0 | ''>} Truthy */

/**
 * Waits until a function answers something truthy; null when it never does.
 * @template T
 * @param {() => T | Promise<T>} question
 * @param {number} [ms]
 * @param {number} [step]
 * @returns {Promise<Truthy<T> | null>}
 */
export async function until (question, ms = PATIENCE_MS, step = 25) {
  const end = performance.now() + ms
  for (;;) {
    const answer = await question()
    if (answer) return /** @type {Truthy<T>} */ (answer)
    if (performance.now() > end) return null
    await sleep(step)
  }
}

/** As `until`, but running out of time is an error in words.
 * @template T
 * @param {string} what @param {() => T | Promise<T>} question @param {number} [ms] @param {number} [step]
 * @returns {Promise<Truthy<T>>} */
export async function expect (what, question, ms = PATIENCE_MS, step = 25) {
  const answer = await until(question, ms, step)
  if (answer === null) throw new Error(`not within ${(ms / 1000).toFixed(1)} s: ${what}`)
  return answer
}

/** @typedef {{ targetId: string, type: string, url: string, title: string, attached: boolean, embedderData?: { tabActive?: boolean } }} Target */

export class Cdp {
  #next = 0
  #buffer = ''
  /** @type {Map<number, { method: string, resolve: (value: any) => void, reject: (error: Error) => void, timer: NodeJS.Timeout }>} */
  #pending = new Map()
  /** @type {Map<string, Set<(params: any, sessionId?: string) => void>>} */
  #listeners = new Map()
  #write

  /** @param {import('node:stream').Writable} write @param {import('node:stream').Readable} read */
  constructor (write, read) {
    this.#write = write
    // A browser that has gone is noticed by its exit; a write after that must not end us.
    write.on('error', () => {})
    read.setEncoding('utf8')
    read.on('data', (piece) => {
      const messages = (this.#buffer + piece).split('\0')
      this.#buffer = messages.pop() ?? ''
      for (const message of messages) this.#receive(JSON.parse(message))
    })
    read.on('close', () => this.#abandon(() => true, 'the browser has gone'))
    this.on('Target.detachedFromTarget', ({ sessionId }) => this.#abandon((id) => this.#sessions.get(id) === sessionId, 'its target has gone'))
  }

  /** Which session each pending message belongs to: the browser never answers for a target that went away. @type {Map<number, string>} */
  #sessions = new Map()

  /** @param {any} message */
  #receive (message) {
    if (!message.id) {
      for (const listener of this.#listeners.get(message.method) ?? []) listener(message.params, message.sessionId)
      return
    }
    const waiting = this.#pending.get(message.id)
    if (!waiting) return
    this.#forget(message.id)
    if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`))
    else waiting.resolve(message.result)
  }

  /** @param {(id: number) => boolean} which @param {string} why */
  #abandon (which, why) {
    for (const [id, { method, reject }] of [...this.#pending]) {
      if (!which(id)) continue
      this.#forget(id)
      reject(new Error(`${method}: ${why}`))
    }
  }

  /** @param {number} id */
  #forget (id) {
    clearTimeout(this.#pending.get(id)?.timer)
    this.#pending.delete(id)
    this.#sessions.delete(id)
  }

  /** @param {string} method @param {object} [params] @param {string} [sessionId] @param {number} [ms] @returns {Promise<any>} */
  send (method, params = {}, sessionId = undefined, ms = 30_000) {
    const id = ++this.#next
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#forget(id)
        reject(new Error(`${method}: no answer in ${ms / 1000} s`))
      }, ms)
      this.#pending.set(id, { method, resolve, reject, timer })
      if (sessionId) this.#sessions.set(id, sessionId)
      this.#write.write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
    })
  }

  /** @param {string} event @param {(params: any, sessionId?: string) => void} listener @returns {() => void} stops listening */
  on (event, listener) {
    const all = this.#listeners.get(event) ?? new Set()
    this.#listeners.set(event, all.add(listener))
    return () => { all.delete(listener) }
  }

  /** Every target, also those that are hidden by default. @returns {Promise<Target[]>} */
  async targets () {
    return (await this.send('Target.getTargets', { filter: [{}] })).targetInfos
  }

  /** @param {(target: Target) => boolean} wanted @param {number} [ms] @returns {Promise<Target | null>} */
  find (wanted, ms = PATIENCE_MS) {
    return until(async () => (await this.targets()).find(wanted), ms)
  }

  /** @param {string} targetId @returns {Promise<Session>} */
  async attach (targetId) {
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true })
    return new Session(this, targetId, sessionId)
  }
}

/** One attached target. */
export class Session {
  /** @param {Cdp} cdp @param {string} targetId @param {string} sessionId */
  constructor (cdp, targetId, sessionId) {
    this.cdp = cdp
    this.targetId = targetId
    this.sessionId = sessionId
  }

  /** @param {string} method @param {object} [params] @param {number} [ms] */
  send (method, params, ms) {
    return this.cdp.send(method, params, this.sessionId, ms)
  }

  /** @param {string} event @param {(params: any) => void} listener */
  on (event, listener) {
    return this.cdp.on(event, (params, sessionId) => { if (sessionId === this.sessionId) listener(params) })
  }

  /**
   * Evaluates an expression, or a function with JSON arguments, and answers its value.
   * @template {any[]} A, R
   * @param {string | ((...args: A) => R)} code
   * @param {A} args
   * @returns {Promise<Awaited<R>>}
   */
  async eval (code, ...args) {
    const expression = typeof code === 'string' ? code : `(${code})(${args.map((arg) => JSON.stringify(arg) ?? 'undefined').join()})`
    const answer = await this.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true }, 600_000)
    const { exceptionDetails: failure } = answer
    if (failure) throw new Error(failure.exception?.description ?? failure.text)
    return answer.result.value
  }

  async detach () {
    await this.send('Target.detachFromTarget', { sessionId: this.sessionId }).catch(() => {})
  }
}
