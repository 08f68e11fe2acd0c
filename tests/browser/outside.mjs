// A model of the store with its gathered tables in storage writes what it writes with all weights on the device: on the CPU because
// it may, on a graphics device because it has too little room. And one of floats is rounded on its way to a graphics device.
//   node tests/browser/outside.mjs
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from './chromium.mjs'
import { Lab } from './lab.mjs'
import { Mirror, pinned } from './mirror.mjs'

const golden = join(REPOSITORY, 'tests/golden')
/** A checkpoint, and a tokenizer that it needs and never uses. @param {string} name */
function checkpoint (name) {
  const model = ['config.json', 'model.safetensors'].map((file) => /** @type {const} */ ([file, readFileSync(join(golden, 'gemma4', name, file))]))
  const files = new Map([...model, ['tokenizer.json', readFileSync(join(golden, 'shapes/smollm-hf/tokenizer.json'))]])
  return files.set('sotto-manifest.json', pinned(files))
}
const models = { gemma: new Mirror(checkpoint('mobile-e2b'), '/models/gemma/'), floats: new Mirror(checkpoint('text-e2b'), '/models/floats/') }
const OUTSIDE = /stays on the disk/

const lab = await Lab.start({ gpu: 'software', serve: (url, ...rest) => models[url.pathname.startsWith('/models/gemma/') ? 'gemma' : 'floats'].handler(url, ...rest) })
let failed = 0
const check = (/** @type {string} */ what, /** @type {unknown} */ holds) => {
  failed += Number(!holds)
  console.log(`${what}: ${holds ? 'yes' : 'NO'}`)
}
try {
  const { id } = await lab.run({ get: `${lab.origin}/models/gemma` })
  const write = (/** @type {Partial<import('./lab.mjs').Job>} */ job) => lab.run({ stored: id, bench: [[40, 12]], ...job }).then(([result]) => result)
  const same = (/** @type {any} */ a, /** @type {any} */ b) => a.ids.length > 20 && a.ids.join() === b.ids.join()

  const cpu = await write({ device: 'reference' })
  const cpuOutside = await write({ device: 'reference', tableBytes: 0 })
  check('all weights are in memory when no table may stay in storage', !OUTSIDE.test(cpu.deviceReason))
  check('tables that may stay in storage do', OUTSIDE.test(cpuOutside.deviceReason))
  check('the CPU writes the same', same(cpu, cpuOutside))

  // As one that is short of memory stores keys and values.
  const gpu = await write({ device: 'gpu', tableBytes: 0, cacheBytes: 0 })
  check('a graphics device with room takes all', !OUTSIDE.test(gpu.deviceReason))
  const gpuOutside = await write({ device: 'gpu', tableBytes: 0, weightBytes: 175_000 })
  check('one with too little leaves tables in storage', OUTSIDE.test(gpuOutside.deviceReason))
  check('it writes the same', same(gpu, gpuOutside))
  check('short of memory, it stores keys and values as f16', gpu.f16Caches && gpuOutside.f16Caches)
  const refused = await write({ device: 'gpu', tableBytes: 0, weightBytes: 1000 }).then(() => '', String)
  check('one with no room says so', /no room for the weights/.test(refused))

  const { id: floats } = await lab.run({ get: `${lab.origin}/models/floats` })
  const exact = await write({ stored: floats, device: 'gpu', cacheBytes: 256 << 20 })
  const rounded = await write({ stored: floats, device: 'gpu', floatBytes: 0 })
  const both = await write({ stored: floats, device: 'gpu', floatBytes: 0, tableBytes: 0, weightBytes: 300_000 })
  check('short caches stay f32', !exact.f16Caches)
  check('floats stay floats where there is room', !/rounded/.test(exact.deviceReason) && exact.ids.length > 20)
  check('with too many they are rounded', /rounded to 8 bits/.test(rounded.deviceReason) && rounded.ids.length > 20)
  check('rounded, and with tables in storage', /rounded to 8 bits/.test(both.deviceReason) && OUTSIDE.test(both.deviceReason))
} catch (error) {
  console.log(error)
  failed++
} finally {
  await lab.stop()
}
console.log(failed ? `${failed} checks FAILED` : 'all checks passed')
process.exit(failed ? 1 : 0)
