// Tokens per second in Chromium: ours, and on request wllama, on the same file, one after the other in one browser.
//   node tests/bench/run.mjs [--against wllama] [--json FILE] [--gpu]
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { expect } from '../browser/cdp.mjs'
import { Lab } from '../browser/lab.mjs'

const { values: options } = parseArgs({ options: { against: { type: 'string' }, json: { type: 'string' }, gpu: { type: 'boolean' } } })
if (options.against && options.against !== 'wllama') throw new Error(`the only rival here is wllama, not ${options.against}`)

const NEW_TOKENS = 100
const CONTEXT = 2048
/** Words that no cache holds yet, and a prompt of somewhat more than 512 tokens; both engines are warmed up alike. */
const WARM_UP = 'Before the harvest the miller counts his sacks, his cats and the days until the fair.'
const PROMPT = `<|im_start|>user\n${Array.from({ length: 22 }, (_, i) =>
  `On day ${i + 1} the surveyors walked ${7 + i} kilometres along the old canal and noted every lock, bridge and broken gate.`).join(' ')}\nSummarize.<|im_end|>\n<|im_start|>assistant\n`

/** @typedef {{ name: string, threads: number | string, promptTokens: number, newTokens: number, prefillTokensPerSecond: number, decodeTokensPerSecond: number, memoryBytes: number | null, loadMs: number }} Row */

/** @param {Lab} lab @param {number} threads */
async function wllama (lab, threads) {
  say(`measuring wllama, ${threads} thread${threads > 1 ? 's' : ''}`)
  const tab = await lab.browser.open(`${lab.origin}/tests/bench/wllama.html`)
  try {
    await expect('wllama\'s page is ready', () => tab.eval('window.ready'), 30_000)
    const result = await tab.eval((job) => /** @type {any} */ (window).measure(job), { threads, prompt: PROMPT, warmUp: WARM_UP, newTokens: NEW_TOKENS })
    if (threads > 1 && !result.isolated) throw new Error('the page is not isolated, so wllama has one thread only')
    return result
  } finally {
    await tab.close()
  }
}

/** @param {Lab} lab @param {'cpu' | 'gpu'} device @param {number} promptTokens @param {number} newTokens */
async function ours (lab, device, promptTokens, newTokens) {
  say(`measuring sotto, ${device}, ${promptTokens} tokens`)
  const [, result] = await lab.run({ device, bench: [[32, 8], [promptTokens, newTokens]] })
  return result
}

/** @param {any} result @param {string} name @param {number | string} threads @returns {Row} */
const row = (result, name, threads) => ({ ...result, name, threads, memoryBytes: result.wasmMemoryBytes ?? null })

/** A run takes minutes; this says that it goes on. @param {string} what */
const say = (what) => process.stderr.write(`${what}\n`)

const lab = await Lab.start({ gpu: options.gpu ? 'hardware' : undefined })
/** @type {Row[]} */
const rows = []
try {
  let promptTokens = 512
  /** @type {any} */
  let rival = null
  if (options.against) {
    rival = await wllama(lab, 1)
    promptTokens = rival.promptTokens
    if (!(promptTokens >= 512)) throw new Error(`wllama read ${promptTokens} tokens, 512 or more are wanted`)
    rows.push(row(rival, 'wllama', 1))
    if (cpus().length > 1) rows.push(row(await wllama(lab, 2), 'wllama', 2))
  }
  const own = await ours(lab, 'cpu', promptTokens, NEW_TOKENS)
  rows.push(row(own, 'sotto, CPU', 1))
  rows.push(row(await ours(lab, 'cpu', CONTEXT, 16), `sotto, CPU, context ${CONTEXT}`, 1))
  if (options.gpu) {
    const gpu = await ours(lab, 'gpu', promptTokens, NEW_TOKENS)
    rows.push(row(gpu, `sotto, ${gpu.device}`, 'GPU'))
  }
  const { product } = await lab.browser.cdp.send('Browser.getVersion')
  console.log(`${product}, ${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} cores; ${promptTokens} tokens read, ${NEW_TOKENS} written greedily\n`)
  console.log(`${'engine'.padEnd(28)}${['threads', 'prefill tok/s', 'decode tok/s', 'load s', 'WASM memory'].map((name) => name.padStart(15)).join('')}`)
  for (const r of rows) {
    const memory = r.memoryBytes === null ? '' : `${(r.memoryBytes / 1e6).toFixed(0)} MB`
    const cells = [String(r.threads), r.prefillTokensPerSecond.toFixed(1), r.decodeTokensPerSecond.toFixed(1), (r.loadMs / 1000).toFixed(1), memory]
    console.log(`${r.name.padEnd(28)}${cells.map((cell) => cell.padStart(15)).join('')}`)
  }
  const ratios = rival && { decode: own.decodeTokensPerSecond / rival.decodeTokensPerSecond, prefill: own.prefillTokensPerSecond / rival.prefillTokensPerSecond }
  if (ratios) console.log(`\nratio decode ${ratios.decode.toFixed(1)}\nratio prefill ${ratios.prefill.toFixed(1)}`)
  const json = JSON.stringify({ browser: product, cpu: cpus()[0]?.model, cores: cpus().length, promptTokens, newTokens: NEW_TOKENS, rows, ratios }, null, 2)
  if (options.json) writeFileSync(options.json, `${json}\n`)
  else console.log(`\n${json}`)
} finally {
  await lab.stop()
}
process.exit(0)
