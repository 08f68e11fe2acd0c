// Starts Chromium with the built extension, and stops it without leaving anything behind.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Cdp, Session, expect, sleep } from './cdp.mjs'
import { atExit } from './cleanup.mjs'

export const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
export const DIST = process.env.SOTTO_DIST ?? join(REPOSITORY, 'dist')

/**
 * Waits until the browser offers a graphics adapter. Where its graphics process begins anew at the start, as it does on a headless
 * machine, none is offered for some seconds. @param {Session} page any page of a secure origin
 */
export const adapterIsThere = (page) => expect('the browser offers a graphics adapter', () => page.eval('navigator.gpu?.requestAdapter().then(Boolean)'), 20_000, 250)

/** Chrome's way from a key, or for an extension without one from its folder, to an id. @param {string} folder */
export function extensionId (folder) {
  const { key } = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))
  const hash = createHash('sha256').update(key ? Buffer.from(key, 'base64') : folder).digest('hex')
  return [...hash.slice(0, 32)].map((digit) => String.fromCharCode(97 + parseInt(digit, 16))).join('')
}

/** On Linux a graphics adapter is reached through Vulkan. */
const GPU_FLAGS = {
  hardware: ['--enable-unsafe-webgpu', '--enable-features=Vulkan', '--ignore-gpu-blocklist'],
  software: ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader']
}

/** The manifest's key for a command, such as `Alt+Shift+S`. @param {string} command */
export function shortcut (command) {
  const key = JSON.parse(readFileSync(join(DIST, 'manifest.json'), 'utf8')).commands[command]?.suggested_key?.default
  if (!key) throw new Error(`manifest.json suggests no key for ${command}`)
  return key
}

/**
 * @typedef {object} Options
 * @property {import('./display.mjs').Display | null} [display] where to draw; headless without one
 * @property {import('./web.mjs').Web | null} [web] the web it sees; the real one without
 * @property {string | null} [extension] the extension's folder
 * @property {'hardware' | 'software'} [gpu] offers WebGPU: on a graphics adapter, or on the software one that comes with Chromium
 * @property {string[]} [flags] more flags
 * @property {string} [profile] the profile of a browser that was ended with `keep`, to go on with it
 */

export class Browser {
  /** What the extension and pages wrote to their consoles, and exceptions. @type {string[]} */
  console = []

  /** @param {Cdp} cdp @param {import('node:child_process').ChildProcess} process @param {string} profile @param {() => void} discard @param {string | null} extension */
  constructor (cdp, process, profile, discard, extension) {
    this.cdp = cdp
    this.process = process
    this.profile = profile
    this.discard = discard
    this.id = extension ? extensionId(extension) : ''
    this.netLog = join(profile, 'net-log.json')
    this.gone = new Promise((resolve) => process.once('exit', resolve))
  }

