// How long single kernels take on a graphics device in Chromium: hundreds of dispatches of one, each dependent on the one before, between two
// timestamps; and how long the browser takes to hand them over, whatever they do.
//   node tests/bench/shaders.mjs [--software] [--only NAME]
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { REPOSITORY } from '../browser/chromium.mjs'
import { Lab } from '../browser/lab.mjs'

const { values: options } = parseArgs({ options: { software: { type: 'boolean' }, only: { type: 'string', default: '' } } })

/** Dispatches of a measurement, and how many sets of buffers they go through: a layer does not find its keys in the nearest cache. */
const [DISPATCHES, SETS] = options.software ? [8, 2] : [280, 28]
/** Each kernel is measured once a round: what disturbs the machine disturbs all. */
const ROUNDS = options.software ? 1 : 7
const NONE = 0xffffffff

/**
 * A kernel of the shaders' folder. `data` are words; a buffer without them is filled with random floats. `shared` buffers are one for all
 * sets.
 * @typedef {{ binding: number, type: 'uniform' | 'storage' | 'read-only-storage', bytes: number, data?: number[], shared?: boolean }} Binding
 * @typedef {{ name: string, source: string, entry: string, constants: Record<string, number>, groups: [number, number, number], bindings: Binding[] }} Case
 */

/** @param {string[]} files */
const source = (...files) => files.map((file) => readFileSync(join(REPOSITORY, 'shaders', file), 'utf8')).join('\n')

/** The bits of a float. @param {number} value */
const bits = (value) => new Uint32Array(new Float32Array([value]).buffer)[0]

/** The uniform of lib/step.wgsl. @param {number} position @returns {Binding} */
const step = (position) => ({ binding: 1, type: 'uniform', bytes: 16, data: [position, 1, 0, 0], shared: true })

/** One token's attention to `positions`, of eight heads on one key/value head. @param {number} width @param {number} heads of a workgroup @param {number} positions @param {number} window @returns {Case} */
function attention (width, heads, positions, window) {
  const seen = window ? Math.min(window, positions) : positions
  const cache = { type: /** @type {const} */ ('read-only-storage'), bytes: positions * width * 4 }
  return {
    name: `attention of ${width} to ${seen} positions, part`,
    source: source('lib/grid.wgsl', 'lib/step.wgsl', 'lib/cache_f32.wgsl', 'grouped_attention.wgsl'),
    entry: 'part',
    constants: { D: width, HEADS: heads, BLOCK: 16 },
    groups: [8 / heads, Math.min(128, Math.ceil(seen / 16)), 1],
    bindings: [
      { binding: 0, type: 'uniform', bytes: 48, data: [8, 8 / heads, width / 4, window, bits(1), 0, NONE, 128, NONE, 0, 0, 0], shared: true },
      step(positions - 1),
      { binding: 2, type: 'read-only-storage', bytes: 8 * width * 4, shared: true },
      { binding: 3, ...cache },
      { binding: 4, ...cache },
      { binding: 5, type: 'storage', bytes: 8 * 128 * (width + 4) * 4, shared: true }
    ]
  }
}

/** The norms between two branches of E2B. @param {number} arrays of codes @returns {Case} */
function normChain (arrays) {
  const row = { type: /** @type {const} */ ('read-only-storage'), bytes: 1536 * 4 }
  const scales = [0, 1, 2, 3].map((n) => n < arrays ? n : NONE)
  return {
    name: `norm_chain of 1,536, ${arrays} rows of codes`,
    source: source('lib/grid.wgsl', 'lib/step.wgsl', 'norm_chain.wgsl'),
    entry: 'main',
    constants: { D: 1536 },
    groups: [1, 1, 1],
    bindings: [
      { binding: 0, type: 'uniform', bytes: 64, data: [arrays && 384, arrays, 2, 0, 1, 1, bits(1e-6), bits(1e-6), bits(1), NONE, 0, 0, ...scales], shared: true },
      step(511),
      { binding: 2, ...row }, { binding: 3, ...row }, { binding: 4, type: 'storage', bytes: row.bytes, shared: true }, { binding: 5, ...row },
      { binding: 6, type: 'read-only-storage', bytes: 4096 }, { binding: 7, type: 'storage', bytes: row.bytes, shared: true },
      { binding: 8, type: 'storage', bytes: 4 * row.bytes, shared: true }
    ]
  }
}

/** @type {Case} */
const nothing = {
  name: 'one addition',
  source: '@group(0) @binding(0) var<storage, read_write> a: array<f32>;\n@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) { if lane == 0u { a[0] += 1.0; } }',
  entry: 'main', constants: {}, groups: [1, 1, 1], bindings: [{ binding: 0, type: 'storage', bytes: 256, shared: true }]
}

