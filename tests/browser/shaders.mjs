// Every shader in every variant that a model can ask for, compiled by the browser's own compiler: it refuses things that
// native tests accept. The list comes from Rust, whose tests keep it complete.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Browser, REPOSITORY } from './chromium.mjs'
import { Web, page } from './web.mjs'

/**
 * @typedef {object} Listed
 * @property {string} name
 * @property {string[]} files whole files under shaders/, one after the other
 * @property {string} entry
 * @property {[number, string][]} bindings
 * @property {Record<string, number>[]} variants
 */

/** @type {Listed[]} */
const list = JSON.parse(readFileSync(join(REPOSITORY, 'tests/shaders/variants.json'), 'utf8'))
const shaders = list.map((listed) => ({
  ...listed,
  code: listed.files.map((file) => readFileSync(join(REPOSITORY, 'shaders', file), 'utf8')).join('')
}))
const web = await Web.start()
// WebGPU wants a secure context; this machine's own address is one.
web.serve('127.0.0.1', page('<!doctype html><title>Shaders</title>'))
const browser = await Browser.start({ extension: null, gpu: 'software' })
let failed = 0
try {
  const tab = await browser.open(`http://127.0.0.1:${web.port}/`)
  const results = await tab.eval(async (shaders) => {
    // Types of WebGPU are not part of the DOM library.
    const gpu = /** @type {any} */ (navigator).gpu
    const adapter = await gpu?.requestAdapter()
    if (!adapter) throw new Error('this browser offers no WebGPU adapter')
    // No limits or features are asked for: every device must do.
    const device = await adapter.requestDevice()
    const COMPUTE = 4
    const results = []
    for (const { name, code, entry, bindings, variants } of shaders) {
      const module = device.createShaderModule({ code, label: name })
      const { messages } = await module.getCompilationInfo()
      const errors = messages.map((/** @type {any} */ m) => `${m.type} in line ${m.lineNum}: ${m.message}`)
      const uniforms = [0, 1].map((binding) => ({ binding, visibility: COMPUTE, buffer: { type: 'uniform' } }))
      const storage = bindings.map(([binding, type]) => ({ binding, visibility: COMPUTE, buffer: { type } }))
      const group = device.createBindGroupLayout({ entries: [...uniforms, ...storage] })
      const layout = device.createPipelineLayout({ bindGroupLayouts: [group] })
      let pipelines = 0
      for (const constants of variants) {
        try {
          await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: entry, constants } })
          pipelines++
        } catch (error) {
          errors.push(`with ${JSON.stringify(constants)}: ${error instanceof Error ? error.message : error}`)
        }
      }
      results.push({ name, pipelines, errors })
    }
    return results
  }, shaders)
  for (const { name, pipelines, errors } of results) {
    if (errors.length || !pipelines) failed++
    console.log(`${errors.length ? 'FAIL' : 'PASS'} ${name}: ${pipelines} pipelines${errors.map((/** @type {string} */ e) => `\n     ${e}`).join('')}`)
  }
  console.log(`${results.length} entry points, ${results.reduce((/** @type {number} */ n, /** @type {any} */ r) => n + r.pipelines, 0)} pipelines`)
} finally {
  await browser.stop()
  web.close()
}
process.exit(failed || !shaders.length ? 1 : 0)
