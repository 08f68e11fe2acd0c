//! The forward pass of Gemma 4's text decoder (E2B, E4B). What differs between layers is data in [`Gemma4Layer`].
//!
//! Keys and values belong to the first layers only; the others read the last of theirs. So in a step of many tokens those
//! others run for the last token alone: nothing they compute for the rest is ever read.

use crate::error::Result;
use crate::kernels::matmul::Store;
use crate::kernels::{Activation, Attention, Embed, Gain, GatedActivation, KvAppend, LastRow, MatMul};
use crate::kernels::{Pairing, RmsNorm, Rope, SoftCap};
use crate::models::Linear;
use crate::models::gemma4_config::{Gemma4Config, Gemma4Layer, Gemma4LayerTensors, Gemma4Tensors};
use crate::recording::{BufferId, KvInfo, KvSlot, Recording, RopeTable, Rows};
use crate::weights::WeightId;

/// Records one pass over a step's tokens, to the logits of the last one: `[1, V]`.
pub fn forward(config: &Gemma4Config, tensors: &Gemma4Tensors) -> Result<Recording> {
    let mut r = Recorder { r: Recording::default(), config, tensors, rows: Rows::PerToken };
    let slots = r.slots();
    r.r.rope.clone_from(&config.rope);
    let owners = config.owners();
    let (own, shared) = config.layers.split_at(owners);
    let tokens = r.buffer("residual", config.hidden)?;

    let embed_scale = (config.hidden as f32).sqrt();
    r.r.push(Embed { table: tensors.embedding, first_column: 0, out: tokens, scale: embed_scale }); // [T, D]
    r.r.stage("embed", tokens);
    let inputs = r.per_layer_inputs(tokens, tensors.ple_projection, 0, own.len())?; // [T, n·P]
    // The embedding is gone once the layers have run, and the last token's other layers need it.
    let last = r.last_row("last.embedding", tokens)?; // [1, D]
    r.rows = Rows::One;
    let last_inputs = match tensors.ple_projection_shared {
        Some(projection) => Some(r.per_layer_inputs(last, projection, own.len(), shared.len())?), // [1, m·P]
        None => None,
    };

    r.rows = Rows::PerToken;
    for (l, layer) in own.iter().enumerate() {
        r.layer(l, layer, &slots, tokens, (inputs, l))?;
    }
    let last = r.last_row("last", tokens)?; // [1, D]
    r.rows = Rows::One;
    for (i, layer) in shared.iter().enumerate() {
        r.layer(owners + i, layer, &slots, last, (last_inputs.unwrap_or(inputs), i))?;
    }
    let normed = r.buffer("last.normed", config.hidden)?;
    r.norm(last, tensors.output_norm, normed); // [1, D]
    r.r.stage("final_norm", normed);
    let logits = r.buffer("logits", config.vocab)?;
    r.matmul(tensors.head, normed, logits); // [1, V]
    if let Some(cap) = config.soft_cap {
        r.r.push(SoftCap { x: logits, cap });
    }
    r.r.logits = Some(logits);
    Ok(r.r)
}

struct Recorder<'a> {
    r: Recording,
    config: &'a Gemma4Config,
    tensors: &'a Gemma4Tensors,
    /// Of the buffers that are recorded now: the step's tokens, or the last one.
    rows: Rows,
}

