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

/** Bytes on their way to the device at once, as a load allows. */
const AHEAD = 64 << 20

/**
 * The floors of a load onto a graphics device, in bytes a second: the data file read in a plain loop and written with `writeBuffer`, and read
 * straight into mapped memory that the device then copies from; each at several lengths of a piece.
 * @param {string} id @param {number[]} pieces @returns {Promise<Record<string, number>>}
 */
export async function uploadRates (id, pieces) {
  const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models')
  const file = await (await models.getDirectoryHandle(id)).getFileHandle('data-1')
  const handle = await /** @type {any} */ (file).createSyncAccessHandle({ mode: 'read-only' })
  const gpu = /** @type {any} */ (navigator).gpu
  const device = await (await gpu.requestAdapter()).requestDevice()
  const { queue } = device
  const [MAP_WRITE, COPY_SRC, COPY_DST, STORAGE] = [2, 4, 8, 128]
  const target = device.createBuffer({ size: 128 << 20, usage: COPY_DST | STORAGE })
  const bytes = Math.min(handle.getSize(), 1 << 30)
  /** @type {Record<string, number>} */
  const rates = {}
  /** @param {string} name @param {() => Promise<void>} upload */
  const timed = async (name, upload) => {
    const start = performance.now()
    await upload()
    await queue.onSubmittedWorkDone()
    rates[name] = bytes / (performance.now() - start) * 1000
  }
  try {
    for (const piece of pieces) {
      const memory = new WebAssembly.Memory({ initial: piece >> 16 })
      const view = new Uint8Array(memory.buffer)
      const places = (128 << 20) / piece
      /** @param {boolean} reads */
      const write = async (reads) => {
        /** @type {Promise<void>[]} */
        const ahead = []
        for (let at = 0, n = 0; at + piece <= bytes; at += piece, n++) {
          if (reads) handle.read(view, { at })
          queue.writeBuffer(target, (n % places) * piece, view)
          if (at % (AHEAD / 2) !== 0) continue
          queue.submit([])
          ahead.push(queue.onSubmittedWorkDone())
          if (ahead.length > 2) await ahead.shift()
        }
      }
      await timed(`writeBuffer alone, ${piece >> 20} MiB`, () => write(false))
      await timed(`read and writeBuffer, ${piece >> 20} MiB`, () => write(true))
      const staging = Array.from({ length: Math.max(2, AHEAD / piece) }, () => device.createBuffer({ size: piece, usage: MAP_WRITE | COPY_SRC, mappedAtCreation: true }))
      /** @type {(Promise<void> | undefined)[]} */
      const mapped = []
      await timed(`read into mapped memory, ${piece >> 20} MiB`, async () => {
        for (let at = 0, n = 0; at + piece <= bytes; at += piece, n++) {
          const slot = n % staging.length
          await mapped[slot]
          handle.read(new Uint8Array(staging[slot].getMappedRange()), { at })
          staging[slot].unmap()
          const encoder = device.createCommandEncoder()
          encoder.copyBufferToBuffer(staging[slot], 0, target, (n % places) * piece, piece)
          queue.submit([encoder.finish()])
          mapped[slot] = staging[slot].mapAsync(MAP_WRITE)
        }
      })
      await Promise.all(mapped)
      for (const buffer of staging) buffer.destroy()
      await timed(`read into buffers mapped when made, ${piece >> 20} MiB`, async () => {
        /** @type {Promise<void>[]} */
        const ahead = []
        for (let at = 0, n = 0; at + piece <= bytes; at += piece, n++) {
          const buffer = device.createBuffer({ size: piece, usage: COPY_SRC, mappedAtCreation: true })
          handle.read(new Uint8Array(buffer.getMappedRange()), { at })
          buffer.unmap()
          const encoder = device.createCommandEncoder()
          encoder.copyBufferToBuffer(buffer, 0, target, (n % places) * piece, piece)
          queue.submit([encoder.finish()])
          ahead.push(queue.onSubmittedWorkDone().then(() => buffer.destroy()))
          if (ahead.length > AHEAD / piece) await ahead.shift()
        }
        await Promise.all(ahead)
      })
    }
    return rates
  } finally {
    handle.close()
    device.destroy()
  }
}
