//! What makes one llama-family model differ from another, and its weights by role.
//!
//! Shapes: `D` model width, `H`/`K` query and key/value heads, `d` head width, `F` feed-forward width, `V` vocabulary.

use super::mapper::Mapper;
use crate::error::{Error, Result};
use crate::formats::{TensorList, shown};
use crate::kernels::{Activation, Pairing};
use crate::weights::{WeightId, WeightRole, WeightTable};

/// The widest head of any model, with room to spare.
pub(crate) const MAX_HEAD_DIM: usize = 1 << 12;

/// Sizes and constants of a llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Decoder layers.
    pub layers: usize,
    /// Model width D.
    pub hidden: usize,
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K; divides H.
    pub kv_heads: usize,
    /// Head width d; even.
    pub head_dim: usize,
    /// Feed-forward width F.
    pub ffn: usize,
    /// Vocabulary V: rows of the embedding.
    pub vocab: usize,
    /// Tokens the model was made to read at most.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// The feed-forward gate's activation.
    pub activation: Activation,
    /// Rotary frequencies in radians per position, `[d/2]`, all scaling applied.
    pub rope: Vec<f64>,
    /// Which values of a head rotate together.
    pub pairing: Pairing,
    /// Positions a token sees, its own included; none means all before it.
    pub window: Option<usize>,
    /// True when the head is the embedding.
    pub tied: bool,
}

impl LlamaConfig {
    /// Width of all query heads, H·d.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads, K·d.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Fails on sizes that no model has, before anything is computed from them.
    pub(crate) fn check(&self, names: Names) -> Result<()> {
        for (gguf, hugging_face, size, most) in [
            ("llama.block_count", "num_hidden_layers", self.layers, 1 << 12),
            ("llama.embedding_length", "hidden_size", self.hidden, 1 << 20),
            ("llama.attention.head_count", "num_attention_heads", self.heads, 1 << 12),
            ("llama.attention.head_count_kv", "num_key_value_heads", self.kv_heads, 1 << 12),
            ("llama.attention.key_length", "head_dim", self.head_dim, MAX_HEAD_DIM),
            ("llama.feed_forward_length", "intermediate_size", self.ffn, 1 << 22),
            ("tokenizer.ggml.tokens", "vocab_size", self.vocab, 1 << 24),
            ("llama.context_length", "max_position_embeddings", self.context, 1 << 28),
        ] {
            if size == 0 || size > most {
                return Err(Error::format(
                    names.pick(gguf, hugging_face),
                    format!("{size} is absurd, expected 1 to {most}"),
                ));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::format(
                names.pick("llama.attention.head_count", "num_attention_heads"),
                format!("{} is not a multiple of the {} key/value heads", self.heads, self.kv_heads),
            ));
        }
        if !self.head_dim.is_multiple_of(2) || self.rope.len() != self.head_dim / 2 {
            return Err(Error::format(
                names.pick("llama.attention.key_length", "head_dim"),
                format!("heads of width {} do not pair up", self.head_dim),
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::format(
                names.pick("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps"),
                format!("{} is not a small number", self.norm_eps),
            ));
        }
        if let Some(bad) = self.rope.iter().find(|f| !f.is_finite() || f.abs() > 1e6) {
            return Err(Error::format("the rotary frequencies", format!("{bad} is not one")));
        }
        if self.window == Some(0) {
            return Err(Error::format(
                names.pick("llama.attention.sliding_window", "sliding_window"),
                "a window of 0 positions sees nothing",
            ));
        }
        Ok(())
    }
}

/// Rotary frequencies `θ^(−2i/d)` of `d/2` pairs, before any scaling. Rounded to f32, the precision that models are
/// trained and their references computed with.
pub(crate) fn rope_frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|i| {
            let power = theta.powf(2.0 * i as f64 / head_dim as f64) as f32;
            f64::from(1.0 / power)
        })
        .collect()
}

/// Weights of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaLayer {
    /// `[1, D]`, before attention.
    pub attn_norm: WeightId,
    /// `[H·d, D]`.
    pub q: WeightId,
    /// `[K·d, D]`.
    pub k: WeightId,
    /// `[K·d, D]`.
    pub v: WeightId,
    /// `[D, H·d]`.
    pub o: WeightId,
    /// `[1, H·d]`.
    pub q_bias: Option<WeightId>,
    /// `[1, K·d]`.
    pub k_bias: Option<WeightId>,
    /// `[1, K·d]`.
    pub v_bias: Option<WeightId>,
    /// `[1, D]`.
    pub o_bias: Option<WeightId>,
    /// `[1, D]`, before the feed-forward block.
    pub ffn_norm: WeightId,
    /// `[F, D]`.
    pub gate: WeightId,
    /// `[F, D]`.
    pub up: WeightId,
    /// `[D, F]`.
    pub down: WeightId,
    /// `[1, F]`.
    pub gate_bias: Option<WeightId>,
    /// `[1, F]`.
    pub up_bias: Option<WeightId>,
    /// `[1, D]`.
    pub down_bias: Option<WeightId>,
}

