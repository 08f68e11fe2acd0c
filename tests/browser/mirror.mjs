// A server of a model's files that misbehaves on purpose: what it does with a request is decided by the test, request by request.
import { createHash, randomFillSync } from 'node:crypto'
import { closeSync, fstatSync, openSync, readFileSync, readSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from './chromium.mjs'
/** @import { Handler } from './web.mjs' */

/** Files are hashed in chunks of this many bytes. */
export const CHUNK = 8 << 20

/**
 * A request as the test sees it. `nth` counts requests for the same part of the same file, from 0.
 * @typedef {{ path: string, from: number, to: number, nth: number, ranged: boolean }} Asked
 *
 * What to do other than to answer well: a status, the connection cut in the middle, the whole file in place of a part, a web page, one
 * byte changed, some bytes short, or another ETag.
 * @typedef {{ status?: number, headers?: Record<string, string>, cut?: boolean, whole?: boolean, page?: boolean, corrupt?: boolean, short?: number, etag?: string }} Trouble
 */

/** A file too long to hold, in the two words of a buffer that a mirror speaks. */
export class DiskFile {
  #handle

  /** @param {string} path */
  constructor (path) {
    this.#handle = openSync(path, 'r')
    this.length = fstatSync(this.#handle).size
  }

  /** @param {number} from @param {number} [to] */
  subarray (from, to = this.length) {
    const part = Buffer.alloc(Math.max(0, Math.min(to, this.length) - from))
    readSync(this.#handle, part, 0, part.length, from)
    return part
  }

  close () {
    closeSync(this.#handle)
  }
}

/** The files of a folder, read as they are asked for. @param {string} folder @returns {Map<string, Buffer | DiskFile>} */
export const filesOf = (folder) => new Map(readdirSync(folder).map((name) => [name, new DiskFile(join(folder, name))]))

export class Mirror {
  /** @type {Asked[]} */
  asked = []
  /** @type {(asked: Asked) => Trouble | null | undefined} */
  trouble = () => null
  /** Bytes a second and connection; unlimited if 0. */
  speed = 0
  /** Sent with every answer. @type {Record<string, string>} */
  headers = { 'access-control-allow-origin': '*', 'access-control-expose-headers': 'Content-Range, ETag, Retry-After' }
  /** Bytes sent, headers aside. */
  sent = 0

  /** @param {Map<string, Buffer | DiskFile>} files by path, without a slash at the beginning @param {string} [folder] */
  constructor (files, folder = '/tiny/') {
    this.files = files
    this.folder = folder
  }

  /** Chunks asked for, as "path:number", sorted. */
  get chunks () {
    return this.asked.filter(({ ranged }) => ranged).map(({ path, from }) => `${path}:${from / CHUNK}`).sort()
  }

  /** @type {Handler} */
  handler = (url, response, request) => {
    const path = decodeURIComponent(url.pathname).replace(this.folder, '')
    const file = this.files.get(path)
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    const [from, to] = range ? [Number(range[1]), Number(range[2])] : [0, Infinity]
    const nth = this.asked.filter((other) => other.path === path && other.from === from).length
    const asked = { path, from, to, nth, ranged: Boolean(range) }
    this.asked.push(asked)
    const trouble = this.trouble(asked) ?? {}
    const headers = { 'cache-control': 'no-store', ...this.headers, ...trouble.headers }
    const end = (/** @type {number} */ status, text = '') => void response.writeHead(status, { 'content-type': 'text/plain', ...headers }).end(text)
    if (trouble.status) return end(trouble.status)
    if (trouble.page) return void response.writeHead(200, { 'content-type': 'text/html', ...headers }).end('<title>Sign in</title>')
    if (!file) return end(404)
    if (from >= file.length) return end(416)
    const part = range && !trouble.whole
    let body = file.subarray(part ? from : 0, part ? Math.min(to + 1, file.length) : undefined)
    if (trouble.corrupt) {
      body = Buffer.from(body)
      body[body.length >> 1] ^= 1
    }
    if (trouble.short) body = body.subarray(0, -trouble.short)
    response.writeHead(part ? 206 : 200, {
      'content-type': 'application/octet-stream', 'content-length': body.length, 'accept-ranges': 'bytes',
      etag: trouble.etag ?? `"${path}"`,
      ...(part && { 'content-range': `bytes ${from}-${Math.min(to, file.length - 1)}/${file.length}` }), ...headers
    })
    this.#send(response, trouble.cut ? body.subarray(0, body.length >> 1) : body, trouble.cut)
  }

  /** @param {import('node:http').ServerResponse} response @param {Buffer} body @param {boolean} [cut] */
  async #send (response, body, cut) {
    const piece = this.speed ? Math.max(1024, this.speed / 20) : body.length || 1
    for (let at = 0; at < body.length && !response.destroyed; at += piece) {
      response.write(body.subarray(at, at + piece))
      this.sent += Math.min(piece, body.length - at)
      if (this.speed) await new Promise((resolve) => setTimeout(resolve, 1000 * piece / this.speed))
    }
    if (cut) setTimeout(() => response.destroy(), 20)
    else response.end()
  }
}

/** `sotto-manifest.json` of these files. @param {Map<string, Buffer | DiskFile>} files */
export function pinned (files) {
  return Buffer.from(JSON.stringify({
    version: 1, chunkBytes: CHUNK,
    files: [...files].map(([path, bytes]) => ({ path, bytes: bytes.length, sha256: hashes(bytes) }))
  }))
}

/** The hash of each chunk. @param {Buffer | DiskFile} bytes */
export function hashes (bytes) {
  const all = []
  for (let at = 0; at < bytes.length; at += CHUNK) all.push(createHash('sha256').update(bytes.subarray(at, Math.min(at + CHUNK, bytes.length))).digest('hex'))
  return all
}

/**
 * A Hugging Face folder of some 80 MB that the engine can describe: a tiny Gemma 4 with a long vocabulary, and in the middle a
 * vision tower of 30 MB that no text needs. Its weights are noise, or in a longer vocabulary zero.
 * @param {number} [vocabulary] @returns {Map<string, Buffer>}
 */
export function tinyModel (vocabulary = 150_000) {
  const golden = join(REPOSITORY, 'tests/golden')
  const original = readFileSync(join(golden, 'gemma4/mm-e2b/model.safetensors'))
  /** @type {Record<string, { dtype: string, shape: number[], data_offsets: [number, number] }>} */
  const tensors = JSON.parse(original.subarray(8, 8 + Number(original.readBigUInt64LE(0))).toString())
  const config = JSON.parse(readFileSync(join(golden, 'gemma4/mm-e2b/config.json'), 'utf8'))
  config.text_config.vocab_size = config.text_config.vocab_size_per_layer_input = vocabulary
  /** @type {typeof tensors} */
  const header = {}
  let end = 0
  const place = (/** @type {string} */ name, /** @type {string} */ dtype, /** @type {number[]} */ shape, bytes = 2) => {
    const length = shape.reduce((a, b) => a * b, bytes)
    header[name] = { dtype, shape, data_offsets: [end, end += length] }
  }
  const { __metadata__, ...named } = tensors
  const [tables, rest] = [true, false].map((wanted) => Object.entries(named).filter(([name]) => name.includes('embed_tokens') === wanted))
  for (const [name, { dtype, shape: [, columns] }] of tables) place(name, dtype, [vocabulary, columns])
  place(TOWER, 'U8', [30_000_000], 1)
  for (const [name, { dtype, shape }] of rest) place(name, dtype, shape)
  const json = Buffer.from(JSON.stringify(header))
  const weights = Buffer.alloc(8 + json.length + end)
  weights.writeBigUInt64LE(BigInt(json.length))
  json.copy(weights, 8)
  randomFillSync(weights, 8 + json.length, Math.min(end, 100_000_000))
  return new Map([
    ['config.json', Buffer.from(JSON.stringify(config))],
    ['tokenizer.json', readFileSync(join(golden, 'shapes/smollm-hf/tokenizer.json'))],
    ['model.safetensors', weights]
  ])
}

/** The chunks of a safetensors file that hold more than the vision tower. @param {Buffer} weights */
export function textChunks (weights) {
  const start = 8 + Number(weights.readBigUInt64LE(0))
  const [from, to] = JSON.parse(weights.subarray(8, start).toString())[TOWER].data_offsets
  return hashes(weights).map((_, index) => index).filter((index) => index * CHUNK < start + from || (index + 1) * CHUNK > start + to)
}

const TOWER = 'model.vision_tower.patches.weight'
