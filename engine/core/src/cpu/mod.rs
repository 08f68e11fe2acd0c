//! Runs a recording on the CPU: the plain reference, which is the specification, or the fast SIMD path.

pub mod fast;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::matmul::Store;
use crate::kernels::{self, Attention, Embed, MatMul, Op, rope};
use crate::quant::QuantType;
use crate::recording::{BufferId, KvInfo, Recording, Rows, Step};
use crate::weights::{WeightId, WeightRole, WeightSink, WeightSpec, WeightTable};

/// Which CPU implementation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuPath {
    /// Plain f32 loops over dequantized rows: slow, exact, the specification.
    Reference,
    /// int8 activations against 4- and 8-bit weights.
    Fast,
}

/// A weight as the CPU holds it.
enum Weight {
    /// Not streamed in yet.
    Missing,
    /// A norm's weight or a bias.
    Vector(Vec<f32>),
    /// The file's own bytes.
    Stored { quant: QuantType, cols: usize, bytes: Vec<u8> },
}

impl Weight {
    fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Missing => out.fill(0.0),
            Self::Vector(values) => out.copy_from_slice(values),
            Self::Stored { quant, cols, bytes } => {
                let row_bytes = cols / quant.block_len() * quant.block_bytes();
                quant.dequantize(&bytes[row * row_bytes..(row + 1) * row_bytes], out);
            }
        }
    }
}

/// Keys and values of one layer: `[position, K·d]` each.
struct KvCache {
    info: KvInfo,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// A CPU that runs one recording.
pub struct CpuExecutor {
    recording: Arc<Recording>,
    path: CpuPath,
    weights: Vec<Weight>,
    shapes: Vec<(usize, usize)>,
    buffers: Vec<Vec<f32>>,
    kv: Vec<KvCache>,
    row: Vec<f32>,
}

impl CpuExecutor {
    /// Makes an executor whose weights are still to stream in.
    pub fn new(recording: Arc<Recording>, table: &WeightTable, path: CpuPath) -> Self {
        Self {
            path,
            weights: (0..table.len()).map(|_| Weight::Missing).collect(),
            shapes: table.iter().map(|(_, s)| (s.rows, s.cols)).collect(),
            buffers: recording.buffers.iter().map(|_| Vec::new()).collect(),
            kv: recording.kv.iter().map(|&info| KvCache { info, k: Vec::new(), v: Vec::new() }).collect(),
            row: Vec::new(),
            recording,
        }
    }

    /// Which implementation runs.
    pub fn path(&self) -> CpuPath {
        self.path
    }

    /// Runs some of the recording's operations for a step; the whole range is a forward pass.
    pub fn run(&mut self, step: Step, tokens: &[u32], ops: Range<usize>) -> Result<()> {
        let recording = Arc::clone(&self.recording);
        for (buffer, info) in self.buffers.iter_mut().zip(&recording.buffers) {
            let rows = match info.rows {
                Rows::PerToken => step.tokens,
                Rows::One => 1,
            };
            buffer.resize(rows * info.cols, 0.0);
        }
        for op in &recording.ops[ops] {
            self.run_op(op, step, tokens)?;
        }
        Ok(())
    }

    /// The values of a buffer after the operations run so far.
    pub fn read(&self, buffer: BufferId) -> &[f32] {
        &self.buffers[buffer.0 as usize]
    }

    /// Forgets everything after `position` tokens.
    pub fn truncate(&mut self, position: usize) {
        for cache in &mut self.kv {
            let width = cache.info.heads * cache.info.head_dim;
            cache.k.truncate(position * width);
            cache.v.truncate(position * width);
        }
    }

    /// Takes a buffer out while an operation writes to it.
    fn take(&mut self, id: BufferId) -> Vec<f32> {
        core::mem::take(&mut self.buffers[id.0 as usize])
    }

    fn put(&mut self, id: BufferId, values: Vec<f32>) {
        self.buffers[id.0 as usize] = values;
    }

    fn vector(&self, id: WeightId) -> &[f32] {
        match &self.weights[id.0 as usize] {
            Weight::Vector(values) => values,
            _ => &[],
        }
    }

