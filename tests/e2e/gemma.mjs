// Gemma 4 in the extension as its user meets it: a small checkpoint of the published layout, with random weights, got from a
// mirror over a bad line, used without a network after a restart. What it writes means nothing; that it writes does.
import { execFileSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { finished, lastTurn, turns } from '../browser/answers.mjs'
import { expect } from '../browser/cdp.mjs'
import { REPOSITORY } from '../browser/chromium.mjs'
import { openPopup } from '../browser/gestures.mjs'
import { Mirror, pinned } from '../browser/mirror.mjs'
import { Client } from './client.mjs'
import { OUT, check, scenario } from './harness.mjs'
import { ask, summarize } from './popup.mjs'
import { FERRY } from './texts.mjs'

const MODEL = 'own-tiny'

/** @returns {Map<string, Buffer>} */
function synthetic () {
  const folder = join(OUT, 'tiny-mobile')
  execFileSync('cargo', ['run', '--quiet', '--profile', 'tools', '-p', 'sotto-cli', '--', 'synth', 'tiny-mobile', folder], { cwd: REPOSITORY, stdio: 'pipe' })
  const files = new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]))
  return files.set('sotto-manifest.json', pinned(files))
}

scenario('Gemma 4: got over a bad line, then offline, after a restart, in the popup', async (stage) => {
  const mirror = new Mirror(synthetic())
  // Cut once, then damaged once: both are asked for again.
  mirror.trouble = ({ path, nth }) => path === 'model.safetensors' ? [{ cut: true }, { corrupt: true }][nth] : null
  stage.web.serve('models.test', mirror.handler)
  const client = await Client.open(stage.browser)
  await client.send({ type: 'models' })
  await client.send({ type: 'getFrom', address: 'http://models.test/tiny' })
  await expect('the model is here', async () => (await client.models())?.models.some(({ id, status }) => id === MODEL && status.state === 'here'), 60_000)
  check(mirror.asked.filter(({ path }) => path === 'model.safetensors').length >= 3, 'the weights were not asked for again')
  const loaded = await client.use(MODEL)
  check(loaded?.device.startsWith('CPU'), `it runs on ${loaded?.device}`)

  stage.web.serve('models.test', (_, response) => void response.writeHead(404).end())
  const asked = mirror.asked.length
  await stage.restart()
  const tab = await stage.openPage(FERRY)
  const popup = await openPopup(stage.browser, tab)
  await summarize(popup)
  const first = await finished(() => lastTurn(popup))
  check(!first.failure && first.text.length > 20, `summary: ${JSON.stringify(first)}`)
  check(!first.passages.length && !/draft/i.test(first.label), `a model that leads does not follow passages: ${JSON.stringify(first)}`)
  check(!/<\|?(turn|channel)|thought/.test(first.text), `its turns show: "${first.text}"`)
  check(/tiny/.test(first.details.Model ?? ''), `answered by ${first.details.Model}`)

  await ask(popup, 'When does it run?')
  const second = await finished(() => lastTurn(popup))
  check(!second.failure && second.text && (await turns(popup)).length === 2, `question: ${JSON.stringify(second)}`)
  check(mirror.asked.length === asked, 'the mirror was asked again')
  stage.note(`${second.details.Speed}`)
}, { downloads: ['http://models.test/tiny/'] })