/// Weights of a llama-family model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaTensors {
    /// `[V, D]`.
    pub embedding: WeightId,
    /// One for each layer, in order.
    pub layers: Vec<LlamaLayer>,
    /// `[1, D]`, before the head.
    pub output_norm: WeightId,
    /// `[V, D]`; the embedding when tied.
    pub head: WeightId,
}

/// Which names a checkpoint gives its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
}

impl Names {
    fn pick(self, gguf: &'static str, hugging_face: &'static str) -> &'static str {
        match self {
            Self::Gguf => gguf,
            Self::HuggingFace => hugging_face,
        }
    }

    fn layer(self, layer: usize, gguf: &'static str, hugging_face: &'static str, kind: &str) -> String {
        match self {
            Self::Gguf => format!("blk.{layer}.{gguf}.{kind}"),
            Self::HuggingFace => format!("model.layers.{layer}.{hugging_face}.{kind}"),
        }
    }

    /// Tensors that some files carry and the forward pass does not read: tables that the config already determines.
    fn is_known_extra(self, name: &str) -> bool {
        match self {
            Self::Gguf => name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd"),
            Self::HuggingFace => name.ends_with(".rotary_emb.inv_freq"),
        }
    }
}

impl LlamaTensors {
    /// Finds every weight of the model in `tensors`, checks its shape against `config`, and adds it to `table`. A tensor
    /// that is missing, or one that a llama-family model does not have, is an error that names it.
    pub fn map(config: &LlamaConfig, names: Names, tensors: &TensorList, table: &mut WeightTable) -> Result<Self> {
        config.check(names)?;
        let (d, q, kv, f) = (config.hidden, config.q_dim(), config.kv_dim(), config.ffn);
        let mut m = Mapper::new(tensors, table);

        let embedding_name = names.pick("token_embd.weight", "model.embed_tokens.weight");
        let embedding_role = if config.tied { WeightRole::Matrix } else { WeightRole::Gathered };
        let embedding = m.add(embedding_name, config.vocab, d, embedding_role)?;

        let mut layers = Vec::new();
        for i in 0..config.layers {
            let weight = |gguf, hf| names.layer(i, gguf, hf, "weight");
            let bias = |gguf, hf| names.layer(i, gguf, hf, "bias");
            layers.push(LlamaLayer {
                attn_norm: m.vector(&weight("attn_norm", "input_layernorm"), d)?,
                q: m.matrix(&weight("attn_q", "self_attn.q_proj"), q, d)?,
                k: m.matrix(&weight("attn_k", "self_attn.k_proj"), kv, d)?,
                v: m.matrix(&weight("attn_v", "self_attn.v_proj"), kv, d)?,
                o: m.matrix(&weight("attn_output", "self_attn.o_proj"), d, q)?,
                q_bias: m.opt_vector(&bias("attn_q", "self_attn.q_proj"), q)?,
                k_bias: m.opt_vector(&bias("attn_k", "self_attn.k_proj"), kv)?,
                v_bias: m.opt_vector(&bias("attn_v", "self_attn.v_proj"), kv)?,
                o_bias: m.opt_vector(&bias("attn_output", "self_attn.o_proj"), d)?,
                ffn_norm: m.vector(&weight("ffn_norm", "post_attention_layernorm"), d)?,
                gate: m.matrix(&weight("ffn_gate", "mlp.gate_proj"), f, d)?,
                up: m.matrix(&weight("ffn_up", "mlp.up_proj"), f, d)?,
                down: m.matrix(&weight("ffn_down", "mlp.down_proj"), d, f)?,
                gate_bias: m.opt_vector(&bias("ffn_gate", "mlp.gate_proj"), f)?,
                up_bias: m.opt_vector(&bias("ffn_up", "mlp.up_proj"), f)?,
                down_bias: m.opt_vector(&bias("ffn_down", "mlp.down_proj"), d)?,
            });
        }

        let output_norm = m.vector(names.pick("output_norm.weight", "model.norm.weight"), d)?;
        let head_name = names.pick("output.weight", "lm_head.weight");
        let head = if config.tied { embedding } else { m.matrix(head_name, config.vocab, d)? };

        // A tensor left over means that the model computes something that this forward pass would leave out.
        match m.unused(|name| names.is_known_extra(name) || (config.tied && name == head_name)) {
            Some(t) => Err(Error::unsupported(
                shown(&t.name),
                format!("a llama model of {} layers does not have this tensor", config.layers),
            )),
            None => Ok(Self { embedding, layers, output_norm, head }),
        }
    }
}
