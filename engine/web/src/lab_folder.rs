//! A Hugging Face folder served over HTTP, without the extension: reference checks and measurements inside the browser. Needs
//! no tokenizer: prompts are ids.

use std::sync::Arc;

use sotto_core::check::{self, fixture};
use sotto_core::cpu::CpuPath;
use sotto_core::formats::safetensors::Parsed;
use sotto_core::formats::{HuggingFaceTexts, ModelDescription, Safetensors};
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{CacheFormat, Found, GpuExecutor, Options};
use sotto_core::model::{Network, Stages};
use sotto_core::sampler::{Sampler, SamplerOptions, argmax};
use sotto_core::weights::{WeightSink, WeightStream, Zeroed};
use sotto_core::{Error, Result};
use wasm_bindgen::prelude::*;

use crate::browser::{PackagedFile, now};
use crate::lab::{memory_bytes, next, thrown, whole};

/// Positions a lab run may use.
const CONTEXT: usize = 16384;
/// A device's word: any adapter, with caches of f16.
const F16: &str = "gpu-f16";
/// Bytes between two points at which the device is waited for.
const SETTLE_BYTES: usize = 64 << 20;

/// A folder's model on a device.
#[wasm_bindgen]
pub struct FolderLab {
    generator: Generator,
    vocabulary: u32,
    load_ms: f64,
    bytes: f64,
}

/// A folder's description and the stream of its weights, at their first byte.
struct Opened {
    description: ModelDescription,
    file: PackagedFile,
    held: Vec<u8>,
}

async fn open(folder: &str) -> Result<Opened> {
    let config = whole(&format!("{folder}/config.json")).await?;
    let config = String::from_utf8(config).map_err(|e| Error::format("config.json", e.to_string()))?;
    let file = PackagedFile::open(&format!("{folder}/model.safetensors")).await?;
    let (mut held, mut want) = (Vec::new(), 1);
    let header = loop {
        while held.len() < want {
            match file.next().await? {
                Some(piece) => held.extend_from_slice(&piece),
                None => return Err(Error::format("model.safetensors", "it ended inside its header")),
            }
        }
        match Safetensors::parse(&held, None)? {
            Parsed::Safetensors(header) => break header,
            Parsed::NeedMore(more) => want = more as usize,
        }
    };
    let texts = HuggingFaceTexts { config, ..HuggingFaceTexts::default() };
    let description = ModelDescription::from_hugging_face(texts, vec![("model.safetensors".to_owned(), header)])?;
    Ok(Opened { description, file, held })
}

async fn generator(folder: &str, device: &str, stages: Stages, ranges: fixture::Ranges) -> Result<(Generator, u64)> {
    let Opened { description, file, held } = open(folder).await?;
    let network = Network::open(&description, stages)?;
    let context = description.architecture.context().min(CONTEXT);
    let mut executor = match device {
        "reference" => Executor::Cpu(Box::new(network.cpu(CpuPath::Reference)?)),
        "cpu" => Executor::Cpu(Box::new(network.cpu(CpuPath::Fast)?)),
        _ => {
            let found = Found::in_browser("").await;
            let gpu = found.ok_or_else(|| Error::Gpu("there is no adapter".to_owned()))?.open().await?;
            let cache = if device == F16 { CacheFormat::F16 } else { CacheFormat::F32 };
            let options = Options { max_positions: context, cache, ..Options::default() };
            Executor::Gpu(Box::new(GpuExecutor::new(&gpu, &network.recording, &network.weights, options).await?))
        }
    };
    let zeroed = match ranges {
        fixture::Ranges::Kept => Default::default(),
        fixture::Ranges::Ignored => network.ranges(),
    };
    let mut stream = WeightStream::new(&network.weights, 0, 0);
    let mut unsettled = 0;
    let mut next_piece = Some(held);
    while let Some(piece) = next_piece.take() {
        let mut sink = Zeroed { sink: &mut executor as &mut dyn WeightSink, weights: zeroed.clone() };
        stream.push(&piece, &mut sink)?;
        unsettled += piece.len();
        if unsettled > SETTLE_BYTES
            && let Executor::Gpu(gpu) = &executor
        {
            gpu.gpu().settle().await?;
            unsettled = 0;
        }
        if !stream.is_done() {
            next_piece = file.next().await?;
        }
    }
    stream.finish()?;
    let bytes = network.weights.total_bytes();
    Ok((Generator::new(executor, Arc::clone(&network.recording), context), bytes))
}

fn spread(count: u32, vocabulary: u32) -> Vec<u32> {
    (0..count).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect()
}

