//! The llama family as a Hugging Face `config.json` describes it.

use serde::Deserialize;
use serde_json::Value;

use super::shown;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Pairing};
use crate::models::llama_config::{LlamaConfig, LlamaTensors, rope_frequencies};

const FILE: &str = "config.json";

/// The keys that decide what a model computes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct HfConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    #[serde(default = "mistral_window")]
    sliding_window: Option<usize>,
    /// Transformers up to version 4.
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Transformers from version 5: both of the above.
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    #[serde(default)]
    bos_token_id: Ids,
    #[serde(default)]
    eos_token_id: Ids,
    quantization_config: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The older name of the same; some files have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// What transformers takes for a mistral config without the key; `null` means no window.
fn mistral_window() -> Option<usize> {
    Some(4096)
}

/// One id, several, or none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum Ids {
    #[default]
    None,
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(id) => core::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

impl HfConfig {
    pub(super) fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let wrong = |e: serde_json::Error| Error::format(FILE, format!("its JSON is wrong: {e}"));
        // The model's kind first: another architecture's keys would only give a puzzling message.
        let kind: Kind = serde_json::from_str(text).map_err(wrong)?;
        match kind.model_type.as_deref() {
            Some("llama" | "mistral") => serde_json::from_str(text).map_err(wrong),
            Some(other) => Err(Error::unsupported(
                format!("the architecture {:?} (model_type in {FILE})", shown(other)),
                "Sotto reads llama and mistral folders",
            )),
            None => Err(Error::format("model_type", format!("{FILE} does not have this key"))),
        }
    }

    pub(super) fn llama_config(&self) -> Result<LlamaConfig> {
        let mistral = self.model_type == "mistral";
        if self.quantization_config.is_some() {
            return Err(Error::unsupported("quantization_config", "use a folder in F32, F16 or BF16, or a GGUF file"));
        }
        let heads = self.num_attention_heads;
        let head_dim = match self.head_dim {
            Some(d) => d,
            None if heads > 0 && self.hidden_size.is_multiple_of(heads) => self.hidden_size / heads,
            None => {
                let reason = format!("{heads} does not divide hidden_size, {}", self.hidden_size);
                return Err(Error::format("num_attention_heads", reason));
            }
        };
        if head_dim > 1 << 12 {
            return Err(Error::format("head_dim", format!("heads of width {head_dim} are absurd")));
        }
        let config = LlamaConfig {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            heads,
            // Where the key is missing, transformers fills in its class's own default.
            kv_heads: self.num_key_value_heads.unwrap_or(if mistral { 8 } else { heads }),
            head_dim,
            ffn: self.intermediate_size,
            vocab: self.vocab_size,
            context: self.max_position_embeddings.unwrap_or(if mistral { 131_072 } else { 2048 }),
            norm_eps: self.rms_norm_eps.unwrap_or(1e-6) as f32,
            activation: match self.hidden_act.as_deref().unwrap_or("silu") {
                "silu" | "swish" => Activation::Silu,
                "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
                other => {
                    let what = format!("hidden_act {:?}", shown(other));
                    return Err(Error::unsupported(what, "silu and gelu_pytorch_tanh are computed"));
                }
            },
            rope: self.rope(head_dim)?,
            pairing: Pairing::Halves,
            window: if mistral { self.sliding_window } else { None },
            tied: self.tie_word_embeddings.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    fn rope(&self, head_dim: usize) -> Result<Vec<f64>> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = rope.and_then(|r| r.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(Error::format("rope_theta", format!("{theta} is not above 0")));
        }
        let partial = rope.and_then(|r| r.partial_rotary_factor).or(self.partial_rotary_factor);
        if partial.is_some_and(|p| p != 1.0) {
            return Err(Error::unsupported("partial_rotary_factor", "all values of a head must rotate"));
        }
        let mut frequencies = rope_frequencies(theta, head_dim);
        let Some(rope) = rope else { return Ok(frequencies) };
        let number = |key: &str, value: Option<f64>| {
            value
                .filter(|v| v.is_finite() && *v > 0.0)
                .ok_or_else(|| Error::format(format!("{key} of the rope scaling"), "a number above 0 is needed"))
        };
        match rope.rope_type.as_deref().or(rope.r#type.as_deref()).unwrap_or("default") {
            "default" => {}
            "linear" => {
                let factor = number("factor", rope.factor)?;
                frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            "llama3" => {
                let factor = number("factor", rope.factor)?;
                let low = number("low_freq_factor", rope.low_freq_factor)?;
                let high = number("high_freq_factor", rope.high_freq_factor)?;
                let context = number("original_max_position_embeddings", rope.original_max_position_embeddings)?;
                if low >= high {
                    let reason = format!("{low} is not below high_freq_factor, {high}");
                    return Err(Error::format("low_freq_factor of the rope scaling", reason));
                }
                for f in &mut frequencies {
                    // Turns that the pair makes within the original context: few are stretched, many are kept.
                    let turns = context * *f / core::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f = keep * *f + (1.0 - keep) * *f / factor;
                }
            }
            other => {
                return Err(Error::unsupported(
                    format!("rope scaling of type {:?}", shown(other)),
                    "default, linear and llama3 are computed",
                ));
            }
        }
        Ok(frequencies)
    }

    /// The ids that begin and end a text; `generation_config.json` has the last word.
    pub(super) fn special_ids(&self, generation_config: Option<&str>) -> Result<(Option<u32>, Vec<u32>)> {
        #[derive(Default, Deserialize)]
        struct Generation {
            #[serde(default)]
            bos_token_id: Ids,
            #[serde(default)]
            eos_token_id: Ids,
        }
        let generation: Generation = match generation_config {
            None => Generation::default(),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::format("generation_config.json", format!("its JSON is wrong: {e}")))?,
        };
        let last_word = |a: &Ids, b: &Ids| if a.list().is_empty() { b.list().to_vec() } else { a.list().to_vec() };
        let bos = last_word(&generation.bos_token_id, &self.bos_token_id).first().copied();
        Ok((bos, last_word(&generation.eos_token_id, &self.eos_token_id)))
    }

    /// Fails unless the checkpoint has exactly the biases that the config announces.
    pub(super) fn check_biases(&self, tensors: &LlamaTensors) -> Result<()> {
        for (i, l) in tensors.layers.iter().enumerate() {
            let attention = [l.q_bias, l.k_bias, l.v_bias, l.o_bias];
            let mlp = [l.gate_bias, l.up_bias, l.down_bias];
            for (key, announced, found) in [
                ("attention_bias", self.attention_bias.unwrap_or(false), &attention[..]),
                ("mlp_bias", self.mlp_bias.unwrap_or(false), &mlp[..]),
            ] {
                if found.iter().any(|b| b.is_some() != announced) {
                    let has = if announced { "lacks some of those biases" } else { "has such a bias" };
                    return Err(Error::format(key, format!("it is {announced}, but layer {i} {has}")));
                }
            }
        }
        Ok(())
    }
}
