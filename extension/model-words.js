// What the popup and the models page say about models: sizes, times, states. Pure.
/** @import { Machine, ModelState, ModelStatus, Verified } from '../offscreen/pkg/engine.js' */

const plain = (/** @type {number} */ value, /** @type {number} */ digits) =>
  value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })

/** "98 MB", "2.12 GB": decimal units, as disks and servers count. @param {number} count */
export function bytes (count) {
  if (count >= 99.95e9) return `${plain(count / 1e9, 0)} GB`
  if (count >= 999.5e6) return `${plain(count / 1e9, count < 9.995e9 ? 2 : 1)} GB`
  if (count >= 999.5e3) return `${plain(count / 1e6, count < 9.95e6 ? 1 : 0)} MB`
  if (count >= 999.5) return `${plain(count / 1e3, 0)} kB`
  return `${plain(count, 0)} ${Math.round(count) === 1 ? 'byte' : 'bytes'}`
}

/** "812 MB of 2.12 GB". @param {number} done @param {number} total */
export const part = (done, total) => `${bytes(done)} of ${bytes(total)}`

/** Rounded down: 100 is said when it is all there. @param {number} done @param {number} total */
export const percent = (done, total) => total > 0 ? Math.max(0, Math.min(100, Math.floor(100 * done / total))) : 0

/** "less than a minute", "4 min", "2 h 10 min". @param {number} seconds */
export function duration (seconds) {
  if (seconds < 10) return 'a few seconds'
  if (seconds < 55) return `${Math.ceil(seconds / 5) * 5} s`
  const minutes = Math.max(1, Math.round(seconds / 60))
  if (minutes < 60) return `${minutes} min`
  const [hours, rest] = [Math.floor(minutes / 60), minutes % 60]
  if (hours >= 48) return `${Math.round(hours / 24)} days`
  return rest ? `${hours} h ${rest} min` : `${hours} h`
}

/** The line beside a bar: "812 MB of 2.12 GB · 23.4 MB/s · 1 min left", or why it does not move.
 *  @param {Extract<ModelStatus, { state: 'getting' }>} status */
export function progress ({ done, total, bytesPerSecond, secondsLeft, waiting }) {
  if (total === 0) return waiting || 'Asking what there is to download'
  const parts = [part(done, total)]
  if (waiting) parts.push(waiting)
  else {
    if (bytesPerSecond > 0) parts.push(`${bytes(bytesPerSecond)}/s`)
    if (typeof secondsLeft === 'number') parts.push(`${duration(secondsLeft)} left`)
  }
  return parts.join(' · ')
}

/** How it stands with a model, in a few words. @param {ModelState} model @param {boolean} inUse */
export function standing ({ origin, status, fetchBytes, diskBytes, fit }, inUse) {
  switch (status.state) {
    case 'notHere': return fit.fits ? `${bytes(fetchBytes)} to get` : 'Does not fit this computer'
    case 'getting': return `Coming: ${percent(status.done, status.total)} %`
    case 'paused': return `Paused at ${percent(status.done, status.total)} %`
    case 'checking': return `Being checked: ${percent(status.done, status.total)} %`
    case 'failed': return status.done < status.total ? `Stopped at ${percent(status.done, status.total)} %` : 'Damaged'
    case 'here': return [inUse ? 'In use' : 'On this computer', origin === 'packaged' ? 'part of Sotto' : bytes(diskBytes)].join(' · ')
  }
}

/** What the stored bytes were compared with. @param {Verified} verified */
export function checkedAgainst (verified) {
  switch (verified) {
    case 'pinned': return 'Every piece matches the hashes published with it.'
    case 'firstDownload': return 'Hashed as it came. No published hashes were known to compare with; later checks compare with these.'
    case 'import': return 'Hashed as it was read from your file. Later checks compare with these hashes.'
  }
}

/** What a model is good for, or empty: a string of `_locales` for each model that Sotto knows. @param {ModelState} model */
export function goodFor ({ id, origin }) {
  if (origin === 'own') return 'A model of your own.'
  return chrome.i18n.getMessage(`goodFor_${id.replaceAll(/\W/g, '_')}`)
}

/** A model that Sotto knows, can run here, and that is not the little one it comes with: the next step up.
 *  @param {ModelState[]} models */
export const nextUp = (models) => models.find(({ origin, fit }) => origin === 'known' && fit.fits)

/** The largest model before this one that fits. @param {ModelState[]} models smallest first @param {ModelState} model */
export const nextSmaller = (models, model) => models.slice(0, models.indexOf(model)).findLast(({ fit, origin }) => fit.fits && origin !== 'own')

/** Bytes that are missing on the disk to fetch a model; 0 if there is room or nobody knows. @param {ModelState} model @param {Machine} machine */
export const missingRoom = ({ fetchBytes, diskBytes }, { freeBytes }) =>
  typeof freeBytes === 'number' ? Math.max(0, fetchBytes - diskBytes - freeBytes) : 0
