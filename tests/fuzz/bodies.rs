//! What the fuzz targets do with their bytes: anything but a panic, a hang or a large allocation is fine. The corpus is
//! replayed through the same functions by an ordinary test.
#![allow(dead_code, reason = "each target uses one of the functions")]
#![allow(unreachable_pub, reason = "the fuzz targets and the replaying test each include this file as a module")]

use sotto_core::cpu::{CpuExecutor, CpuPath};
use sotto_core::formats::gguf::{Gguf, Parsed};
use sotto_core::formats::{HuggingFaceTexts, ModelDescription, gguf_rope_divisors, safetensors};
use sotto_core::model::{Model, Network, Stages};
use sotto_core::recording::Step;
use sotto_core::tokenizer::{GgufTokenizer, Specials, Tokenizer, ToolCall};
use sotto_core::weights::WeightStream;

/// A whole GGUF file: header, description, tokenizer, weights, and one step of the forward pass.
pub fn gguf(file: &[u8]) {
    let len = file.len() as u64;
    // Without the file's length, a header either asks for more than it was given, or is read, or is wrong.
    if let Ok(Parsed::NeedMore(need)) = Gguf::parse(file, None) {
        assert!(need > len);
    }
    match Gguf::parse(&file[..file.len() / 2], Some(len)) {
        Ok(Parsed::NeedMore(need)) => assert!(need > len / 2 && need <= len),
        Ok(Parsed::Gguf(_)) | Err(_) => {}
    }
    let gguf = match Gguf::parse(file, Some(len)) {
        Ok(Parsed::NeedMore(need)) => panic!("asks for {need} bytes of {len}"),
        Ok(Parsed::Gguf(gguf)) => gguf,
        Err(_) => return,
    };
    for tensor in gguf.tensors.iter() {
        assert!(tensor.location.offset + tensor.location.len <= len);
    }
    let divisors = gguf_rope_divisors(&gguf).map(|t| {
        let start = t.location.offset as usize;
        &file[start..start + t.location.len as usize]
    });
    if let Ok(description) = ModelDescription::from_gguf(gguf, divisors) {
        run(&description, file);
    }
}

/// Streams a model's weights from its one file and runs one step on each path.
fn run(description: &ModelDescription, file: &[u8]) {
    let Ok(model) = Model::open(description) else { return };
    for path in [CpuPath::Reference, CpuPath::Fast] {
        let Ok(mut executor) = model.cpu(path) else { return };
        if load(&model, &mut executor, file).is_err() {
            return;
        }
        let step = Step { position: 0, tokens: 2 };
        let _ = executor.run(step, &[0, 1]);
    }
}

fn load(model: &Model, executor: &mut CpuExecutor, file: &[u8]) -> sotto_core::Result<()> {
    let mut stream = WeightStream::new(&model.weights, 0, 0);
    for piece in file.chunks(97) {
        stream.push(piece, executor)?;
    }
    stream.finish()
}

/// By the first byte: `0` a safetensors file, `1` an index, `2` a config with the sizes of a small checkpoint's header.
pub fn safetensors(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'0' => header(data),
        b'1' => drop(core::str::from_utf8(data).map(safetensors::index_files)),
        b'2' => {
            if let Ok(config) = core::str::from_utf8(data) {
                let texts = HuggingFaceTexts { config: config.to_owned(), ..HuggingFaceTexts::default() };
                drop(ModelDescription::from_hugging_face(texts, Vec::new()));
            }
        }
        _ => {}
    }
}

const CONFIG: &str = r#"{"model_type":"llama","hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":1,
    "num_key_value_heads":1,"vocab_size":4,"tie_word_embeddings":true}"#;

