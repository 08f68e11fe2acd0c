// What the lab's worker does with the model store of its own origin.

/**
 * Gets a model from an address as the models page does, without the extension: nobody has to open a network lock.
 * @param {any} Session @param {string} address @returns {Promise<{ id: string, ms: number }>}
 */
export function get (Session, address) {
  const start = performance.now()
  return new Promise((resolve, reject) => {
    const heard = (/** @type {string} */ _client, /** @type {any} */ message) => {
      if (message.type === 'refused') reject(new Error(message.reason.message))
      const own = message.models?.find((/** @type {any} */ model) => model.id === `own-${address.split('/').at(-1)}`)
      if (own?.status.state === 'failed') reject(new Error(own.status.reason.message))
      if (own?.status.state === 'here') resolve({ id: own.id, ms: performance.now() - start })
    }
    const session = new Session(heard, async () => true)
    session.connect('lab')
    for (const message of [{ type: 'models' }, { type: 'getFrom', address }]) session.receive('lab', message)
  })
}

/** Bytes read at once, as a load does. */
const PIECE = 8 << 20
/** So many at most go into fresh memory. */
const FRESH_PIECES = 96
/** A row of E2B's largest table, and how many are read in random places. */
const [ROW, ROWS] = [4480, 2000]

/**
 * The floors of a load and of a row: a plain loop over a stored model's data file into one buffer, as for a graphics device; into
 * WASM memory that was never touched, as for the CPU; and small reads all over the file.
 * @param {string} id @returns {Promise<{ bytes: number, bytesPerSecond: number, freshBytesPerSecond: number, microsecondsPerRow: number }>}
 */
export async function readRate (id) {
  const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models')
  const file = await (await models.getDirectoryHandle(id)).getFileHandle('data-1')
  const handle = await /** @type {any} */ (file).createSyncAccessHandle({ mode: 'read-only' })
  try {
    const bytes = handle.getSize()
    const [piece, row] = [new Uint8Array(PIECE), new Uint8Array(ROW)]
    const start = performance.now()
    for (let at = 0; at < bytes; at += PIECE) handle.read(piece, { at })
    const read = performance.now()
    for (let i = 0; i < ROWS; i++) handle.read(row, { at: Math.floor(Math.random() * (bytes - ROW)) })
    const microsecondsPerRow = (performance.now() - read) * 1000 / ROWS
    const fresh = Math.min(Math.floor(bytes / PIECE), FRESH_PIECES) * PIECE
    const memory = new WebAssembly.Memory({ initial: fresh >> 16 })
    const begin = performance.now()
    for (let at = 0; at < fresh; at += PIECE) handle.read(new Uint8Array(memory.buffer, at, PIECE), { at })
    const freshBytesPerSecond = fresh / (performance.now() - begin) * 1000
    return { bytes, bytesPerSecond: bytes / (read - start) * 1000, freshBytesPerSecond, microsecondsPerRow }
  } finally {
    handle.close()
  }
}
