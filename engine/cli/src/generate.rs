//! `generate` streams a continuation; `bench` measures speed and memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use sotto_core::cpu::CpuPath;
use sotto_core::generate::{Executor, Generator, Progress};
use sotto_core::model::Stages;
use sotto_core::recording::Step;
use sotto_core::sampler::{Sampler, SamplerOptions, argmax};
use sotto_core::tokenizer::{Detokenizer, Message, Role, Specials};
use sotto_core::{Error, Result};

use crate::arguments::Arguments;
use crate::load;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let opened = load::open(arguments.model()?, arguments.tables()?)?;
    let model = &opened.model;
    let prompt = match (arguments.text("prompt"), arguments.text("chat")) {
        (Some(text), None) => {
            let mut ids: Vec<u32> = model.bos.filter(|_| model.tokenizer.add_bos()).into_iter().collect();
            ids.extend(model.tokenizer.encode(text, Specials::Off));
            ids
        }
        (None, Some(text)) => {
            let message = Message { role: Role::User, content: text.to_owned() };
            model.chat_format()?.render(&model.tokenizer, &[message], true)?
        }
        _ => return Err(Error::format("generate", "give either --prompt TEXT or --chat TEXT")),
    };
    let sampling = SamplerOptions {
        temperature: arguments.number("temperature", 0.0)?,
        top_k: arguments.number("top-k", 0)?,
        top_p: arguments.number("top-p", 1.0)?,
        min_p: arguments.number("min-p", 0.0)?,
        repetition_penalty: arguments.number("repetition-penalty", 1.0)?,
        seed: arguments.number("seed", 0)?,
    };
    let mut sampler = Sampler::new(sampling)?;
    let mut generator =
        load::generator(&opened, arguments.device(CpuPath::Fast)?, Stages::Dropped, arguments.quantize()?)?;
    let mut detokenizer = Detokenizer::new(&model.tokenizer, true);
    let mut history = prompt.clone();
    generator.start(&prompt)?;
    for _ in 0..arguments.number("max", 256)? {
        let mut logits = next(&mut generator)?;
        let id = sampler.sample(&mut logits, &history)?;
        if model.eos.contains(&id) || !generator.accept(id) {
            break;
        }
        history.push(id);
        print!("{}", detokenizer.push(&model.tokenizer, id));
        std::io::stdout().flush().map_err(|e| Error::format("standard output", e.to_string()))?;
    }
    println!("{}", detokenizer.flush());
    Ok(true)
}

fn next(generator: &mut Generator) -> Result<Vec<f32>> {
    loop {
        if let Progress::Logits(logits) = pollster::block_on(generator.advance())? {
            return Ok(logits);
        }
    }
}

/// Prints the greedy continuation of ids spread over the vocabulary: the same task wherever it runs, without a tokenizer.
pub(crate) fn greedy(arguments: &Arguments) -> Result<bool> {
    let weights = load::Weights::open(arguments.model()?, arguments.tables()?)?;
    let mut generator =
        weights.generator(arguments.device(CpuPath::Reference)?, Stages::Dropped, arguments.ranges()?)?;
    let recording = generator.recording();
    let vocab = recording.logits.map_or(1, |id| recording.info(id).cols) as u32;
    let prompt: Vec<u32> =
        (0..arguments.number("tokens", 16u32)?).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    generator.start(&prompt)?;
    let mut ids = Vec::new();
    let mut gaps = Vec::new();
    for _ in 0..arguments.number("new", 32)? {
        let logits = next(&mut generator)?;
        let id = argmax(&logits)?;
        let best = logits.get(id as usize).copied().unwrap_or_default();
        let second =
            logits.iter().enumerate().filter(|(i, _)| *i != id as usize).map(|(_, v)| *v).fold(f32::MIN, f32::max);
        ids.push(id);
        gaps.push(best - second);
        if !generator.accept(id) {
            break;
        }
    }
    println!("{}", serde_json::json!({ "prompt": prompt, "ids": ids, "gaps": gaps }));
    Ok(true)
}

pub(crate) fn bench(arguments: &Arguments) -> Result<bool> {
    let opened = load::open(arguments.model()?, arguments.tables()?)?;
    let mut generator =
        load::generator(&opened, arguments.device(CpuPath::Fast)?, Stages::Dropped, arguments.quantize()?)?;
    let new: usize = arguments.number("new", 64)?;
    let vocab = opened.model.tokenizer.vocab_len() as u32;
    let mut rows = Vec::new();
    for context in [128usize, 512, 2048] {
        // Ids spread over the vocabulary: the same everywhere, and no prefix of another length's.
        let prompt: Vec<u32> = (0..context as u32)
            .map(|i| i.wrapping_mul(2_654_435_761u32.wrapping_add(context as u32)) % vocab)
            .collect();
        generator.forget();
        generator.start(&prompt)?;
        let start = Instant::now();
        next(&mut generator)?;
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for i in 0..new {
            if !generator.accept(prompt[i % prompt.len()]) {
                break;
            }
            next(&mut generator)?;
        }
        let decode = start.elapsed().as_secs_f64();
        let greedy = written_per_second(&mut generator, SamplerOptions::default(), new)?;
        let sampled = written_per_second(&mut generator, SamplerOptions::usual(0), new)?;
        rows.push(serde_json::json!({
            "context": context,
            "prefill_tokens_per_second": context as f64 / prefill,
            "decode_tokens_per_second": new as f64 / decode,
            "greedy_tokens_per_second": greedy,
            "sampled_tokens_per_second": sampled,
        }));
    }
    let profile = match arguments.text("profile") {
        None => serde_json::Value::Null,
        Some(_) => profile(&mut generator, arguments.number("profile", 0)?)?,
    };
    let report = serde_json::json!({ "profile": profile, "results": rows, "peak_memory_bytes": peak_memory() });
    println!("{report:#}");
    Ok(true)
}

/// Tokens a second when the device may choose them by itself.
fn written_per_second(generator: &mut Generator, options: SamplerOptions, count: usize) -> Result<f64> {
    let start = Instant::now();
    let written = pollster::block_on(generator.write(&mut Sampler::new(options)?, 1, count))?;
    Ok(written.len() as f64 / start.elapsed().as_secs_f64())
}

/// Microseconds of each kernel in a decode step at `position`, the best of several, by kernel and shape.
fn profile(generator: &mut Generator, position: usize) -> Result<serde_json::Value> {
    const STEPS: usize = 5;
    let Executor::Gpu(gpu) = generator.executor() else {
        return Err(Error::format("--profile", "only a graphics device has timings of kernels: add --device gpu"));
    };
    pollster::block_on(gpu.reserve(position + 1))?;
    let step = Step { position, tokens: 1 };
    let mut best: Vec<(String, f64)> = Vec::new();
    for _ in 0..STEPS {
        let times = pollster::block_on(gpu.profile(step, &[1]))?;
        match best.is_empty() {
            true => best = times,
            false => best.iter_mut().zip(times).for_each(|(b, t)| b.1 = b.1.min(t.1)),
        }
    }
    let mut kernels: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for (name, micros) in &best {
        let entry = kernels.entry(name.clone()).or_default();
        *entry = (entry.0 + 1, entry.1 + micros);
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let lines: Vec<_> = kernels
        .into_iter()
        .map(|(name, (count, micros))| serde_json::json!({ "kernel": name, "dispatches": count, "microseconds": micros }))
        .collect();
    let total: f64 = best.iter().map(|(_, micros)| micros).sum();
    Ok(serde_json::json!({ "position": position, "dispatches": best.len(), "microseconds": total, "kernels": lines }))
}

/// The process's peak resident memory, where the system says it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
