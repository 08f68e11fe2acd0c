//! Gemma 4's text decoder as a Hugging Face `config.json` describes it: alone, or as `text_config` of the multimodal model.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::hf_config::{FILE, parse_json};
use super::shown;
use crate::error::{Error, Result};
use crate::models::gemma4_config::{Gemma4Config, Gemma4Layer, kv_sources};

/// The keys around the text decoder's.
#[derive(Debug, Clone, Deserialize)]
struct Outer {
    model_type: String,
    text_config: Option<TextConfig>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<Quantization>,
}

#[derive(Debug, Clone, Deserialize)]
struct Quantization {
    quant_method: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct TextConfig {
    vocab_size: usize,
    vocab_size_per_layer_input: Option<usize>,
    hidden_size: usize,
    hidden_size_per_layer_input: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    num_global_key_value_heads: Option<usize>,
    head_dim: usize,
    /// Files saved by some versions of transformers have `per_layer_config` instead.
    global_head_dim: Option<usize>,
    #[serde(default)]
    per_layer_config: BTreeMap<String, PerLayer>,
    layer_types: Vec<LayerType>,
    sliding_window: usize,
    num_kv_shared_layers: Option<usize>,
    use_double_wide_mlp: Option<bool>,
    final_logit_softcapping: Option<f32>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_activation: Option<String>,
    rope_parameters: BTreeMap<LayerType, Rope>,
    tie_word_embeddings: Option<bool>,
    attention_k_eq_v: Option<bool>,
    attention_bias: Option<bool>,
    enable_moe_block: Option<bool>,
    use_bidirectional_attention: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct PerLayer {
    head_dim: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    SlidingAttention,
    FullAttention,
}

#[derive(Debug, Clone, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    rope_theta: f64,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
}

impl Rope {
    /// `θ^(−2i/d)` for the pairs that rotate, 0 for those that do not, in f32 as the models were trained.
    fn frequencies(&self, head_dim: usize) -> Result<Vec<f64>> {
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::format("rope_theta", format!("{} is not above 0", self.rope_theta)));
        }
        let pairs = head_dim / 2;
        let rotating = match self.rope_type.as_deref() {
            None | Some("default") => pairs,
            Some("proportional") => {
                let share = self.partial_rotary_factor.unwrap_or(1.0);
                if !(0.0..=1.0).contains(&share) {
                    return Err(Error::format("partial_rotary_factor", format!("{share} is not a share of a head")));
                }
                (share * head_dim as f64 / 2.0) as usize
            }
            Some(other) => {
                let what = format!("rope_type = {:?}", shown(other));
                return Err(Error::unsupported(what, "Gemma 4 has \"default\" and \"proportional\""));
            }
        };
        let factor = self.factor.unwrap_or(1.0);
        if !(factor.is_finite() && factor > 0.0) {
            return Err(Error::format("factor", format!("{factor} is not above 0")));
        }
        let frequency = |i: usize| match i < rotating {
            // The exponent's denominator is the whole head, also where only some pairs rotate.
            true => f64::from(1.0 / self.rope_theta.powf(2.0 * i as f64 / head_dim as f64) as f32) / factor,
            false => 0.0,
        };
        Ok((0..pairs).map(frequency).collect())
    }
}

/// True for the `model_type`s that [`config`] reads.
pub(super) fn is_gemma4(model_type: &str) -> bool {
    matches!(model_type, "gemma4" | "gemma4_text" | "gemma4_unified" | "gemma4_unified_text")
}