    fn run_op(&mut self, op: &Op, step: Step, tokens: &[u32]) -> Result<()> {
        match op {
            Op::Embed(op) => self.embed(op, tokens),
            Op::RmsNorm(op) => {
                let mut out = self.take(op.out);
                let weight = op.weight.map(|w| self.vector(w));
                kernels::rms_norm::reference(self.read(op.x), weight, op.width, op.eps, &mut out);
                self.put(op.out, out);
                Ok(())
            }
            Op::MatMul(op) => self.matmul(op, step),
            Op::Rope(op) => {
                let mut x = self.take(op.x);
                let frequencies = &self.recording.rope[op.table.0 as usize];
                let width = x.len() / step.tokens;
                for (t, row) in x.chunks_exact_mut(width).enumerate() {
                    let angles = rope::angles(frequencies, step.position + t);
                    rope::reference(row, op.head_dim, op.pairing, &angles);
                }
                self.put(op.x, x);
                Ok(())
            }
            Op::KvAppend(op) => {
                let cache = &mut self.kv[op.slot.0 as usize];
                let width = cache.info.heads * cache.info.head_dim;
                for (to, from) in [(&mut cache.k, op.k), (&mut cache.v, op.v)] {
                    to.truncate(step.position * width);
                    to.extend_from_slice(&self.buffers[from.0 as usize]);
                }
                Ok(())
            }
            Op::Attention(op) => self.attention(op, step),
            Op::GatedActivation(op) => {
                let mut gate = self.take(op.gate);
                kernels::gated_activation::reference(&mut gate, self.read(op.up), op.activation);
                self.put(op.gate, gate);
                Ok(())
            }
            Op::LastRow(op) => {
                let mut out = self.take(op.out);
                let x = self.read(op.x);
                let last = x.len() - out.len();
                out.copy_from_slice(&x[last..]);
                self.put(op.out, out);
                Ok(())
            }
        }
    }

    fn embed(&mut self, op: &Embed, tokens: &[u32]) -> Result<()> {
        let (rows, cols) = self.shapes[op.table.0 as usize];
        let mut out = self.take(op.out);
        for (row, &token) in out.chunks_exact_mut(cols).zip(tokens) {
            if token as usize >= rows {
                return Err(Error::format("token id", format!("{token} is beyond the vocabulary of {rows}")));
            }
            self.weights[op.table.0 as usize].row(token as usize, row);
            kernels::embed::reference(op.scale, row);
        }
        self.put(op.out, out);
        Ok(())
    }

    fn matmul(&mut self, op: &MatMul, _step: Step) -> Result<()> {
        let (rows, cols) = self.shapes[op.weight.0 as usize];
        let mut out = self.take(op.out);
        let mut row = core::mem::take(&mut self.row);
        row.resize(cols, 0.0);
        let x = self.read(op.x);
        for n in 0..rows {
            self.weights[op.weight.0 as usize].row(n, &mut row);
            let bias = op.bias.map_or(0.0, |b| self.vector(b)[n]);
            for (x, y) in x.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
                let sum = kernels::matmul::reference(&row, x) + bias;
                match op.store {
                    Store::Replace => y[n] = sum,
                    Store::Add => y[n] += sum,
                }
            }
        }
        self.row = row;
        self.put(op.out, out);
        Ok(())
    }

    fn attention(&mut self, op: &Attention, step: Step) -> Result<()> {
        let mut out = self.take(op.out);
        let q = self.read(op.q);
        let cache = &self.kv[op.slot.0 as usize];
        let (d, stride) = (cache.info.head_dim, cache.info.heads * cache.info.head_dim);
        let group = op.heads / cache.info.heads;
        for t in 0..step.tokens {
            let visible = op.visible(step.position + t);
            for h in 0..op.heads {
                let at = (t * op.heads + h) * d;
                let first = visible.start * stride + h / group * d;
                kernels::attention::reference(
                    &q[at..at + d],
                    &cache.k[first..],
                    &cache.v[first..],
                    stride,
                    visible.len(),
                    op.scale,
                    &mut out[at..at + d],
                );
            }
        }
        self.put(op.out, out);
        Ok(())
    }
}

impl WeightSink for CpuExecutor {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, _first_row: usize, bytes: &[u8]) -> Result<()> {
        let weight = &mut self.weights[id.0 as usize];
        match spec.role {
            WeightRole::Vector => {
                let mut values = vec![0.0; spec.cols];
                spec.quant.dequantize(bytes, &mut values);
                *weight = Weight::Vector(values);
            }
            WeightRole::Matrix | WeightRole::Gathered => {
                if let Weight::Missing = weight {
                    let bytes = Vec::with_capacity(spec.location.len as usize);
                    *weight = Weight::Stored { quant: spec.quant, cols: spec.cols, bytes };
                }
                if let Weight::Stored { bytes: stored, .. } = weight {
                    stored.extend_from_slice(bytes);
                }
            }
        }
        Ok(())
    }
}