const cases = [nothing, normChain(0), normChain(1), normChain(3), attention(256, 8, 512, 512), attention(512, 4, 512, 0), attention(512, 4, 8192, 0)]
  .filter(({ name }) => name.includes(options.only))

/** Runs in the page. @param {Case[]} cases @param {{ dispatches: number, sets: number, rounds: number }} how */
async function measure (cases, { dispatches, sets, rounds }) {
  const gpu = /** @type {any} */ (navigator).gpu
  const adapter = await gpu.requestAdapter()
  const { maxStorageBuffersPerShaderStage } = adapter.limits
  const device = await adapter.requestDevice({ requiredFeatures: ['timestamp-query'], requiredLimits: { maxStorageBuffersPerShaderStage } })
  const [MAP_READ, COPY_SRC, COPY_DST, UNIFORM, STORAGE, QUERY_RESOLVE] = [1, 4, 8, 64, 128, 512]
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 })
  const resolved = device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC })
  const staging = device.createBuffer({ size: 16, usage: MAP_READ | COPY_DST })
  const noise = Float32Array.from({ length: 1 << 18 }, () => Math.random() - 0.5)
  const made = []
  for (const { source, entry, constants, groups, bindings } of cases) {
    const buffer = (/** @type {Binding} */ { type, bytes, data }) => {
      const buffer = device.createBuffer({ size: bytes, usage: (type === 'uniform' ? UNIFORM : STORAGE) | COPY_DST })
      if (data) device.queue.writeBuffer(buffer, 0, new Uint32Array(data))
      else for (let at = 0; at < bytes; at += noise.byteLength) device.queue.writeBuffer(buffer, at, noise, 0, Math.min(noise.length, (bytes - at) / 4))
      return buffer
    }
    device.pushErrorScope('validation')
    const layout = device.createBindGroupLayout({ entries: bindings.map(({ binding, type }) => ({ binding, visibility: 4, buffer: { type } })) })
    const pipeline = device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ code: source }), entryPoint: entry, constants }
    })
    const common = new Map(bindings.filter(({ shared }) => shared).map((binding) => [binding.binding, buffer(binding)]))
    const bound = Array.from({ length: sets }, () => device.createBindGroup({
      layout, entries: bindings.map((binding) => ({ binding: binding.binding, resource: { buffer: common.get(binding.binding) ?? buffer(binding) } }))
    }))
    const error = await device.popErrorScope()
    if (error) throw new Error(error.message)
    made.push({ pipeline, bound, groups, device: /** @type {number[]} */ ([]), browser: /** @type {number[]} */ ([]) })
  }
  for (let round = 0; round < rounds; round++) {
    for (const one of made) {
      const run = () => {
        const encoder = device.createCommandEncoder()
        const pass = encoder.beginComputePass({ timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } })
        pass.setPipeline(one.pipeline)
        for (let i = 0; i < dispatches; i++) {
          pass.setBindGroup(0, one.bound[i % sets])
          pass.dispatchWorkgroups(...one.groups)
        }
        pass.end()
        encoder.resolveQuerySet(querySet, 0, 2, resolved, 0)
        encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16)
        device.queue.submit([encoder.finish()])
      }
      run()
      await device.queue.onSubmittedWorkDone()
      const start = performance.now()
      for (let i = 0; i < 4; i++) run()
      await device.queue.onSubmittedWorkDone()
      one.browser.push((performance.now() - start) * 1000 / 4 / dispatches)
      await staging.mapAsync(MAP_READ)
      const [begin, end] = new BigUint64Array(staging.getMappedRange().slice(0))
      staging.unmap()
      one.device.push(Number(end - begin) / 1000 / dispatches)
    }
  }
  const middle = (/** @type {number[]} */ all) => all.sort((a, b) => a - b)[all.length >> 1]
  return made.map(({ device, browser }) => ({ device: middle(device), least: device[0], browser: middle(browser) }))
}

const lab = await Lab.start({ gpu: options.software ? 'software' : 'hardware' })
try {
  const tab = await lab.browser.open(`${lab.origin}/tests/browser/lab.html`)
  const results = await tab.eval(measure, cases, { dispatches: DISPATCHES, sets: SETS, rounds: ROUNDS })
  process.stdout.write('µs a dispatch: on the device (least), with the browser\n')
  for (const [i, { device, least, browser }] of results.entries()) {
    process.stdout.write(`${cases[i].name.padEnd(48)} ${device.toFixed(2).padStart(8)} (${least.toFixed(2)}) ${browser.toFixed(2).padStart(8)}\n`)
  }
} finally {
  await lab.stop()
}
process.exit(0)