/// Reads the text decoder's config.
pub(super) fn config(text: &str) -> Result<Gemma4Config> {
    let outer: Outer = parse_json(FILE, text)?;
    let c: TextConfig = match outer.text_config {
        Some(inner) => inner,
        None => parse_json(FILE, text)?,
    };
    let quantized = match outer.quantization_config.as_ref().map(|q| q.quant_method.as_deref()) {
        None => false,
        Some(Some("gemma")) => true,
        Some(method) => {
            let what = format!("quantization_config.quant_method = {:?}", method.map(shown));
            return Err(Error::unsupported(what, "use the mobile checkpoint (\"gemma\"), a plain one, or a GGUF file"));
        }
    };
    c.refuse_what_is_not_computed(&outer.model_type)?;

    let full: Vec<bool> = c.layer_types.iter().map(|kind| *kind == LayerType::FullAttention).collect();
    if full.len() != c.num_hidden_layers {
        let reason = format!("it has {} entries for {} layers", full.len(), c.num_hidden_layers);
        return Err(Error::format("layer_types", reason));
    }
    let shared = c.num_kv_shared_layers.unwrap_or(0);
    let sources = kv_sources(&full, shared)?;
    let kinds = [LayerType::SlidingAttention, LayerType::FullAttention];
    let mut rope = Vec::new();
    for kind in kinds {
        rope.push(match c.rope_parameters.get(&kind) {
            Some(parameters) => parameters.frequencies(c.head_dim_of(kind)?)?,
            None if c.layer_types.contains(&kind) => {
                return Err(Error::format("rope_parameters", format!("it lacks those of {kind:?}")));
            }
            None => Vec::new(),
        });
    }
    let wide = c.use_double_wide_mlp.unwrap_or(false);
    let layer = |(i, kind): (usize, &LayerType)| {
        let is_full = *kind == LayerType::FullAttention;
        let doubled = wide && i + shared >= c.num_hidden_layers;
        Ok(Gemma4Layer {
            head_dim: c.head_dim_of(*kind)?,
            kv_heads: c.num_global_key_value_heads.filter(|_| is_full).unwrap_or(c.num_key_value_heads),
            window: (!is_full).then_some(c.sliding_window),
            rope: usize::from(is_full),
            ffn: if doubled { c.intermediate_size.saturating_mul(2) } else { c.intermediate_size },
            kv_source: sources[i],
        })
    };
    let config = Gemma4Config {
        layers: c.layer_types.iter().enumerate().map(layer).collect::<Result<_>>()?,
        hidden: c.hidden_size,
        heads: c.num_attention_heads,
        ple: c.hidden_size_per_layer_input,
        vocab: c.vocab_size,
        context: c.max_position_embeddings,
        norm_eps: c.rms_norm_eps,
        soft_cap: c.final_logit_softcapping,
        rope,
        // A quantized checkpoint's config says untied, but its head is a byte-for-byte copy of the embedding.
        tied: quantized || outer.tie_word_embeddings.or(c.tie_word_embeddings).unwrap_or(true),
    };
    config.check()?;
    Ok(config)
}

impl TextConfig {
    /// The head width of a kind of layer.
    fn head_dim_of(&self, kind: LayerType) -> Result<usize> {
        if kind == LayerType::SlidingAttention {
            return Ok(self.head_dim);
        }
        let named = self.layer_types.iter().enumerate().filter(|(_, k)| **k == kind);
        let per_layer = || named.filter_map(|(i, _)| self.per_layer_config.get(&i.to_string())?.head_dim).next();
        let width = self.global_head_dim.or_else(per_layer).unwrap_or(self.head_dim);
        match width {
            // Before anything of that size is made.
            d if d <= crate::models::llama_config::MAX_HEAD_DIM => Ok(d),
            d => Err(Error::format("global_head_dim", format!("heads of width {d} are absurd"))),
        }
    }

