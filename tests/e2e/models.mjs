// The models page: what it says before anything happens, a model from its first byte to its deletion, and the picker in the popup.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { middleOf } from '../browser/answers.mjs'
import { expect, sleep } from '../browser/cdp.mjs'
import { DIST, REPOSITORY } from '../browser/chromium.mjs'
import { Mirror } from '../browser/mirror.mjs'
import { clickAt, openPopup, press, type } from '../browser/gestures.mjs'
import { check, scenario } from './harness.mjs'
import { ready } from './popup.mjs'
import { FERRY } from './texts.mjs'
/** @import { Session } from '../browser/cdp.mjs' */
/** @import { Browser } from '../browser/chromium.mjs' */
/** @import { Display } from '../browser/display.mjs' */
/** @import { Web } from '../browser/web.mjs' */

/** A model of many chunks: the one in the package, from another address under another name. */
const WEIGHTS = readFileSync(join(DIST, 'models/starter.gguf'))
const OWN = 'http://models.test/shared/Ferry-135M.gguf'

/** Serves it, with no word of CORS: as plain file servers do. @param {Web} web */
export function serveWeights (web) {
  const mirror = new Mirror(new Map([['Ferry-135M.gguf', WEIGHTS]]), '/shared/')
  mirror.headers = {}
  web.serve('models.test', mirror.handler)
  return mirror
}

/** Chrome's own question about an origin stands outside every page, and takes the focus; "Deny" has it first.
 *  @param {Session} page @param {Display} display @param {boolean} yes */
export async function permit (page, display, yes) {
  await expect('Chrome asks for the permission', () => page.eval('!document.hasFocus()'), 10_000)
  await sleep(600)
  await display.key(...(yes ? ['Tab', 'Return'] : ['Return']))
}

/**
 * Makes the engine's graphics adapter, a software one, look like a card: larger models are offered only where they would run.
 * @param {Browser} browser
 */
export async function withCard (browser) {
  const page = await modelsPage(browser)
  const worker = await expect('the engine runs', () => browser.workers.at(-1))
  await worker.eval(() => {
    Object.defineProperty(/** @type {any} */ (globalThis).GPUAdapter.prototype, 'info', {
      get: () => ({ vendor: 'test', architecture: '', device: '', description: 'Test card', isFallbackAdapter: false, subgroupMinSize: 4, subgroupMaxSize: 4 })
    })
  })
  await page.close()
}

/** Opens the page as its own tab and waits until the engine has told it what there is. @param {Browser} browser */
export async function modelsPage (browser) {
  const page = await browser.open(`${browser.origin}/extension/models.html`)
  await told(page)
  return page
}

/** @param {Session} page */
const told = (page) => expect('the models are shown', () => page.eval('document.querySelectorAll(".model").length >= 3'), 20_000)

/** What a card says. @param {Session} page @param {string} id */
export const cardOf = (page, id) => page.eval((id) => {
  const card = document.getElementById(id)
  if (!card) return null
  const shown = (/** @type {string} */ selector) => {
    const found = card.querySelector(selector)
    return found instanceof HTMLElement && found.offsetParent ? found.innerText.trim() : ''
  }
  const names = [...card.querySelectorAll('dt')].map((dt) => dt.textContent ?? '')
  const values = [...card.querySelectorAll('dd')].map((dd) => dd.textContent ?? '')
  return {
    name: shown('h2'), goodFor: shown('.head p'), chip: shown('.chip'), state: card.dataset.state ?? '', line: shown('.coming span'), failure: shown('.failure'),
    facts: Object.fromEntries(names.map((name, i) => [name, values[i]])),
    actions: [...card.querySelectorAll('button')].map((button) => button.dataset.action ?? '')
  }
}, id)

/** @param {Session} page @param {string} id @param {string} state @param {number} [ms] */
export const reaches = (page, id, state, ms = 30_000) => expect(`${id} is ${state}`, async () => {
  const card = await cardOf(page, id)
  return card?.state === state && card
}, ms)

/** Clicks an action of a card. @param {Session} page @param {string} id @param {string} action */
export async function click (page, id, action) {
  await clickAt(page, await middleOf(page, `#${CSS_ESCAPE(id)} [data-action="${action}"]`))
}
const CSS_ESCAPE = (/** @type {string} */ id) => id.replaceAll(/[^\w-]/g, (c) => `\\${c}`)

/** The open dialog's text, or ''. @param {Session} page */
export const dialog = (page) => page.eval(() => {
  const open = document.querySelector('dialog[open]')
  return open instanceof HTMLElement ? open.innerText : ''
})

/** @param {Session} page @param {'yes' | 'no'} answer */
export async function answer (page, answer) {
  await expect('a dialog is open', () => dialog(page))
  await clickAt(page, await middleOf(page, `dialog [data-action="${answer}"]`))
}

