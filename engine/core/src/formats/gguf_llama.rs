//! The llama architecture as GGUF metadata describes it.

use super::gguf::{Gguf, Metadata, Value};
use super::shown;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Pairing};
use crate::models::llama_config::{LlamaConfig, MAX_HEAD_DIM, Names, rope_frequencies};
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
    if head_dim > MAX_HEAD_DIM {
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
    config.check(Names::Gguf)?;
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

    for (f, divisor) in frequencies.iter_mut().zip(divisors_of(gguf, head_dim, divisors)?) {
        *f /= divisor;
    }
    Ok(frequencies)
}

/// The divisors of rotary frequencies that the file holds, `[d/2]`, or none; `divisors` are the bytes of [`ROPE_DIVISORS`].
pub(super) fn divisors_of(gguf: &Gguf, head_dim: usize, divisors: Option<&[u8]>) -> Result<Vec<f64>> {
    let mut values = Vec::new();
    if let Some(info) = gguf.tensors.get(ROPE_DIVISORS) {
        if info.dtype != super::Dtype::Number(QuantType::F32) || info.shape != [head_dim / 2] {
            let reason = format!("it is {:?} {:?}, expected F32 [{}]", info.dtype, info.shape, head_dim / 2);
            return Err(Error::format(ROPE_DIVISORS, reason));
        }
        let bytes = divisors
            .filter(|b| b.len() as u64 == info.location.len)
            .ok_or_else(|| Error::format(ROPE_DIVISORS, "its values were not read with the header"))?;
        for b in bytes.chunks_exact(4) {
            let divisor = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if !(divisor.is_finite() && divisor > 0.0) {
                return Err(Error::format(ROPE_DIVISORS, format!("it holds {divisor}, expected numbers above 0")));
            }
            values.push(f64::from(divisor));
        }
    }
    Ok(values)
}

/// The ids that begin and end a text.
pub(super) fn special_ids(meta: &Metadata) -> Result<(Option<u32>, Vec<u32>)> {
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        eos.extend(meta.opt_u32(key)?.filter(|id| !eos.contains(id)));
    }
    Ok((meta.opt_u32("tokenizer.ggml.bos_token_id")?, eos))
}

pub(super) fn size(meta: &Metadata, key: &str) -> Result<usize> {
    opt_size(meta, key)?.ok_or_else(|| Error::format(key, "the file does not have this key"))
}

