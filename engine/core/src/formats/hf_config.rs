//! The llama family as a Hugging Face `config.json` describes it.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::shown;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Pairing};
use crate::models::llama_config::{LlamaConfig, LlamaTensors, MAX_HEAD_DIM, Names, rope_frequencies};

pub(super) const FILE: &str = "config.json";

/// The longest config read, in bytes: parsing may take several times its length.
const MAX_CONFIG: usize = 1 << 20;

pub(super) fn parse_json<'a, T: Deserialize<'a>>(file: &str, text: &'a str) -> Result<T> {
    if text.len() > MAX_CONFIG {
        return Err(Error::format(file, format!("{} bytes are absurd, expected at most {MAX_CONFIG}", text.len())));
    }
    serde_json::from_str(text).map_err(|e| Error::format(file, format!("its JSON is wrong: {e}")))
}

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
    quantization_config: Option<IgnoredAny>,
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

/// The model's kind, read first: another architecture's keys would only give a puzzling message.
pub(super) fn model_type(text: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind: Kind = parse_json(FILE, text)?;
    kind.model_type.ok_or_else(|| Error::format("model_type", format!("{FILE} does not have this key")))
}

/// The ids that begin and end a text, wherever a config keeps them; `generation_config.json` has the last word.
pub(super) fn special_ids(config: &str, generation_config: Option<&str>) -> Result<(Option<u32>, Vec<u32>)> {
    #[derive(Default, Deserialize)]
    struct Special {
        #[serde(default)]
        bos_token_id: Ids,
        #[serde(default)]
        eos_token_id: Ids,
        /// Of a multimodal model.
        text_config: Option<Box<Special>>,
    }
    let outer: Special = parse_json(FILE, config)?;
    let generation: Special = match generation_config {
        None => Special::default(),
        Some(text) => parse_json("generation_config.json", text)?,
    };
    let inner = outer.text_config.as_deref();
    let first = |pick: fn(&Special) -> &Ids| {
        let found = [Some(&generation), Some(&outer), inner].into_iter().flatten().map(pick);
        found.map(Ids::list).find(|ids| !ids.is_empty()).unwrap_or_default().to_vec()
    };
    Ok((first(|s| &s.bos_token_id).first().copied(), first(|s| &s.eos_token_id)))
}

