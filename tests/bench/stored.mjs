// Loading a model from the browser's storage: how fast beside a plain loop of reads, and with how much memory. The folder is got through
// the store first, from a server on this machine.
//   node tests/bench/stored.mjs FOLDER [--device cpu|reference|gpu|software] [--tables inside|outside] [--rounds N] [--new N]
// Tables are where a load leaves them by itself: outside of the CPU, inside of a graphics device that takes them.
// `sotto-cli synth e2b-mobile FOLDER` makes one of full size. Needs twice its bytes on the disk.
import { readFileSync, statSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { sleep } from '../browser/cdp.mjs'
import { Lab } from '../browser/lab.mjs'
import { file } from '../browser/web.mjs'

const { values: options, positionals: [folder] } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cpu' }, tables: { type: 'string' },
    rounds: { type: 'string', default: '3' }, new: { type: 'string', default: '0' }
  }
})
if (!folder || !['cpu', 'reference', 'gpu', 'software'].includes(options.device) || !['inside', 'outside', undefined].includes(options.tables)) throw new Error('usage: see the first lines of this file')

const isGpu = ['gpu', 'software'].includes(options.device)
const outside = (options.tables ?? (isGpu ? 'inside' : 'outside')) === 'outside'
const MEASURE_MS = 25
/** Lengths at which the ways onto a graphics device are measured. */
const PIECES = [1, 4, 8, 16].map((mib) => mib << 20)
/** The system is asked for resident memory, which takes longer, once in so many measurements. */
const RESIDENT_EVERY = 8

/** @param {number} bytes */
const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`
/** @param {number} rate bytes a second */
const gbs = (rate) => `${(rate / 1e9).toFixed(2)} GB/s`

/** The largest resident memory that any page's process has had, where the system tells. @param {Lab} lab */
async function peakResident (lab) {
  const { processInfo } = await lab.browser.cdp.send('SystemInfo.getProcessInfo')
  const peaks = processInfo.filter((/** @type {any} */ process) => process.type === 'renderer').map((/** @type {any} */ { id }) => {
    try {
      return 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${id}/status`, 'utf8'))?.[1] ?? 0)
    } catch {
      return 0
    }
  })
  return Math.max(0, ...peaks)
}

/**
 * Does a job and watches its worker: the largest JavaScript heap, the largest sum of array buffers beside WASM memory, and the largest
 * resident memory of its process.
 * @param {Lab} lab @param {import('../browser/lab.mjs').Job} job
 */
async function watched (lab, job) {
  const peak = { heap: 0, buffers: 0, resident: 0, samples: 0 }
  let over = false
  const result = await lab.run(job, async (worker) => {
    while (!over) {
      const usage = await worker.send('Runtime.getHeapUsage').catch(() => null)
      if (!usage) return
      peak.heap = Math.max(peak.heap, usage.usedSize + (usage.embedderHeapUsedSize ?? 0))
      peak.buffers = Math.max(peak.buffers, usage.backingStorageSize ?? 0)
      if (peak.samples++ % RESIDENT_EVERY === 0) peak.resident = Math.max(peak.resident, await peakResident(lab).catch(() => 0))
      await sleep(MEASURE_MS)
    }
  }).finally(() => { over = true })
  return { result, peak }
}

const lab = await Lab.start({
  gpu: options.device === 'gpu' ? 'hardware' : options.device === 'software' ? 'software' : undefined,
  serve: (url, response, request) => file(join(folder, url.pathname.replace('/models/measured/', '')), response, request)
})
try {
  const { product } = await lab.browser.cdp.send('Browser.getVersion')
  console.log(`${product}, ${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} cores; ${mb(statSync(join(folder, 'model.safetensors')).size)} of safetensors`)
  const got = await watched(lab, { get: `${lab.origin}/models/measured` })
  const { id, ms } = got.result
  const before = await lab.run({ readRate: id })
  console.log(`got: ${mb(before.bytes)} in ${(ms / 1000).toFixed(1)} s, ${gbs(before.bytes / ms * 1000)}; JS heap at most ${mb(got.peak.heap)}, buffers ${mb(got.peak.buffers)}`)
  if (isGpu) {
    const rates = await lab.run({ upload: id, pieces: PIECES })
    for (const [how, rate] of Object.entries(rates)) console.log(`${how}: ${gbs(Number(rate))}`)
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    const floor = await lab.run({ readRate: id })
    console.log(`\nplain reads of 8 MiB: ${gbs(floor.bytesPerSecond)}, into fresh WASM memory ${gbs(floor.freshBytesPerSecond)}; a row of 4,480 bytes: ${floor.microsecondsPerRow.toFixed(1)} µs`)
    /** @type {[number, number][]} */
    const bench = Number(options.new) ? [[4, Number(options.new)]] : [[1, 0]]
    const tableBytes = outside ? 64 << 20 : undefined
    // A device takes all weights if it can.
    const weightBytes = outside && isGpu ? before.bytes * 0.75 : undefined
    const { result: [result], peak } = await watched(lab, { stored: id, device: isGpu ? 'gpu' : /** @type {any} */ (options.device), tableBytes, weightBytes, bench })
    const seconds = (/** @type {number} */ ms) => `${(ms / 1000).toFixed(2)} s`
    const rate = result.weightBytes / result.weightsMs * 1000
    console.log(`load: ${seconds(result.loadMs)}, of which ${seconds(result.loadMs - result.weightsMs)} until the first weights; then ${mb(result.weightBytes)} in ${seconds(result.weightsMs)}: ${gbs(rate)}, ${(100 * rate / (isGpu ? floor.bytesPerSecond : floor.freshBytesPerSecond)).toFixed(0)} % of the floor`)
    console.log(`phases end at: ${result.marks.map((/** @type {{ name: string, at: number }} */ { name, at }) => `${name} ${at.toFixed(0)}`).join(', ')} ms`)
    console.log(`${result.device}: ${result.deviceReason}`)
    console.log(`WASM memory ${mb(result.wasmMemoryBytes)}; JS heap at most ${mb(peak.heap)}, buffers ${mb(peak.buffers)} (${peak.samples} samples); resident ${mb(peak.resident)}; ${result.prefillTokensPerSecond.toFixed(2)} tokens/s read`)
  }
} finally {
  await lab.stop()
}
process.exit(0)
