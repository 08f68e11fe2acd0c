// Sizes, times and states as the user reads them.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes, checkedAgainst, duration, missingRoom, nextSmaller, nextUp, percent, progress, standing } from '../../extension/model-words.js'
/** @import { Machine, ModelState } from '../../offscreen/pkg/engine.js' */

/** @param {Partial<ModelState>} [about] @returns {ModelState} */
const model = (about) => ({
  id: 'm', name: 'M', licence: 'Apache-2.0', fetchBytes: 2118056254, diskBytes: 0, origin: 'known', source: 'models.test', status: { state: 'notHere' },
  fit: { fits: true, reason: '' }, ...about
})
const HERE = /** @type {const} */ ({ state: 'here', verifiedAgainst: 'pinned' })

test('bytes are counted as disks count them, in three digits', () => {
  const cases = /** @type {const} */ ([
    [0, '0 bytes'], [1, '1 byte'], [999, '999 bytes'], [1000, '1 kB'], [999_400, '999 kB'], [999_500, '1.0 MB'], [8_388_608, '8.4 MB'], [9_950_000, '10 MB'],
    [98_362_432, '98 MB'], [999_400_000, '999 MB'], [999_500_000, '1.00 GB'], [2_118_056_254, '2.12 GB'], [9_995_000_000, '10.0 GB'], [48_200_000_000, '48.2 GB'], [1_204_000_000_000, '1,204 GB']
  ])
  for (const [count, text] of cases) assert.equal(bytes(count), text)
})

test('a percentage is never said before it is reached', () => {
  assert.equal(percent(2118056253, 2118056254), 99)
  assert.equal(percent(5, 5), 100)
  assert.equal(percent(7, 5), 100)
  assert.equal(percent(0, 0), 0)
})

test('time left is said in the unit that fits', () => {
  const cases = /** @type {const} */ ([[0, 'a few seconds'], [12, '15 s'], [50, '50 s'], [56, '1 min'], [100, '2 min'], [3540, '59 min'], [3590, '1 h'], [7800, '2 h 10 min'], [600_000, '7 days']])
  for (const [seconds, text] of cases) assert.equal(duration(seconds), text)
})

test('progress: what is there, how fast, how long; or why it does not move', () => {
  const moving = /** @type {const} */ ({ state: 'getting', done: 812e6, total: 2118056254, bytesPerSecond: 23.4e6, secondsLeft: 56, waiting: '' })
  assert.equal(progress(moving), '812 MB of 2.12 GB · 23 MB/s · 1 min left')
  assert.equal(progress({ ...moving, bytesPerSecond: 0, secondsLeft: undefined }), '812 MB of 2.12 GB')
  assert.equal(progress({ ...moving, done: 0, total: 0 }), 'Asking what there is to download')
  assert.equal(progress({ ...moving, waiting: 'The server asks to wait 30 s' }), '812 MB of 2.12 GB · The server asks to wait 30 s')
})

test('how it stands, for every state', () => {
  const reason = { code: /** @type {const} */ ('networkFailed'), message: '', nextStep: '' }
  const cases = /** @type {[Partial<ModelState>, boolean, string][]} */ ([
    [{}, false, '2.12 GB to get'],
    [{ fit: { fits: false, reason: '' } }, false, 'Does not fit this computer'],
    [{ status: { state: 'getting', done: 1, total: 4, bytesPerSecond: 0, secondsLeft: undefined, waiting: '' } }, false, 'Coming: 25 %'],
    [{ status: { state: 'paused', done: 1, total: 4 } }, false, 'Paused at 25 %'],
    [{ status: { state: 'checking', done: 3, total: 4 } }, false, 'Being checked: 75 %'],
    [{ status: { state: 'failed', reason, done: 3, total: 4 } }, false, 'Stopped at 75 %'],
    [{ status: HERE, diskBytes: 2118056254 }, false, 'On this computer · 2.12 GB'],
    [{ status: HERE, diskBytes: 2118056254 }, true, 'In use · 2.12 GB'],
    [{ status: HERE, origin: 'packaged' }, true, 'In use · part of Sotto']
  ])
  for (const [about, inUse, text] of cases) assert.equal(standing(model(about), inUse), text)
})

test('hashes that came with the download itself prove less, and that is said', () => {
  assert.match(checkedAgainst('pinned'), /published/)
  assert.match(checkedAgainst('firstDownload'), /No published hashes/)
  assert.match(checkedAgainst('import'), /your file/)
})

test('offers: the next step up, and the next smaller that fits', () => {
  const models = [
    model({ id: 'starter', origin: 'packaged', status: HERE }), model({ id: 'small' }), model({ id: 'middle', fit: { fits: false, reason: 'no' } }),
    model({ id: 'large', fit: { fits: false, reason: 'no' } }), model({ id: 'own', origin: 'own' })
  ]
  assert.equal(nextUp(models)?.id, 'small')
  assert.equal(nextSmaller(models, models[3])?.id, 'small')
  assert.equal(nextSmaller(models, models[1])?.id, 'starter')
  assert.equal(nextSmaller(models, models[0]), undefined)
})

test('room: what is there already needs none', () => {
  /** @type {Machine} */
  const machine = { freeBytes: 1e9, usedBytes: 0, persisted: true, gpu: '', downloadsAllowed: true, mirror: undefined, idleMinutes: 15 }
  assert.equal(missingRoom(model({ fetchBytes: 3e9, diskBytes: 1e9 }), machine), 1e9)
  assert.equal(missingRoom(model({ fetchBytes: 3e9, diskBytes: 2.5e9 }), machine), 0)
  assert.equal(missingRoom(model({ fetchBytes: 3e9 }), { ...machine, freeBytes: undefined }), 0)
})
