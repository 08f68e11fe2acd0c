// The files of a picker or of a drop, as a flat list with a name for the whole.
/** @typedef {{ files: File[], name: string }} Chosen */

/** A model has a few dozen files at most; whoever drops a home folder did not mean it. */
const MOST_FILES = 500

/** @param {FileList | null} list @returns {Chosen} */
export function chosenFiles (list) {
  const files = visible([...list ?? []]).slice(0, MOST_FILES)
  const folder = files[0]?.webkitRelativePath.split('/')[0]
  return { files, name: folder || nameOf(files) }
}

/** @param {DataTransfer} transfer @returns {Promise<Chosen>} */
export async function droppedFiles (transfer) {
  // Entries must be taken before the first await: the transfer is emptied when its event ends.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null)
  /** @type {File[]} */
  const files = []
  for (const entry of entries) await collect(entry, files)
  const folder = entries.length === 1 && entries[0].isDirectory ? entries[0].name : ''
  const found = visible(files)
  return { files: found, name: folder || nameOf(found) }
}

/** @param {File[]} files */
const nameOf = (files) => files.length === 1 ? files[0].name : `${files.length} files`
/** Systems leave files of their own in folders. @param {File[]} files */
const visible = (files) => files.filter(({ name }) => !name.startsWith('.'))

/** @param {FileSystemEntry} entry @param {File[]} into */
async function collect (entry, into) {
  if (into.length >= MOST_FILES) return
  if (entry.isFile) {
    into.push(await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject)))
    return
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader()
  for (;;) {
    // A reader answers a hundred at a time, then none.
    const part = await new Promise((/** @type {(part: FileSystemEntry[]) => void} */ resolve, reject) => reader.readEntries(resolve, reject))
    if (!part.length) return
    for (const inner of part) await collect(inner, into)
  }
}
