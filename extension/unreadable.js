// Pages that extensions may not read, in words with a next step.

const SELECT_INSTEAD = 'Select the text and right-click it, or open another page.'

/**
 * Why a page could not be read, from its address and from what Chrome said.
 * @param {string | undefined} url
 * @param {unknown} [error]
 * @returns {import('../offscreen/pkg/engine.js').Failure}
 */
export function unreadable (url = '', error = '') {
  const said = String(error instanceof Error ? error.message : error)
  const is = (/** @type {RegExp} */ pattern) => pattern.test(url)
  /** @type {(message: string, nextStep: string) => import('../offscreen/pkg/engine.js').Failure} */
  const failure = (message, nextStep) => ({ code: 'pageNotReadable', message, nextStep })
  if (said === 'pdf' || is(/\.pdf($|[?#])/i)) return failure('The PDF viewer does not let extensions read the document.', 'Select the text you mean and right-click it.')
  if (is(/^view-source:/)) return failure('The source of a page cannot be read by extensions.', 'Open the page itself, or select text and right-click it.')
  if (is(/^https:\/\/(chromewebstore\.google\.com|chrome\.google\.com\/webstore|microsoftedge\.microsoft\.com\/addons)/) || /gallery cannot be scripted/.test(said)) {
    return failure('The extension store does not let extensions read its pages.', SELECT_INSTEAD)
  }
  if (is(/^(chrome|edge|about|chrome-untrusted|devtools):/) || /(chrome|edge):\/\/ URL/.test(said)) return failure('This is a page of the browser itself: extensions may not read it.', SELECT_INSTEAD)
  if (is(/^chrome-extension:/)) return failure('This page belongs to an extension and cannot be read.', SELECT_INSTEAD)
  if (is(/^file:/)) return failure('Chrome keeps extensions away from files on this computer.', 'Allow "access to file URLs" for Sotto at chrome://extensions, or select text and right-click it.')
  if (/showing error page/.test(said)) return failure('The page did not load, so there is nothing to read.', 'Load the page again first.')
  if (said === 'timeout') return failure('The page did not answer.', 'Wait until it has loaded, then try again.')
  return failure('Chrome does not let extensions read this page.', SELECT_INSTEAD)
}

/** @type {import('../offscreen/pkg/engine.js').Failure} */
export const NOTHING_TO_READ = { code: 'nothingToRead', message: 'There is no text to read here.', nextStep: 'Select some text, or open a page with text on it.' }
