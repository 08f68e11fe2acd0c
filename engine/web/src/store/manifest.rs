//! `manifest.json` of a stored model: which chunks of which files lie where in its data file, where they came from, and what
//! their hashes are. A versioned document; a hostile or damaged one is refused and costs nothing but its own size.
//!
//! A model's files are cut into chunks of [`CHUNK`] bytes, counted from each file's start, whatever is wanted of it. Chunks that
//! hold no byte of a needed tensor are never fetched; the others lie whole in the data file, in file order. So a chunk's hash is
//! the same whoever fetches which part, and one list of hashes serves every mirror.

use serde::{Deserialize, Serialize};
use sotto_core::formats::pinned::{CHUNK, MAX_FILES, PinnedManifest, Sha256, check_path, chunk_count};
use sotto_core::weights::WeightTable;
use sotto_core::{Error, Result};

use crate::protocol::Verified;

/// The longest document read, in bytes.
pub const MAX_MANIFEST: usize = 16 << 20;

/// Most chunks of a model: 512 GB.
const MAX_CHUNKS: usize = 1 << 16;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A repository of the model hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// The commit, tag or branch.
        revision: String,
    },
    /// A folder on a web server, without the slash at its end.
    Mirror {
        /// Its address.
        folder: String,
    },
    /// Files that the user chose.
    Files {
        /// The name of the file or folder.
        name: String,
    },
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    version: u32,
    /// The model's name in the interface.
    pub name: String,
    /// The file that holds the weights, or lists the files that do. Without it: an index if there is one, else
    /// `model.safetensors`.
    pub weights: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// The data file's name.
    pub data: String,
    /// True when `files` lists every chunk that is needed; false while the headers are still being read.
    pub planned: bool,
    /// Its files, in the order they were looked at.
    pub files: Vec<StoredFile>,
}

/// A file, or the needed part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoredFile {
    /// Its path within the model's folder.
    pub path: String,
    /// Its whole length at the source.
    pub bytes: u64,
    /// The source's name for this version of it, if it gave one.
    pub etag: Option<String>,
    /// True when its hashes were known before it was fetched.
    pub pinned: bool,
    /// Its needed chunks, in file order.
    pub chunks: Vec<StoredChunk>,
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoredChunk {
    /// The chunk begins at this many times [`CHUNK`] bytes of its file.
    pub index: u64,
    /// Where it lies in the data file.
    pub at: u64,
    /// The hash it must have, if pinned; else the one it had when it came.
    pub sha256: Option<Sha256>,
    /// True when it is stored and its hash was right.
    pub done: bool,
}

/// One chunk to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`Manifest::files`].
    pub file: usize,
    /// Index into [`StoredFile::chunks`].
    pub chunk: usize,
    /// Where it begins in its file.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// Where it lies in the data file.
    pub at: u64,
    /// The hash it must have, if that is known.
    pub expected: Option<Sha256>,
}

impl StoredFile {
    /// The length of chunk number `index` of the file.
    pub fn chunk_len(&self, index: u64) -> u64 {
        self.bytes.saturating_sub(index.saturating_mul(CHUNK)).min(CHUNK)
    }

    /// Bytes of its needed chunks.
    pub fn needed_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| self.chunk_len(c.index)).sum()
    }

    /// Bytes of its stored chunks.
    pub fn done_bytes(&self) -> u64 {
        self.chunks.iter().filter(|c| c.done).map(|c| self.chunk_len(c.index)).sum()
    }

    /// The chunk that holds byte `offset`, if it is needed.
    pub fn chunk_of(&self, offset: u64) -> Option<&StoredChunk> {
        let index = offset / CHUNK;
        self.chunks.binary_search_by_key(&index, |c| c.index).ok().and_then(|i| self.chunks.get(i))
    }
}

impl Manifest {
    /// Of a model of which nothing is here.
    pub fn new(name: &str, weights: Option<String>, source: Source, data: &str) -> Self {
        Self {
            version: 1,
            name: name.to_owned(),
            weights,
            source,
            data: data.to_owned(),
            planned: false,
            files: Vec::new(),
        }
    }

