//! Opening a model's files on this machine and streaming its weights into an executor.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sotto_core::formats::gguf::Parsed;
use sotto_core::formats::{Gguf, HuggingFaceTexts, ModelDescription, Safetensors, gguf_rope_divisors, safetensors};
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{self, GpuExecutor};
use sotto_core::model::Model;
use sotto_core::weights::WeightStream;
use sotto_core::{Error, Result};

use crate::arguments::DeviceChoice;

/// Positions that checks and benchmarks may use at most, whatever the model was made for.
const CONTEXT: usize = 8192;
/// Bytes read from a file at once.
const PIECE: usize = 4 << 20;

/// A model and where its files are.
pub(crate) struct Opened {
    pub(crate) model: Model,
    paths: Vec<PathBuf>,
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::format(path.display().to_string(), error.to_string())
}

/// All bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| failed(path, &e))
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| failed(path, &e))
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    if path.exists() { read_text(path).map(Some) } else { Ok(None) }
}

/// The first `len` bytes of a file, or all of a shorter one.
fn prefix(file: &mut File, path: &Path, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(|e| failed(path, &e))?;
    file.take(len).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
    Ok(bytes)
}

/// Reads a GGUF file's header.
pub(crate) fn gguf(path: &Path) -> Result<Gguf> {
    let mut file = File::open(path).map_err(|e| failed(path, &e))?;
    let len = file.metadata().map_err(|e| failed(path, &e))?.len();
    let mut want = 1 << 20;
    loop {
        match Gguf::parse(&prefix(&mut file, path, want)?, Some(len))? {
            Parsed::Gguf(gguf) => return Ok(gguf),
            Parsed::NeedMore(more) => want = more,
        }
    }
}

/// Opens a GGUF file or a Hugging Face folder.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    if path.is_dir() { open_folder(path) } else { open_gguf(path) }
}

fn open_gguf(path: &Path) -> Result<Opened> {
    let gguf = gguf(path)?;
    let divisors = match gguf_rope_divisors(&gguf) {
        None => None,
        Some(tensor) => {
            let mut file = File::open(path).map_err(|e| failed(path, &e))?;
            file.seek(SeekFrom::Start(tensor.location.offset)).map_err(|e| failed(path, &e))?;
            let mut bytes = Vec::new();
            file.take(tensor.location.len).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
            Some(bytes)
        }
    };
    let description = ModelDescription::from_gguf(gguf, divisors.as_deref())?;
    Ok(Opened { model: Model::open(description)?, paths: vec![path.to_owned()] })
}

/// Reads a safetensors file's header.
pub(crate) fn safetensors_header(path: &Path) -> Result<Safetensors> {
    let mut file = File::open(path).map_err(|e| failed(path, &e))?;
    let len = file.metadata().map_err(|e| failed(path, &e))?.len();
    let mut want = 1 << 20;
    loop {
        match Safetensors::parse(&prefix(&mut file, path, want)?, Some(len))? {
            safetensors::Parsed::Safetensors(header) => return Ok(header),
            safetensors::Parsed::NeedMore(more) => want = more,
        }
    }
}

fn open_folder(folder: &Path) -> Result<Opened> {
    let texts = HuggingFaceTexts {
        config: read_text(&folder.join("config.json"))?,
        generation_config: read_optional(&folder.join("generation_config.json"))?,
        tokenizer: read_text(&folder.join("tokenizer.json"))?,
        tokenizer_config: read_optional(&folder.join("tokenizer_config.json"))?,
    };
    let names = match read_optional(&folder.join("model.safetensors.index.json"))? {
        Some(index) => safetensors::index_files(&index)?,
        None => vec!["model.safetensors".to_owned()],
    };
    let mut files = Vec::new();
    for name in &names {
        files.push((name.clone(), safetensors_header(&folder.join(name))?));
    }
    let description = ModelDescription::from_hugging_face(texts, files)?;
    let paths = names.iter().map(|name| folder.join(name)).collect();
    Ok(Opened { model: Model::open(description)?, paths })
}

/// Streams a model's weights into an executor for `device`.
pub(crate) fn generator(opened: &Opened, device: DeviceChoice) -> Result<Generator> {
    let model = &opened.model;
    let mut executor = match device {
        DeviceChoice::Cpu(path) => Executor::Cpu(Box::new(model.cpu(path))),
        DeviceChoice::Gpu => {
            let device = gpu::open_native()?;
            Executor::Gpu(Box::new(GpuExecutor::new(device, Arc::clone(&model.recording), &model.weights)?))
        }
    };
    let mut piece = vec![0; PIECE];
    for (number, (path, weights)) in opened.paths.iter().zip(&model.files).enumerate() {
        let mut file = File::open(path).map_err(|e| failed(path, &e))?;
        file.seek(SeekFrom::Start(weights.data_start)).map_err(|e| failed(path, &e))?;
        let mut stream = WeightStream::new(&model.weights, number, weights.data_start);
        while !stream.is_done() {
            let read = file.read(&mut piece).map_err(|e| failed(path, &e))?;
            if read == 0 {
                break;
            }
            stream.push(&piece[..read], &mut executor)?;
        }
        stream.finish()?;
    }
    Ok(Generator::new(executor, Arc::clone(&model.recording), model.context.min(CONTEXT)))
}
