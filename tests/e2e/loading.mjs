// What may go wrong around a load: the graphics device is lost or has no memory left, the file cannot be read, the user changes
// their mind. Nobody waits for ever, and what is said is what happened.
import { expect, sleep } from '../browser/cdp.mjs'
import { Client } from './client.mjs'
import { check, scenario } from './harness.mjs'
import { DOWNLOADS, OWN, files, filesWithTable, reachDevices, withOwnModel } from './lifecycle.mjs'
import { answer, click, modelsPage, reaches } from './models.mjs'
/** @import { Browser } from '../browser/chromium.mjs' */

/** @param {Browser} browser */
const engine = (browser) => expect('the engine runs', () => browser.workers.at(-1))

/**
 * Destroys so many of the devices that are opened from now on, each at the first weights that are written to it. Then there is no
 * adapter for a moment, as after the end of a graphics process.
 * @param {Browser} browser @param {number} devices @param {number} [absentMs]
 */
async function loseWhileLoading (browser, devices, absentMs = 0) {
  const worker = await engine(browser)
  await worker.eval((devices, absentMs) => {
    const scope = /** @type {any} */ (globalThis)
    scope.losses = devices
    scope.absentUntil = 0
    const { requestAdapter } = scope.GPU.prototype
    scope.GPU.prototype.requestAdapter = async function (/** @type {unknown[]} */ ...options) {
      return performance.now() < scope.absentUntil ? null : requestAdapter.apply(this, options)
    }
    const { requestDevice } = scope.GPUAdapter.prototype
    scope.GPUAdapter.prototype.requestDevice = async function (/** @type {unknown[]} */ ...options) {
      const device = await requestDevice.apply(this, options)
      if (scope.losses-- <= 0) return device
      const { queue } = device
      queue.writeBuffer = (/** @type {unknown[]} */ ...written) => {
        device.destroy()
        scope.absentUntil = performance.now() + absentMs
        scope.GPUQueue.prototype.writeBuffer.apply(queue, written)
      }
      return device
    }
  }, devices, absentMs)
}

/** How often the engine asked for an adapter, from the call on. @param {Browser} browser */
async function countAdapters (browser) {
  const worker = await engine(browser)
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    scope.adapters = 0
    const { requestAdapter } = scope.GPU.prototype
    scope.GPU.prototype.requestAdapter = function (/** @type {unknown[]} */ ...options) {
      scope.adapters++
      return requestAdapter.apply(this, options)
    }
  })
  return () => worker.eval(() => /** @type {any} */ (globalThis).adapters)
}

/** Has the model write a little, on this device. @param {Client} client @param {string} device */
async function writes (client, device) {
  const request = `on ${device}`
  await client.ask(request, { kind: 'explain' })
  const hasText = async () => (await client.answer(request)).events.some(({ kind }) => kind === 'text')
  await expect('it writes', async () => await hasText() || (await client.answer(request)).end, 60_000)
  check(await hasText(), `nothing was written: ${JSON.stringify((await client.answer(request)).end)}`)
  // What zeros write may be refused in the end, as unreliable.
  await client.send({ type: 'stop', request })
  const ready = (await client.states()).at(-1)
  check(ready?.state === 'ready' && ready.model === 'tiny' && ready.device.includes(device), `it wrote on: ${JSON.stringify(ready)}`)
}

/** Has it load the model where each device is lost: the CPU answers after the third, and why is said.
 *  @param {Client} client @param {{ count: () => Promise<number> }} devices */
async function givesUp (client, devices) {
  const ready = await client.use(OWN)
  check(ready?.device.startsWith('CPU'), `it runs on ${ready?.device}`)
  check(/lost while the model was loading, 3 times/.test(ready?.deviceReason ?? ''), `why is not said: ${ready?.deviceReason}`)
  check(await devices.count() === 3, `${await devices.count()} devices were opened`)
  await writes(client, 'CPU')
}

scenario('a graphics device lost while a model loads: another one is waited for', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  const devices = await reachDevices(stage.browser)
  await loseWhileLoading(stage.browser, 1, 1500)
  const ready = await client.use(OWN)
  check(ready?.device.includes('Test adapter'), `it runs on ${ready?.device}: ${ready?.deviceReason}`)
  check(/lost while the model was loading/.test(ready?.deviceReason ?? ''), `why is not said: ${ready?.deviceReason}`)
  check(/stays on the disk/.test(ready?.deviceReason ?? ''), `all of it was loaded again: ${ready?.deviceReason}`)
  check(await devices.count() === 2, `${await devices.count()} devices were opened`)
  await writes(client, 'Test adapter')
}, { gpu: 'software', ...DOWNLOADS })

scenario('every graphics device lost while a model loads: the CPU, and it is said why', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  const devices = await reachDevices(stage.browser)
  await loseWhileLoading(stage.browser, 100)
  await givesUp(client, devices)
}, { gpu: 'software', ...DOWNLOADS })