    /// Reads the document and checks that it holds together.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > MAX_MANIFEST {
            return Err(wrong(format!("it has {} bytes, more than {MAX_MANIFEST}", text.len())));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        if self.version != 1 {
            return Err(wrong(format!("it is of version {}, and this Sotto reads version 1", self.version)));
        }
        check_path(&self.data)?;
        self.weights.as_deref().map_or(Ok(()), check_path)?;
        if self.data.contains('/') || self.files.len() > 2 * MAX_FILES {
            return Err(wrong("the data file's name or the number of files".to_owned()));
        }
        let mut places = Vec::new();
        for file in &self.files {
            check_path(&file.path)?;
            let mut next = 0;
            for chunk in &file.chunks {
                if chunk.index < next || chunk.index >= chunk_count(file.bytes) {
                    return Err(wrong(format!("chunk {} of {}", chunk.index, file.path)));
                }
                if chunk.done && chunk.sha256.is_none() {
                    return Err(wrong(format!("chunk {} of {} has no hash", chunk.index, file.path)));
                }
                next = chunk.index + 1;
                places.push((chunk.at, file.chunk_len(chunk.index)));
                if places.len() > MAX_CHUNKS {
                    return Err(wrong(format!("more than {MAX_CHUNKS} chunks")));
                }
            }
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if pair[0].0.checked_add(pair[0].1).is_none_or(|end| end > pair[1].0) {
                return Err(wrong(format!("two chunks at byte {} of the data", pair[1].0)));
            }
        }
        if places.last().is_some_and(|(at, len)| at.checked_add(*len).is_none_or(|end| end > 1 << 50)) {
            return Err(wrong("the data file's length".to_owned()));
        }
        Ok(())
    }

    /// The document's text.
    pub fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| wrong(e.to_string()))
    }

    /// The index of the file at `path`.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.files.iter().position(|f| f.path == path)
    }

    /// Where the data file ends.
    pub fn data_end(&self) -> u64 {
        let ends = self.files.iter().flat_map(|f| f.chunks.iter().map(|c| c.at + f.chunk_len(c.index)));
        ends.max().unwrap_or(0)
    }

    /// Takes a file up, without chunks yet, and answers its index.
    pub fn add_file(&mut self, path: &str, bytes: u64, etag: Option<String>, pinned: bool) -> Result<usize> {
        check_path(path)?;
        self.files.push(StoredFile { path: path.to_owned(), bytes, etag, pinned, chunks: Vec::new() });
        Ok(self.files.len() - 1)
    }

    /// Adds chunk number `index` of a file behind all others, unless it is there.
    pub fn need(&mut self, file: usize, index: u64, expected: Option<Sha256>) {
        let at = self.data_end();
        let Some(file) = self.files.get_mut(file) else { return };
        if index < chunk_count(file.bytes)
            && let Err(i) = file.chunks.binary_search_by_key(&index, |c| c.index)
        {
            file.chunks.insert(i, StoredChunk { index, at, sha256: expected, done: false });
        }
    }

    /// Every chunk that is not stored yet.
    pub fn missing(&self) -> Vec<Piece> {
        self.pieces(|c| !c.done)
    }

    /// Every stored chunk.
    pub fn stored(&self) -> Vec<Piece> {
        self.pieces(|c| c.done)
    }

    fn pieces(&self, wanted: impl Fn(&StoredChunk) -> bool) -> Vec<Piece> {
        let mut out = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            for (i, chunk) in file.chunks.iter().enumerate().filter(|(_, c)| wanted(c)) {
                out.push(Piece {
                    file: number,
                    chunk: i,
                    offset: chunk.index * CHUNK,
                    len: file.chunk_len(chunk.index),
                    at: chunk.at,
                    expected: chunk.sha256.filter(|_| file.pinned || chunk.done),
                });
            }
        }
        out
    }

    /// Takes down that a chunk is stored.
    pub fn set_done(&mut self, piece: Piece, sha256: Sha256) {
        if let Some(chunk) = self.files.get_mut(piece.file).and_then(|f| f.chunks.get_mut(piece.chunk)) {
            chunk.sha256 = Some(sha256);
            chunk.done = true;
        }
    }

    /// Takes down that a chunk has to be fetched again. The hash it had stays what it must have.
    pub fn set_lost(&mut self, piece: Piece) {
        if let Some(file) = self.files.get_mut(piece.file) {
            file.pinned |= file.chunks.iter().all(|c| c.sha256.is_some());
            if let Some(chunk) = file.chunks.get_mut(piece.chunk) {
                chunk.done = false;
            }
        }
    }

    /// Takes down that a chunk was never right: its hash is forgotten too, unless it was pinned.
    pub fn forget(&mut self, piece: Piece) {
        let Some(file) = self.files.get_mut(piece.file) else { return };
        if let Some(chunk) = file.chunks.get_mut(piece.chunk) {
            chunk.done = false;
            chunk.sha256 = chunk.sha256.filter(|_| file.pinned);
        }
    }

    /// Bytes that are stored, and that are needed in all as far as is known.
    pub fn progress(&self) -> (u64, u64) {
        let sum = |of: fn(&StoredFile) -> u64| self.files.iter().map(of).sum();
        (sum(StoredFile::done_bytes), sum(StoredFile::needed_bytes))
    }

    /// True when every needed chunk is stored.
    pub fn is_complete(&self) -> bool {
        self.planned && self.files.iter().all(|f| f.chunks.iter().all(|c| c.done))
    }

    /// What its chunks were compared with.
    pub fn verified(&self) -> Verified {
        match self.source {
            _ if self.files.iter().all(|f| f.pinned) => Verified::Pinned,
            Source::Files { .. } => Verified::Import,
            Source::Hub { .. } | Source::Mirror { .. } => Verified::FirstDownload,
        }
    }
}