  /** @param {Options} options */
  static async start ({ display = null, web = null, extension = DIST, gpu, flags = [], profile: kept } = {}) {
    const binary = process.env.SOTTO_CHROMIUM ?? '/usr/lib/chromium/chromium'
    const profile = kept ?? mkdtempSync(join(tmpdir(), 'sotto-'))
    if (extension && !kept) {
      mkdirSync(join(profile, 'Default'))
      writeFileSync(join(profile, 'Default', 'Preferences'), JSON.stringify({ extensions: { pinned_extensions: [extensionId(extension)] } }))
    }
    const noSandbox = process.getuid?.() === 0 || process.env.SOTTO_NO_SANDBOX
    const child = spawn(binary, [
      `--user-data-dir=${profile}`, '--remote-debugging-pipe', '--enable-unsafe-extension-debugging',
      // What a browser does by itself would hide what the extension does.
      '--no-first-run', '--no-default-browser-check', '--disable-sync', '--disable-component-update', '--disable-background-networking',
      '--disable-search-engine-choice-screen', '--disable-domain-reliability', '--no-pings', '--password-store=basic',
      '--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,OptimizationHints,MediaRouter,DialMediaRouteProvider',
      `--log-net-log=${join(profile, 'net-log.json')}`, '--net-log-capture-mode=IncludeSensitive',
      '--test-type', '--disable-dev-shm-usage', '--window-position=0,0', '--window-size=1200,850', '--force-device-scale-factor=1', '--lang=en-US',
      ...(noSandbox ? ['--no-sandbox'] : []),
      ...(gpu ? GPU_FLAGS[gpu] : display && !process.env.DISPLAY ? ['--disable-gpu'] : []),
      ...(display ? [] : ['--headless=new']),
      ...(web?.flags ?? []), ...flags, 'about:blank'
    ], { env: { ...process.env, LANG: 'en_US.UTF-8', LANGUAGE: 'en', ...display?.env }, stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'], detached: true })
    let errors = ''
    child.stderr?.on('data', (piece) => { errors = (errors + piece).slice(-8000) })
    const discard = atExit(() => {
      // The whole group: renderers outlive a browser that is killed.
      try { process.kill(-Number(child.pid), 'SIGKILL') } catch { /* it ended by itself */ }
      rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
    })
    const cdp = new Cdp(/** @type {import('node:stream').Writable} */ (child.stdio[3]), /** @type {import('node:stream').Readable} */ (child.stdio[4]))
    const failed = new Promise((_, reject) => {
      child.once('error', (error) => reject(new Error(`the browser did not start: ${error.message}`)))
      child.once('exit', (code) => reject(new Error(`the browser ended at once (${code}): ${errors}`)))
    })
    failed.catch(() => {})
    await Promise.race([failed, cdp.send('Browser.getVersion', {}, undefined, 60_000)])
    const browser = new Browser(cdp, child, profile, discard, extension)
    if (extension) {
      await browser.#logExtension()
      const { id } = await cdp.send('Extensions.loadUnpacked', { path: extension }, undefined, 60_000)
      browser.id = id
      // Its shortcuts and menus are registered a moment later; no user is as quick as a test.
      // A worker of a profile that was used before may be replaced while it is asked, and then never answers.
      await expect('the shortcuts are registered', () => Promise.race([browser.#isRegistered(), sleep(4000)]), 60_000)
      await sleep(300)
    }
    return browser
  }

  async #isRegistered () {
    const worker = await this.serviceWorker()
    // One that has just begun has no API yet.
    const registered = await worker.eval('globalThis.chrome?.commands?.getAll().then((all) => all.some((c) => c.shortcut))')
    await worker.detach()
    return registered
  }

  get origin () {
    return `chrome-extension://${this.id}`
  }

  /** Network traffic and console output of every context of the extension: pages, workers, the service worker.
   *  @type {{ url: string, from: string }[]} */
  requests = []

  /** The extension's workers, oldest first: the engine is the last one. @type {Session[]} */
  workers = []

  /** Attaches to each new target. Not before its first line: a service worker that is started again would wait for ever. */
  async #logExtension () {
    const { cdp } = this
    cdp.on('Target.attachedToTarget', async ({ sessionId, targetInfo }) => {
      const session = new Session(cdp, targetInfo.targetId, sessionId)
      const from = `${targetInfo.type} ${targetInfo.url}`
      const ownTarget = targetInfo.url.startsWith('chrome-extension:')
      if (ownTarget && targetInfo.type === 'worker') this.workers.push(session)
      session.on('Network.requestWillBeSent', ({ request, documentURL, initiator }) => {
        // A script of ours in someone's page shows in the stack only.
        const ours = ownTarget || documentURL.startsWith('chrome-extension:') || JSON.stringify(initiator).includes('chrome-extension:')
        if (ours) this.requests.push({ url: request.url, from })
      })
      session.on('Network.webSocketCreated', ({ url, initiator }) => {
        if (ownTarget || JSON.stringify(initiator ?? '').includes('chrome-extension:')) this.requests.push({ url, from })
      })
      session.on('Runtime.consoleAPICalled', ({ type, args }) => {
        this.console.push(`${from} ${type}: ${args.map((/** @type {any} */ a) => a.value ?? a.description ?? '').join(' ')}`)
      })
      session.on('Runtime.exceptionThrown', ({ exceptionDetails: e }) => { this.console.push(`${from} exception: ${e.exception?.description ?? e.text}`) })
      const setUp = [
        session.send('Network.enable'), session.send('Runtime.enable'),
        session.send('Target.setAutoAttach', { autoAttach: true, waitForDebuggerOnStart: false, flatten: true })
      ]
      await Promise.allSettled(setUp)
    })
    await cdp.send('Target.setAutoAttach', {
      autoAttach: true, waitForDebuggerOnStart: false, flatten: true,
// New pages of an extension begin as "other"; tabs are attached where they are opened.
      filter: [{ type: 'tab', exclude: true }, { type: 'page', exclude: true }, { type: 'browser', exclude: true }, { type: 'browser_ui', exclude: true }, {}]
    })
  }

  /** A fresh tab: no gesture of an earlier test has opened it to the extension.
   *  @param {string} url @param {{ complete?: boolean }} [options] */
  async open (url, { complete = true } = {}) {
    const { targetId } = await this.cdp.send('Target.createTarget', { url })
    const tab = new Tab(this, await this.cdp.attach(targetId))
    if (complete) {
      await expect(`${url} is loaded and in front`, () => tab.eval('document.readyState === "complete" && document.visibilityState === "visible" && location.href !== "about:blank"')
        // Between two documents there is nothing to ask.
        .catch(() => false), 30_000)
    }
    return tab
  }

  /** An open page of the extension, such as `popup/popup.html`. @param {string} path @param {number} [ms] */
  async extensionPage (path, ms) {
    const url = `${this.origin}/${path}`
    const target = await this.cdp.find((t) => (t.type === 'page' || t.type === 'background_page') && t.url.split(/[?#]/)[0] === url, ms)
    if (!target) throw new Error(`${path} is not open`)
    return this.cdp.attach(target.targetId)
  }

  /** @param {string} path */
  async isOpen (path) {
    return (await this.cdp.targets()).some((t) => t.url.split(/[?#]/)[0] === `${this.origin}/${path}`)
  }

  async serviceWorker () {
    const target = await this.cdp.find((t) => t.type === 'service_worker' && t.url.startsWith(this.origin))
    if (!target) throw new Error('the service worker is not running')
    const session = await this.cdp.attach(target.targetId)
    // A new worker is listed before its script has run, and before the extension's interfaces are there.
    await expect('the service worker has started', () => session.eval('typeof chrome === "object" && "runtime" in chrome'), 30_000)
    return session
  }

  async serviceWorkerRuns () {
    return (await this.cdp.targets()).some((t) => t.type === 'service_worker' && t.url.startsWith(this.origin))
  }

  /** Stops the extension's service worker, as Chrome does after 30 idle seconds. @param {Session} page any page's session */
  async killServiceWorker (page) {
    await page.send('ServiceWorker.enable')
    await page.send('ServiceWorker.stopAllWorkers')
    await expect('the service worker stops', async () => !await this.serviceWorkerRuns())
    await page.send('ServiceWorker.disable')
  }

  /** Ends the browser; answers the net log's requests, for whoever wants to see them. With `keep`, its profile stays for another
   *  one to go on with. */
  async stop ({ keep = false } = {}) {
    await this.cdp.send('Browser.close').catch(() => {})
    const ended = await Promise.race([this.gone.then(() => true), sleep(20_000)])
    const log = ended ? readNetLog(this.netLog) : null
    if (!keep) this.discard()
    return log
  }
}

/** A page in a tab. */
export class Tab extends Session {
  /** @param {Browser} browser @param {Session} session */
  constructor (browser, session) {
    super(session.cdp, session.targetId, session.sessionId)
    this.browser = browser
  }

  async close () {
    await this.detach()
    await this.cdp.send('Target.closeTarget', { targetId: this.targetId }).catch(() => {})
  }

  async front () {
    await this.cdp.send('Target.activateTarget', { targetId: this.targetId })
    await expect('the tab is in front', () => this.eval('document.visibilityState === "visible"'))
  }

  /** @param {string} file */
  async screenshot (file) {
    await screenshot(this, file)
  }
}

/** One page by itself. @param {Session} session @param {string} file */
export async function screenshot (session, file) {
  const { data } = await session.send('Page.captureScreenshot', { format: 'png' })
  writeFileSync(file, Buffer.from(data, 'base64'))
}

/** @typedef {{ url: string, method: string, initiator: string }} LoggedRequest */

/**
 * Every request of the whole browser that reached its network stack, and every name it looked up.
 * @param {string} path
 * @returns {{ requests: LoggedRequest[], lookups: string[] }}
 */
function readNetLog (path) {
  // One event a line; a browser in a hurry may leave the last one unfinished.
  const [head, ...rest] = readFileSync(path, 'utf8').split(/\n"events": \[\n/)
  const { URL_REQUEST_START_JOB, HOST_RESOLVER_MANAGER_REQUEST, HOST_RESOLVER_MANAGER_JOB } = JSON.parse(`${head.replace(/,\s*$/, '')}}`).constants.logEventTypes
  /** @type {LoggedRequest[]} */
  const requests = []
  /** @type {Set<string>} */
  const lookups = new Set()
  for (const line of rest.join('').split('\n')) {
    const { type, params } = parse(line.replace(/\]?,?\s*$/, ''))
    if (type === URL_REQUEST_START_JOB && params?.url) requests.push({ url: params.url, method: params.method, initiator: params.initiator ?? '' })
    if ((type === HOST_RESOLVER_MANAGER_REQUEST || type === HOST_RESOLVER_MANAGER_JOB) && params?.host) lookups.add(params.host)
  }
  return { requests, lookups: [...lookups] }
}

/** @param {string} line @returns {any} */
function parse (line) {
  try {
    return JSON.parse(line)
  } catch {
    return {}
  }
}
