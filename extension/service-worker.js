// Makes the engine's document, owns menus and commands, puts the card into pages. Holds nothing that it cannot lose: it is
// not on the way of any answer, and may be stopped at any moment.
import { CARD_FILES, run } from './tab.js'
import { NOTHING_TO_READ, unreadable } from './unreadable.js'
/** @import { Destination, Failure, Policy, RewriteStyle, Task } from '../offscreen/pkg/engine.js' */

const OFFSCREEN = 'offscreen/offscreen.html'

/** Both the menu's order and what each entry asks for. Titles begin with letters of their own, for the keyboard.
 *  @type {{ id: string, title: string, contexts: `${chrome.contextMenus.ContextType}`[], parent?: string, task?: Task, from?: 'page' | 'selection' }[]} */
const MENU = [
  { id: 'summarize-page', title: 'menuSummarizePage', contexts: ['page'], task: { kind: 'summarize' }, from: 'page' },
  { id: 'explain-page', title: 'menuExplainPage', contexts: ['page'], task: { kind: 'explain' }, from: 'page' },
  { id: 'summarize', title: 'menuSummarize', contexts: ['selection'], task: { kind: 'summarize' } },
  { id: 'explain', title: 'menuExplain', contexts: ['selection'], task: { kind: 'explain' } },
  { id: 'rewrite', title: 'menuRewrite', contexts: ['selection', 'editable'] },
  ...rewrites({ clearer: 'menuClearer', shorter: 'menuShorter', formal: 'menuFormal', friendly: 'menuFriendly', fixGrammar: 'menuFixGrammar' })
]

/** @param {Record<RewriteStyle, string>} titles @returns {typeof MENU} */
function rewrites (titles) {
  return Object.entries(titles).map(([style, title]) => ({
    id: `rewrite-${style}`, title, parent: 'rewrite', contexts: ['selection', 'editable'], task: { kind: 'rewrite', style: /** @type {RewriteStyle} */ (style) }
  }))
}

chrome.runtime.onInstalled.addListener(async () => {
  await chrome.contextMenus.removeAll()
  for (const { id, title, contexts, parent } of MENU) {
    chrome.contextMenus.create({ id, contexts: /** @type {any} */ (contexts), title: chrome.i18n.getMessage(title), ...(parent && { parentId: parent }) })
  }
  await lockNetwork()
})
chrome.runtime.onStartup.addListener(lockNetwork)

/** Blocks every request that this extension could make to any network, whatever its code does. */
async function lockNetwork () {
  await chrome.declarativeNetRequest.updateDynamicRules({
    removeRuleIds: [1],
    addRules: [{
      id: 1,
      action: { type: 'block' },
      condition: {
        initiatorDomains: [chrome.runtime.id],
        regexFilter: '^(https?|wss?|ftp):',
        resourceTypes: /** @type {chrome.declarativeNetRequest.ResourceType[]} */ (Object.values(chrome.declarativeNetRequest.ResourceType))
      }
    }]
  })
}

/** What the organisation has set; nothing, for most. @returns {Promise<Policy>} */
async function policy () {
  const { allowDownloads, modelMirror } = await chrome.storage.managed.get()
  return { downloadsAllowed: allowDownloads !== false, mirror: typeof modelMirror === 'string' && modelMirror ? modelMirror : undefined }
}

/**
 * Opens the lock for downloads that the user asked for, and closes it when there are none. Rules of the session: the end of the
 * browser closes it too, and so does the end of the document that asked.
 * @param {Destination[]} to
 */
