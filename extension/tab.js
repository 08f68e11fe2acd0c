// Running our scripts in a tab after a gesture, for the service worker and the popup.
import { NOTHING_TO_READ, unreadable } from './unreadable.js'
/** @import { Failure, Source } from '../offscreen/pkg/engine.js' */

/** The grant of a gesture can reach the page a little later than the gesture reaches us. */
const RETRY_DELAYS = [0, 0, 10, 30, 100, 300]
/** Some pages (view-source) never answer. */
const TIMEOUT_MS = 6000

const READ_FILES = ['extension/extract-page.js', 'extension/show-passage.js']
export const CARD_FILES = [...READ_FILES, 'extension/replace-text.js', 'extension/look.js', 'extension/engine-port.js', 'extension/view.js', 'extension/card.js']

/**
 * `executeScript`, tried again while the grant is on its way, and given up when the page does not answer.
 * @template {any[]} A, R
 * @param {chrome.scripting.ScriptInjection<A, R>} injection
 * @returns {Promise<chrome.scripting.InjectionResult<R>>}
 */
export async function run (injection) {
  let timer
  const timeout = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('timeout')), TIMEOUT_MS) })
  const attempt = async () => {
    for (let i = 0; ; i++) {
      try {
        const [result] = await chrome.scripting.executeScript({ injectImmediately: true, ...injection })
        return result
      } catch (error) {
        if (i === RETRY_DELAYS.length || !/Cannot access contents/.test(String(error))) throw error
        await new Promise((resolve) => setTimeout(resolve, RETRY_DELAYS[i]))
      }
    }
  }
  try {
    return await Promise.race([attempt(), timeout])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Reads a tab's page. A failure is in words.
 * @param {chrome.tabs.Tab} tab
 * @returns {Promise<{ source: Source, documentId: string, failure?: undefined } | { failure: Failure, source?: undefined }>}
 */
export async function readTab (tab) {
  const target = { tabId: Number(tab.id) }
  try {
    if (tab.url?.startsWith('view-source:')) return { failure: unreadable(tab.url) }
    const { documentId } = await run({ target, files: ['extension/look.js', 'extension/engine-port.js', ...READ_FILES] })
    const { result } = await run({ target: { ...target, documentIds: [documentId] }, func: () => document.contentType === 'application/pdf' ? null : __sotto.readPage() })
    if (!result) return { failure: unreadable(tab.url, 'pdf') }
    if (!result.text.trim()) return { failure: NOTHING_TO_READ }
    return { source: { ...result, incognito: tab.incognito }, documentId }
  } catch (error) {
    return { failure: unreadable(tab.url, error) }
  }
}