scenario('models: the page says what there is, the dialog what it takes, and no is no', async ({ browser }) => {
  await withCard(browser)
  const page = await modelsPage(browser)
  const starter = await reaches(page, 'starter', 'here')
  check(starter.chip === 'In use' && starter.actions.length === 0, `the packaged model: ${JSON.stringify(starter)}`)
  const gemma = await reaches(page, 'gemma-4-e2b', 'notHere')
  check(gemma.goodFor.length > 20 && gemma.facts.Licence === 'Apache-2.0', JSON.stringify(gemma))
  check(/^2\.1\d GB$/.test(gemma.facts['To download']) && gemma.facts.From.startsWith('huggingface.co/google/'), JSON.stringify(gemma.facts))
  await click(page, 'gemma-4-e2b', 'get')
  const asked = await expect('it asks', () => dialog(page))
  for (const part of ['2.1', 'GB', 'private storage', 'huggingface.co', 'Graphics', 'Apache-2.0', 'Free here', 'It fits']) check(asked.includes(part), `the dialog does not say ${part}: ${asked}`)
  check(await page.eval('document.activeElement.localName') === 'h2', 'a second Enter would begin the download')
  await press(page, 'Escape')
  await expect('Escape is no', async () => !await dialog(page))
  await click(page, 'gemma-4-e2b', 'get')
  await answer(page, 'no')
  await expect('the dialog closes', async () => !await dialog(page))
  check(await page.eval('document.activeElement?.getAttribute("data-action")') === 'get', 'the focus does not come back to Get')
  await sleep(500)
  check((await cardOf(page, 'gemma-4-e2b'))?.state === 'notHere', 'it was got against a no')
}, { gpu: 'software' })

scenario('models: the popup offers a larger model, and leads to the question', async ({ browser, openPage }) => {
  await withCard(browser)
  const tab = await openPage(FERRY)
  const popup = await openPopup(browser, tab)
  await ready(popup)
  await expect('the popup offers it', () => popup.eval('document.querySelector("#offer")?.innerText.includes("Get Gemma 4 E2B")'), 10_000)
  check(await popup.eval('document.querySelector("#model-name").textContent') === 'Starter', 'the popup does not say which model answers')
  // Until then things move under the pointer.
  await expect('the model is loaded', () => popup.eval('document.querySelector("#device").hidden === false'), 60_000)
  await clickAt(popup, await middleOf(popup, '#model'))
  const rows = await expect('the list opens', () => popup.eval('[...document.querySelectorAll("#models li")].filter((li) => li.offsetParent).map((li) => li.innerText)'))
  check(rows.length >= 4 && /In use/.test(rows[0]) && /GB to get/.test(rows[1]), `rows: ${rows.join(' | ')}`)
  await press(popup, 'Escape')
  check(await popup.eval('document.querySelector("#models").hidden && document.activeElement.id === "model"'), 'Escape does not close the list')
  // The popup closes under the click.
  await clickAt(popup, await middleOf(popup, '#offer a')).catch(() => {})
  const page = await browser.extensionPage('extension/models.html', 10_000)
  const asked = await expect('the page asks', () => dialog(page), 20_000)
  check(asked.startsWith('Get Gemma 4 E2B?'), asked)
}, { gpu: 'software' })

/** Asks for the model of `OWN`. @param {Session} page @param {Display} display @param {boolean} permitted */
async function getOwn (page, display, permitted) {
  await clickAt(page, await middleOf(page, '#address'))
  await type(page, OWN)
  await press(page, 'Enter')
  await answer(page, 'yes')
  await permit(page, display, permitted)
}
/** The id of the user's own model, or ''. @param {Session} page */
const own = (page) => page.eval(() => [...document.querySelectorAll('.model')].find(({ id }) => id.startsWith('own-'))?.id ?? '')

scenario('models: a permission denied fetches nothing', async ({ browser, display, web }) => {
  serveWeights(web)
  const page = await modelsPage(browser)
  await getOwn(page, display, false)
  await expect('the dialog says so', async () => (await dialog(page)).includes('Nothing was fetched'))
  await answer(page, 'no')
  await sleep(500)
  check(!await own(page) && !web.requests.some(({ url }) => url.includes('models.test')), 'it was asked for against the denial')
})