scenario('a driver that fails at a shader: the engine lives, and the CPU answers', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  const devices = await reachDevices(stage.browser)
  await (await engine(stage.browser)).eval(() => {
    const scope = /** @type {any} */ (globalThis)
    const { createComputePipeline } = scope.GPUDevice.prototype
    scope.GPUDevice.prototype.createComputePipeline = function (/** @type {unknown[]} */ ...wish) {
      const error = new scope.GPUInternalError('the compiler gave up')
      setTimeout(() => this.dispatchEvent(new scope.GPUUncapturedErrorEvent('uncapturederror', { error, cancelable: true })))
      return createComputePipeline.apply(this, wish)
    }
  })
  await givesUp(client, devices)
}, { gpu: 'software', ...DOWNLOADS })

scenario('the browser is asked for its adapter once a load', async (stage) => {
  const client = await withOwnModel(stage)
  await reachDevices(stage.browser)
  const asked = await countAdapters(stage.browser)
  await client.use(OWN)
  const first = await asked()
  await client.use('starter')
  await client.use(OWN)
  check(first <= 2 && await asked() === first + 2, `asked ${first} times for the first load, ${await asked()} for three`)
}, { gpu: 'software', ...DOWNLOADS })

/**
 * Lets buffers of so many bytes be made in all by each device; beyond, the browser itself makes an invalid one, and whoever listens
 * for it hears that memory ran out.
 * @param {Browser} browser @param {number} bytes
 */
async function limitMemory (browser, bytes) {
  const worker = await engine(browser)
  await worker.eval((bytes) => {
    const scope = /** @type {any} */ (globalThis)
    scope.refusals = 0
    const device = scope.GPUDevice.prototype
    const { createBuffer, pushErrorScope, popErrorScope } = device
    /** @type {WeakMap<object, { left: number, scopes: { filter: string, failed: boolean }[] }>} */
    const states = new WeakMap()
    const stateOf = (/** @type {object} */ of) => {
      const state = states.get(of) ?? { left: bytes, scopes: [] }
      states.set(of, state)
      return state
    }
    device.pushErrorScope = function (/** @type {string} */ filter) {
      stateOf(this).scopes.push({ filter, failed: false })
      pushErrorScope.call(this, filter)
    }
    device.popErrorScope = async function () {
      const top = stateOf(this).scopes.pop()
      const error = await popErrorScope.call(this)
      return error ?? (top?.failed ? new scope.GPUOutOfMemoryError('no memory is left') : null)
    }
    device.createBuffer = function (/** @type {{ size: number, usage: number }} */ wish) {
      const state = stateOf(this)
      if ((state.left -= wish.size) >= 0) return createBuffer.call(this, wish)
      scope.refusals++
      const listens = state.scopes.findLast(({ filter }) => filter === 'out-of-memory')
      if (listens) listens.failed = true
      pushErrorScope.call(this, 'validation')
      const invalid = createBuffer.call(this, { ...wish, size: this.limits.maxBufferSize + 4 })
      popErrorScope.call(this)
      return invalid
    }
  }, bytes)
  return () => worker.eval(() => /** @type {any} */ (globalThis).refusals)
}

scenario('no memory on the graphics device for all of a model: a part stays on the disk', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  const devices = await reachDevices(stage.browser)
  // The table has 67 MB.
  const refusals = await limitMemory(stage.browser, 60e6)
  const ready = await client.use(OWN)
  check(await refusals() > 0, 'nothing was refused')
  check(ready?.device.includes('Test adapter'), `it runs on ${ready?.device}: ${ready?.deviceReason}`)
  check(/stays on the disk/.test(ready?.deviceReason ?? ''), `all of it was loaded: ${ready?.deviceReason}`)
  check(await devices.count() === 2, `${await devices.count()} devices were opened`)
  await writes(client, 'Test adapter')
}, { gpu: 'software', ...DOWNLOADS })

scenario('no memory on the graphics device at all: the CPU, and it is said why', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  await reachDevices(stage.browser)
  const refusals = await limitMemory(stage.browser, 100_000)
  const ready = await client.use(OWN)
  check(await refusals() > 0, 'nothing was refused')
  check(ready?.device.startsWith('CPU') && /no memory left/.test(ready.deviceReason), `${ready?.device}: ${ready?.deviceReason}`)
  await writes(client, 'CPU')
}, { gpu: 'software', ...DOWNLOADS })

scenario('a stored file that cannot be read: it is said, and what to do; then it goes on', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  await client.use(OWN)
  const worker = await engine(stage.browser)
  // In the middle of an answer: some rows come, then none.
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    scope.readable = 40
    const handle = scope.FileSystemSyncAccessHandle.prototype
    const { read } = handle
    handle.read = function (/** @type {unknown[]} */ ...wish) {
      if (scope.readable-- > 0) return read.apply(this, wish)
      throw new DOMException('The disk does not answer.', 'InvalidStateError')
    }
  })
  await client.ask('r1', { kind: 'explain' })
  const { end } = await expect('it ends', async () => {
    const now = await client.answer('r1')
    return now.end && now
  }, 60_000)
  check(end?.kind === 'failed' && end.reason.code === 'storageFailed', JSON.stringify(end))
  const { message, nextStep } = end.reason
  check(/file of tiny .*could not be read.*disk does not answer/.test(message) && /models page/.test(nextStep), `${message} ${nextStep}`)
  const now = await client.models()
  check(now?.current === OWN && now.models.some(({ id, status }) => id === OWN && status.state === 'here'), 'the model is gone')
  await worker.eval(() => { /** @type {any} */ (globalThis).readable = Infinity })
  await writes(client, 'CPU')
}, DOWNLOADS)

