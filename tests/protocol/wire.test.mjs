// The message fixtures on the scripts' side: they fit the types that the scripts are checked against, and the engine that
// ships understands them and answers in their form. `wire.rs` holds them against Rust.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
/** @import { FromEngine } from '../../offscreen/pkg/engine.js' */

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const WIRE = join(dirname(fileURLToPath(import.meta.url)), 'wire')
const PKG = join(ROOT, 'offscreen/pkg')

/** `ToEngine.ask.followUp.json` holds a `ToEngine`; `SourceKind.json` a list of `SourceKind`. */
const fixtures = readdirSync(WIRE).sort().map((file) => {
  const [type, ...rest] = file.replace(/\.json$/, '').split('.')
  const text = readFileSync(join(WIRE, file), 'utf8').trim()
  return { file, type, list: !rest.length, text, value: JSON.parse(text) }
})

test('every union of the generated types has fixtures', () => {
  const declared = [...readFileSync(join(PKG, 'engine.d.ts'), 'utf8').matchAll(/^export type (\w+) = [{"]/gm)].map(([, name]) => name)
  assert.ok(declared.includes('ToEngine') && declared.includes('FromEngine'), `engine.d.ts declares ${declared}`)
  assert.deepEqual(declared.filter((name) => !fixtures.some(({ type }) => type === name)), [])
})

test('the compiler takes each fixture for its type, and nothing like it', () => {
  const types = [...new Set(fixtures.map(({ type }) => type))]
  const lines = [`import type { ${types.map((type) => `${type} as ${type}_`).join(', ')} } from '../../offscreen/pkg/engine.js'`]
  for (const { file, type, list, text, value } of fixtures) {
    lines.push(`// ${file}`, `export const ${file.replace(/\W/g, '_')}: ${type}_${list ? '[]' : ''} = ${text}`)
    // A compiler that took anything would take this too; then the line above it is the error.
    const wrong = list ? [...value, 'noSuchName'] : { ...value, noSuchField: 1 }
    lines.push('// @ts-expect-error', `export const wrong_${file.replace(/\W/g, '_')}: ${type}_${list ? '[]' : ''} = ${JSON.stringify(wrong)}`)
  }
  const folder = join(ROOT, 'out/protocol')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'wire.ts'), `${lines.join('\n')}\n`)
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ extends: '../../tsconfig.json', compilerOptions: { types: [], noUnusedLocals: false }, include: ['wire.ts'] }))
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '--project', folder], { encoding: 'utf8' })
  assert.equal(status, 0, `${stdout}${stderr}`)
})

/** Which variant a message is, and the names of its fields. @param {any} value */
const form = (value) => `${value.type ?? value.kind ?? value.state} { ${Object.keys(value).sort().join()} }`

test('the shipped engine understands every message to it, and answers in the form of the fixtures', async () => {
  const { initSync, Session } = await import(pathToFileURL(join(PKG, 'engine_plain.js')).href)
  initSync({ module: readFileSync(join(PKG, 'engine_plain_bg.wasm')) })
  /** @type {FromEngine[]} */
  const heard = []
  const session = new Session((/** @type {string} */ _client, /** @type {FromEngine} */ message) => heard.push(message))
  session.connect('1')
  for (const { file, type, value } of fixtures) {
    if (type !== 'ToEngine') continue
    const before = heard.length
    session.receive('1', value)
    const refused = heard.slice(before).find((message) => message.type === 'refused' && message.reason.code === 'badMessage')
    assert.equal(refused, undefined, `${file} was refused`)
  }
  const before = heard.length
  session.receive('1', { type: 'noSuchMessage' })
  assert.equal(heard[before]?.type, 'refused')

  const known = new Set(fixtures.filter(({ type }) => type === 'FromEngine' || type === 'Event' || type === 'EngineState').map(({ value }) => form(value)))
  for (const message of heard) {
    const inner = message.type === 'update' ? [message.event] : message.type === 'status' ? [message.engine] : []
    for (const part of [message, ...inner]) assert.ok(known.has(form(part)), `no fixture has the form of ${JSON.stringify(part)}`)
  }
  assert.ok(heard.some(({ type }) => type === 'update') && heard.some(({ type }) => type === 'attached'), 'the engine said nothing')
})
