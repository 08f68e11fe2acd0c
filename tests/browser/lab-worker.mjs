// One job of the lab: `{ module, model, bytes, device, bench: [[promptTokens, newTokens], …] }` or `{ …, check: folder, only: [prompt, steps] }`
// or `{ module, tokenizer, text }`, or `{ module, device, folder }`: a fixture's folder is checked, or with `bench` measured. With the model store: `{ get: address }`,
// `{ readRate: id }`, `{ upload: id, pieces: [bytes, …] }`, or `{ stored: id, device, weightBytes, tableBytes, floatBytes, cacheBytes, bench }`.
import { get as fetched, readRate as rate, uploadRates } from './lab-store.mjs'

/** More bytes than anything has. */
const NO_LIMIT = 2 ** 53

addEventListener('message', async ({ data: { module, model, bytes, device, bench, check, only = [], tokenizer, text, folder, get, readRate, upload, pieces, stored, weightBytes = NO_LIMIT, tableBytes = NO_LIMIT, floatBytes = NO_LIMIT, cacheBytes = NO_LIMIT } }) => {
  try {
    const { default: init, Lab, FolderLab, Session } = await import(`/offscreen/pkg/${module}.js`)
    await init()
    if (tokenizer) {
      const json = new Uint8Array(await (await fetch(tokenizer)).arrayBuffer())
      return postMessage({ result: JSON.parse(Lab.measureTokenizer(json, text)) })
    }
    if (folder && !bench) return postMessage({ result: await FolderLab.check(folder, device) })
    if (get) return postMessage({ result: await fetched(Session, get) })
    if (upload) return postMessage({ result: await uploadRates(upload, pieces) })
    if (readRate) return postMessage({ result: await rate(readRate) })
    const began = performance.now()
    const lab = folder
      ? await FolderLab.load(folder, device)
      : stored ? await Lab.loadStored(stored, device, weightBytes, tableBytes, floatBytes, cacheBytes) : await Lab.load(model, bytes, device)
    const marks = performance.getEntriesByType('mark').map(({ name, startTime }) => ({ name: name.replace('sotto:', ''), at: startTime - began }))
    if (!bench) return postMessage({ result: await lab.check(model, bytes, check, ...only) })
    const result = []
    for (const [promptTokens, newTokens] of bench) result.push(JSON.parse(await lab.bench(promptTokens, newTokens)))
    // The load's phases go with the first measurement.
    postMessage({ result: result.map((one, n) => n ? one : { ...one, marks }) })
  } catch (error) {
    postMessage({ error: error instanceof Error ? error.stack ?? error.message : String(error) })
  }
})
