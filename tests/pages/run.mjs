// Reads each page of this folder in Chromium and compares what comes out with what a person has read and found right, then
// tries passages, fields and hostile pages.
//   node tests/pages/run.mjs [NAME …] [--bless]
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Browser } from '../browser/chromium.mjs'
import { Web, folder, page } from '../browser/web.mjs'
import { BEHAVIOURS } from './behaviour.mjs'
import { World } from './world.mjs'
/** @import { PageText } from './world.mjs' */

const HERE = dirname(fileURLToPath(import.meta.url))
/** Pages that are read with fewer words than usual. @type {Record<string, number>} */
const MAX_WORDS = { legal: 500 }
const { values: { bless }, positionals: wanted } = parseArgs({ allowPositionals: true, options: { bless: { type: 'boolean' } } })

/** A line-by-line difference, by the longest common subsequence. @param {string} expected @param {string} found */
function difference (expected, found) {
  const [a, b] = [expected.split('\n'), found.split('\n')]
  const common = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1))
  for (let i = a.length - 1; i >= 0; i--) for (let k = b.length - 1; k >= 0; k--) common[i][k] = a[i] === b[k] ? common[i + 1][k + 1] + 1 : Math.max(common[i + 1][k], common[i][k + 1])
  const lines = []
  for (let i = 0, k = 0; i < a.length || k < b.length;) {
    if (i < a.length && k < b.length && a[i] === b[k]) {
      i++
      k++
    } else if (k < b.length && (i === a.length || common[i][k + 1] >= common[i + 1][k])) lines.push(`  + ${b[k++]}`)
    else lines.push(`  - ${a[i++]}`)
  }
  return lines.join('\n')
}

/** What a page is expected to say about itself, in the order of `Source`. @param {PageText} source */
const facts = ({ text: _text, url: _url, ...rest }) => `${JSON.stringify(rest, null, 2)}\n`

const web = await Web.start()
web.serve('pages.test', folder(HERE)).serve('other.test', page('<!doctype html><p>OTHER SITE</p>'))
const browser = await Browser.start({ web, extension: null })
let failures = 0
/** @param {string} name @param {() => Promise<string>} test answers what is wrong */
async function check (name, test) {
  const wrong = await test().catch((error) => String(error instanceof Error ? error.stack : error))
  console.log(`${wrong ? 'FAIL' : 'pass'}  ${name}`)
  if (!wrong) return
  console.log(wrong)
  failures++
}

for (const name of readdirSync(HERE).filter((name) => existsSync(join(HERE, name, 'page.html')))) {
  if (wanted.length && !wanted.includes(name)) continue
  await check(`page ${name}`, async () => {
    const tab = await browser.open(`http://pages.test/${name}/page.html`)
    try {
      const world = await World.in(tab)
      /** @type {PageText} */
      const source = await world.call('readPage', ...(name in MAX_WORDS ? [MAX_WORDS[name]] : []))
      const text = source.text && `${source.text}\n`
      const [textFile, factsFile] = ['expected.md', 'expected.json'].map((file) => join(HERE, name, file))
      if (bless) {
        writeFileSync(textFile, text)
        writeFileSync(factsFile, facts(source))
        return ''
      }
      return [
        difference(readFileSync(textFile, 'utf8'), text),
        difference(readFileSync(factsFile, 'utf8'), facts(source)),
        source.url === `http://pages.test/${name}/page.html` ? '' : `  url: ${source.url}`,
        /INJECTED|PRIVATE|CLOSED|OTHER SITE/.exec(source.text)?.[0] ?? ''
      ].filter(Boolean).join('\n')
    } finally {
      await tab.close()
    }
  })
}
for (const [name, test] of Object.entries(BEHAVIOURS)) {
  if (wanted.length && !wanted.includes(name)) continue
  await check(name, () => test(browser, web))
}
await browser.stop()
web.close()
console.log(failures ? `${failures} failed` : 'all passed')
process.exit(failures ? 1 : 0)
