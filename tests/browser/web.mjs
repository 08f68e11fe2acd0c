// The web as the browser under test sees it: a proxy that answers for the hosts we serve, refuses every other, and writes
// down each request. Nothing leaves this machine.
import { execFileSync } from 'node:child_process'
import { createReadStream, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { extname, join, normalize, sep } from 'node:path'

const TYPES = /** @type {Record<string, string>} */ ({
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css', '.json': 'application/json',
  '.wasm': 'application/wasm', '.png': 'image/png', '.jpg': 'image/jpeg', '.svg': 'image/svg+xml', '.pdf': 'application/pdf', '.txt': 'text/plain; charset=utf-8'
})

/** @typedef {import('node:http').IncomingMessage} Request */
/** @typedef {import('node:http').ServerResponse} Response */
/** @typedef {(url: URL, response: Response, request: Request) => boolean | void} Handler answers false for "not mine" */

/** Serves a folder. @param {string} folder @param {Record<string, string>} [headers] @returns {Handler} */
export const folder = (folder, headers = {}) => (url, response, request) => {
  const path = normalize(join(folder, decodeURIComponent(url.pathname)))
  if (path !== folder && !path.startsWith(folder + sep)) return false
  return file(path, response, request, headers)
}

/** Serves one file, also in ranges. @param {string} path @param {Response} response @param {Request} request @param {Record<string, string>} [headers] */
export function file (path, response, request, headers = {}) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat?.isFile()) return false
  const type = TYPES[extname(path)] ?? 'application/octet-stream'
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
  const [start, end] = range ? [Number(range[1]), Math.min(Number(range[2] || Infinity), stat.size - 1)] : [0, stat.size - 1]
  response.writeHead(range ? 206 : 200, {
    'content-type': type, 'content-length': Math.max(0, end - start + 1), 'accept-ranges': 'bytes', 'cache-control': 'no-store',
    ...(range && { 'content-range': `bytes ${start}-${end}/${stat.size}` }), ...headers
  })
  if (request.method === 'HEAD' || !stat.size) response.end()
  else createReadStream(path, { start, end }).pipe(response)
  return true
}

/** Serves a string of HTML. @param {string} html @returns {Handler} */
export const page = (html) => (_url, response) => {
  response.writeHead(200, { 'content-type': TYPES['.html'], 'cache-control': 'no-store' }).end(html)
}

export class Web {
  /** Every request the browser made, in order. @type {{ method: string, url: string, at: number }[]} */
  requests = []
  /** @type {Map<string, Handler>} */
  #hosts = new Map()
  #server = createServer((request, response) => this.#answer(request, response))
  port = 0
  /** True: every connection is cut, as when the cable is pulled. */
  cut = false

  /** Answers for hosts that are only asked over TLS. @type {import('node:https').Server | null} */
  #secure = null

  static async start () {
    const web = new Web()
    web.#server.on('connect', (request, socket) => {
      const host = String(request.url)
      socket.on('error', () => {})
      const secure = web.#secure && web.#hosts.has(host.split(':')[0])
      if (!secure) {
        web.requests.push({ method: 'CONNECT', url: host, at: Date.now() })
        return void socket.end('HTTP/1.1 502 Refused by the test proxy\r\n\r\n')
      }
      const inner = connect(portOf(/** @type {import('node:https').Server} */ (web.#secure)), '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 Connected\r\n\r\n')
        inner.pipe(socket).pipe(inner)
      })
      inner.on('error', () => socket.destroy())
    })
    web.port = await listen(web.#server)
    return web
  }

  /** Also answers for served hosts over TLS, with a certificate made now that only a browser told to ignore errors accepts. */
  async secure () {
    const folder = mkdtempSync(join(tmpdir(), 'sotto-tls-'))
    try {
      const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
      execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=sotto test', '-keyout', key, '-out', cert], { stdio: 'ignore' })
      this.#secure = createSecureServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => this.#answer(request, response, `https://${request.headers.host}`))
      await listen(this.#secure)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  /** Answers for a host such as `news.test`. @param {string} host @param {Handler} handler */
  serve (host, handler) {
    this.#hosts.set(host, handler)
    return this
  }

  /** Flags that make a browser use this web and no other. */
  get flags () {
    return [`--proxy-server=http://127.0.0.1:${this.port}`, '--proxy-bypass-list=<-loopback>']
  }

  /** @param {Request} request @param {Response} response @param {string} [origin] */
  #answer (request, response, origin = `http://127.0.0.1:${this.port}`) {
    // A proxy's request names the whole address; one made straight to us names only the path.
    const url = new URL(request.url ?? '/', origin)
    this.requests.push({ method: request.method ?? '', url: url.href, at: Date.now() })
    if (this.cut) return void request.socket.destroy()
    const handler = this.#hosts.get(url.hostname)
    if (handler && handler(url, response, request) !== false) return
    if (!response.headersSent) response.writeHead(404, { 'content-type': 'text/plain' }).end('Not served by the test proxy')
  }

  close () {
    for (const server of [this.#server, this.#secure]) {
      server?.closeAllConnections()
      server?.close()
    }
  }
}

/** @param {import('node:net').Server} server @returns {Promise<number>} */
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(portOf(server))))

/** @param {import('node:net').Server} server */
function portOf (server) {
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}
