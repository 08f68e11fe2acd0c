// Nothing that a test started outlives it, however it ends.

/** @type {Set<() => void>} */
const pending = new Set()

/** Registers what must be undone when we end; answers a function that undoes it now. @param {() => void} undo */
export function atExit (undo) {
  const once = () => { if (pending.delete(once)) undo() }
  pending.add(once)
  return once
}

const all = () => { for (const undo of [...pending].reverse()) try { undo() } catch { /* the others still must go */ } }
process.on('exit', all)
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) process.on(signal, () => { all(); process.exit(130) })
