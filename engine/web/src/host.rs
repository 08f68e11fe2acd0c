//! The loaded model in the browser: chooses a device, streams the packaged weights into it.

use std::cell::OnceCell;
use std::sync::Arc;

use sotto_core::cpu::CpuPath;
use sotto_core::formats::gguf::{Gguf, Parsed};
use sotto_core::formats::{ModelDescription, gguf_rope_divisors};
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{self, GpuExecutor, Options};
use sotto_core::model::Model;
use sotto_core::text::guard::GuardTables;
use sotto_core::weights::WeightStream;
use sotto_core::{Error, Result};

use crate::browser::PackagedFile;

/// Which device a load may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    /// A hardware adapter if there is one, else the CPU.
    Best,
    /// The CPU.
    Cpu(CpuPath),
    /// Any WebGPU adapter, a software one too: for tests.
    AnyGpu,
}

/// Where a model runs, in words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceWords {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A model ready to answer.
pub(crate) struct Host {
    pub(crate) model: Model,
    pub(crate) generator: Generator,
    pub(crate) device: DeviceWords,
    guard_tables: OnceCell<Arc<GuardTables>>,
}

const CPU_NAME: &str = "CPU (WASM SIMD)";

/// A byte stream whose beginning has been kept for the header.
struct HeaderReader {
    file: PackagedFile,
    bytes: Vec<u8>,
}

impl HeaderReader {
    /// Reads on until at least `len` bytes are there; false when the file ends before.
    async fn fill(&mut self, len: u64) -> Result<bool> {
        while (self.bytes.len() as u64) < len {
            match self.file.next().await? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn header(&mut self, file_len: u64) -> Result<Gguf> {
        let mut want = 1 << 20;
        loop {
            self.fill(want.min(file_len)).await?;
            match Gguf::parse(&self.bytes, Some(file_len))? {
                Parsed::Gguf(gguf) => return Ok(gguf),
                Parsed::NeedMore(more) => want = more,
            }
        }
    }
}

impl Host {
    /// Loads a packaged GGUF of `file_len` bytes. `progress` hears bytes done.
    pub(crate) async fn load(
        url: &str,
        file_len: u64,
        context: usize,
        preference: Preference,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut reader = HeaderReader { file: PackagedFile::open(url).await?, bytes: Vec::new() };
        let gguf = reader.header(file_len).await?;
        let divisors = match gguf_rope_divisors(&gguf).map(|t| t.location.clone()) {
            None => None,
            Some(at) => {
                reader.fill(at.offset + at.len).await?;
                let (from, to) = (at.offset as usize, (at.offset + at.len) as usize);
                reader.bytes.get(from..to).map(<[u8]>::to_vec)
            }
        };
        let model = Model::open(&ModelDescription::from_gguf(gguf, divisors.as_deref())?)?;
        let context = context.min(model.context);
        let (mut executor, device) = executor(&model, context, preference).await?;

        let start = model.files.first().map_or(0, |f| f.data_start);
        let mut stream = WeightStream::new(&model.weights, 0, start);
        let HeaderReader { file, bytes: first } = reader;
        let mut done = first.len() as u64;
        stream.push(first.get(start as usize..).unwrap_or(&[]), &mut executor)?;
        drop(first);
        progress(done);
        while !stream.is_done() {
            let Some(piece) = file.next().await? else { break };
            done += piece.len() as u64;
            stream.push(&piece, &mut executor)?;
            progress(done);
        }
        stream.finish()?;
        let generator = Generator::new(executor, Arc::clone(&model.recording), context);
        Ok(Self { model, generator, device, guard_tables: OnceCell::new() })
    }

    /// What the guard knows of the vocabulary, computed once.
    pub(crate) fn guard_tables(&self) -> Arc<GuardTables> {
        Arc::clone(self.guard_tables.get_or_init(|| Arc::new(GuardTables::new(&self.model.tokenizer))))
    }
}

/// The best executor there is, and why it is that one.
async fn executor(model: &Model, context: usize, preference: Preference) -> Result<(Executor, DeviceWords)> {
    let cpu = |path, reason: String| {
        let device = DeviceWords { name: CPU_NAME.to_owned(), reason };
        Ok((Executor::Cpu(Box::new(model.cpu(path)?)), device))
    };
    if let Preference::Cpu(path) = preference {
        return cpu(path, "The CPU was asked for.".to_owned());
    }
    match graphics(model, context, preference).await {
        Ok((gpu, name)) => {
            let reason = "WebGPU found a graphics adapter.".to_owned();
            Ok((Executor::Gpu(Box::new(gpu)), DeviceWords { name, reason }))
        }
        Err(Error::Gpu(why)) if preference == Preference::Best => {
            cpu(CpuPath::Fast, format!("No graphics adapter can be used: {why}."))
        }
        Err(error) => Err(error),
    }
}

async fn graphics(model: &Model, context: usize, preference: Preference) -> Result<(GpuExecutor, String)> {
    let accept_software = preference == Preference::AnyGpu;
    let gpu = gpu::open_web(accept_software).await?;
    let options = Options { max_positions: context, ..Options::default() };
    let executor = GpuExecutor::new(&gpu, &model.recording, &model.weights, options).await?;
    Ok((executor, gpu.name))
}
