//! The engine without the extension, for benchmarks and reference checks inside the browser.

use sotto_core::check;
use sotto_core::cpu::CpuPath;
use sotto_core::generate::{Executor, Generator, Progress};
use sotto_core::gpu::CacheFormat;
use sotto_core::model::Stages;
use sotto_core::sampler::{Sampler, SamplerOptions, argmax};
use sotto_core::tokenizer::{Specials, Tokenizer};
use sotto_core::{Error, Result};
use wasm_bindgen::prelude::*;

use crate::browser::{PackagedFile, now};
use crate::host::{Allowance, Host, Preference};
use crate::source::Source;
use crate::store::Library;

/// Positions a lab run may use.
const CONTEXT: usize = 4096;

/// A loaded model to measure.
#[wasm_bindgen]
pub struct Lab {
    host: Host,
    preference: Preference,
    loading: Loading,
}

/// A load, timed.
#[derive(Clone, Copy)]
struct Loading {
    start: f64,
    /// When the first weights had come, and how many bytes were done then: headers and tokenizer lie before.
    first: Option<(f64, u64)>,
    done: u64,
    end: f64,
}

impl Loading {
    fn begin() -> Self {
        Self { start: now(), first: None, done: 0, end: 0.0 }
    }

    fn progress(&mut self, done: u64) {
        self.first.get_or_insert_with(|| (now(), done));
        self.done = done;
    }

    fn ended(self) -> Self {
        Self { end: now(), ..self }
    }
}

pub(crate) fn thrown(error: Error) -> JsError {
    JsError::new(&error.to_string())
}

fn preference(device: &str) -> Result<Preference> {
    match device {
        "cpu" => Ok(Preference::Cpu(CpuPath::Fast)),
        "reference" => Ok(Preference::Cpu(CpuPath::Reference)),
        "gpu" => Ok(Preference::AnyGpu),
        other => Err(Error::format("device", format!("{other} is none of cpu, reference, gpu"))),
    }
}

pub(crate) async fn next(generator: &mut Generator) -> Result<Vec<f32>> {
    loop {
        if let Progress::Logits(logits) = generator.advance().await? {
            return Ok(logits);
        }
    }
}

