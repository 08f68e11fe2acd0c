//! Gemma 4's text decoder as GGUF metadata describes it. Key names as the public converters write them.

use super::gguf::{Gguf, Metadata, Value};
use super::gguf_llama::{ROPE_DIVISORS, divisors_of, opt_size, size};
use crate::error::{Error, Result};
use crate::models::gemma4_config::{Gemma4Config, Gemma4Layer, kv_sources};
use crate::models::llama_config::{MAX_HEAD_DIM, rope_frequencies};

/// The architecture's name in GGUF files.
pub(super) const ARCHITECTURE: &str = "gemma4";

/// A divisor beyond this stands for "does not rotate": converters write a huge number there.
const STANDS_STILL: f64 = 1e20;

/// Reads the config; `divisors` are the bytes of [`ROPE_DIVISORS`].
pub(super) fn config(gguf: &Gguf, divisors: Option<&[u8]>) -> Result<Gemma4Config> {
    let meta = &gguf.metadata;
    if meta.opt_u32("gemma4.expert_count")?.is_some_and(|n| n > 0) {
        return Err(Error::unsupported("gemma4.expert_count", "Sotto runs the dense models E2B and E4B"));
    }
    let count = size(meta, "gemma4.block_count")?;
    if count > 1 << 12 {
        return Err(Error::format("gemma4.block_count", format!("{count} layers are absurd")));
    }
    let key_length = |key: &str, value_key: &str| {
        let d = size(meta, key)?;
        if d > MAX_HEAD_DIM {
            return Err(Error::format(key, format!("heads of width {d} are absurd")));
        }
        match opt_size(meta, value_key)? {
            Some(v) if v != d => Err(Error::unsupported(value_key, format!("values must be as wide as keys, {d}"))),
            _ => Ok(d),
        }
    };
    let full_dim = key_length("gemma4.attention.key_length", "gemma4.attention.value_length")?;
    let sliding_dim = key_length("gemma4.attention.key_length_swa", "gemma4.attention.value_length_swa")?;
    for (key, width) in [("gemma4.rope.dimension_count", full_dim), ("gemma4.rope.dimension_count_swa", sliding_dim)] {
        if let Some(r) = opt_size(meta, key)?.filter(|&r| r != width) {
            let reason = format!("all {width} values of a head must rotate, or stand still by {ROPE_DIVISORS}");
            return Err(Error::unsupported(format!("{key} = {r}"), reason));
        }
    }

    let base = |key: &str, usual: f64| {
        let theta = meta.opt_f64(key)?.unwrap_or(usual);
        if theta > 0.0 { Ok(theta) } else { Err(Error::format(key, format!("{theta} is not above 0"))) }
    };
    let sliding_rope = rope_frequencies(base("gemma4.rope.freq_base_swa", 10_000.0)?, sliding_dim);
    let mut full_rope = rope_frequencies(base("gemma4.rope.freq_base", 1_000_000.0)?, full_dim);
    for (f, divisor) in full_rope.iter_mut().zip(divisors_of(gguf, full_dim, divisors)?) {
        *f = if divisor > STANDS_STILL { 0.0 } else { *f / divisor };
    }

    let sliding = per_layer(meta, "gemma4.attention.sliding_window_pattern", count)?;
    let full: Vec<bool> = sliding.iter().map(|s| *s == 0).collect();
    let shared = opt_size(meta, "gemma4.attention.shared_kv_layers")?.unwrap_or(0);
    let sources = kv_sources(&full, shared)?;
    let (ffn, kv_heads) = (
        per_layer(meta, "gemma4.feed_forward_length", count)?,
        per_layer(meta, "gemma4.attention.head_count_kv", count)?,
    );
    let window = size(meta, "gemma4.attention.sliding_window")?;
    let layer = |i: usize| Gemma4Layer {
        head_dim: if full[i] { full_dim } else { sliding_dim },
        kv_heads: kv_heads[i],
        window: (!full[i]).then_some(window),
        rope: usize::from(full[i]),
        ffn: ffn[i],
        kv_source: sources[i],
    };
    let vocab = match meta.opt_texts("tokenizer.ggml.tokens")? {
        Some(tokens) => tokens.len(),
        None => size(meta, "gemma4.vocab_size")?,
    };
    let config = Gemma4Config {
        layers: (0..count).map(layer).collect(),
        hidden: size(meta, "gemma4.embedding_length")?,
        heads: size(meta, "gemma4.attention.head_count")?,
        ple: size(meta, "gemma4.embedding_length_per_layer_input")?,
        vocab,
        context: size(meta, "gemma4.context_length")?,
        norm_eps: meta.get_f64("gemma4.attention.layer_norm_rms_epsilon")? as f32,
        soft_cap: meta.opt_f64("gemma4.final_logit_softcapping")?.filter(|cap| *cap != 0.0).map(|cap| cap as f32),
        rope: vec![sliding_rope, full_rope],
        tied: gguf.tensors.get("output.weight").is_none(),
    };
    config.check()?;
    Ok(config)
}

/// A number for each layer: a list of so many, or one for all. Booleans count as 0 and 1.
fn per_layer(meta: &Metadata, key: &str, count: usize) -> Result<Vec<usize>> {
    let Some(Value::Numbers(list)) = meta.get(key) else {
        return Ok(vec![size(meta, key)?; count]);
    };
    let values: Option<Vec<usize>> = list.integers().map(|n| usize::try_from(n?).ok()).collect();
    match values {
        Some(values) if values.len() == count => Ok(values),
        Some(values) => Err(Error::format(key, format!("it has {} entries for {count} layers", values.len()))),
        None => Err(Error::format(key, "it holds something that is not a size")),
    }
}
