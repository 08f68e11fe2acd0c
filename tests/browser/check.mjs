// The reference checks of `sotto-cli check`, run by the shipped module inside Chromium.
//   node tests/browser/check.mjs cpu|reference|gpu
import { Lab } from './lab.mjs'

const device = /** @type {'cpu' | 'reference' | 'gpu'} */ (process.argv[2] ?? 'cpu')
const lab = await Lab.start({ gpu: device === 'gpu' ? 'software' : undefined })
let passed = true
try {
  // Both modules compute on the CPU; the plain one is for browsers without relaxed SIMD.
  for (const module of device === 'cpu' ? ['engine', 'engine_plain'] : ['engine']) {
    // A software graphics device takes minutes for the long prompts.
    const only = /** @type {[string, number] | undefined} */ (device === 'gpu' ? ['plain', 8] : undefined)
    const said = await lab.run({ module, device, check: `${lab.origin}/tests/golden/starter`, only })
    console.log(`${module}, ${device}\n${said}`)
    passed &&= said.endsWith('all checks passed')
  }
} catch (error) {
  console.log(error)
  passed = false
} finally {
  await lab.stop()
}
process.exit(passed ? 0 : 1)
