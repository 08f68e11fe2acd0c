// A bridge between the host document and the engine, nothing else.
import init, { Session } from './pkg/engine.js'
/** @import { FromEngine, ToEngine } from './pkg/engine.js' */
/** @typedef {{ kind: 'connect' | 'disconnect', client: string } | { kind: 'receive', client: string, message: ToEngine }} ToWorker */

/** Messages come before the module is compiled: they wait in this promise's queue, in order. */
const session = init().then(() => new Session((/** @type {string} */ client, /** @type {FromEngine} */ message) => postMessage({ client, message })))

const crashed = (/** @type {unknown} */ error) => postMessage({ crashed: error instanceof Error ? error.stack ?? error.message : String(error) })
session.catch(crashed)
addEventListener('unhandledrejection', (event) => crashed(event.reason))

addEventListener('message', async ({ data }) => {
  const to = /** @type {ToWorker} */ (data)
  try {
    const engine = await session
    if (to.kind === 'receive') engine.receive(to.client, to.message)
    else engine[to.kind](to.client)
  } catch (error) {
    crashed(error)
  }
})