    fn refuse_what_is_not_computed(&self, model_type: &str) -> Result<()> {
        for (key, value) in [
            ("attention_k_eq_v", self.attention_k_eq_v),
            ("attention_bias", self.attention_bias),
            ("enable_moe_block", self.enable_moe_block),
        ] {
            if value == Some(true) {
                return Err(Error::unsupported(key, format!("Sotto runs the {model_type} models E2B and E4B")));
            }
        }
        if self.use_bidirectional_attention.as_ref().is_some_and(|v| !v.is_null() && v != false && v != "vision") {
            return Err(Error::unsupported("use_bidirectional_attention", "text is read from left to right"));
        }
        if let Some(other) = self.hidden_activation.as_deref().filter(|a| *a != "gelu_pytorch_tanh") {
            let what = format!("hidden_activation = {:?}", shown(other));
            return Err(Error::unsupported(what, "Gemma 4 has gelu_pytorch_tanh"));
        }
        if self.vocab_size_per_layer_input.is_some_and(|v| v != self.vocab_size) {
            return Err(Error::unsupported("vocab_size_per_layer_input", "it must equal vocab_size"));
        }
        if self.head_dim > crate::models::llama_config::MAX_HEAD_DIM || self.num_hidden_layers > 1 << 12 {
            return Err(Error::format("head_dim", "this or num_hidden_layers is absurd"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::gemma4::tests::{e2b_config, e2b_tensors};

    #[test]
    fn both_spellings_of_the_full_layers_width_are_read() {
        let published = config(&e2b_config()).unwrap();
        let saved_again =
            e2b_config().replace("\"global_head_dim\":512", "\"per_layer_config\":{\"4\":{\"head_dim\":512}}");
        assert_eq!(config(&saved_again).unwrap(), published);
        assert_eq!((published.layers[4].head_dim, published.layers[3].head_dim), (512, 256));
        assert_eq!((published.layers[14].ffn, published.layers[15].ffn), (6144, 12288));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (from, to, what) in [
            ("\"sliding_window\":512", "\"sliding_window\":0", "sliding_window"),
            ("\"num_kv_shared_layers\":20", "\"num_kv_shared_layers\":36", "num_kv_shared_layers"),
            ("\"num_kv_shared_layers\":20", "\"num_kv_shared_layers\":35", "num_kv_shared_layers"),
            ("\"num_kv_shared_layers\":20", "\"num_kv_shared_layers\":32", "num_kv_shared_layers"),
            ("\"num_hidden_layers\":35", "\"num_hidden_layers\":34", "layer_types"),
            ("\"num_hidden_layers\":35", "\"num_hidden_layers\":99999999", "num_hidden_layers"),
            ("\"head_dim\":256", "\"head_dim\":99999999", "head_dim"),
            ("\"global_head_dim\":512", "\"global_head_dim\":99999999", "global_head_dim"),
            ("\"global_head_dim\":512", "\"global_head_dim\":511", "head_dim"),
            ("gelu_pytorch_tanh", "relu", "relu"),
            ("proportional", "yarn", "yarn"),
            ("\"partial_rotary_factor\":0.25", "\"partial_rotary_factor\":1.5", "partial_rotary_factor"),
            ("\"rope_theta\":10000.0", "\"rope_theta\":0", "rope_theta"),
            ("\"final_logit_softcapping\":30.0", "\"final_logit_softcapping\":-1.0", "final_logit_softcapping"),
            ("\"num_attention_heads\":8", "\"num_attention_heads\":0", "query heads"),
            ("\"head_dim\":256", "\"head_dim\":256,\"enable_moe_block\":true", "enable_moe_block"),
            ("\"head_dim\":256", "\"head_dim\":256,\"attention_k_eq_v\":true", "attention_k_eq_v"),
            (
                "\"model_type\":\"gemma4\",",
                "\"model_type\":\"gemma4\",\"quantization_config\":{\"quant_method\":\"awq\"},",
                "awq",
            ),
        ] {
            assert!(e2b_config().contains(from), "{from}");
            let error = config(&e2b_config().replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(what), "{to}: {error}");
        }
    }

    #[test]
    fn a_tensor_missing_of_another_shape_or_not_known_is_named() {
        use crate::formats::testing::{described_hugging_face, tensor};
        let describe = |change: &dyn Fn(&mut Vec<crate::formats::TensorInfo>)| {
            let mut tensors = e2b_tensors();
            change(&mut tensors);
            described_hugging_face(&e2b_config(), tensors).map(|_| ()).map_err(|e| e.to_string())
        };
        describe(&|_| {}).unwrap();
        let at = |tensors: &[crate::formats::TensorInfo], name: &str| {
            tensors.iter().position(|t| t.name.ends_with(name)).unwrap()
        };
        let error = describe(&|t| drop(t.remove(at(t, "layers.3.self_attn.k_norm.weight")))).unwrap_err();
        assert!(error.contains("layers.3.self_attn.k_norm"), "{error}");
        // Those of layers that read another's keys and values may be missing.
        describe(&|t| drop(t.remove(at(t, "layers.20.self_attn.k_norm.weight")))).unwrap();
        let error = describe(&|t| {
            let i = at(t, "layers.3.mlp.up_proj.weight");
            t[i].shape = vec![1536, 6144];
        })
        .unwrap_err();
        assert!(error.contains("layers.3.mlp.up_proj.weight") && error.contains("[6144, 1536]"), "{error}");
        let error = describe(&|t| {
            let extra = tensor("model.language_model.layers.0.self_attn.sinks", &[8], t[0].dtype, 1 << 60);
            t.push(extra);
        })
        .unwrap_err();
        assert!(error.contains("sinks"), "{error}");
    }
}
