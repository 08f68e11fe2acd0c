// The questions asked before anything is fetched, copied or deleted. Each answers null when the user says no.
import { bytes, missingRoom, nextSmaller } from './model-words.js'
/** @import { Machine, ModelState } from '../offscreen/pkg/engine.js' */

const { h, icon } = __sotto
let ids = 0

/** What every dialog says about keeping. */
const KEPT = 'In this browser’s private storage, on this computer'

/** @template T @typedef {{ answer: T, problem?: undefined } | { problem: string }} Outcome */

/**
 * Shows a dialog and waits for its end.
 * @template T
 * @param {object} options
 * @param {string} options.title
 * @param {(Node | string | null)[]} options.body
 * @param {string} options.yes what the button that does it says
 * @param {string} [options.no]
 * @param {boolean} [options.impossible] there is only one way out
 * @param {() => Outcome<T> | Promise<Outcome<T>>} options.onYes runs inside the click; a problem is shown and the dialog stays
 * @returns {Promise<T | null>}
 */
function ask ({ title, body, yes, no = 'Not now', impossible = false, onYes }) {
  const id = `dialog-${++ids}`
  return new Promise((resolve) => {
    /** @type {T | null} */
    let answer = null
    // It has the focus first: a second Enter, meant for what came before, must not begin a download.
    const heading = h('h2', { id, tabindex: '-1' }, title)
    const problem = h('div', { class: 'problem', role: 'alert' })
    const agree = h('button', { type: 'button', class: 'solid', 'data-action': 'yes', disabled: impossible, click: async () => {
      problem.replaceChildren()
      const given = await onYes()
      if (given.problem !== undefined) return problem.append(failure(given.problem, ''))
      answer = given.answer
      dialog.close()
    } }, yes)
    const refuse = h('button', { type: 'button', class: 'plain', 'data-action': 'no', click: () => dialog.close() }, no)
    const dialog = h('dialog', { class: 'sotto', 'aria-labelledby': id, close: () => { dialog.remove(); resolve(answer) } },
      h('div', { class: 'inside' }, heading, ...body, problem, h('div', { class: 'buttons' }, refuse, agree)))
    // A click beside it is a no, as Escape is.
    dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close() })
    document.body.append(dialog)
    dialog.showModal()
    heading.focus()
  })
}

/** @param {string} message @param {string} nextStep */
export const failure = (message, nextStep) =>
  h('div', { class: 'failure' }, icon('warn'), h('p', {}, h('strong', {}, message), nextStep ? ` ${nextStep}` : ''))

/** @param {[string, string, string?][]} pairs names, values, small print */
const rows = (pairs) => h('dl', { class: 'rows' }, ...pairs.flatMap(([name, value, small]) =>
  [h('dt', {}, name), h('dd', {}, value, small ? h('small', {}, small) : null)]))

/** @param {Machine} machine */
export const graphics = ({ gpu }) => gpu || 'None in use: the processor does the work'

/** @param {Machine} machine */
const room = ({ freeBytes }) => typeof freeBytes === 'number' ? bytes(freeBytes) : 'The browser does not say'

/**
 * Everything that matters before a fetch, and where it is to come from.
 * @param {ModelState} model @param {Machine} machine @param {ModelState[]} models
 * @returns {Promise<{ mirror: string | undefined } | null>}
 */
export function askGet (model, machine, models) {
  const missing = missingRoom(model, machine)
  const smaller = nextSmaller(models, model)
  const instead = smaller && smaller.status.state !== 'here' ? ` ${smaller.name} is smaller.` : ''
  const field = h('input', { type: 'url', id: 'mirror', spellcheck: 'false', autocomplete: 'off', 'aria-describedby': 'mirror-help', value: machine.mirror ? `${machine.mirror}/${model.id}` : '' })
  const advanced = h('details', { open: Boolean(machine.mirror) }, h('summary', {}, 'Advanced'),
    h('div', { class: 'field' },
      h('label', { for: 'mirror' }, 'Fetch from a mirror instead'),
      field,
      h('p', { id: 'mirror-help', class: 'aside' }, machine.mirror
        ? 'Set by your organisation.'
        : 'The address of a folder with the same files, on a web server of your organisation. Chrome asks whether Sotto may read that server.')))
  return ask({
    title: `Get ${model.name}?`,
    yes: `Get ${bytes(model.fetchBytes)}`,
    impossible: missing > 0 || !model.fit.fits,
    body: [
      rows([
        ['To download', bytes(model.fetchBytes), 'Can be paused, and goes on after the browser was closed.'],
        ['Free here', room(machine)],
        ['Kept', KEPT],
        ['From', model.source],
        ['Graphics', graphics(machine)],
        ['On this computer', model.fit.fits ? 'It fits' : 'It does not fit', model.fit.reason],
        ['Licence', model.licence]
      ]),
      model.fit.fits ? null : failure('This computer cannot run it.', `${model.fit.reason}${instead}`),
      missing > 0 ? failure(`There is not enough room: ${bytes(missing)} more is needed.`, `Make room on the disk, or delete a model.${instead}`) : null,
      advanced
    ],
    onYes: chosen
  })

  /** @returns {Promise<Outcome<{ mirror: string | undefined }>>} */
  async function chosen () {
    const text = field.value.trim()
    if (!text) return { answer: { mirror: undefined } }
    const url = webAddress(text)
    if (url) return allowed(url, { mirror: url.href })
    advanced.open = true
    field.focus()
    return { problem: NO_ADDRESS }
  }
}

