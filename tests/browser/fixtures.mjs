// The Gemma 4 checkpoints of tests/golden against their references, by the shipped module inside Chromium.
//   node tests/browser/fixtures.mjs gpu|gpu-f16|reference|cpu [NAME]
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from './chromium.mjs'
import { Lab } from './lab.mjs'

const device = /** @type {'reference' | 'gpu' | 'gpu-f16' | 'cpu'} */ (process.argv[2] ?? 'gpu')
const folders = join(REPOSITORY, 'tests/golden/gemma4')
const names = readdirSync(folders).filter((name) => name.includes(process.argv[3] ?? '') && existsSync(join(folders, name, 'model.safetensors')))
const lab = await Lab.start({ gpu: device.startsWith('gpu') ? 'software' : undefined })
let failed = 0
try {
  for (const name of names) {
    const said = String(await lab.run({ device, folder: `${lab.origin}/tests/golden/gemma4/${name}` }))
    const passed = said.endsWith('all checks passed')
    failed += Number(!passed)
    console.log(`${name}, ${device}: ${passed ? 'all checks passed' : `\n${said}`}`)
  }
} catch (error) {
  console.log(error)
  failed++
} finally {
  await lab.stop()
}
console.log(failed || !names.length ? `${failed} of ${names.length} checkpoints FAILED` : `${names.length} checkpoints: all checks passed`)
process.exit(failed || !names.length ? 1 : 0)
