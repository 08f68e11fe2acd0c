//! The llama family's forward pass: Llama 2 and 3, Mistral, SmolLM, TinyLlama. What differs between them is data in
//! [`LlamaConfig`].

use crate::error::Result;
use crate::kernels::matmul::Store;
use crate::kernels::{Attention, Embed, GatedActivation, KvAppend, LastRow, MatMul, RmsNorm, Rope};
use crate::models::llama_config::{LlamaConfig, LlamaLayer, LlamaTensors};
use crate::recording::{BufferId, KvInfo, Recording, RopeTable, Rows};
use crate::weights::{WeightId, WeightTable};

/// Records one pass over a step's tokens, to the logits of the last one: `[1, V]`.
pub fn forward(config: &LlamaConfig, tensors: &LlamaTensors, table: &WeightTable) -> Result<Recording> {
    let mut r = Recorder { r: Recording::default(), config, table };
    let rope = r.rope_table();
    let x = r.r.buffer("residual", Rows::PerToken, config.hidden)?;

    r.r.push(Embed { table: tensors.embedding, first_column: 0, out: x, scale: 1.0 }); // [T, D]
    r.r.stage("embedding", x);
    for (l, layer) in tensors.layers.iter().enumerate() {
        r.attention_block(layer, x, rope)?; // x += Wo·attend(norm(x))
        r.feed_forward_block(layer, x)?; // x += Wdown·(act(Wgate·norm(x)) ⊙ Wup·norm(x))
        r.r.stage(format!("layer.{l}"), x);
    }
    let last = r.r.buffer("last", Rows::One, config.hidden)?;
    r.r.push(LastRow { x, out: last }); // [1, D]
    let normed = r.r.buffer("last.normed", Rows::One, config.hidden)?;
    r.norm(last, tensors.output_norm, normed); // [1, D]
    r.r.stage("final_norm", normed);
    let logits = r.r.buffer("logits", Rows::One, config.vocab)?;
    r.matmul(tensors.head, None, normed, logits, Store::Replace)?; // [1, V]
    r.r.logits = Some(logits);
    Ok(r.r)
}

struct Recorder<'a> {
    r: Recording,
    config: &'a LlamaConfig,
    table: &'a WeightTable,
}

impl Recorder<'_> {
    /// `x += Wo · attention(rope(Wq·h), cache ∪ (rope(Wk·h), Wv·h))` with `h = norm(x)`.
    fn attention_block(&mut self, layer: &LlamaLayer, x: BufferId, rope: RopeTable) -> Result<()> {
        let c = self.config;
        let (q_width, kv_width) = (c.q_dim(), c.kv_dim());
        let h = self.r.buffer("normed", Rows::PerToken, c.hidden)?;
        let q = self.r.buffer("q", Rows::PerToken, q_width)?;
        let k = self.r.buffer("k", Rows::PerToken, kv_width)?;
        let v = self.r.buffer("v", Rows::PerToken, kv_width)?;
        let attended = self.r.buffer("attended", Rows::PerToken, q_width)?;
        let slot = self.r.kv_slot(KvInfo { heads: c.kv_heads, head_dim: c.head_dim });

        self.norm(x, layer.attn_norm, h); // [T, D]
        self.matmul(layer.q, layer.q_bias, h, q, Store::Replace)?; // [T, H·d]
        self.matmul(layer.k, layer.k_bias, h, k, Store::Replace)?; // [T, K·d]
        self.matmul(layer.v, layer.v_bias, h, v, Store::Replace)?; // [T, K·d]
        for rotated in [q, k] {
            self.r.push(Rope { x: rotated, head_dim: c.head_dim, pairing: c.pairing, table: rope });
        }
        self.r.push(KvAppend { k, v, slot });
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        self.r.push(Attention { q, slot, out: attended, heads: c.heads, scale, window: c.window }); // [T, H·d]
        self.matmul(layer.o, layer.o_bias, attended, x, Store::Add) // [T, D]
    }

    /// `x += Wdown · (act(Wgate·h) ⊙ Wup·h)` with `h = norm(x)`.
    fn feed_forward_block(&mut self, layer: &LlamaLayer, x: BufferId) -> Result<()> {
        let c = self.config;
        let h = self.r.buffer("normed", Rows::PerToken, c.hidden)?;
        let gate = self.r.buffer("gate", Rows::PerToken, c.ffn)?;
        let up = self.r.buffer("up", Rows::PerToken, c.ffn)?;

        self.norm(x, layer.ffn_norm, h); // [T, D]
        self.matmul(layer.gate, layer.gate_bias, h, gate, Store::Replace)?; // [T, F]
        self.matmul(layer.up, layer.up_bias, h, up, Store::Replace)?; // [T, F]
        self.r.push(GatedActivation { gate, up, first_column: 0, activation: c.activation }); // [T, F]
        self.matmul(layer.down, layer.down_bias, gate, x, Store::Add) // [T, D]
    }

    fn norm(&mut self, x: BufferId, weight: WeightId, out: BufferId) {
        let (width, eps) = (self.config.hidden, self.config.norm_eps);
        self.r.push(RmsNorm::plain(x, Some(weight), out, width, eps));
    }

    /// `out (+)= W·x + bias`, and the weight's adapter on top when it has one: `out += B·(A·x)`.
    fn matmul(
        &mut self,
        weight: WeightId,
        bias: Option<WeightId>,
        x: BufferId,
        out: BufferId,
        store: Store,
    ) -> Result<()> {
        self.r.push(MatMul { weight, bias, x, out, store, range: None });
        if let Some((a, b)) = self.table.get(weight).adapter {
            let (rank, rows) = (self.table.get(a).rows, self.r.info(x).rows);
            let low = self.r.buffer(&format!("adapter.{rank}.{rows:?}"), rows, rank)?;
            self.r.push(MatMul { weight: a, bias: None, x, out: low, store: Store::Replace, range: None });
            self.r.push(MatMul { weight: b, bias: None, x: low, out, store: Store::Add, range: None });
        }
        Ok(())
    }

    fn rope_table(&mut self) -> RopeTable {
        self.r.rope.push(self.config.rope.clone());
        RopeTable(self.r.rope.len() as u32 - 1)
    }
}