export const NO_ADDRESS = 'This is not an address on a web server: it begins with https.'

/** @param {string} text */
export function webAddress (text) {
  const url = URL.parse(text.trim())
  return url && /^https?:$/.test(url.protocol) ? url : null
}

/**
 * A model of the user's own, from an address.
 * @param {URL} url @param {Machine} machine
 */
export const askGetFrom = (url, machine) => ask({
  title: `Get a model from ${url.host}?`,
  yes: 'Get',
  body: [rows([
    ['From', url.host + url.pathname],
    ['To download', 'The server says when it is asked', 'Can be paused, and goes on after the browser was closed.'],
    ['Free here', room(machine)],
    ['Kept', KEPT],
    ['Checked', 'Hashed as it comes', 'Compared with hashes if the server has a sotto-manifest.json beside the files.']
  ])],
  onYes: () => allowed(url, true)
})

/** Origins that the user did not permit to read. @type {Set<string>} */
const denied = new Set()

/**
 * Asks for the origin before going on with it; Chrome shows it to the user, unless it was granted before. A server that lets every
 * page read its files needs no permission: after a denial, the same click again goes on without.
 * @template T @param {URL} url @param {T} answer @returns {Promise<Outcome<T>>}
 */
async function allowed ({ origin, host }, answer) {
  if (denied.has(origin) || await chrome.permissions.request({ origins: [`${origin}/*`] }).catch(() => false)) return { answer }
  denied.add(origin)
  return { problem: `Nothing was fetched: Sotto has no permission to read ${host}. The same click again tries without it, which works if that server lets every page read its files.` }
}

/** @param {ModelState} model @param {boolean} inUse @param {string} afterwards the model that answers then */
export const askDelete = (model, inUse, afterwards) => ask({
  title: `Delete ${model.name}?`,
  yes: 'Delete',
  no: 'Keep it',
  body: [h('p', {}, `This frees ${bytes(model.diskBytes)} on this computer. ${model.origin === 'own' ? 'Your own file stays where it is.' : 'To use it again, it has to be fetched again.'}`),
    inUse ? h('p', {}, `It is in use now: ${afterwards} answers from then on.`) : null],
  onYes: () => ({ answer: true })
})

/** @param {ModelState} model @param {number} done */
export const askCancel = (model, done) => ask({
  title: `Stop getting ${model.name}?`,
  yes: 'Stop and delete',
  no: 'Keep it',
  body: [h('p', {}, done > 0 ? `The ${bytes(done)} that have come are deleted. To keep them and go on later, pause instead.` : 'Nothing has come yet.')],
  onYes: () => ({ answer: true })
})

/**
 * Whose files are these?
 * @param {File[]} files @param {string} name of the file or folder @param {ModelState[]} models @param {Machine} machine @param {string} [chosen] a model's id
 * @returns {Promise<{ model: string | undefined } | null>}
 */
export function askImport (files, name, models, machine, chosen = '') {
  const size = files.reduce((sum, file) => sum + file.size, 0)
  const known = models.filter(({ origin, status }) => origin === 'known' && status.state === 'notHere')
  const select = h('select', { id: 'whose' }, h('option', { value: '' }, 'A model of my own'),
    ...known.map((model) => h('option', { value: model.id, selected: model.id === chosen }, model.name)))
  return ask({
    title: `Add ${name}?`,
    yes: 'Add',
    body: [
      rows([
        ['Files', files.length === 1 ? `1, ${bytes(size)}` : `${files.length}, ${bytes(size)}`, 'Only what Sotto needs of them is copied.'],
        ['Free here', room(machine)],
        ['Kept', KEPT],
        ['Network', 'Not used']
      ]),
      known.length ? h('div', { class: 'field' }, h('label', { for: 'whose' }, 'This is'), select) : null
    ],
    onYes: () => ({ answer: { model: select.value || undefined } })
  })
}
