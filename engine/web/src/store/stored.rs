//! A model in the store, read: its texts, its headers, its weights. Works on a part of a model too, and then says what it needs
//! next: so a fetch is planned by reading what has come.

use std::collections::BTreeSet;

use sotto_core::formats::gguf::{self, Gguf};
use sotto_core::formats::pinned::{CHUNK, chunk_count};
use sotto_core::formats::safetensors::{self, Safetensors, index_files};
use sotto_core::formats::{HuggingFaceTexts, ModelDescription, gguf_rope_divisors};
use sotto_core::{Error, Result};

use super::manifest::{Manifest, StoredFile};

/// The longest text file read, in bytes; Gemma's `tokenizer.json` has 33 MB.
const MAX_TEXT: u64 = 64 << 20;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Files of a folder beside its weights, and whether it can do without them.
const TEXTS: [(&str, bool); 5] = [
    ("config.json", false),
    ("generation_config.json", true),
    ("tokenizer.json", false),
    ("tokenizer_config.json", true),
    ("chat_template.jinja", true),
];

/// A data file.
pub trait Data {
    /// Fills `into` from byte `at`.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;
}

/// A stored model, or the part of one that has come.
pub struct Stored<D> {
    /// What is where.
    pub manifest: Manifest,
    /// The bytes.
    pub data: D,
}

/// What [`Stored::describe`] found.
#[derive(Debug)]
pub enum Described {
    /// This file has to be looked at first.
    NeedFile {
        /// Its path.
        path: String,
        /// True if the model can do without.
        optional: bool,
    },
    /// These chunks have to come first.
    NeedChunks {
        /// Index into [`Manifest::files`].
        file: usize,
        /// Their numbers.
        chunks: Vec<u64>,
    },
    /// The description. [`sotto_core::weights::Location::file`] counts [`Described::Model::files`].
    Model {
        /// It.
        description: Box<ModelDescription>,
        /// The weights' files: indexes into [`Manifest::files`].
        files: Vec<usize>,
    },
}

/// Stops reading where something is not there yet.
enum Stop {
    Need(Described),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// True for files of which only some chunks are needed.
pub fn holds_weights(path: &str) -> bool {
    path.ends_with(".gguf") || path.ends_with(".safetensors")
}

impl<D: Data> Stored<D> {
    /// Fills `into` from byte `offset` of a file; fails if a byte of it is not stored.
    pub fn read(&self, file: usize, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut rest = into;
        for (at, len) in self.places(file, offset, rest.len() as u64)? {
            let (now, later) = rest.split_at_mut(len as usize);
            self.data.read(at, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Where `len` bytes of a file from byte `offset` on lie among the data, in order, as offset and length. Fails if one of them is not
    /// stored.
    pub(super) fn places(&self, file: usize, offset: u64, len: u64) -> Result<Vec<(u64, u64)>> {
        let file = self.file(file)?;
        let (mut offset, end) = (offset, offset.saturating_add(len));
        let mut places: Vec<(u64, u64)> = Vec::new();
        while offset < end {
            let chunk = file.chunk_of(offset).filter(|c| c.done).ok_or_else(|| {
                Error::format(&file.path, format!("byte {offset} is not stored: resume, or get the model again"))
            })?;
            let inside = offset % CHUNK;
            let here = file.chunk_len(chunk.index).saturating_sub(inside).min(end - offset);
            if here == 0 {
                return Err(Error::format(&file.path, format!("it ends before byte {offset}")));
            }
            match places.last_mut() {
                Some((at, len)) if *at + *len == chunk.at + inside => *len += here,
                _ => places.push((chunk.at + inside, here)),
            }
            offset += here;
        }
        Ok(places)
    }

    /// The stretches of a file that are stored, as offset and length, in file order: what a load streams.
    pub fn stretches(&self, file: usize) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        let Some(file) = self.manifest.files.get(file) else { return out };
        for chunk in file.chunks.iter().filter(|c| c.done) {
            let (offset, len) = (chunk.index * CHUNK, file.chunk_len(chunk.index));
            match out.last_mut() {
                Some((from, so_far)) if *from + *so_far == offset => *so_far += len,
                _ => out.push((offset, len)),
            }
        }
        out
    }

    /// A text file of the model's folder; none if it has no such file.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        match self.manifest.find(path) {
            None => Ok(None),
            Some(number) => self.whole(number).map(Some),
        }
    }