/// A size; a list with one value for each layer will do when they are all the same.
pub(super) fn opt_size(meta: &Metadata, key: &str) -> Result<Option<usize>> {
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

#[cfg(test)]
mod tests {
    use super::super::ModelDescription;
    use super::super::gguf::Parsed;
    use super::super::gguf::tests::{Writer, f32_value, text_value, u32_value};
    use super::*;
    use crate::formats::Architecture;

    /// One layer, width 8, two heads of 4, one key/value head, feed-forward width 16, five tokens; all f32.
    fn model() -> Writer {
        let keys = [
            ("general.architecture", text_value("llama")),
            ("llama.block_count", u32_value(1)),
            ("llama.context_length", u32_value(64)),
            ("llama.embedding_length", u32_value(8)),
            ("llama.feed_forward_length", u32_value(16)),
            ("llama.attention.head_count", u32_value(2)),
            ("llama.attention.head_count_kv", u32_value(1)),
            ("llama.attention.layer_norm_rms_epsilon", f32_value(1e-5)),
            ("llama.vocab_size", u32_value(5)),
        ];
        let mut writer = Writer {
            keys: keys.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v)).collect(),
            tensors: Vec::new(),
            data: 0,
        };
        for (name, dims) in [
            ("token_embd.weight", &[8, 5][..]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[8, 4]),
            ("blk.0.attn_v.weight", &[8, 4]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.ffn_gate.weight", &[8, 16]),
            ("blk.0.ffn_up.weight", &[8, 16]),
            ("blk.0.ffn_down.weight", &[16, 8]),
            ("output_norm.weight", &[8]),
        ] {
            add(&mut writer, name, dims);
        }
        writer
    }

    fn add(writer: &mut Writer, name: &str, dims: &[u64]) {
        let offset = writer.data.next_multiple_of(32);
        writer.tensors.push((name.as_bytes().to_vec(), dims.to_vec(), 0, offset as u64));
        writer.data = offset + 4 * dims.iter().product::<u64>() as usize;
    }

    fn set(writer: &mut Writer, key: &str, value: Vec<u8>) {
        writer.keys.retain(|(k, _)| k != key.as_bytes());
        writer.keys.push((key.as_bytes().to_vec(), value));
    }

    fn describe(writer: &Writer, divisors: Option<&[u8]>) -> Result<ModelDescription> {
        let file = writer.file();
        match Gguf::parse(&file, Some(file.len() as u64))? {
            Parsed::Gguf(gguf) => ModelDescription::from_gguf(gguf, divisors),
            Parsed::NeedMore(n) => panic!("asks for {n} bytes"),
        }
    }

    fn config_of(writer: &Writer, divisors: Option<&[u8]>) -> Result<LlamaConfig> {
        let Architecture::Llama { config, .. } = describe(writer, divisors)?.architecture else {
            panic!("not a llama")
        };
        Ok(config)
    }

    #[test]
    fn a_small_model_is_described_in_full() {
        let mut writer = model();
        let d = describe(&writer, None).unwrap();
        let Architecture::Llama { config, tensors } = &d.architecture else { panic!("not a llama") };
        assert_eq!((config.head_dim, config.q_dim(), config.kv_dim(), config.vocab), (4, 8, 4, 5));
        assert_eq!((config.pairing, config.tied, config.window), (Pairing::Adjacent, true, None));
        assert_eq!(config.rope, [1.0, f64::from(0.01f32)]);
        assert_eq!((tensors.head, d.weights.len()), (tensors.embedding, 11));
        assert_eq!(d.weights.get(tensors.layers[0].down).name, "blk.0.ffn_down.weight");
        assert_eq!(tensors.layers[0].q_bias, None);

        add(&mut writer, "output.weight", &[8, 5]);
        add(&mut writer, "blk.0.attn_q.bias", &[8]);
        set(&mut writer, "llama.attention.sliding_window", u32_value(16));
        set(&mut writer, "llama.rope.freq_base", f32_value(100.0));
        set(&mut writer, "llama.rope.scaling.type", text_value("linear"));
        set(&mut writer, "llama.rope.scaling.factor", f32_value(4.0));
        set(&mut writer, "tokenizer.ggml.bos_token_id", u32_value(1));
        set(&mut writer, "tokenizer.ggml.eos_token_id", u32_value(2));
        set(&mut writer, "tokenizer.ggml.eot_token_id", u32_value(4));
        let d = describe(&writer, None).unwrap();
        let Architecture::Llama { config, tensors } = &d.architecture else { panic!("not a llama") };
        assert_eq!((config.tied, config.window), (false, Some(16)));
        assert_eq!(config.rope, [0.25, f64::from(0.1f32) / 4.0]);
        assert_ne!(tensors.head, tensors.embedding);
        assert_eq!(d.weights.get(tensors.layers[0].q_bias.unwrap()).cols, 8);
        assert_eq!((d.bos, &d.eos[..]), (Some(1), &[2, 4][..]));
    }

    #[test]
    fn divisors_stretch_the_frequencies_and_must_be_sound() {
        let mut writer = model();
        add(&mut writer, ROPE_DIVISORS, &[2]);
        let bytes = |a: f32, b: f32| [a.to_le_bytes(), b.to_le_bytes()].concat();
        assert_eq!(config_of(&writer, Some(&bytes(1.0, 8.0))).unwrap().rope, [1.0, f64::from(0.01f32) / 8.0]);
        for bad in [None, Some(&bytes(1.0, 0.0)[..]), Some(&bytes(f32::NAN, 1.0)), Some(&[0; 4])] {
            assert!(config_of(&writer, bad).unwrap_err().to_string().contains(ROPE_DIVISORS));
        }
        let mut wide = model();
        add(&mut wide, ROPE_DIVISORS, &[3]);
        assert!(config_of(&wide, Some(&[0; 12])).unwrap_err().to_string().contains(ROPE_DIVISORS));
    }

    #[test]
    fn a_model_that_lacks_has_too_much_or_differs_is_refused_by_name() {
        type Damage = fn(&mut Writer);
        let cases: &[(&str, &str, Damage)] = &[
            ("blk.0.attn_k.weight", "do not have this tensor", |w| drop(w.tensors.remove(3))),
            ("output_norm.weight", "do not have this tensor", |w| drop(w.tensors.pop())),
            ("blk.1.attn_norm.weight", "do not have", |w| set(w, "llama.block_count", u32_value(2))),
            ("blk.0.attn_q_norm.weight", "not supported", |w| add(w, "blk.0.attn_q_norm.weight", &[4])),
            ("blk.0.attn_q.weight", "[8, 4]", |w| w.tensors[2].1 = vec![4, 8]),
            ("blk.0.attn_norm.weight", "[1, 8]", |w| w.tensors[1].1 = vec![8, 1]),
            ("blk.0.attn_q.weight", "I32", |w| w.tensors[2].2 = 26),
            ("token_embd.weight", "[5, 8]", |w| set(w, "llama.vocab_size", u32_value(6))),
            ("general.architecture", "qwen2", |w| set(w, "general.architecture", text_value("qwen2"))),
            ("general.architecture", "does not have this key", |w| drop(w.keys.remove(0))),
            ("llama.block_count", "absurd", |w| set(w, "llama.block_count", u32_value(u32::MAX))),
            ("llama.expert_count", "not supported", |w| set(w, "llama.expert_count", u32_value(8))),
            ("llama.attention.head_count", "divide", |w| set(w, "llama.attention.head_count", u32_value(3))),
            ("llama.attention.head_count", "divide", |w| set(w, "llama.attention.head_count", u32_value(0))),
            ("llama.attention.head_count_kv", "absurd", |w| set(w, "llama.attention.head_count_kv", u32_value(0))),
            ("llama.attention.value_length", "as wide", |w| set(w, "llama.attention.value_length", u32_value(2))),
            ("llama.attention.key_length", "absurd", |w| set(w, "llama.attention.key_length", u32_value(1 << 30))),
            ("llama.rope.dimension_count", "rotate", |w| set(w, "llama.rope.dimension_count", u32_value(2))),
            ("llama.rope.freq_base", "above 0", |w| set(w, "llama.rope.freq_base", f32_value(0.0))),
            ("llama.rope.freq_base", "finite", |w| set(w, "llama.rope.freq_base", f32_value(f32::NAN))),
            ("llama.rope.scaling.type", "yarn", |w| set(w, "llama.rope.scaling.type", text_value("yarn"))),
            ("layer_norm_rms_epsilon", "finite", |w| {
                set(w, "llama.attention.layer_norm_rms_epsilon", f32_value(f32::INFINITY));
            }),
        ];
        for (what, says, damage) in cases {
            let mut writer = model();
            damage(&mut writer);
            let error = describe(&writer, None).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(says), "{what}, {says}: {error}");
        }
    }
}