pub(crate) async fn whole(url: &str) -> Result<Vec<u8>> {
    let file = PackagedFile::open(url).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = file.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Bytes of WASM memory in use; it never shrinks, so this is also the peak.
pub(crate) fn memory_bytes() -> f64 {
    wasm_bindgen::memory()
        .dyn_into::<js_sys::WebAssembly::Memory>()
        .ok()
        .and_then(|m| m.buffer().dyn_into::<js_sys::ArrayBuffer>().ok())
        .map_or(0.0, |b| f64::from(b.byte_length()))
}

#[wasm_bindgen]
impl Lab {
    /// Reads a `tokenizer.json` and encodes `text` as a page's. Answers JSON: milliseconds of both, entries, tokens, memory.
    #[wasm_bindgen(js_name = measureTokenizer)]
    pub fn measure_tokenizer(json: Vec<u8>, text: &str) -> core::result::Result<String, JsError> {
        let start = now();
        let tokenizer = Tokenizer::from_json(&json, None).map_err(thrown)?;
        drop(json);
        let loaded = now();
        let tokens = tokenizer.encode(text, Specials::Off).len();
        let report = serde_json::json!({
            "loadMs": loaded - start,
            "encodeMs": now() - loaded,
            "entries": tokenizer.vocab_len(),
            "tokens": tokens,
            "wasmMemoryBytes": memory_bytes(),
        });
        Ok(report.to_string())
    }

    /// Loads a GGUF of `bytes` bytes on `device`: "cpu" (the fast path), "reference", or "gpu" (any adapter).
    pub async fn load(url: &str, bytes: f64, device: &str) -> core::result::Result<Lab, JsError> {
        let mut loading = Loading::begin();
        let preference = preference(device).map_err(thrown)?;
        let source = Source::Packaged { url: url.to_owned(), bytes: bytes as u64 };
        let host = Host::load(source, CONTEXT, preference, &mut |done| loading.progress(done)).await.map_err(thrown)?;
        Ok(Lab { host, preference, loading: loading.ended() })
    }

    /// Loads the stored model `id` on `device`, with at most `weight_bytes` of weights on a graphics device, and tables that are
    /// only gathered left in storage from `table_bytes` on, with float matrices of more than `float_bytes` rounded there, and
    /// with caches of f16 where those of f32 would take more than `cache_bytes`.
    #[wasm_bindgen(js_name = loadStored)]
    pub async fn load_stored(
        id: &str,
        device: &str,
        weight_bytes: f64,
        table_bytes: f64,
        float_bytes: f64,
        cache_bytes: f64,
    ) -> core::result::Result<Lab, JsError> {
        let mut loading = Loading::begin();
        let preference = preference(device).map_err(thrown)?;
        // Nobody hears what the store has to say.
        let unheard: js_sys::Function = Closure::<dyn FnMut()>::new(|| {}).into_js_value().unchecked_into();
        let library = Library::new(unheard.clone(), unheard, &[]);
        let source = Source::stored(&library, id).await.map_err(thrown)?;
        let allowance = Allowance {
            weight_bytes: weight_bytes as u64,
            table_bytes: table_bytes as u64,
            float_bytes: float_bytes as u64,
            cache_bytes: cache_bytes as u64,
        };
        let mut heard = |done| loading.progress(done);
        let load = Host::load_with(source, CONTEXT, preference, Stages::Dropped, allowance, &mut heard);
        let host = load.await.map_err(thrown)?;
        Ok(Lab { host, preference, loading: loading.ended() })
    }

    /// The device's name.
    pub fn device(&self) -> String {
        self.host.device.name.clone()
    }

    /// Reads `prompt_tokens` tokens, then writes `new_tokens` greedily. Answers JSON: tokens per second, memory.
    pub async fn bench(&mut self, prompt_tokens: usize, new_tokens: usize) -> core::result::Result<String, JsError> {
        self.run_bench(prompt_tokens, new_tokens).await.map_err(thrown)
    }

    /// Compares the model with a reference. `device` "cpu" is compared with the exact path; the others with the
    /// reference's own numbers. With a `prompt`, only that one and its first `steps` steps. Answers one line a check, and
    /// last "all checks passed" or "N checks FAILED".
    pub async fn check(
        &mut self,
        model: &str,
        bytes: f64,
        folder: &str,
        prompt: Option<String>,
        steps: Option<u32>,
    ) -> core::result::Result<String, JsError> {
        let only = prompt.as_deref().map(|name| (name, steps.unwrap_or(u32::MAX) as usize));
        self.run_check(model, bytes as u64, folder, only).await.map_err(thrown)
    }
}

impl Lab {
    async fn run_bench(&mut self, prompt_tokens: usize, new_tokens: usize) -> Result<String> {
        let generator = &mut self.host.generator;
        let cache = match generator.executor() {
            Executor::Gpu(gpu) => Some(gpu.cache()),
            Executor::Cpu(_) => None,
        };
        let logits = generator.recording().logits.map_or(1, |id| generator.recording().info(id).cols);
        let vocab = logits.min(self.host.model.tokenizer.vocab_len()) as u32;
        let prompt: Vec<u32> = (0..prompt_tokens as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
        generator.forget();
        generator.start(&prompt)?;
        let start = now();
        let logits = next(generator).await?;
        let prefill = now() - start;
        let mut first = argmax(&logits)?;
        let mut ids = vec![first];
        // With the logits of every token on the CPU, as guards need them; then with the choice left to the device.
        let start = now();
        for _ in 0..new_tokens {
            if !generator.accept(first) {
                break;
            }
            first = argmax(&next(generator).await?)?;
            ids.push(first);
        }
        let decode = now() - start;
        let start = now();
        let left_alone = generator.write(&mut Sampler::new(SamplerOptions::default())?, first, new_tokens).await?;
        let written = left_alone.len();
        ids.extend(left_alone);
        let greedy = now() - start;
        let Loading { start, first, done, end } = self.loading;
        let (first_at, first_bytes) = first.unwrap_or((end, done));
        let report = serde_json::json!({
            "device": self.host.device.name,
            "loadMs": end - start,
            // From the first weights that came to the end, and the bytes read meanwhile.
            "weightsMs": end - first_at,
            "weightBytes": done - first_bytes,
            "promptTokens": prompt_tokens,
            "newTokens": written,
            "prefillTokensPerSecond": prompt_tokens as f64 / prefill * 1000.0,
            "decodeTokensPerSecond": new_tokens as f64 / decode * 1000.0,
            "greedyTokensPerSecond": written as f64 / greedy * 1000.0,
            "wasmMemoryBytes": memory_bytes(),
            "f16Caches": cache == Some(CacheFormat::F16),
            "deviceReason": self.host.device.reason,
            "ids": ids,
        });
        Ok(report.to_string())
    }

    async fn run_check(
        &mut self,
        model: &str,
        bytes: u64,
        folder: &str,
        only: Option<(&str, usize)>,
    ) -> Result<String> {
        let mut reference = check::parse_reference(&whole(&format!("{folder}/reference.json")).await?)?;
        if let Some((prompt, steps)) = only {
            reference.shorten(prompt, steps)?;
        }
        let tensors = check::parse_tensors(&whole(&format!("{folder}/reference.safetensors")).await?)?;
        let (mut lines, mut failed) = (String::new(), 0);
        let mut report = |line: check::Line| {
            failed += u32::from(!line.pass);
            lines.push_str(&line.to_string());
            lines.push('\n');
        };
        check::tokenization(&self.host.model.tokenizer, &reference, &mut report);
        let is_fast = matches!(self.host.generator.executor(), Executor::Cpu(c) if c.path() == CpuPath::Fast);
        if is_fast {
            let preference = Preference::Cpu(CpuPath::Reference);
            let source = Source::Packaged { url: model.to_owned(), bytes };
            let mut exact = Host::load(source, CONTEXT, preference, &mut |_| {}).await?;
            check::near(&mut self.host.generator, &mut exact.generator, &reference, &check::FAST, &mut report).await?;
        } else {
            let source = Source::Packaged { url: model.to_owned(), bytes };
            let mut staged =
                Host::load_with(source, CONTEXT, self.preference, Stages::Kept, Allowance::default(), &mut |_| {})
                    .await?;
            check::exact(&mut staged.generator, &reference, &tensors, &mut report).await?;
        }
        lines.push_str(&match failed {
            0 => "all checks passed".to_owned(),
            n => format!("{n} checks FAILED"),
        });
        Ok(lines)
    }
}
