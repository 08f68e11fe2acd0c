// One job of the lab: `{ module, model, bytes, device, bench: [[promptTokens, newTokens], …] }` or `{ …, check: folder, only: [prompt, steps] }`
// or `{ module, tokenizer, text }`, or `{ module, device, folder }`: a fixture's folder is checked, or with `bench` measured.
addEventListener('message', async ({ data: { module, model, bytes, device, bench, check, only = [], tokenizer, text, folder } }) => {
  try {
    const { default: init, Lab, FolderLab } = await import(`/offscreen/pkg/${module}.js`)
    await init()
    if (tokenizer) {
      const json = new Uint8Array(await (await fetch(tokenizer)).arrayBuffer())
      return postMessage({ result: JSON.parse(Lab.measureTokenizer(json, text)) })
    }
    if (folder && !bench) return postMessage({ result: await FolderLab.check(folder, device) })
    const lab = folder ? await FolderLab.load(folder, device) : await Lab.load(model, bytes, device)
    if (!bench) return postMessage({ result: await lab.check(model, bytes, check, ...only) })
    const result = []
    for (const [promptTokens, newTokens] of bench) result.push(JSON.parse(await lab.bench(promptTokens, newTokens)))
    postMessage({ result })
  } catch (error) {
    postMessage({ error: error instanceof Error ? error.stack ?? error.message : String(error) })
  }
})
