//! Where a model's bytes are kept, and reading them: headers first, then the weights once through, in file order.

use std::collections::BTreeSet;
use std::rc::Rc;

use sotto_core::formats::gguf::{Gguf, Parsed};
use sotto_core::formats::{ModelDescription, gguf_rope_divisors};
use sotto_core::gpu::GpuExecutor;
use sotto_core::outside::ReadFiles;
use sotto_core::weights::{WeightSink, WeightStream, WeightTable};
use sotto_core::{Error, Result};

use crate::browser::PackagedFile;
use crate::store::Library;
use crate::store::opfs::DataFile;
use crate::store::stored::{Described, Stored};

/// Bytes read from the store at once.
const PIECE: u64 = 8 << 20;

/// Where a model is kept. It is read again after a lost device, so it outlives the load.
#[derive(Clone)]
pub(crate) enum Source {
    /// A GGUF file of the extension's own package, read as a stream.
    Packaged {
        /// Its address, as the worker sees it.
        url: String,
        /// Its length.
        bytes: u64,
    },
    /// A model of the store, read where its weights lie.
    Stored {
        /// The store.
        library: Rc<Library>,
        /// Its id.
        id: String,
        /// Bytes of its weights.
        bytes: u64,
        /// Its weights' files, as indexes into its manifest.
        files: Vec<usize>,
    },
}

/// A model's files while they are read.
pub(crate) enum Reader {
    /// From the first byte to the last.
    Stream {
        /// The rest.
        file: PackagedFile,
        /// What was read for the headers, from the file's first byte on; handed on first.
        held: Vec<u8>,
        /// Where the next bytes begin.
        position: u64,
    },
    /// Here and there.
    Stored {
        /// The model.
        stored: Stored<DataFile>,
        /// Its weights' files.
        files: Vec<usize>,
        /// Read into again and again.
        buffer: Vec<u8>,
    },
}

/// How far a read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Across weights.
    Far,
    /// To the end of the next weight.
    Weight,
}

impl Source {
    /// A model of the store, if all of it is there.
    pub(crate) async fn stored(library: &Rc<Library>, id: &str) -> Result<Self> {
        let stored = open(library, id).await?;
        let Described::Model { description, files } = stored.describe(&BTreeSet::new(), false)? else {
            return Err(incomplete(id));
        };
        let bytes = description.weights.total_bytes();
        Ok(Self::Stored { library: Rc::clone(library), id: id.to_owned(), bytes, files })
    }

    /// Bytes that a load reads.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Packaged { bytes, .. } | Self::Stored { bytes, .. } => *bytes,
        }
    }

    /// True if any byte of it can be read at any time: not of a stream.
    pub(crate) fn stays_readable(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }

    /// The weights' files, to be read here and there for as long as the model is loaded: they stay open, so that they cannot be
    /// deleted meanwhile. Fails for a stream.
    pub(crate) async fn files(&self) -> Result<Box<dyn ReadFiles>> {
        match self {
            Self::Packaged { url, .. } => Err(Error::unsupported(url, "a stream is read once, from its start")),
            Self::Stored { library, id, files, .. } => {
                Ok(Box::new(OpenFiles { stored: open(library, id).await?, files: files.clone() }))
            }
        }
    }

    /// A reader at the beginning of the weights.
    pub(crate) async fn reader(&self) -> Result<Reader> {
        match self {
            Self::Packaged { url, .. } => {
                Ok(Reader::Stream { file: PackagedFile::open(url).await?, held: Vec::new(), position: 0 })
            }
            Self::Stored { library, id, files, .. } => {
                Ok(Reader::Stored { stored: open(library, id).await?, files: files.clone(), buffer: Vec::new() })
            }
        }
    }

    /// Reads the headers, and answers what they describe and a reader at the beginning of the weights.
    pub(crate) async fn describe(&self) -> Result<(ModelDescription, Reader)> {
        match self {
            Self::Packaged { url, bytes } => {
                let mut prefix = Prefix { file: PackagedFile::open(url).await?, held: Vec::new() };
                let gguf = prefix.header(*bytes).await?;
                let divisors = match gguf_rope_divisors(&gguf).map(|t| t.location.clone()) {
                    None => None,
                    Some(at) => {
                        prefix.fill(at.offset + at.len).await?;
                        let (from, to) = (at.offset as usize, (at.offset + at.len) as usize);
                        prefix.held.get(from..to).map(<[u8]>::to_vec)
                    }
                };
                let description = ModelDescription::from_gguf(gguf, divisors.as_deref())?;
                Ok((description, Reader::Stream { file: prefix.file, held: prefix.held, position: 0 }))
            }
            Self::Stored { id, .. } => {
                let reader = self.reader().await?;
                let Reader::Stored { stored, .. } = &reader else { return Err(incomplete(id)) };
                match stored.describe(&BTreeSet::new(), true)? {
                    Described::Model { description, .. } => Ok((*description, reader)),
                    Described::NeedFile { .. } | Described::NeedChunks { .. } => Err(incomplete(id)),
                }
            }
        }
    }
}