impl Recorder<'_> {
    /// What each of `count` layers adds of its own to every token, `[rows, count·P]`:
    /// `(norm(Wp·e / √D) + √P·table[token]) / √2`.
    fn per_layer_inputs(&mut self, e: BufferId, projection: Linear, first: usize, count: usize) -> Result<BufferId> {
        let c = self.config;
        let projected = self.buffer("ple.projected", count * c.ple)?;
        let out = self.buffer("ple", count * c.ple)?;
        self.matmul(projection, e, projected);
        let scale = (c.ple as f32).sqrt();
        let first_column = first * c.ple;
        self.r.push(Embed { table: self.tensors.ple_table, first_column, out, scale });
        self.r.push(RmsNorm {
            x: projected,
            weight: Some(self.tensors.ple_norm),
            out,
            width: c.ple,
            // norm(x / √D) with eps is norm(x) with D·eps.
            eps: c.norm_eps * c.hidden as f32,
            store: Store::Add,
            gain: Gain::Constant(core::f32::consts::FRAC_1_SQRT_2),
        });
        self.r.stage(if first == 0 { "ple" } else { "ple.shared" }, out);
        Ok(out)
    }

    /// One layer on the residual stream `h`: attention, feed-forward, per-layer input, each normed before it is added.
    fn layer(
        &mut self,
        l: usize,
        layer: &Gemma4Layer,
        slots: &[KvSlot],
        h: BufferId,
        (inputs, slice): (BufferId, usize),
    ) -> Result<()> {
        let (c, t) = (self.config, &self.tensors.layers[l]);
        let attended = self.attention(layer, t, slots[layer.kv_source], h)?;
        self.r.stage(format!("layer{l}.attn_out"), attended);
        self.add_normed(attended, t.post_attention_norm, h, Gain::One);

        let fed = self.feed_forward(layer, t, h)?;
        self.r.stage(format!("layer{l}.mlp_out"), fed);
        self.add_normed(fed, t.post_feed_forward_norm, h, Gain::One);

        let gate = self.buffer("ple.gate", c.ple)?;
        let branch = self.buffer("branch", c.hidden)?;
        self.matmul(t.ple_gate, h, gate); // [T, P]
        let first_column = slice * c.ple;
        self.r.push(GatedActivation { gate, up: inputs, first_column, activation: Activation::GeluTanh });
        self.matmul(t.ple_projection, gate, branch); // [T, D]
        self.add_normed(branch, t.post_ple_norm, h, Gain::Learned(t.scalar));
        self.r.stage(format!("layer{l}.out"), h);
        Ok(())
    }

    /// `Wo · attention(rope(norm(Wq·x)), cache)` with `x = norm(h)`; a layer that owns its cache first appends to it
    /// `rope(norm(Wk·x))` and `norm(Wv·x)`.
    fn attention(
        &mut self,
        layer: &Gemma4Layer,
        t: &Gemma4LayerTensors,
        slot: KvSlot,
        h: BufferId,
    ) -> Result<BufferId> {
        let (c, d) = (self.config, layer.head_dim);
        let (q_width, kv_width) = (c.heads * d, layer.kv_heads * d);
        let x = self.buffer("normed", c.hidden)?;
        let q = self.buffer(&format!("q.{d}"), q_width)?;
        let q_normed = self.buffer(&format!("q.normed.{d}"), q_width)?;
        let attended = self.buffer(&format!("attended.{d}"), q_width)?;
        let out = self.buffer("branch", c.hidden)?;
        let rotate = |x| Rope { x, head_dim: d, pairing: Pairing::Halves, table: RopeTable(layer.rope as u32) };

        self.norm(h, t.input_norm, x); // [T, D]
        self.matmul(t.q, x, q); // [T, H·d]
        if let Some(own) = &t.kv {
            let (k, v) = (self.buffer(&format!("k.{d}"), kv_width)?, self.buffer(&format!("v.{d}"), kv_width)?);
            let k_normed = self.buffer(&format!("k.normed.{d}"), kv_width)?;
            let v_normed = self.buffer(&format!("v.normed.{d}"), kv_width)?;
            self.matmul(own.k, x, k); // [T, K·d]
            self.matmul(own.v, x, v); // [T, K·d]
            self.r.push(RmsNorm::plain(q, Some(t.q_norm), q_normed, d, c.norm_eps));
            self.r.push(RmsNorm::plain(k, Some(own.k_norm), k_normed, d, c.norm_eps));
            self.r.push(RmsNorm::plain(v, None, v_normed, d, c.norm_eps));
            self.r.push(rotate(q_normed));
            self.r.push(rotate(k_normed));
            self.r.push(KvAppend { k: k_normed, v: v_normed, slot });
        } else {
            self.r.push(RmsNorm::plain(q, Some(t.q_norm), q_normed, d, c.norm_eps));
            self.r.push(rotate(q_normed));
        }
        let (heads, window) = (c.heads, layer.window);
        self.r.push(Attention { q: q_normed, slot, out: attended, heads, scale: 1.0, window }); // [T, H·d]
        self.matmul(t.o, attended, out); // [T, D]
        Ok(out)
    }

    /// `Wdown · (gelu(Wgate·x) ⊙ Wup·x)` with `x = norm(h)`.
    fn feed_forward(&mut self, layer: &Gemma4Layer, t: &Gemma4LayerTensors, h: BufferId) -> Result<BufferId> {
        let (c, f) = (self.config, layer.ffn);
        let x = self.buffer("normed", c.hidden)?;
        let (gate, up) = (self.buffer(&format!("gate.{f}"), f)?, self.buffer(&format!("up.{f}"), f)?);
        let out = self.buffer("branch", c.hidden)?;
        self.norm(h, t.pre_feed_forward_norm, x); // [T, D]
        self.matmul(t.gate, x, gate); // [T, F]
        self.matmul(t.up, x, up); // [T, F]
        self.r.push(GatedActivation { gate, up, first_column: 0, activation: Activation::GeluTanh }); // [T, F]
        self.matmul(t.down, gate, out); // [T, D]
        Ok(out)
    }

    /// A cache for each layer that owns keys and values.
    fn slots(&mut self) -> Vec<KvSlot> {
        let own = &self.config.layers[..self.config.owners()];
        own.iter().map(|layer| self.r.kv_slot(KvInfo { heads: layer.kv_heads, head_dim: layer.head_dim })).collect()
    }

    fn buffer(&mut self, name: &str, cols: usize) -> Result<BufferId> {
        match self.rows {
            Rows::PerToken => self.r.buffer(name, Rows::PerToken, cols),
            Rows::One => self.r.buffer(&format!("one.{name}"), Rows::One, cols),
        }
    }

    fn last_row(&mut self, name: &str, x: BufferId) -> Result<BufferId> {
        let out = self.r.buffer(name, Rows::One, self.config.hidden)?;
        self.r.push(LastRow { x, out });
        Ok(out)
    }

    fn norm(&mut self, x: BufferId, weight: WeightId, out: BufferId) {
        self.r.push(RmsNorm::plain(x, Some(weight), out, self.config.hidden, self.config.norm_eps));
    }

    /// `h = (h + norm(x)) · gain`: the end of a branch.
    fn add_normed(&mut self, x: BufferId, weight: WeightId, h: BufferId, gain: Gain) {
        let (width, eps) = (self.config.hidden, self.config.norm_eps);
        self.r.push(RmsNorm { x, weight: Some(weight), out: h, width, eps, store: Store::Add, gain });
    }

    fn matmul(&mut self, linear: Linear, x: BufferId, out: BufferId) {
        let Linear { weight, range } = linear;
        self.r.push(MatMul { weight, bias: None, x, out, store: Store::Replace, range });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::formats::testing::{described_hugging_face, tensor};
    use crate::formats::{Architecture, Dtype, TensorInfo};
    use crate::kernels::Op;
    use crate::model::{Network, Stages};
    use crate::quant::QuantType;

    /// The published config of E2B, as far as the text decoder reads it.
    pub(crate) fn e2b_config() -> String {
        let kinds: Vec<&str> =
            (0..35).map(|i| if i % 5 == 4 { "\"full_attention\"" } else { "\"sliding_attention\"" }).collect();
        format!(
            r#"{{"model_type":"gemma4","text_config":{{"model_type":"gemma4_text","vocab_size":262144,
            "vocab_size_per_layer_input":262144,"hidden_size":1536,"intermediate_size":6144,"num_hidden_layers":35,
            "num_attention_heads":8,"num_key_value_heads":1,"head_dim":256,"global_head_dim":512,
            "hidden_size_per_layer_input":256,"sliding_window":512,"layer_types":[{}],"num_kv_shared_layers":20,
            "use_double_wide_mlp":true,"final_logit_softcapping":30.0,"max_position_embeddings":131072,
            "rms_norm_eps":1e-06,"hidden_activation":"gelu_pytorch_tanh","rope_parameters":{{
            "full_attention":{{"rope_type":"proportional","partial_rotary_factor":0.25,"rope_theta":1000000.0}},
            "sliding_attention":{{"rope_type":"default","rope_theta":10000.0}}}},"tie_word_embeddings":true}}}}"#,
            kinds.join(",")
        )
    }

    /// Every tensor of E2B's published bf16 file that the text decoder reads, one behind the other.
    pub(crate) fn e2b_tensors() -> Vec<TensorInfo> {
        let mut list: Vec<(String, Vec<usize>)> = vec![
            ("embed_tokens.weight".into(), vec![262_144, 1536]),
            ("embed_tokens_per_layer.weight".into(), vec![262_144, 35 * 256]),
            ("per_layer_model_projection.weight".into(), vec![35 * 256, 1536]),
            ("per_layer_projection_norm.weight".into(), vec![256]),
            ("norm.weight".into(), vec![1536]),
        ];
        for i in 0..35 {
            let d = if i % 5 == 4 { 512 } else { 256 };
            let f = if i < 15 { 6144 } else { 12288 };
            let mut add = |name: &str, shape: &[usize]| list.push((format!("layers.{i}.{name}"), shape.to_vec()));
            for norm in [
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
                "post_per_layer_input_norm",
            ] {
                add(&format!("{norm}.weight"), &[1536]);
            }
            add("layer_scalar", &[1]);
            add("self_attn.q_proj.weight", &[8 * d, 1536]);
            // Layers that read another's keys and values carry dead ones of their own.
            add("self_attn.k_proj.weight", &[d, 1536]);
            add("self_attn.v_proj.weight", &[d, 1536]);
            add("self_attn.o_proj.weight", &[1536, 8 * d]);
            add("self_attn.q_norm.weight", &[d]);
            add("self_attn.k_norm.weight", &[d]);
            add("mlp.gate_proj.weight", &[f, 1536]);
            add("mlp.up_proj.weight", &[f, 1536]);
            add("mlp.down_proj.weight", &[1536, f]);
            add("per_layer_input_gate.weight", &[256, 1536]);
            add("per_layer_projection.weight", &[1536, 256]);
        }
        let mut offset = 0;
        list.into_iter()
            .map(|(name, shape)| {
                let name = format!("model.language_model.{name}");
                let info = tensor(&name, &shape, Dtype::Number(QuantType::BF16), offset);
                offset += info.location.len;
                info
            })
            .collect()
    }

    #[test]
    fn all_but_the_last_token_run_only_through_the_layers_that_own_keys_and_values() {
        let description = described_hugging_face(&e2b_config(), e2b_tensors()).unwrap();
        assert!(matches!(description.architecture, Architecture::Gemma4 { .. }));
        let network = Network::open(&description, Stages::Dropped).unwrap();
        let macs = |rows: Rows| -> usize {
            let products = network.recording.ops.iter().filter_map(|op| match op {
                Op::MatMul(op) if network.recording.info(op.x).rows == rows => {
                    let spec = network.weights.get(op.weight);
                    Some(spec.rows * spec.cols)
                }
                _ => None,
            });
            products.sum()
        };
        // From the parameter counts of the published model: 15 layers and their share of the projection for every token,
        // all of it but that and the head for the last one.
        let head = 262_144 * 1536;
        assert_eq!(macs(Rows::PerToken), 569_769_984);
        assert_eq!(macs(Rows::PerToken) + macs(Rows::One) - head, 1_863_057_408 + 13_762_560);
        assert_eq!(network.recording.kv.len(), 15);
        // Nothing but attention to the caches joins the two.
        let first_one = network.recording.ops.iter().rposition(|op| matches!(op, Op::LastRow(_))).unwrap();
        assert!(network.recording.ops[first_one..].iter().all(|op| !matches!(op, Op::KvAppend(_))));
    }

    #[test]
    fn shared_layers_read_the_last_owner_of_their_kind() {
        let description = described_hugging_face(&e2b_config(), e2b_tensors()).unwrap();
        let Architecture::Gemma4 { config, .. } = &description.architecture else { panic!("not gemma4") };
        assert_eq!(config.owners(), 15);
        for (i, layer) in config.layers.iter().enumerate() {
            let expected = if i < 15 {
                i
            } else if i % 5 == 4 {
                14
            } else {
                13
            };
            assert_eq!(layer.kv_source, expected, "layer {i}");
            assert_eq!(layer.window.is_none(), i % 5 == 4, "layer {i}");
        }
        // 64 pairs of 256 turn in a full layer, and its exponent's denominator is the whole head.
        let full = &config.rope[1];
        assert_eq!((full.len(), full.iter().filter(|f| **f != 0.0).count()), (256, 64));
        assert!((full[1] - 1e6f64.powf(-2.0 / 512.0)).abs() < 1e-7);
    }
}
