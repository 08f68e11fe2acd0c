//! Where a model's bytes are kept, and reading them: headers first, then the weights once through, in file order.

use sotto_core::Result;
use sotto_core::formats::gguf::{Gguf, Parsed};
use sotto_core::formats::{ModelDescription, gguf_rope_divisors};
use sotto_core::weights::{WeightSink, WeightStream};

use crate::browser::PackagedFile;

/// Where a model is kept. It is read again after a lost device, so it outlives the load.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A GGUF file of the extension's own package, read as a stream.
    Packaged {
        /// Its address, as the worker sees it.
        url: String,
        /// Its length.
        bytes: u64,
    },
}

/// Consecutive bytes of one of a model's files.
pub(crate) struct Piece {
    /// Where they begin in the file.
    pub(crate) offset: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// A model's files while they are read.
pub(crate) struct Reader {
    stream: PackagedFile,
    /// What was read for the headers, from the file's first byte on; handed on first.
    held: Vec<u8>,
    position: u64,
}

impl Source {
    /// Bytes that a load reads.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Packaged { bytes, .. } => *bytes,
        }
    }

    /// A reader at the beginning of the weights.
    pub(crate) async fn reader(&self) -> Result<Reader> {
        match self {
            Self::Packaged { url, .. } => {
                Ok(Reader { stream: PackagedFile::open(url).await?, held: Vec::new(), position: 0 })
            }
        }
    }

    /// Reads the headers, and answers what they describe and a reader at the beginning of the weights.
    pub(crate) async fn describe(&self) -> Result<(ModelDescription, Reader)> {
        match self {
            Self::Packaged { bytes, .. } => {
                let mut reader = self.reader().await?;
                let gguf = reader.header(*bytes).await?;
                let divisors = match gguf_rope_divisors(&gguf).map(|t| t.location.clone()) {
                    None => None,
                    Some(at) => {
                        reader.fill(at.offset + at.len).await?;
                        let (from, to) = (at.offset as usize, (at.offset + at.len) as usize);
                        reader.held.get(from..to).map(<[u8]>::to_vec)
                    }
                };
                Ok((ModelDescription::from_gguf(gguf, divisors.as_deref())?, reader))
            }
        }
    }
}

impl Reader {
    /// Reads on until at least `len` bytes are held; false when the file ends before.
    async fn fill(&mut self, len: u64) -> Result<bool> {
        while (self.held.len() as u64) < len {
            match self.stream.next().await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None => return Ok(false),
            }
        }
        Ok(true)
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

    /// The next bytes of the file that `stream` is fed from; `None` when it has no more.
    async fn next(&mut self) -> Result<Option<Piece>> {
        let bytes = match core::mem::take(&mut self.held) {
            held if !held.is_empty() => held,
            _ => match self.stream.next().await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        let offset = self.position;
        self.position += bytes.len() as u64;
        Ok(Some(Piece { offset, bytes }))
    }

    /// Feeds `stream` its next bytes, and answers how many; 0 when the file has no more.
    pub(crate) async fn feed(&mut self, stream: &mut WeightStream<'_>, sink: &mut dyn WeightSink) -> Result<u64> {
        let Some(Piece { offset, bytes }) = self.next().await? else { return Ok(0) };
        stream.skip_to(offset)?;
        stream.push(&bytes, sink)?;
        Ok(bytes.len() as u64)
    }
}
