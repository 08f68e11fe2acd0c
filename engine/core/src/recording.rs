//! The forward pass as a list of operations on named buffers, built once and run by an executor.
//!
//! Shapes use one alphabet: `T` tokens of a step, `D` model width, `H`/`K` query and key/value heads, `d` head width,
//! `F` feed-forward width, `V` vocabulary. Row-major, slowest axis first.

use crate::error::{Error, Result};
use crate::kernels::Op;

/// An activation buffer of a recording: f32, `rows × cols`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// A key/value cache of a recording: one for each layer that owns keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvSlot(pub u32);

/// How many rows a buffer has while a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One for each token of the step: T.
    PerToken,
    /// One: the last token's.
    One,
}

/// What an executor must allocate for a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferInfo {
    /// Unique name, such as `layer.7.attention.q`, or a shared scratch name such as `hidden`.
    pub name: String,
    /// Rows while a step runs.
    pub rows: Rows,
    /// Columns.
    pub cols: usize,
}

/// A table of rotary frequencies of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeTable(pub u32);

/// What an executor must allocate for a key/value cache: two arrays of f32 `[position][kv_dim]`, or narrower if the
/// executor says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvInfo {
    /// Key/value heads K.
    pub heads: usize,
    /// Head width d.
    pub head_dim: usize,
}

/// Where in the sequence a step stands: token ids `position .. position + tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Position of the step's first token; also the number of cached tokens before it.
    pub position: usize,
    /// Tokens in the step: T.
    pub tokens: usize,
}

/// Operations in order, and the buffers they name.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// The operations.
    pub ops: Vec<Op>,
    /// Activation buffers, indexed by [`BufferId`].
    pub buffers: Vec<BufferInfo>,
    /// Key/value caches, indexed by [`KvSlot`].
    pub kv: Vec<KvInfo>,
    /// Rotary frequencies in radians per position, `[d/2]` each, indexed by [`RopeTable`]. Executors compute the angles'
    /// sines and cosines on the CPU in f64: shader trigonometry has no accuracy guarantee at large angles.
    pub rope: Vec<Vec<f64>>,
    /// Where the logits of the last token are: `[1, V]`.
    pub logits: Option<BufferId>,
    /// Buffers that `check` reads: the hidden state after the embedding, after each layer, and after the final norm.
    pub stages: Vec<(String, BufferId, usize)>,
}

impl Recording {
    /// Names a new buffer, or returns the one of that name (which must have the same shape).
    pub fn buffer(&mut self, name: &str, rows: Rows, cols: usize) -> Result<BufferId> {
        if let Some(i) = self.buffers.iter().position(|b| b.name == name) {
            let b = &self.buffers[i];
            if b.rows != rows || b.cols != cols {
                return Err(Error::Shape {
                    op: "buffer",
                    what: name.to_owned(),
                    got: vec![cols],
                    expected: vec![b.cols],
                });
            }
            return Ok(BufferId(i as u32));
        }
        self.buffers.push(BufferInfo { name: name.to_owned(), rows, cols });
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    /// Adds a key/value cache.
    pub fn kv_slot(&mut self, info: KvInfo) -> KvSlot {
        self.kv.push(info);
        KvSlot(self.kv.len() as u32 - 1)
    }

    /// Appends an operation.
    pub fn push(&mut self, op: impl Into<Op>) {
        self.ops.push(op.into());
    }

    /// Marks a buffer as a stage that a reference check may read: the value `name` has after the operation just pushed.
    pub fn stage(&mut self, name: impl Into<String>, buffer: BufferId) {
        self.stages.push((name.into(), buffer, self.ops.len()));
    }

    /// The shape of a buffer.
    pub fn info(&self, id: BufferId) -> &BufferInfo {
        &self.buffers[id.0 as usize]
    }
}

/// Fails unless `got` equals `expected`: the guard at the head of every kernel's `record`.
pub fn expect_shape(op: &'static str, what: &str, got: &[usize], expected: &[usize]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { op, what: what.to_owned(), got: got.to_vec(), expected: expected.to_vec() })
}