/// A stored model's weights, open for as long as a model lies there in part.
struct OpenFiles {
    stored: Stored<DataFile>,
    files: Vec<usize>,
}

impl ReadFiles for OpenFiles {
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> Result<()> {
        let missing = || Error::format("a stored model", format!("it has no weights' file {file}"));
        self.stored.read(*self.files.get(file).ok_or_else(missing)?, offset, into)
    }
}

async fn open(library: &Library, id: &str) -> Result<Stored<DataFile>> {
    let failed =
        |failure: crate::protocol::Failure| Error::format(id, format!("{} {}", failure.message, failure.next_step));
    library.open(id).await.map_err(failed)
}

fn incomplete(id: &str) -> Error {
    Error::format(id, "a part of it is missing: get it again on the models page")
}

/// The beginning of a stream.
struct Prefix {
    file: PackagedFile,
    held: Vec<u8>,
}

impl Prefix {
    /// Reads on until at least `len` bytes are held, or the file ends.
    async fn fill(&mut self, len: u64) -> Result<()> {
        while (self.held.len() as u64) < len {
            match self.file.next().await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(())
    }

    async fn header(&mut self, file_len: u64) -> Result<Gguf> {
        let mut want = 1 << 20;
        loop {
            self.fill(want.min(file_len)).await?;
            match Gguf::parse(&self.held, Some(file_len))? {
                Parsed::Gguf(gguf) => return Ok(gguf),
                Parsed::NeedMore(more) => want = more,
            }
        }
    }
}

impl Reader {
    /// Reads the rows that come next in the model's file number `number` straight into memory that a graphics device shares, and answers how many
    /// bytes; 0 if they have to go by [`Self::feed`].
    pub(crate) async fn feed_device(
        &mut self,
        number: usize,
        table: &WeightTable,
        stream: &mut WeightStream<'_>,
        gpu: &mut GpuExecutor,
    ) -> Result<u64> {
        let Self::Stored { stored, files, .. } = self else { return Ok(0) };
        let Some(&file) = files.get(number) else { return Ok(0) };
        gpu.take_rows(table, stream, PIECE, |offset, room| stored.read_outside(file, offset, room.as_uint8array()))
            .await
    }

    /// Feeds `stream` its next bytes of the model's file number `number`, and answers how many; 0 when there are no more. Of a stored model
    /// as many as can be read at once, or no more than the next weight's.
    pub(crate) async fn feed(
        &mut self,
        number: usize,
        stream: &mut WeightStream<'_>,
        reach: Reach,
        sink: &mut dyn WeightSink,
    ) -> Result<u64> {
        match self {
            Self::Stream { file, held, position } => {
                let bytes = match core::mem::take(held) {
                    held if !held.is_empty() => held,
                    _ => match file.next().await? {
                        Some(bytes) => bytes,
                        None => return Ok(0),
                    },
                };
                stream.skip_to(*position)?;
                *position += bytes.len() as u64;
                stream.push(&bytes, sink)?;
                Ok(bytes.len() as u64)
            }
            Self::Stored { stored, files, buffer } => {
                let (Some(wanted), Some(&file)) = (stream.wanted(), files.get(number)) else { return Ok(0) };
                let stretches = stored.stretches(file);
                let end = stretches.iter().map(|(from, len)| from + len).find(|end| *end > wanted.start);
                let end = match reach {
                    // Short weights lie side by side: one read serves many.
                    Reach::Far => end.unwrap_or(wanted.end),
                    Reach::Weight => wanted.end,
                };
                let len = end.saturating_sub(wanted.start).min(PIECE);
                buffer.resize(len as usize, 0);
                stored.read(file, wanted.start, buffer)?;
                stream.skip_to(wanted.start)?;
                stream.push(buffer, sink)?;
                Ok(len)
            }
        }
    }
}
