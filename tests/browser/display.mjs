// A display of our own (or the user's), and the pointer and keys of a real user on it.
import { execFile, spawn } from 'node:child_process'
import { expect, sleep, until } from './cdp.mjs'
import { atExit } from './cleanup.mjs'

/** @param {string} command @param {(string | number)[]} args @param {Record<string, string>} env @returns {Promise<string>} */
const run = (command, args, env) => new Promise((resolve, reject) => {
  execFile(command, args.map(String), { env: { ...process.env, ...env }, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
    if (error) reject(new Error(`${command} ${args.join(' ')}: ${stderr || error.message}`))
    else resolve(stdout)
  })
})

/** @typedef {{ id: string, width: number, height: number, x: number, y: number }} Window */

export class Display {
  /** @param {string} name @param {() => void} stop */
  constructor (name, stop) {
    this.env = { DISPLAY: name }
    this.stop = stop
  }

  /** A virtual display with a window manager; its number is the first free one. */
  static async start (size = '1280x900x24') {
    const server = spawn('Xvfb', ['-displayfd', '3', '-screen', '0', size, '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] })
    const stopServer = atExit(() => server.kill('SIGKILL'))
    const failed = new Promise((_, reject) => server.once('error', (error) => reject(new Error(`Xvfb did not start: ${error.message}`))))
    const number = await Promise.race([failed, new Promise((resolve) => server.stdio[3]?.once('data', (/** @type {Buffer} */ data) => resolve(String(data).trim())))])
    const name = `:${number}`
    const manager = spawn('openbox', [], { env: { ...process.env, DISPLAY: name }, stdio: 'ignore' })
    // Menus work without one too.
    manager.once('error', () => {})
    const stopManager = atExit(() => manager.kill('SIGKILL'))
    await sleep(300)
    return new Display(name, () => { stopManager(); stopServer() })
  }

  /** The user's own X display, if there is one on which clicks can be made. */
  static own () {
    const { DISPLAY, WAYLAND_DISPLAY, XDG_SESSION_TYPE } = process.env
    if (!DISPLAY || WAYLAND_DISPLAY || XDG_SESSION_TYPE === 'wayland') return null
    return new Display(DISPLAY, () => {})
  }

  /** @param {(string | number)[]} args */
  xdotool (...args) {
    return run('xdotool', args, this.env)
  }

  /** @param {string[]} keys */
  key (...keys) {
    // A menu on a busy machine drops keys that come faster than any hand.
    return this.xdotool('key', '--delay', 60, ...keys)
  }

  /** @param {number} x @param {number} y @param {1 | 3} [button] */
  click (x, y, button = 1) {
    return this.xdotool('mousemove', x, y, 'click', button)
  }

  /** The whole screen, menus and popup included. @param {string} file */
  screenshot (file) {
    return run('import', ['-window', 'root', file], this.env)
  }

  /** Windows of a native menu's size: menus are children of the root without a frame. @returns {Promise<Window[]>} */
  async #menus () {
    const rows = (await run('xwininfo', ['-root', '-children'], this.env)).split('\n')
    return rows.flatMap((row) => {
      const found = /^\s+(0x\w+) .*?(\d+)x(\d+)\+-?\d+\+-?\d+\s+\+(-?\d+)\+(-?\d+)/.exec(row)
      if (!found) return []
      const [id, width, height, x, y] = [found[1], ...found.slice(2).map(Number)]
      return [/** @type {Window} */ ({ id, width, height, x, y })].filter((w) => w.width > 100 && w.width < 1000 && w.height > 30 && w.height < 800)
    })
  }

  /** Does something that opens a menu and answers the menu's window, or null. @param {() => Promise<unknown>} act @param {number} [ms] */
  async menuAfter (act, ms = 6000) {
    const before = new Set((await this.#menus()).map((menu) => menu.id))
    await act()
    return until(async () => (await this.#menus()).find((menu) => !before.has(menu.id)), ms, 20)
  }

  /** Right-clicks; a menu that does not come is asked for once more. @param {number} x @param {number} y */
  async contextMenu (x, y) {
    for (let i = 0; i < 2; i++) {
      const menu = await this.menuAfter(() => this.click(x, y, 3))
      if (menu) return menu
      await this.key('Escape')
    }
    throw new Error('the context menu did not open')
  }

  async noMenu () {
    await expect('the menu closes', async () => !(await this.#menus()).length)
  }
}