async function setNetwork (to) {
  // Asked each time: a policy may come seconds after the browser's start, and change.
  if (to.length && !(await policy()).downloadsAllowed) throw new Error('downloads are switched off by policy')
  await chrome.declarativeNetRequest.updateSessionRules({
    removeRuleIds: (await chrome.declarativeNetRequest.getSessionRules()).map(({ id }) => id),
    addRules: to.map((destination, index) => ({
      id: index + 1,
      // Above the rule that blocks all.
      priority: 2,
      action: { type: 'allow' },
      condition: {
        initiatorDomains: [chrome.runtime.id],
        requestMethods: ['get'],
        resourceTypes: ['xmlhttprequest'],
        // The hub sends on to hosts of its own choice.
        urlFilter: destination.kind === 'origin' ? `|${destination.origin}/` : '|https:'
      }
    }))
  })
}

/** @type {Promise<void> | null} */
let creating = null

/** Makes the engine's document unless it is there. Chrome allows one: two creations at once must share one promise. */
async function ensureEngine () {
  if (creating) return creating
  const found = await chrome.runtime.getContexts({ contextTypes: [/** @type {chrome.runtime.ContextType} */ ('OFFSCREEN_DOCUMENT')] })
  if (found.length) return
  creating ??= setNetwork([]).then(() => chrome.offscreen.createDocument({
    url: OFFSCREEN,
    reasons: [/** @type {chrome.offscreen.Reason} */ ('WORKERS')],
    justification: 'Runs the language model in a worker, on this computer.'
  })).finally(() => { creating = null })
  await creating
}

chrome.runtime.onMessage.addListener((message, sender, answer) => {
  if (sender.id !== chrome.runtime.id) return
  const failed = (/** @type {unknown} */ error) => answer({ error: String(error) })
  if (message?.type === 'ensureEngine') ensureEngine().then(() => answer({}), failed)
  // A card has our id too: these are for the engine's document alone.
  else if (sender.url !== chrome.runtime.getURL(OFFSCREEN)) return
  else if (message?.type === 'policy') policy().then(answer, failed)
  else if (message?.type === 'network') setNetwork(message.to).then(() => answer({ done: true }), failed)
  else return
  return true
})

chrome.contextMenus.onClicked.addListener((info, tab) => {
  const entry = MENU.find(({ id }) => id === info.menuItemId)
  if (tab && entry?.task) answer(tab, entry.task, entry.from ?? 'selection', info.selectionText ?? '')
})

chrome.commands.onCommand.addListener((command, tab) => {
  if (tab && command === 'summarize') answer(tab, { kind: 'summarize' }, 'selectionOrPage', '')
})

/**
 * Shows a card in the tab, or, where none can be, the popup.
 * @param {chrome.tabs.Tab} tab
 * @param {Task} task
 * @param {CardOrder['from']} from
 * @param {string} selectionText
 */
async function answer (tab, task, from, selectionText) {
  const about = { task, from, selectionText, title: tab.title ?? '', url: tab.url ?? '', incognito: tab.incognito, tabId: Number(tab.id) }
  try {
    if (about.url.startsWith('view-source:')) throw new Error('view-source')
    const target = { tabId: about.tabId }
    const { documentId } = await run({ target, files: CARD_FILES })
    const { result } = await run({ target, func: (order) => __sotto.openCard(order), args: [{ ...about, documentId }] })
    if (result?.shown) return
    await showInPopup(about, result?.reason === 'pdf' ? unreadable(about.url, 'pdf') : NOTHING_TO_READ)
  } catch (error) {
    await showInPopup(about, unreadable(about.url, error))
  }
}

/**
 * Hands a task to the popup: with the selected text if Chrome gave it, else with the reason why there is no answer.
 * @param {{ task: Task, selectionText: string, title: string, url: string, incognito: boolean, tabId: number }} about
 * @param {Failure} failure
 */
async function showInPopup ({ task, selectionText, title, url, incognito, tabId }, failure) {
  await chrome.storage.session.set({ handoff: { task, selectionText, title, url, incognito, tabId, failure, at: Date.now() } })
  try {
    await chrome.action.openPopup()
  } catch {
    // No toolbar to hang it from (or another popup is open): a small window says the same.
    await chrome.windows.create({ url: 'popup/popup.html', type: 'popup', width: 440, height: 620 })
  }
}
