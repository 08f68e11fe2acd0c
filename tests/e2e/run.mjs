// node tests/e2e/run.mjs [part of a scenario's name]
import { runAll } from './harness.mjs'

for (const file of ['summarize', 'rewrite', 'popup', 'survives', 'lifecycle', 'loading', 'restricted', 'models', 'gemma', 'access', 'store']) await import(`./${file}.mjs`)
process.exit(await runAll(process.argv[2]) ? 1 : 0)
