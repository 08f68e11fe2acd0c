// A model's life: changed for another, put away when unused, loaded again, carried over a lost graphics device.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, sleep } from '../browser/cdp.mjs'
import { REPOSITORY } from '../browser/chromium.mjs'
import { Mirror, tinyModel } from '../browser/mirror.mjs'
import { Client } from './client.mjs'
import { check, scenario } from './harness.mjs'
/** @import { Browser } from '../browser/chromium.mjs' */
/** @import { Stage } from './harness.mjs' */

scenario('an unused model is put away, and comes back when it is needed', async ({ browser }) => {
  const client = await Client.open(browser)
  await client.send({ type: 'setIdle', minutes: 0.02 })
  await client.send({ type: 'warm' })
  await client.reaches('ready')
  await client.reaches('idle', 10_000)
  await client.ask('r1', { kind: 'explain' })
  check((await client.done('r1')).text, 'no text after the model came back')
  await client.reaches('idle', 10_000)
  const states = (await client.states()).map(({ state }) => state)
  check(states.filter((state) => state === 'ready').length === 2, `states: ${states}`)
  // Zero is never.
  await client.send({ type: 'setIdle', minutes: 0 })
  await client.send({ type: 'warm' })
  await client.reaches('ready')
  await sleep(3000)
  check((await client.states()).at(-1)?.state === 'ready', 'it was put away against the setting')
})

/** A model of the user's own: tiny, of random weights, so that its text means nothing and comes fast. */
export const OWN = 'own-tiny'
export const DOWNLOADS = { downloads: ['http://models.test/tiny/'] }

/** @param {string} [template] how it chats; none if empty */
export function files (template = '<|im_start|>user\n<|im_end|>') {
  const golden = join(REPOSITORY, 'tests/golden/shapes/smollm-hf')
  const config = JSON.parse(readFileSync(join(golden, 'config.json'), 'utf8'))
  const all = new Map([
    ['config.json', Buffer.from(JSON.stringify({ ...config, max_position_embeddings: 4096 }))],
    ...['tokenizer.json', 'model.safetensors'].map((name) => /** @type {const} */ ([name, readFileSync(join(golden, name))]))
  ])
  if (template) all.set('tokenizer_config.json', Buffer.from(JSON.stringify({ chat_template: template })))
  return all
}

/** Another: a Gemma 4 of zeros, whose table of 67 MB is only gathered. */
export function filesWithTable () {
  const all = tinyModel(350_000)
  const weights = /** @type {Buffer} */ (all.get('model.safetensors'))
  weights.fill(0, 8 + Number(weights.readBigUInt64LE(0)))
  all.set('tokenizer_config.json', Buffer.from(JSON.stringify({ chat_template: '<|im_start|>user\n<|im_end|>' })))
  return all
}

/** A client, once the user's own model is on the computer. @param {Stage} stage @param {Map<string, Buffer>} [model] */
export async function withOwnModel ({ browser, web }, model = files()) {
  web.serve('models.test', new Mirror(model).handler)
  const client = await Client.open(browser)
  await client.send({ type: 'models' })
  await client.send({ type: 'getFrom', address: 'http://models.test/tiny' })
  await expect('the model is here', async () => (await client.models())?.models.some(({ id, status }) => id === OWN && status.state === 'here'), 60_000)
  return client
}

scenario('models change: one at a time, a conversation goes on, the choice outlives the browser', async (stage) => {
  const client = await withOwnModel(stage)
  await client.ask('starter', { kind: 'explain' }, 'tab')
  await client.ask('after', { kind: 'question', question: 'When?' }, 'tab')
  await client.use(OWN)
  // The request that ran was finished by the one, those that waited were answered by the other.
  const first = await client.done('starter')
  const second = await client.done('after')
  check(first.end?.kind === 'done' && first.end.stats.model === 'Starter', JSON.stringify(first.end))
  check(second.end?.kind === 'done' && second.end.stats.model === 'tiny', JSON.stringify(second.end))
  check(second.text && !second.events.some(({ kind }) => kind === 'passages'), 'a model that leads did not answer by itself')
  check(second.events.some((event) => event.kind === 'writing' && event.label === ''), 'its answer is labelled a draft')
  check(second.events.filter(({ kind }) => kind === 'text').length > 1, 'its answer does not stream')
  await expect('it is the current one', async () => (await client.models())?.current === OWN)

  // A model that is not here changes nothing.
  await client.send({ type: 'use', model: 'gemma-4-e2b' })
  await expect('it is refused', async () => (await client.heard()).some((message) => message.type === 'refused' && message.reason.code === 'notFound'))
  check((await client.models())?.current === OWN, 'the model changed')

  await stage.restart()
  const again = await Client.open(stage.browser)
  await again.ask('restarted', { kind: 'summarize' })
  const third = await again.done('restarted')
  check(third.end?.kind === 'done' && third.end.stats.model === 'tiny', `after a restart: ${JSON.stringify(third.end)}`)

  // Back, and deleted while it answers: the packaged one takes over.
  await again.send({ type: 'models' })
  await again.send({ type: 'delete', model: OWN })
  await expect('the packaged one is current', async () => (await again.models())?.current === 'starter', 30_000)
  await expect('it is gone', async () => !(await again.models())?.models.some(({ id }) => id === OWN), 30_000)
  await again.ask('deleted', { kind: 'explain' })
  check((await again.done('deleted')).text, 'no answer after the model was deleted')
}, DOWNLOADS)