scenario('stopped while its model loads: it ends at once, and the load goes on for the next', async ({ browser }) => {
  const client = await Client.open(browser)
  await client.send({ type: 'setIdle', minutes: 0 })
  const worker = await engine(browser)
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    const { fetch } = scope
    const released = new Promise((resolve) => { scope.release = resolve })
    scope.fetch = async (/** @type {unknown[]} */ ...wish) => {
      if (String(wish[0]).endsWith('.gguf')) await released
      return fetch(...wish)
    }
  })
  await client.ask('r1', { kind: 'explain' })
  await client.reaches('loading')
  await client.ask('r2', { kind: 'explain' })
  await client.send({ type: 'stop', request: 'r1' })
  await expect('it is stopped', async () => (await client.answer('r1')).end?.kind === 'stopped', 5000)
  await sleep(300)
  check(!(await client.answer('r2')).end, 'the other one ended too')
  await worker.eval(() => /** @type {any} */ (globalThis).release())
  await client.done('r2')
  check(!(await client.answer('r1')).text, 'it was written after all')
})

/** Has the engine stand still in the middle of an answer, at its next pause. Answers what lets it go on. @param {Browser} browser */
async function hold (browser) {
  const worker = await engine(browser)
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    /** @type {(() => void)[]} */
    const held = []
    const { postMessage } = scope.MessagePort.prototype
    scope.MessagePort.prototype.postMessage = function (/** @type {unknown[]} */ ...message) {
      held.push(() => postMessage.apply(this, message))
    }
    scope.goOn = () => {
      scope.MessagePort.prototype.postMessage = postMessage
      held.forEach((send) => send())
    }
  })
  return () => worker.eval(() => { /** @type {any} */ (globalThis).goOn() })
}

scenario('a model that cannot be loaded while others wait: they are told who answers', async (stage) => {
  const client = await withOwnModel(stage, files(''))
  const goOn = await hold(stage.browser)
  for (const request of ['runs', 'waits']) await client.ask(request, { kind: 'explain' })
  await client.send({ type: 'use', model: OWN })
  await goOn()
  const ran = await client.done('runs')
  const waited = await client.done('waits')
  check(!ran.notices.some((text) => /could not be loaded/.test(text)), `it had nothing to do with it: ${ran.notices}`)
  check(waited.notices.some((text) => /tiny could not be loaded.*Starter answers instead of tiny/s.test(text)), `notices: ${waited.notices}`)
  // The popup shows the last word: the reason, not the state that followed it.
  const heard = (await client.heard()).filter(({ type }) => type === 'notice' || type === 'status')
  const at = heard.findIndex(({ type }) => type === 'notice')
  check(at > 0 && heard.slice(0, at).some((message) => message.type === 'status' && message.engine.state === 'ready' && message.engine.model === 'Starter'), 'the reason came before the model that follows was ready')
  check(!heard.slice(at).some(({ type }) => type === 'status'), `a state took the reason's place: ${JSON.stringify(heard.slice(at))}`)
}, DOWNLOADS)

scenario('deleted while it answers, from a page that is closed at once', async (stage) => {
  const client = await withOwnModel(stage)
  await client.use(OWN)
  const goOn = await hold(stage.browser)
  await client.ask('r1', { kind: 'explain' })
  const page = await modelsPage(stage.browser)
  await reaches(page, OWN, 'here')
  await click(page, OWN, 'delete')
  await answer(page, 'yes')
  await sleep(300)
  await page.close()
  await goOn()
  await client.done('r1')
  await expect('it is gone', async () => !(await client.models())?.models.some(({ id }) => id === OWN), 20_000)
}, DOWNLOADS)

scenario('deleted and chosen again in one breath: it is deleted, and the packaged one answers', async (stage) => {
  const client = await withOwnModel(stage)
  await client.use(OWN)
  await client.ask('r1', { kind: 'explain' })
  await client.send({ type: 'delete', model: OWN })
  await client.send({ type: 'use', model: OWN })
  await client.done('r1')
  await expect('it is gone', async () => !(await client.models())?.models.some(({ id }) => id === OWN), 30_000)
  check((await client.models())?.current === 'starter', 'a model that is gone is the current one')
  await client.ask('r2', { kind: 'explain' })
  const { end } = await client.done('r2')
  check(end?.kind === 'done' && end.stats.model === 'Starter', JSON.stringify(end))
}, DOWNLOADS)