impl HfConfig {
    pub(super) fn parse(text: &str) -> Result<Self> {
        match model_type(text)?.as_str() {
            "llama" | "mistral" => parse_json(FILE, text),
            other => Err(Error::unsupported(
                format!("the architecture {:?} (model_type in {FILE})", shown(other)),
                "Sotto reads llama, mistral and gemma4 folders",
            )),
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
        if head_dim > MAX_HEAD_DIM {
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
        config.check(Names::HuggingFace)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A config of Llama 3.2's sizes, `more` added before its end.
    fn config(more: &str) -> String {
        format!(
            r#"{{"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
            "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072,
            "rms_norm_eps":1e-05,"hidden_act":"silu"{more}}}"#
        )
    }

    fn llama(more: &str) -> Result<LlamaConfig> {
        HfConfig::parse(&config(more))?.llama_config()
    }

    #[test]
    fn sizes_and_defaults_are_those_of_transformers() {
        let c = llama("").unwrap();
        assert_eq!((c.layers, c.hidden, c.heads, c.kv_heads, c.head_dim), (16, 2048, 32, 8, 64));
        assert_eq!((c.ffn, c.vocab, c.context, c.tied, c.window), (8192, 128_256, 131_072, false, None));
        assert_eq!((c.pairing, c.activation, c.norm_eps), (Pairing::Halves, Activation::Silu, 1e-5));
        assert_eq!((c.rope.len(), c.rope[0]), (32, 1.0));
        assert!((c.rope[16] - 0.01).abs() < 1e-9);
        assert_eq!(llama(r#","head_dim":128"#).unwrap().q_dim(), 4096);
        assert!(llama(r#","tie_word_embeddings":true"#).unwrap().tied);
        assert_eq!(llama(r#","sliding_window":4096"#).unwrap().window, None, "llama has no window");

        let mistral = |more: &str| config(more).replace("\"llama\"", "\"mistral\"");
        let window = |more: &str| HfConfig::parse(&mistral(more)).unwrap().llama_config().unwrap().window;
        assert_eq!(window(""), Some(4096));
        assert_eq!(window(r#","sliding_window":null"#), None);
        assert_eq!(window(r#","sliding_window":1024"#), Some(1024));
    }

    #[test]
    fn frequencies_stretch_as_llama_3_and_linear_scaling_say() {
        let plain = llama(r#","rope_theta":500000.0"#).unwrap().rope;
        // Both the older layout, with either name of the type or both, and the newer one.
        let scaling =
            r#""factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192"#;
        let layouts = [
            format!(r#","rope_theta":500000.0,"rope_scaling":{{"rope_type":"llama3",{scaling}}}"#),
            format!(r#","rope_theta":500000.0,"rope_scaling":{{"rope_type":"llama3","type":"llama3",{scaling}}}"#),
            format!(r#","rope_parameters":{{"rope_theta":500000.0,"rope_type":"llama3",{scaling}}}"#),
        ];
        for layout in layouts {
            let rope = llama(&layout).unwrap().rope;
            // Pairs that turn more than 4 times in 8,192 positions are kept; below one turn they are 32 times slower.
            assert_eq!(rope[..15], plain[..15]);
            assert!(rope[15] < plain[15] && rope[15] > plain[15] / 32.0);
            for (r, p) in rope[18..].iter().zip(&plain[18..]) {
                assert!((r * 32.0 / p - 1.0).abs() < 1e-12);
            }
        }
        let linear = llama(r#","rope_theta":500000.0,"rope_scaling":{"type":"linear","factor":2.0}"#).unwrap().rope;
        assert!(linear.iter().zip(&plain).all(|(l, p)| l * 2.0 == *p));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (more, what) in [
            (r#","hidden_act":"relu""#, "duplicate field"),
            (r#","rope_scaling":{"type":"yarn","factor":2.0}"#, "yarn"),
            (r#","rope_scaling":{"type":"linear"}"#, "factor"),
            (r#","rope_scaling":{"type":"linear","factor":0}"#, "factor"),
            (
                r#","rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":1,"original_max_position_embeddings":64}"#,
                "low_freq_factor",
            ),
            (r#","rope_theta":-1"#, "rope_theta"),
            (r#","partial_rotary_factor":0.5"#, "partial_rotary_factor"),
            (r#","quantization_config":{"bits":4}"#, "quantization_config"),
            (r#","head_dim":63"#, "head_dim"),
            (r#","head_dim":99999999"#, "head_dim"),
        ] {
            let error = llama(more).unwrap_err().to_string();
            assert!(error.contains(what), "{more}: {error}");
        }
        for (from, to, what) in [
            ("\"llama\"", "\"gpt_neox\"", "gpt_neox"),
            ("\"model_type\":\"llama\",", "", "model_type"),
            ("\"silu\"", "\"relu\"", "relu"),
            ("\"num_key_value_heads\":8", "\"num_key_value_heads\":7", "heads"),
            ("\"num_attention_heads\":32", "\"num_attention_heads\":0", "num_attention_heads"),
            ("\"num_hidden_layers\":16", "\"num_hidden_layers\":4000000000", "num_hidden_layers"),
            ("\"num_hidden_layers\":16", "\"num_hidden_layers\":-1", "JSON"),
            ("\"hidden_size\":2048,", "", "hidden_size"),
            ("1e-05", "-1", "rms_norm_eps"),
        ] {
            let text = config("").replace(from, to);
            let error = HfConfig::parse(&text).and_then(|c| c.llama_config()).unwrap_err().to_string();
            assert!(error.contains(what), "{to}: {error}");
        }
        assert!(HfConfig::parse("not json").is_err());
    }

    #[test]
    fn stop_ids_may_be_one_or_many_and_generation_config_wins() {
        let ids = |more: &str, generation| special_ids(&config(more), generation).unwrap();
        assert_eq!(ids("", None), (None, vec![]));
        assert_eq!(ids(r#","bos_token_id":1,"eos_token_id":2"#, None), (Some(1), vec![2]));
        assert_eq!(ids(r#","bos_token_id":1,"eos_token_id":[2,3]"#, None), (Some(1), vec![2, 3]));
        let generation = Some(r#"{"eos_token_id":[7,8],"do_sample":true}"#);
        assert_eq!(ids(r#","bos_token_id":1,"eos_token_id":2"#, generation), (Some(1), vec![7, 8]));
        assert_eq!(ids(r#","eos_token_id":null"#, None), (None, vec![]));
        assert_eq!(
            special_ids(r#"{"text_config":{"bos_token_id":2,"eos_token_id":1}}"#, None).unwrap(),
            (Some(2), vec![1])
        );
        assert!(special_ids(&config(""), Some("{")).is_err());
    }
}