    /// Describes the model, or says what has to come first. `absent` are files that the source was asked for and does not have.
    /// Without `tokenizer` the description has none: enough to know where the weights lie.
    pub fn describe(&self, absent: &BTreeSet<String>, tokenizer: bool) -> Result<Described> {
        let described = match &self.manifest.weights {
            Some(path) if path.ends_with(".gguf") => self.describe_gguf(path, absent),
            _ => self.describe_folder(absent, tokenizer),
        };
        match described {
            Ok(model) | Err(Stop::Need(model)) => Ok(model),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn describe_gguf(&self, path: &str, absent: &BTreeSet<String>) -> Result<Described, Stop> {
        let number = self.required(path, absent)?;
        let parse = |prefix: &[u8], len| {
            Ok(match Gguf::parse(prefix, Some(len))? {
                gguf::Parsed::NeedMore(more) => Err(more),
                gguf::Parsed::Gguf(gguf) => Ok(gguf),
            })
        };
        let gguf = self.header(number, parse)?;
        let divisors = match gguf_rope_divisors(&gguf).map(|t| t.location.clone()) {
            None => None,
            Some(at) => {
                let last = at.offset.saturating_add(at.len.max(1)) - 1;
                self.here(number, at.offset / CHUNK..=last / CHUNK)?;
                let mut bytes = vec![0; at.len as usize];
                self.read(number, at.offset, &mut bytes)?;
                Some(bytes)
            }
        };
        let description = Box::new(ModelDescription::from_gguf(gguf, divisors.as_deref())?);
        Ok(Described::Model { description, files: vec![number] })
    }

    fn describe_folder(&self, absent: &BTreeSet<String>, tokenizer: bool) -> Result<Described, Stop> {
        for (path, optional) in TEXTS {
            self.look(path, optional, absent)?;
        }
        let (index, optional) = match self.manifest.weights.as_deref() {
            None => (self.look(INDEX, true, absent)?, true),
            Some(INDEX) => (self.look(INDEX, false, absent)?, false),
            Some(_) => (None, true),
        };
        let names = match index {
            Some(number) => index_files(&self.came(number)?)?,
            None if !optional => return Err(missing(INDEX).into()),
            None => vec![self.manifest.weights.clone().unwrap_or_else(|| SINGLE.to_owned())],
        };
        let optional_text = |path: &str| self.manifest.find(path).map(|n| self.came(n)).transpose();
        let mut texts = HuggingFaceTexts {
            config: self.came(self.required("config.json", absent)?)?,
            generation_config: optional_text("generation_config.json")?,
            ..HuggingFaceTexts::default()
        };
        if tokenizer {
            texts.tokenizer = Some(self.came(self.required("tokenizer.json", absent)?)?);
            texts.tokenizer_config = optional_text("tokenizer_config.json")?;
            texts.chat_template = optional_text("chat_template.jinja")?;
        }
        let parse = |prefix: &[u8], len| {
            Ok(match Safetensors::parse(prefix, Some(len))? {
                safetensors::Parsed::NeedMore(more) => Err(more),
                safetensors::Parsed::Safetensors(header) => Ok(header),
            })
        };
        let (mut headers, mut files) = (Vec::new(), Vec::new());
        for name in names {
            let number = self.required(&name, absent)?;
            headers.push((name, self.header(number, parse)?));
            files.push(number);
        }
        let description = Box::new(ModelDescription::from_hugging_face(texts, headers)?);
        Ok(Described::Model { description, files })
    }

    /// The file at `path`; none if the model has none. While the plan is not made, it may first have to be asked for.
    fn look(&self, path: &str, optional: bool, absent: &BTreeSet<String>) -> Result<Option<usize>, Stop> {
        if let Some(number) = self.manifest.find(path) {
            return Ok(Some(number));
        }
        if self.manifest.planned || absent.contains(path) {
            return if optional { Ok(None) } else { Err(missing(path).into()) };
        }
        Err(Stop::Need(Described::NeedFile { path: path.to_owned(), optional }))
    }

    fn required(&self, path: &str, absent: &BTreeSet<String>) -> Result<usize, Stop> {
        self.look(path, false, absent)?.ok_or_else(|| missing(path).into())
    }

    /// Stops unless these chunks are stored.
    fn here(&self, number: usize, chunks: core::ops::RangeInclusive<u64>) -> Result<(), Stop> {
        let file = self.file(number)?;
        let lacks = |index: &u64| !file.chunk_of(index * CHUNK).is_some_and(|c| c.done);
        let chunks: Vec<u64> = chunks.filter(lacks).collect();
        if chunks.is_empty() { Ok(()) } else { Err(Stop::Need(Described::NeedChunks { file: number, chunks })) }
    }

    /// The text of a file that may not have come yet.
    fn came(&self, number: usize) -> Result<String, Stop> {
        if let Some(last) = chunk_count(self.file(number)?.bytes.min(MAX_TEXT)).checked_sub(1) {
            self.here(number, 0..=last)?;
        }
        Ok(self.whole(number)?)
    }

    fn whole(&self, number: usize) -> Result<String> {
        let file = self.file(number)?;
        if file.bytes > MAX_TEXT {
            let reason = format!("it has {} bytes, and a text file of a model has at most {MAX_TEXT}", file.bytes);
            return Err(Error::format(&file.path, reason));
        }
        let mut bytes = vec![0; file.bytes as usize];
        self.read(number, 0, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| Error::format(&file.path, "it is not UTF-8 text"))
    }

    /// Reads a file's beginning until `parse` has its header; it answers how many bytes it needs otherwise.
    fn header<T>(&self, number: usize, parse: impl Fn(&[u8], u64) -> Result<Result<T, u64>>) -> Result<T, Stop> {
        let len = self.file(number)?.bytes;
        let mut prefix: Vec<u8> = Vec::new();
        let mut want = CHUNK.min(len);
        loop {
            self.here(number, 0..=want.saturating_sub(1) / CHUNK)?;
            let had = prefix.len();
            prefix.resize(want as usize, 0);
            if let Some(new) = prefix.get_mut(had..) {
                self.read(number, had as u64, new)?;
            }
            match parse(&prefix, len)? {
                Ok(header) => return Ok(header),
                Err(more) if more > want && more <= len => want = more,
                Err(_) => return Err(Error::format(&self.file(number)?.path, "its header is cut short").into()),
            }
        }
    }

    fn file(&self, number: usize) -> Result<&StoredFile> {
        self.manifest
            .files
            .get(number)
            .ok_or_else(|| Error::format("a stored model", format!("it has no file {number}")))
    }
}

fn missing(path: &str) -> Error {
    Error::format(
        path,
        "the source does not have this file: it needs one GGUF file, or config.json, tokenizer.json and safetensors",
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use sotto_core::formats::disk::DiskModel;
    use sotto_core::formats::pinned::Sha256;

    use super::super::manifest::{Source, needed_chunks};
    use super::*;

    /// A data file in memory.
    #[derive(Default)]
    struct Memory(RefCell<Vec<u8>>);

    impl Data for Memory {
        fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
            into.copy_from_slice(&self.0.borrow()[at as usize..][..into.len()]);
            Ok(())
        }
    }

    /// Does what a fetch does, from a folder.
    fn fetch(folder: &str, weights: Option<&str>) -> (Stored<Memory>, Result<()>) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/shapes").join(folder);
        let source = Source::Files { name: "x".into() };
        let manifest = Manifest::new("x", weights.map(str::to_owned), source, "data");
        let mut stored = Stored { manifest, data: Memory::default() };
        let mut absent = BTreeSet::new();
        let bring = |stored: &mut Stored<Memory>| {
            for piece in stored.manifest.missing() {
                let file = std::fs::read(folder.join(&stored.manifest.files[piece.file].path)).unwrap();
                let mut data = stored.data.0.borrow_mut();
                let end = (piece.at + piece.len) as usize;
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[piece.at as usize..end]
                    .copy_from_slice(&file[piece.offset as usize..(piece.offset + piece.len) as usize]);
                drop(data);
                stored.manifest.set_done(piece, Sha256([1; 32]));
            }
        };
        for _ in 0..100 {
            match stored.describe(&absent, false) {
                Err(error) => return (stored, Err(error)),
                Ok(Described::NeedFile { path, optional }) => match std::fs::metadata(folder.join(&path)) {
                    Ok(found) => {
                        let number = stored.manifest.add_file(&path, found.len(), None, false).unwrap();
                        let all = if holds_weights(&path) { 1 } else { chunk_count(found.len()) };
                        (0..all).for_each(|i| stored.manifest.need(number, i, None));
                        bring(&mut stored);
                    }
                    Err(_) if optional => drop(absent.insert(path)),
                    Err(_) => return (stored, Err(missing(&path))),
                },
                Ok(Described::NeedChunks { file, chunks }) => {
                    chunks.into_iter().for_each(|i| stored.manifest.need(file, i, None));
                    bring(&mut stored);
                }
                Ok(Described::Model { description, files }) => {
                    for (i, &number) in files.iter().enumerate() {
                        for chunk in needed_chunks(&description.weights, i) {
                            stored.manifest.need(number, chunk, None);
                        }
                    }
                    stored.manifest.planned = true;
                    bring(&mut stored);
                    return (stored, Ok(()));
                }
            }
        }
        panic!("it asks for ever");
    }

    #[test]
    fn what_is_fetched_is_described_as_on_disk() {
        for (folder, weights) in [
            ("smollm-hf", None),
            ("llama3-hf", None),
            ("llama3-hf", Some(INDEX)),
            ("tinyllama-hf", Some(SINGLE)),
            ("llama3-gguf", Some("model.gguf")),
        ] {
            let (stored, outcome) = fetch(folder, weights);
            outcome.unwrap();
            assert!(stored.manifest.is_complete(), "{folder}");
            let Described::Model { description, files } = stored.describe(&BTreeSet::new(), true).unwrap() else {
                panic!("{folder} is not complete");
            };
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/shapes").join(folder);
            let path = if folder.ends_with("gguf") { path.join("model.gguf") } else { path };
            let disk = DiskModel::open(&path).unwrap();
            assert_eq!(description.eos, disk.description.eos);
            let specs = |d: &ModelDescription| d.weights.iter().map(|(_, s)| s.clone()).collect::<Vec<_>>();
            assert_eq!(specs(&description), specs(&disk.description), "{folder}");
            for (_, spec) in description.weights.iter() {
                let file = std::fs::read(&disk.paths[spec.location.file]).unwrap();
                let mut bytes = vec![0; spec.location.len as usize];
                stored.read(files[spec.location.file], spec.location.offset, &mut bytes).unwrap();
                assert!(bytes == file[spec.location.offset as usize..][..bytes.len()], "{folder}: {}", spec.name);
            }
            let (from, len) = stored.stretches(files[0])[0];
            assert_eq!((from, len), (0, stored.manifest.files[files[0]].bytes.min(CHUNK)));
        }
    }

    #[test]
    fn a_folder_that_is_no_model_says_so() {
        let (_, outcome) = fetch("llama3-gguf", None);
        assert!(outcome.unwrap_err().to_string().contains("config.json"));
        let (_, outcome) = fetch("smollm-hf", Some("other.gguf"));
        assert!(outcome.unwrap_err().to_string().contains("other.gguf"));
    }

    #[test]
    fn what_is_not_stored_is_not_read() {
        let (mut stored, _) = fetch("smollm-hf", None);
        let number = stored.manifest.find("model.safetensors").unwrap();
        let bytes = stored.manifest.files[number].bytes;
        assert!(stored.read(number, bytes - 1, &mut [0; 2]).is_err());
        assert!(stored.read(99, 0, &mut [0]).is_err());
        let piece = stored.manifest.stored()[0];
        stored.manifest.set_lost(piece);
        assert!(stored.read(piece.file, 0, &mut [0]).unwrap_err().to_string().contains("not stored"));
    }
}
