//! The llama architecture as GGUF metadata describes it.

use super::gguf::{Gguf, Metadata, Value};
use super::shown;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Pairing};
use crate::models::llama_config::{LlamaConfig, rope_frequencies};
use crate::quant::QuantType;

/// Holds `[d/2]` divisors of the rotary frequencies: how a GGUF file stores Llama 3's frequency scaling.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Reads the config of a llama-architecture file; `divisors` are the bytes of [`ROPE_DIVISORS`].
pub(super) fn config(gguf: &Gguf, divisors: Option<&[u8]>) -> Result<LlamaConfig> {
    let meta = &gguf.metadata;
    match meta.get_str("general.architecture")? {
        "llama" => {}
        other => {
            let what = format!("the architecture {:?} (general.architecture)", shown(other));
            return Err(Error::unsupported(what, "Sotto reads GGUF files of the llama architecture"));
        }
    }
    if meta.opt_u32("llama.expert_count")?.is_some_and(|n| n > 0) {
        return Err(Error::unsupported("llama.expert_count", "use a dense model, without a mixture of experts"));
    }
    for key in ["llama.attention.causal", "llama.use_parallel_residual"] {
        let usual = key.ends_with("causal");
        if meta.opt_bool(key)?.is_some_and(|v| v != usual) {
            return Err(Error::unsupported(format!("{key} = {}", !usual), format!("only {usual} is computed")));
        }
    }
    for key in ["llama.attention.clamp_kqv", "llama.logit_scale", "llama.attention.max_alibi_bias"] {
        if meta.opt_f64(key)?.is_some_and(|v| v != 0.0) {
            return Err(Error::unsupported(key, "no llama model that is supported sets it"));
        }
    }

    let hidden = size(meta, "llama.embedding_length")?;
    let heads = size(meta, "llama.attention.head_count")?;
    let kv_heads = opt_size(meta, "llama.attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = match opt_size(meta, "llama.attention.key_length")? {
        Some(d) => d,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let reason = format!("{heads} does not divide llama.embedding_length, {hidden}");
            return Err(Error::format("llama.attention.head_count", reason));
        }
    };
    if let Some(v) = opt_size(meta, "llama.attention.value_length")?.filter(|&v| v != head_dim) {
        let what = format!("llama.attention.value_length = {v}");
        return Err(Error::unsupported(what, format!("values must be as wide as keys, {head_dim}")));
    }
    if let Some(r) = opt_size(meta, "llama.rope.dimension_count")?.filter(|&r| r != head_dim) {
        let what = format!("llama.rope.dimension_count = {r}");
        return Err(Error::unsupported(what, format!("all {head_dim} values of a head must rotate")));
    }
    if head_dim > 1 << 12 {
        return Err(Error::format("llama.attention.key_length", format!("heads of width {head_dim} are absurd")));
    }
    // The tokenizer decides what an id means, so its length is the vocabulary's; the embedding must agree.
    let vocab = match meta.opt_texts("tokenizer.ggml.tokens")? {
        Some(tokens) => tokens.len(),
        None => size(meta, "llama.vocab_size")?,
    };

    let config = LlamaConfig {
        layers: size(meta, "llama.block_count")?,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn: size(meta, "llama.feed_forward_length")?,
        vocab,
        context: size(meta, "llama.context_length")?,
        norm_eps: meta.get_f64("llama.attention.layer_norm_rms_epsilon")? as f32,
        activation: Activation::Silu,
        rope: rope(gguf, head_dim, divisors)?,
        pairing: Pairing::Adjacent,
        window: opt_size(meta, "llama.attention.sliding_window")?.filter(|&w| w > 0),
        tied: gguf.tensors.get("output.weight").is_none(),
    };
    config.check()?;
    Ok(config)
}

fn rope(gguf: &Gguf, head_dim: usize, divisors: Option<&[u8]>) -> Result<Vec<f64>> {
    let meta = &gguf.metadata;
    let theta = meta.opt_f64("llama.rope.freq_base")?.unwrap_or(10_000.0);
    if theta <= 0.0 {
        return Err(Error::format("llama.rope.freq_base", format!("{theta} is not above 0")));
    }
    let mut frequencies = rope_frequencies(theta, head_dim);

    let linear = match meta.opt_str("llama.rope.scaling.type")? {
        None => meta.opt_f64("llama.rope.scale_linear")?,
        Some("linear") => match meta.opt_f64("llama.rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => meta.opt_f64("llama.rope.scale_linear")?,
        },
        Some("none") => None,
        Some(other) => {
            let what = format!("llama.rope.scaling.type = {:?}", shown(other));
            return Err(Error::unsupported(what, "\"none\" and \"linear\" are computed"));
        }
    };
    if let Some(factor) = linear.filter(|&f| f != 0.0) {
        if factor < 0.0 {
            return Err(Error::format("llama.rope.scaling.factor", format!("{factor} is not above 0")));
        }
        frequencies.iter_mut().for_each(|f| *f /= factor);
    }

    if let Some(info) = gguf.tensors.get(ROPE_DIVISORS) {
        if info.dtype != super::Dtype::Number(QuantType::F32) || info.shape != [head_dim / 2] {
            let reason = format!("it is {:?} {:?}, expected F32 [{}]", info.dtype, info.shape, head_dim / 2);
            return Err(Error::format(ROPE_DIVISORS, reason));
        }
        let bytes = divisors
            .filter(|b| b.len() as u64 == info.location.len)
            .ok_or_else(|| Error::format(ROPE_DIVISORS, "its values were not read with the header"))?;
        for (f, b) in frequencies.iter_mut().zip(bytes.chunks_exact(4)) {
            let divisor = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if !(divisor.is_finite() && divisor > 0.0) {
                return Err(Error::format(ROPE_DIVISORS, format!("it holds {divisor}, expected numbers above 0")));
            }
            *f /= f64::from(divisor);
        }
    }
    Ok(frequencies)
}

/// The ids that begin and end a text.
pub(super) fn special_ids(meta: &Metadata) -> Result<(Option<u32>, Vec<u32>)> {
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        eos.extend(meta.opt_u32(key)?.filter(|id| !eos.contains(id)));
    }
    Ok((meta.opt_u32("tokenizer.ggml.bos_token_id")?, eos))
}

fn size(meta: &Metadata, key: &str) -> Result<usize> {
    opt_size(meta, key)?.ok_or_else(|| Error::format(key, "the file does not have this key"))
}

/// A size; a list with one value for each layer will do when they are all the same.
fn opt_size(meta: &Metadata, key: &str) -> Result<Option<usize>> {
    if let Some(Value::Numbers(list)) = meta.get(key) {
        let mut values = list.integers();
        let first = values.next().flatten();
        return match first.map(usize::try_from) {
            Some(Ok(v)) if values.all(|other| other == first) => Ok(Some(v)),
            _ => Err(Error::unsupported(key, "its layers differ; every layer must have the same size")),
        };
    }
    Ok(meta.opt_u32(key)?.map(|v| v as usize))
}