scenario('models: got, paused, resumed, checked, deleted', async ({ browser, display, web, openPage, note }) => {
  const mirror = serveWeights(web)
  mirror.speed = 2e6
  const page = await modelsPage(browser)
  await getOwn(page, display, true)
  const id = await expect('it has a card', () => own(page), 15_000)
  const getting = await expect('bytes come, with speed and time left', async () => {
    const card = await cardOf(page, id)
    return card && /MB of 98 MB.*MB\/s.*left/.test(card.line) && card
  }, 30_000)
  note(getting.line)
  check(getting.name === 'Ferry-135M.gguf' && getting.facts.From.startsWith('models.test/'), `while it comes: ${getting.name} from ${getting.facts.From}`)
  const spoken = await page.eval('document.querySelector("#status").textContent')

  // The popup shows the same, and pauses it.
  const tab = await openPage(FERRY)
  const popup = await openPopup(browser, tab)
  await expect('the popup shows it', () => popup.eval('/MB of 98 MB/.test(document.querySelector("#coming").innerText)'), 10_000)
  await clickAt(popup, await middleOf(popup, '#coming [data-action="pauseGet"]'))
  await expect('the popup says it is paused', () => popup.eval('/paused at/.test(document.querySelector("#coming").innerText)'))
  await popup.eval('close()').catch(() => {})

  const paused = await reaches(page, id, 'paused')
  check(paused.actions.join() === 'resume,cancel' && /stays until you go on/.test(paused.line), JSON.stringify(paused))
  check(spoken === await page.eval('document.querySelector("#status").textContent') || /paused/i.test(await page.eval('document.querySelector("#status").textContent')), 'the pause is not announced')
  const before = web.requests.length
  await sleep(1000)
  check(web.requests.slice(before).every(({ url }) => !url.includes('models.test')), 'it goes on while paused')

  mirror.trouble = () => ({ status: 403 })
  await page.front()
  await click(page, id, 'resume')
  const failed = await reaches(page, id, 'failed')
  check(failed.failure.length > 40 && failed.actions.includes('again'), `a refusal: ${JSON.stringify(failed)}`)
  mirror.trouble = () => null
  mirror.speed = 0
  await click(page, id, 'again')
  const here = await reaches(page, id, 'here')
  check(here.facts['On this computer'] === '98 MB' && /No published hashes/.test(here.facts.Checked), JSON.stringify(here.facts))

  await click(page, id, 'check')
  await reaches(page, id, 'here')
  await click(page, id, 'use')
  await expect('it is in use', async () => (await cardOf(page, id))?.chip === 'In use', 60_000)
  await click(page, id, 'delete')
  const asked = await expect('it asks', () => dialog(page))
  check(/98 MB/.test(asked) && /in use now: Starter answers/.test(asked), `the dialog does not say what is freed, and what follows: ${asked}`)
  await answer(page, 'no')
  check((await cardOf(page, id))?.state === 'here', 'it was deleted against a no')
  await click(page, id, 'delete')
  await answer(page, 'yes')
  await expect('the card goes', async () => !await own(page), 30_000)
  await expect('the packaged one is in use again', async () => (await cardOf(page, 'starter'))?.chip === 'In use')
}, { downloads: ['http://models.test/shared/'] })

scenario('models: a folder dropped on the page, without any network', async ({ browser, web }) => {
  const page = await modelsPage(browser)
  const { x, y } = await middleOf(page, '#drop')
  const data = { items: [], files: [join(REPOSITORY, 'tests/golden/shapes/smollm-hf')], dragOperationsMask: 1 }
  for (const type of ['dragEnter', 'dragOver', 'drop']) await page.send('Input.dispatchDragEvent', { type, x, y, data })
  const asked = await expect('it asks', () => dialog(page))
  check(/Add smollm-hf\?/.test(asked) && asked.includes('Gemma 4 E2B'), asked)
  await answer(page, 'yes')
  const id = await expect('it has a card', () => own(page), 15_000)
  const here = await reaches(page, id, 'here')
  check(here.name === 'smollm-hf', `it is called ${here.name}`)
  check(!web.requests.some(({ url }) => /models|huggingface/.test(url)), 'the network was used')
})

scenario('models: a file of the user\'s own, without any network', async ({ browser, web }) => {
  const page = await modelsPage(browser)
  const gguf = join(REPOSITORY, 'tests/golden/shapes/llama3-gguf/model.gguf')
  const { root } = await page.send('DOM.getDocument')
  const { nodeId } = await page.send('DOM.querySelector', { nodeId: root.nodeId, selector: '#file' })
  await page.send('DOM.setFileInputFiles', { nodeId, files: [gguf] })
  const asked = await expect('it asks', () => dialog(page))
  check(/Add model\.gguf\?/.test(asked) && /Not used/.test(asked), asked)
  await answer(page, 'yes')
  const id = await expect('it has a card', () => own(page), 15_000)
  const here = await reaches(page, id, 'here')
  check(/your file/.test(here.facts.Checked), JSON.stringify(here.facts))
  check(!web.requests.some(({ url }) => /models|huggingface/.test(url)), 'the network was used')
})