#[wasm_bindgen]
impl FolderLab {
    /// Loads the folder on `device`: "cpu" (the fast path), "reference", "gpu" (any adapter), or "gpu-f16" (with caches of f16).
    pub async fn load(folder: &str, device: &str) -> core::result::Result<FolderLab, JsError> {
        let start = now();
        let loaded = generator(folder, device, Stages::Dropped, fixture::Ranges::Kept).await;
        let (generator, bytes) = loaded.map_err(thrown)?;
        let logits = generator.recording().logits.map(|id| generator.recording().info(id).cols);
        let vocabulary = logits.unwrap_or(1) as u32;
        Ok(FolderLab { generator, vocabulary, load_ms: now() - start, bytes: bytes as f64 })
    }

    /// Compares a folder that is a fixture with the reference beside its weights, or caches of f16 with the exact path, static
    /// ranges ignored. One line a check, then the verdict.
    pub async fn check(folder: &str, device: &str) -> core::result::Result<String, JsError> {
        run_check(folder, device).await.map_err(thrown)
    }

    /// Reads `prompt_tokens` ids spread over the vocabulary, then writes `new_tokens` greedily, first with each token's logits
    /// on the CPU, then with the choice left to the device, and as many drawn there. Answers JSON.
    pub async fn bench(&mut self, prompt_tokens: u32, new_tokens: u32) -> core::result::Result<String, JsError> {
        self.run_bench(prompt_tokens, new_tokens as usize).await.map_err(thrown)
    }
}

async fn run_check(folder: &str, device: &str) -> Result<String> {
    let json = whole(&format!("{folder}/reference.json")).await?;
    let reference = fixture::parse(&json).ok_or_else(|| Error::format("reference.json", "it is not a fixture's"))?;
    let tensors = check::parse_tensors(&whole(&format!("{folder}/reference.safetensors")).await?)?;
    let (mut lines, mut failed) = (String::new(), 0);
    let mut report = |line: check::Line| {
        failed += u32::from(!line.pass);
        lines.push_str(&format!("{line}\n"));
    };
    let mut open = async |stages, ranges| Ok(generator(folder, device, stages, ranges).await?.0);
    match device {
        // Without ranges the fast path only comes near.
        "cpu" => fixture::with_ranges(&mut open, &reference, &tensors, &mut report).await?,
        F16 => {
            let mut near = open(Stages::Dropped, fixture::Ranges::Ignored).await?;
            let (mut exact, _) = generator(folder, "reference", Stages::Dropped, fixture::Ranges::Ignored).await?;
            check::near(&mut near, &mut exact, &reference.into(), &check::F16_CACHES, &mut report).await?;
        }
        _ => fixture::check(open, &reference, &tensors, &mut report).await?,
    }
    lines.push_str(&match failed {
        0 => "all checks passed".to_owned(),
        n => format!("{n} checks FAILED"),
    });
    Ok(lines)
}

impl FolderLab {
    async fn run_bench(&mut self, prompt_tokens: u32, new_tokens: usize) -> Result<String> {
        let generator = &mut self.generator;
        generator.forget();
        generator.start(&spread(prompt_tokens, self.vocabulary))?;
        let start = now();
        let mut first = argmax(&next(generator).await?)?;
        let prefill = now() - start;
        let mut ids = vec![first];
        let start = now();
        let looked_at = new_tokens.min(32);
        for _ in 0..looked_at {
            if !generator.accept(first) {
                break;
            }
            first = argmax(&next(generator).await?)?;
            ids.push(first);
        }
        let decode = now() - start;
        let start = now();
        let written = generator.write(&mut Sampler::new(SamplerOptions::default())?, first, new_tokens).await?;
        let greedy = now() - start;
        let last = written.last().copied().unwrap_or(first);
        let start = now();
        let drawn = generator.write(&mut Sampler::new(SamplerOptions::usual(0))?, last, new_tokens).await?;
        let sampled = now() - start;
        let per_second = |count: usize, ms: f64| count as f64 / ms * 1000.0;
        let report = serde_json::json!({
            "loadMs": self.load_ms,
            "weightBytes": self.bytes,
            "promptTokens": prompt_tokens,
            "prefillMs": prefill,
            "prefillTokensPerSecond": per_second(prompt_tokens as usize, prefill),
            "decodeTokensPerSecond": per_second(looked_at, decode),
            "greedyTokensPerSecond": per_second(written.len(), greedy),
            "sampledTokensPerSecond": per_second(drawn.len(), sampled),
            "wasmMemoryBytes": memory_bytes(),
            "ids": ids,
            "greedyIds": written,
            "sampledIds": drawn,
        });
        Ok(report.to_string())
    }
}