/// The numbers of the chunks that hold a byte of the weights in file `file`, rising.
pub fn needed_chunks(weights: &WeightTable, file: usize) -> Vec<u64> {
    let mut chunks: Vec<u64> = weights
        .iter()
        .map(|(_, spec)| &spec.location)
        .filter(|at| at.file == file && at.len > 0)
        .flat_map(|at| at.offset / CHUNK..=(at.offset + at.len - 1) / CHUNK)
        .collect();
    chunks.sort_unstable();
    chunks.dedup();
    chunks
}

/// The pinned hash of chunk `index`, if `pinned` knows the file.
pub fn pinned_hash(pinned: Option<&PinnedManifest>, path: &str, index: u64) -> Option<Sha256> {
    pinned?.file(path)?.sha256.get(usize::try_from(index).ok()?).copied()
}

fn wrong(reason: String) -> Error {
    Error::format("a stored model's manifest", format!("it is damaged ({reason}): delete the model and get it again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sotto_core::quant::QuantType;
    use sotto_core::weights::{Location, WeightRole, WeightSpec};

    fn hash(n: u8) -> Sha256 {
        Sha256([n; 32])
    }

    fn sample() -> Manifest {
        let mut m = Manifest::new("N", Some("m.gguf".into()), Source::Files { name: "m.gguf".into() }, "data-1");
        let file = m.add_file("m.gguf", 3 * CHUNK + 5, Some("\"e\"".into()), false).unwrap();
        m.need(file, 0, None);
        m.need(file, 3, None);
        m.need(file, 1, None);
        m.need(file, 1, None);
        m.need(file, 4, None);
        m.planned = true;
        m
    }

    #[test]
    fn chunks_are_counted_and_placed() {
        let mut m = sample();
        let missing = m.missing();
        let places: Vec<_> = missing.iter().map(|p| (p.offset / CHUNK, p.len, p.at)).collect();
        assert_eq!(places, [(0, CHUNK, 0), (1, CHUNK, CHUNK + 5), (3, 5, CHUNK)]);
        assert_eq!(m.progress(), (0, 2 * CHUNK + 5));
        m.set_done(missing[2], hash(3));
        assert_eq!(m.progress(), (5, 2 * CHUNK + 5));
        assert!(!m.is_complete());
        for piece in m.missing() {
            m.set_done(piece, hash(1));
        }
        assert!(m.is_complete());
        assert_eq!(m.verified(), Verified::Import);
        let same = Manifest::parse(m.text().unwrap().as_bytes()).unwrap();
        assert_eq!(same, m);
    }

    #[test]
    fn a_lost_chunk_must_come_back_as_it_was() {
        let mut m = sample();
        for piece in m.missing() {
            m.set_done(piece, hash(7));
        }
        let piece = m.stored()[1];
        m.set_lost(piece);
        assert_eq!(m.missing().len(), 1);
        assert_eq!(m.missing()[0].expected, Some(hash(7)));
    }

    #[test]
    fn only_chunks_with_weights_are_needed() {
        let mut table = WeightTable::default();
        for (offset, rows) in [(CHUNK - 4, 2), (5 * CHUNK, 1)] {
            table
                .add(WeightSpec {
                    name: "w".into(),
                    rows,
                    cols: 1,
                    quant: QuantType::F32,
                    role: WeightRole::Matrix,
                    location: Location { file: 0, offset, len: rows as u64 * 4 },
                    adapter: None,
                    scales: None,
                })
                .unwrap();
        }
        assert_eq!(needed_chunks(&table, 0), [0, 1, 5]);
        assert!(needed_chunks(&table, 1).is_empty());
    }

    #[test]
    fn damaged_documents_are_refused() {
        let good = sample().text().unwrap();
        assert!(Manifest::parse(good.as_bytes()).is_ok());
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("data-1", "../data"),
            ("data-1", "a/data"),
            ("\"index\":3", "\"index\":4"),
            ("\"index\":3", "\"index\":18446744073709551615"),
            ("\"index\":3", "\"index\":1"),
            ("\"at\":8388608", "\"at\":8388607"),
            ("\"at\":8388608", "\"at\":18446744073709551615"),
            ("\"done\":false", "\"done\":true"),
            ("\"path\":\"m.gguf\"", "\"path\":\"../m.gguf\""),
            ("\"planned\"", "\"plan\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let error = Manifest::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 400, "{error}");
        }
    }
}