scenario('a model that cannot be loaded: the packaged one answers, and it is said why', async (stage) => {
  const client = await withOwnModel(stage, files(''))
  await client.send({ type: 'use', model: OWN })
  const notice = await expect('it is said', async () => (await client.heard()).find((message) => message.type === 'notice'), 60_000)
  check(notice.type === 'notice' && /tiny could not be loaded.*chat/.test(notice.reason.message) && notice.reason.nextStep, JSON.stringify(notice))
  await client.ask('r1', { kind: 'explain' })
  const { end } = await client.done('r1')
  check(end?.kind === 'done' && end.stats.model === 'Starter', JSON.stringify(end))
  check((await client.models())?.current === 'starter', 'the current model is another')
}, DOWNLOADS)

scenario('a table that stays on the disk: its model is mended and deleted while it is loaded', async (stage) => {
  const client = await withOwnModel(stage, filesWithTable())
  const status = async () => (await client.models())?.models.find(({ id }) => id === OWN)?.status.state
  await client.page.eval(async (/** @type {string} */ id) => {
    const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models')
    const file = await (await (await models.getDirectoryHandle(id)).getFileHandle('data-1')).createWritable({ keepExistingData: true })
    await file.write({ type: 'write', position: 20_000_000, data: new Uint8Array(16).fill(1) })
    await file.close()
  }, OWN)
  const ready = await client.use(OWN)
  check(ready?.deviceReason.includes('stays on the disk'), `all of it was loaded: ${ready?.deviceReason}`)
  await client.send({ type: 'check', model: OWN })
  await expect('the damage is found', async () => await status() === 'failed', 60_000)
  await client.send({ type: 'resumeGet', model: OWN })
  await expect('it is mended', async () => await status() === 'here', 60_000)
  check((await client.states()).at(-1)?.state === 'idle', 'it stayed loaded over its own file')
  check(await client.use(OWN), 'it does not load again')
  await client.send({ type: 'delete', model: OWN })
  await expect('it is gone', async () => await status() === undefined, 30_000)
}, DOWNLOADS)

/**
 * Makes the worker's graphics adapter look like hardware, since the engine passes over software, and keeps the devices it
 * opens where they can be destroyed. Draws the same random numbers for every answer.
 * @param {Browser} browser
 */
export async function reachDevices (browser) {
  const worker = await expect('the engine runs', () => browser.workers.at(-1))
  await worker.eval(() => {
    const scope = /** @type {any} */ (globalThis)
    scope.devices = []
    scope.Math.random = () => 0.4
    const request = scope.GPUAdapter.prototype.requestDevice
    scope.GPUAdapter.prototype.requestDevice = async function (/** @type {unknown[]} */ ...options) {
      const device = await request.apply(this, options)
      scope.devices.push(device)
      return device
    }
    Object.defineProperty(scope.GPUAdapter.prototype, 'info', {
      get: () => ({ vendor: 'test', architecture: '', device: '', description: 'Test adapter', isFallbackAdapter: false, subgroupMinSize: 4, subgroupMaxSize: 4 })
    })
  })
  return {
    destroy: () => worker.eval(() => /** @type {any} */ (globalThis).devices.at(-1).destroy()),
    count: () => worker.eval(() => /** @type {any} */ (globalThis).devices.length)
  }
}

/** Asks, and waits until some text has come. @param {Client} client @param {string} request @param {number} letters */
const written = (client, request, letters) => expect('text', async () => {
  const { text, end } = await client.answer(request)
  check(!end, `it ended before: ${JSON.stringify(end)}`)
  return text.length > letters && text
}, 120_000, 5)

scenario('a lost graphics device: the answer goes on where it was', async (stage) => {
  const client = await withOwnModel(stage)
  const devices = await reachDevices(stage.browser)
  const ready = await client.use(OWN)
  check(ready?.device.includes('Test adapter'), `it runs on ${ready?.device}`)
  await client.ask('whole', { kind: 'summarize' })
  const whole = await client.done('whole')
  check(whole.text.length > 300, `too short for this test: "${whole.text}"`)

  await client.ask('lost', { kind: 'summarize' })
  const before = await written(client, 'lost', 40)
  await devices.destroy()
  const lost = await client.done('lost')
  check(lost.text.startsWith(before.trim()), `"${before}" did not stay: "${lost.text}"`)
  check(lost.text === whole.text, `it went on otherwise than without the loss: "${lost.text}", not "${whole.text}"`)
  check(await devices.count() === 2, `${await devices.count()} devices were opened`)

  // Lost while nothing runs.
  await devices.destroy()
  await client.ask('after', { kind: 'summarize' })
  const after = await written(client, 'after', 200)
  await client.send({ type: 'stop', request: 'after' })
  check(whole.text.startsWith(after.trim()), `it is another answer after a loss between requests: "${after}"`)
  stage.note(`${whole.text.length} letters`)
}, { gpu: 'software', ...DOWNLOADS })

scenario('a graphics device lost again and again: the CPU takes over, and says so', async (stage) => {
  const client = await withOwnModel(stage)
  const devices = await reachDevices(stage.browser)
  await client.use(OWN)
  await client.ask('r1', { kind: 'summarize' })
  for (let losses = 1; losses <= 3; losses++) {
    await expect(`device ${losses}`, async () => await devices.count() >= losses, 120_000, 5)
    // More than there was while it loads: it is this device that writes.
    const { text } = await client.answer('r1')
    await written(client, 'r1', text.length + 30)
    await devices.destroy()
  }
  const answer = await client.done('r1')
  check(answer.notices.some((text) => /graphics device failed.*CPU/s.test(text)), `notices: ${answer.notices}`)
  const ready = await client.reaches('ready')
  check(ready.state === 'ready' && ready.device.startsWith('CPU'), JSON.stringify(ready))
}, { gpu: 'software', ...DOWNLOADS })
