// One job of the lab: `{ module, model, bytes, device, bench: [promptTokens, newTokens] }` or `{ …, check: folder }`.
addEventListener('message', async ({ data: { module, model, bytes, device, bench, check } }) => {
  try {
    const { default: init, Lab } = await import(`/offscreen/pkg/${module}.js`)
    await init()
    const lab = await Lab.load(model, bytes, device)
    const result = bench ? JSON.parse(await lab.bench(...bench)) : await lab.check(model, bytes, check)
    postMessage({ result })
  } catch (error) {
    postMessage({ error: error instanceof Error ? error.stack ?? error.message : String(error) })
  }
})
