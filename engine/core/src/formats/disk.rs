//! Models on this machine's disk: a GGUF file or a Hugging Face folder.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Gguf, HuggingFaceTexts, ModelDescription, Safetensors, TensorList, gguf, gguf_rope_divisors, safetensors};
use crate::error::{Error, Result};
use crate::weights::{PIECE, WeightSink, WeightStream};

/// The first read; most headers of folders fit, and a GGUF header asks for more.
const FIRST_READ: u64 = 64 << 10;

/// A model on disk, described; its weights still to be streamed.
#[derive(Debug, Clone)]
pub struct DiskModel {
    /// What it is.
    pub description: ModelDescription,
    /// Its weights' files, indexed by [`crate::weights::Location::file`].
    pub paths: Vec<PathBuf>,
}

impl DiskModel {
    /// Reads the headers of a GGUF file, or of all files of a Hugging Face folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { Self::open_folder(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let mut file = Growing::open(path)?;
        let gguf = file.gguf()?;
        let divisors = match gguf_rope_divisors(&gguf) {
            Some(tensor) => Some(file.range(tensor.location.offset, tensor.location.len)?),
            None => None,
        };
        let description = ModelDescription::from_gguf(gguf, divisors.as_deref())?;
        Ok(Self { description, paths: vec![path.to_owned()] })
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        let index = optional_text(&folder.join("model.safetensors.index.json"))?;
        let names = match index {
            Some(index) => safetensors::index_files(&index)?,
            None => vec!["model.safetensors".to_owned()],
        };
        let texts = HuggingFaceTexts {
            config: text(&folder.join("config.json"))?,
            generation_config: optional_text(&folder.join("generation_config.json"))?,
            tokenizer: text(&folder.join("tokenizer.json"))?,
            tokenizer_config: optional_text(&folder.join("tokenizer_config.json"))?,
        };
        let (mut files, mut paths) = (Vec::new(), Vec::new());
        for name in names {
            let path = folder.join(&name);
            let header = Growing::open(&path)?.safetensors()?;
            files.push((name, header));
            paths.push(path);
        }
        Ok(Self { description: ModelDescription::from_hugging_face(texts, files)?, paths })
    }

    /// Streams all weights into `sink`.
    pub fn stream(&self, sink: &mut dyn WeightSink) -> Result<()> {
        let mut piece = vec![0; PIECE];
        for (number, path) in self.paths.iter().enumerate() {
            let start = self.description.files.get(number).map_or(0, |f| f.data_start);
            let mut stream = WeightStream::new(&self.description.weights, number, start);
            let mut file = File::open(path).map_err(|e| io_error(path, &e))?;
            file.seek(SeekFrom::Start(start)).map_err(|e| io_error(path, &e))?;
            while !stream.is_done() {
                let n = file.read(&mut piece).map_err(|e| io_error(path, &e))?;
                if n == 0 {
                    break;
                }
                stream.push(&piece[..n], sink)?;
            }
            stream.finish()?;
        }
        Ok(())
    }
}

/// The header of one GGUF or safetensors file: its tensors, and a GGUF's keys and values.
pub fn inspect(path: &Path) -> Result<(TensorList, gguf::Metadata)> {
    let mut file = Growing::open(path)?;
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok((file.safetensors()?.tensors, gguf::Metadata::default()));
    }
    let gguf = file.gguf()?;
    Ok((gguf.tensors, gguf.metadata))
}

/// A file of which more and more is read, from its start.
struct Growing {
    file: File,
    path: PathBuf,
    len: u64,
    prefix: Vec<u8>,
}

impl Growing {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| io_error(path, &e))?;
        let len = file.metadata().map_err(|e| io_error(path, &e))?.len();
        Ok(Self { file, path: path.to_owned(), len, prefix: Vec::new() })
    }

    fn gguf(&mut self) -> Result<Gguf> {
        self.header(|prefix, len| {
            Ok(match Gguf::parse(prefix, Some(len))? {
                gguf::Parsed::NeedMore(n) => Err(n),
                gguf::Parsed::Gguf(gguf) => Ok(gguf),
            })
        })
    }

    fn safetensors(&mut self) -> Result<Safetensors> {
        self.header(|prefix, len| {
            Ok(match Safetensors::parse(prefix, Some(len))? {
                safetensors::Parsed::NeedMore(n) => Err(n),
                safetensors::Parsed::Safetensors(header) => Ok(header),
            })
        })
    }

    /// Reads until `parse` has its header; it answers how many bytes it needs otherwise.
    fn header<T>(&mut self, parse: impl Fn(&[u8], u64) -> Result<Result<T, u64>>) -> Result<T> {
        let mut need = FIRST_READ;
        loop {
            let more = need.min(self.len).saturating_sub(self.prefix.len() as u64);
            let read = self.file.by_ref().take(more).read_to_end(&mut self.prefix);
            if read.map_err(|e| io_error(&self.path, &e))? == 0 && more > 0 {
                self.len = self.prefix.len() as u64;
            }
            match parse(&self.prefix, self.len)? {
                Ok(header) => return Ok(header),
                Err(n) => need = n,
            }
        }
    }

    fn range(&mut self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| io_error(&self.path, &e))?;
        self.file.by_ref().take(len).read_to_end(&mut bytes).map_err(|e| io_error(&self.path, &e))?;
        Ok(bytes)
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| io_error(path, &e))
}

fn optional_text(path: &Path) -> Result<Option<String>> {
    if path.exists() { text(path).map(Some) } else { Ok(None) }
}

fn io_error(path: &Path, error: &std::io::Error) -> Error {
    Error::format(path.display().to_string(), format!("it cannot be read: {error}"))
}