fn header(file: &[u8]) {
    let len = file.len() as u64;
    if let Ok(safetensors::Parsed::NeedMore(need)) = safetensors::Safetensors::parse(file, None) {
        assert!(need > len);
    }
    let header = match safetensors::Safetensors::parse(file, Some(len)) {
        Ok(safetensors::Parsed::NeedMore(need)) => panic!("asks for {need} bytes of {len}"),
        Ok(safetensors::Parsed::Safetensors(header)) => header,
        Err(_) => return,
    };
    for tensor in header.tensors.iter() {
        assert!(tensor.location.offset + tensor.location.len <= len);
    }
    let texts = HuggingFaceTexts { config: CONFIG.to_owned(), ..HuggingFaceTexts::default() };
    drop(ModelDescription::from_hugging_face(texts, vec![(String::new(), header)]));
}

/// Its tensors are those that a config is read with.
const CHECKPOINT: &[u8] = include_bytes!("../golden/gemma4/mobile-e2b/model.safetensors");

/// A `config.json`, and behind a zero byte a `generation_config.json`, of a folder with a small Gemma 4.
pub fn config(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let (config, generation_config) = match text.split_once('\0') {
        Some((config, generation)) => (config, Some(generation.to_owned())),
        None => (text, None),
    };
    let texts = HuggingFaceTexts { config: config.to_owned(), generation_config, ..HuggingFaceTexts::default() };
    let len = CHECKPOINT.len() as u64;
    let Ok(safetensors::Parsed::Safetensors(header)) = safetensors::Safetensors::parse(CHECKPOINT, Some(len)) else {
        panic!("the checkpoint of the target is broken");
    };
    if let Ok(description) = ModelDescription::from_hugging_face(texts, vec![(String::new(), header)]) {
        drop(Network::open(&description, Stages::Kept));
    }
}

/// What a model wrote between the tokens of a tool call.
pub fn tool_call(data: &[u8]) {
    drop(ToolCall::parse(&String::from_utf8_lossy(data)));
}

/// Three parts cut by zero bytes. The first byte says which file they are: `j` a tokenizer.json, a tokenizer_config.json
/// and a text to encode; else a GGUF's tokens (one a line), its merges (one a line) and a text.
pub fn tokenizer(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let mut parts = data.splitn(3, |&b| b == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (first, second, text) = (part(), part(), part());
    let tokenizer = if kind == b'j' {
        Tokenizer::from_json(first, Some(second).filter(|c| !c.is_empty()))
    } else {
        let lines = |part| <[u8]>::split(part, |&b| b == b'\n');
        let count = lines(first).count();
        let types: Vec<i32> = lines(first)
            .map(|token| match token {
                [b'<', b'0', ..] => 6,
                [b'<', .., b'>'] => 3,
                [b'[', .., b']'] => 4,
                _ => 1,
            })
            .collect();
        let scores: Vec<f32> = (0..count).map(|i| -(i as f32)).collect();
        let pres = [None, Some("smollm"), Some("llama-bpe"), Some("gpt-2"), Some("default"), Some("gemma4")];
        let keys = GgufTokenizer {
            model: ["gpt2", "llama", "gemma4", "gpt2"][usize::from(kind & 3)],
            pre: pres[usize::from(kind >> 2 & 7) % pres.len()],
            token_types: if kind & 32 == 0 { &types } else { &[] },
            scores: &scores,
            bos: Some(1),
            eos: Some(2),
            unknown: (kind & 64 == 0).then_some(0),
            add_bos: Some(true),
            add_space_prefix: (kind & 128 == 0).then_some(true),
            chat_template: None,
        };
        Tokenizer::from_gguf(lines(first), second.split(|&b| b == b'\n').filter(|m| !m.is_empty()), &keys)
    };
    let Ok(tokenizer) = tokenizer else { return };
    let text = String::from_utf8_lossy(text);
    for specials in [Specials::On, Specials::Off] {
        let ids = tokenizer.encode(&text, specials);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_len()));
        tokenizer.decode(&ids);
    }
    tokenizer.decode(&[0, u32::MAX, tokenizer.vocab_len() as u32]);
}
