// Every shader, every entry point, compiled by the browser's own compiler: it refuses things that native tests accept.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Browser, REPOSITORY } from './chromium.mjs'
import { Web, page } from './web.mjs'

const SHADERS = join(REPOSITORY, 'shaders')
/** Sets of constants that change what is compiled. Names that a shader does not have are left out. */
const CONSTANTS = [{}, { BITS: 8 }, { BITS: 16, BFLOAT: 0 }, { BITS: 16, BFLOAT: 1 }, { BITS: 32 }, { HALF_SCALES: 0 }, { GROUP: 16 }]

/** A shader with the libraries that its comment asks for. @param {string} file */
function source (file) {
  const text = readFileSync(join(SHADERS, file), 'utf8')
  const needed = [...(/Needs ([^\n]*)/.exec(text)?.[1] ?? '').matchAll(/lib\/\w+\.wgsl/g)].map(([name]) => readFileSync(join(SHADERS, name), 'utf8'))
  return [...needed, text].join('\n')
}

const files = readdirSync(SHADERS).filter((file) => file.endsWith('.wgsl')).sort()
const shaders = files.map((file) => ({ file, code: source(file) }))
const web = await Web.start()
// WebGPU wants a secure context; this machine's own address is one.
web.serve('127.0.0.1', page('<!doctype html><title>Shaders</title>'))
const browser = await Browser.start({ extension: null, gpu: true, flags: ['--use-webgpu-adapter=swiftshader'] })
let failed = 0
try {
  const tab = await browser.open(`http://127.0.0.1:${web.port}/`)
  const results = await tab.eval(async (shaders, sets) => {
    // Types of WebGPU are not part of the DOM library.
    const gpu = /** @type {any} */ (navigator).gpu
    const adapter = await gpu?.requestAdapter()
    if (!adapter) throw new Error('this browser offers no WebGPU adapter')
    const device = await adapter.requestDevice()
    const results = []
    for (const { file, code } of shaders) {
      const module = device.createShaderModule({ code, label: file })
      const { messages } = await module.getCompilationInfo()
      const errors = messages.filter((/** @type {any} */ m) => m.type === 'error').map((/** @type {any} */ m) => `line ${m.lineNum}: ${m.message}`)
      const entries = [...code.matchAll(/@compute[\s\S]*?fn\s+(\w+)/g)].map(([, name]) => name)
      const overrides = new Set([...code.matchAll(/override\s+(\w+)/g)].map(([, name]) => name))
      let pipelines = 0
      for (const entryPoint of errors.length ? [] : entries) {
        for (const set of sets) {
          const constants = Object.fromEntries(Object.entries(set).filter(([name]) => overrides.has(name)))
          if (Object.keys(constants).length < Object.keys(set).length) continue
          try {
            await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants } })
            pipelines++
          } catch (error) {
            errors.push(`${entryPoint} with ${JSON.stringify(constants)}: ${error instanceof Error ? error.message : error}`)
          }
        }
      }
      if (!entries.length) errors.push('no entry point')
      results.push({ file, pipelines, errors })
    }
    return results
  }, shaders, CONSTANTS)
  for (const { file, pipelines, errors } of results) {
    if (errors.length) failed++
    console.log(`${errors.length ? 'FAIL' : 'PASS'} ${file}: ${pipelines} pipelines${errors.map((/** @type {string} */ e) => `\n     ${e}`).join('')}`)
  }
  console.log(`${results.length} shaders, ${results.reduce((/** @type {number} */ n, /** @type {any} */ r) => n + r.pipelines, 0)} pipelines`)
} finally {
  await browser.stop()
  web.close()
}
process.exit(failed || !shaders.length ? 1 : 0)
