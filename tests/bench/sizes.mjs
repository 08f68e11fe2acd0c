// Reading and writing speed of a Hugging Face folder in Chromium, at several lengths of the prompt, with prompts of ids: no tokenizer.
//   node tests/bench/sizes.mjs FOLDER [--device cpu|gpu|gpu-f16] [--prompts 512,2048,8192] [--new 128]
import { cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Lab } from '../browser/lab.mjs'
import { file } from '../browser/web.mjs'

const { values: options, positionals: [folder] } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string', default: 'gpu' }, prompts: { type: 'string', default: '512,2048,8192' }, new: { type: 'string', default: '128' } }
})
if (!folder || !['cpu', 'gpu', 'gpu-f16'].includes(options.device)) throw new Error('usage: see the first lines of this file')

const lab = await Lab.start({
  gpu: options.device !== 'cpu' ? 'hardware' : undefined,
  serve: (url, response, request) => file(join(resolve(folder), url.pathname.replace('/models/measured/', '')), response, request)
})
try {
  const { product } = await lab.browser.cdp.send('Browser.getVersion')
  process.stdout.write(`${product}, ${cpus()[0]?.model ?? 'unknown CPU'}, ${options.device}\n`)
  /** The first prompt is short and makes the device's programs. @type {[number, number][]} */
  const bench = [[16, 8], ...options.prompts.split(',').map((tokens) => /** @type {[number, number]} */ ([Number(tokens), Number(options.new)]))]
  const rows = await lab.run({ folder: `${lab.origin}/models/measured`, device: /** @type {'cpu' | 'gpu' | 'gpu-f16'} */ (options.device), bench })
  process.stdout.write(`load ${(rows[0].loadMs / 1000).toFixed(2)} s, ${(rows[0].weightBytes / 1e6).toFixed(0)} MB of weights, WASM ${(rows[0].wasmMemoryBytes / 1e6).toFixed(0)} MB\n`)
  process.stdout.write('prompt   read tok/s   first token ms   greedy tok/s   drawn tok/s   logits read back tok/s\n')
  for (const row of rows) {
    const rates = [row.prefillTokensPerSecond, row.prefillMs, row.greedyTokensPerSecond, row.sampledTokensPerSecond, row.decodeTokensPerSecond]
    process.stdout.write(`${String(row.promptTokens).padStart(6)} ${rates.map((rate) => rate.toFixed(1).padStart(14)).join('')}\n`)
  }
} finally {
  await lab.stop()
}
process.exit(0)
