//! Runs a recording on the CPU: the plain reference, which is the specification, or the fast SIMD path.

pub mod fast;

use std::ops::Range;
use std::sync::Arc;

use self::fast::{Activations, FastKv, FastMatrix, FloatMatrix, Outputs, PackedMatrix, Precision};
use crate::error::{Error, Result};
use crate::kernels::matmul::Store;
use crate::kernels::{self, Attention, Embed, Gain, MatMul, Op, RmsNorm, rope};
use crate::outside::OutsideRows;
use crate::quant::{QuantType, apply_scales};
use crate::recording::{BufferId, KvInfo, Recording, Rows, Step};
use crate::weights::{WeightId, WeightRole, WeightSink, WeightSpec, WeightTable};

/// Which CPU implementation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuPath {
    /// Plain f32 loops over dequantized rows: slow, exact, the specification.
    Reference,
    /// int8 activations against weights of 2 to 8 bits.
    Fast,
}

/// A weight as the CPU holds it.
enum Weight {
    /// Not streamed in yet.
    Missing,
    /// A norm's weight or a bias.
    Vector(Vec<f32>),
    /// The file's own bytes, for the reference and for tables.
    Stored { quant: QuantType, cols: usize, bytes: Vec<u8> },
    /// Repacked for the fast path.
    Fast(FastMatrix),
    /// The same for codes whose scales are another weight.
    Packed(PackedMatrix),
    /// Floats that stay floats.
    Float(FloatMatrix),
}

impl Weight {
    /// An empty matrix or table in the form that a path wants.
    fn of_matrix(spec: &WeightSpec, path: CpuPath, precision: Precision, scales_of_row: usize) -> Result<Self> {
        let (name, quant, rows, cols) = (&spec.name, spec.quant, spec.rows, spec.cols);
        // Codes with several scales a row have no fast form: their products run as the reference does. Rows that are only
        // gathered stay as they are.
        let is_packed = quant.has_own_scales();
        let stays = is_packed && (spec.role == WeightRole::Gathered || scales_of_row != 1);
        Ok(match path {
            CpuPath::Fast if is_packed && !stays => Self::Packed(PackedMatrix::new(name, quant, rows, cols)?),
            CpuPath::Fast if precision == Precision::Exact && quant.is_float() => {
                Self::Float(FloatMatrix::new(name, quant, rows, cols)?)
            }
            CpuPath::Fast if !is_packed => Self::Fast(FastMatrix::new(name, quant, rows, cols)?),
            _ => Self::Stored { quant, cols, bytes: Vec::with_capacity(spec.location.len as usize) },
        })
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Missing => out.fill(0.0),
            Self::Vector(values) => out.copy_from_slice(values),
            Self::Stored { quant, cols, bytes } => {
                let row_bytes = cols / quant.block_len() * quant.block_bytes();
                quant.dequantize(&bytes[row * row_bytes..(row + 1) * row_bytes], out);
            }
            Self::Fast(matrix) => matrix.row(row, out),
            Self::Packed(matrix) => matrix.row(row, out),
            Self::Float(matrix) => matrix.row(row, out),
        }
    }

    /// True when what `row` gives are codes, to be multiplied by scales that lie elsewhere.
    fn is_codes(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Packed(_))
    }
}

/// Keys and values of one layer.
enum KvCache {
    /// f32, `[position, K·d]` each.
    Plain { info: KvInfo, k: Vec<f32>, v: Vec<f32> },
    /// The fast path's own layout.
    Fast(FastKv),
}

/// A CPU that runs one recording.
pub struct CpuExecutor {
    recording: Arc<Recording>,
    path: CpuPath,
    /// Of what the fast path would otherwise round.
    precision: Precision,
    weights: Vec<Weight>,
    shapes: Vec<(usize, usize)>,
    scales: Vec<Option<WeightId>>,
    /// Tables that do not stream in.
    outside: Option<OutsideRows>,
    buffers: Vec<Vec<f32>>,
    kv: Vec<KvCache>,
    row: Vec<f32>,
    /// The fast path's int8 form of a buffer, of which one, and on which static range's grid (0: none): several products in
    /// a row read the same input.
    activations: Activations,
    quantized: Option<(BufferId, f32)>,
    /// One for each of the recording's tables: all layers of a step rotate by the same angles.
    angles: Vec<Angles>,
}

/// Cosines and sines of a step's positions, from one table of frequencies.
#[derive(Default)]
struct Angles {
    step: Option<Step>,
    /// `[T, d/2]`.
    values: Vec<(f32, f32)>,
}

impl Angles {
    fn prepare(&mut self, frequencies: &[f64], step: Step) {
        if self.step == Some(step) {
            return;
        }
        self.values.clear();
        for position in step.position..step.position + step.tokens {
            self.values.extend(rope::angles(frequencies, position));
        }
        self.step = Some(step);
    }
}

impl CpuExecutor {
    /// Makes an executor whose weights are still to stream in.
    pub fn new(recording: Arc<Recording>, table: &WeightTable, path: CpuPath) -> Result<Self> {
        let precision = precision(&recording);
        let kv = recording.kv.iter().map(|&info| match path {
            CpuPath::Reference => Ok(KvCache::Plain { info, k: Vec::new(), v: Vec::new() }),
            CpuPath::Fast => FastKv::new(info, precision).map(KvCache::Fast),
        });
        Ok(Self {
            path,
            precision,
            weights: (0..table.len()).map(|_| Weight::Missing).collect(),
            shapes: table.iter().map(|(_, s)| (s.rows, s.cols)).collect(),
            scales: table.iter().map(|(_, s)| s.scales).collect(),
            outside: None,
            buffers: recording.buffers.iter().map(|_| Vec::new()).collect(),
            kv: kv.collect::<Result<_>>()?,
            row: Vec::new(),
            activations: Activations::default(),
            quantized: None,
            angles: recording.rope.iter().map(|_| Angles::default()).collect(),
            recording,
        })
    }

    /// Leaves tables where they lie: they must not stream in.
    pub fn with_outside(mut self, outside: Option<OutsideRows>) -> Self {
        self.outside = outside;
        self
    }

    /// Which implementation runs.
    pub fn path(&self) -> CpuPath {
        self.path
    }

    /// Runs the recording for a step.
    pub fn run(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        self.run_ops(step, tokens, 0..self.recording.ops.len())
    }

    /// Runs of a step only what later steps read of it: all up to the last keys and values that are cached.
    pub fn run_for_cache(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        let last = self.recording.ops.iter().rposition(|op| matches!(op, Op::KvAppend(_)));
        self.run_ops(step, tokens, 0..last.map_or(0, |i| i + 1))
    }

    /// Runs the recording for a step and returns its stages: name and values.
    pub fn run_stages(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>> {
        let recording = Arc::clone(&self.recording);
        let (mut stages, mut done) = (Vec::new(), 0);
        for (name, buffer, until) in &recording.stages {
            self.run_ops(step, tokens, done..*until)?;
            done = *until;
            stages.push((name.clone(), self.read(*buffer).to_vec()));
        }
        self.run_ops(step, tokens, done..recording.ops.len())?;
        Ok(stages)
    }

    fn run_ops(&mut self, step: Step, tokens: &[u32], ops: Range<usize>) -> Result<()> {
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

    /// Takes a buffer out while an operation writes to it.
    fn take(&mut self, id: BufferId) -> Vec<f32> {
        self.quantized.take_if(|(buffer, _)| *buffer == id);
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
                self.rms_norm(op);
                Ok(())
            }
            Op::MatMul(op) => self.matmul(op),
            Op::Rope(op) => {
                let mut x = self.take(op.x);
                let table = op.table.0 as usize;
                let angles = &mut self.angles[table];
                angles.prepare(&self.recording.rope[table], step);
                let rotate = match self.path {
                    CpuPath::Reference => rope::reference,
                    CpuPath::Fast => fast::rope,
                };
                let (width, pairs) = (self.recording.info(op.x).cols, angles.values.len() / step.tokens);
                // One row is the last token's.
                let positions = angles.values.chunks_exact(pairs.max(1)).skip(step.tokens - x.len() / width);
                for (row, angles) in x.chunks_exact_mut(width).zip(positions) {
                    rotate(row, op.head_dim, op.pairing, angles);
                }
                self.put(op.x, x);
                Ok(())
            }
            Op::KvAppend(op) => {
                let (keys, values) = (&self.buffers[op.k.0 as usize], &self.buffers[op.v.0 as usize]);
                match &mut self.kv[op.slot.0 as usize] {
                    KvCache::Plain { info, k, v } => {
                        let before = step.position * info.heads * info.head_dim;
                        for (cache, new) in [(k, keys), (v, values)] {
                            cache.truncate(before);
                            cache.extend_from_slice(new);
                        }
                    }
                    KvCache::Fast(cache) => cache.append(step.position, keys, values),
                }
                Ok(())
            }
            Op::Attention(op) => self.attention(op, step),
            Op::GatedActivation(op) => {
                let mut gate = self.take(op.gate);
                let gated = match self.path {
                    CpuPath::Reference => kernels::gated_activation::reference,
                    CpuPath::Fast => fast::gated_activation,
                };
                let (up, cols) = (self.read(op.up), self.recording.info(op.gate).cols);
                let ups = up.chunks_exact(self.recording.info(op.up).cols);
                for (gate, up) in gate.chunks_exact_mut(cols).zip(ups) {
                    gated(gate, &up[op.first_column..op.first_column + cols], op.activation);
                }
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
            Op::SoftCap(op) => {
                let mut x = self.take(op.x);
                match self.path {
                    CpuPath::Reference => kernels::soft_cap::reference(&mut x, op.cap),
                    CpuPath::Fast => fast::soft_cap(&mut x, op.cap),
                }
                self.put(op.x, x);
                Ok(())
            }
        }
    }

    fn rms_norm(&mut self, op: &RmsNorm) {
        let mut out = self.take(op.out);
        let weight = op.weight.map(|w| self.vector(w));
        let norm = match self.path {
            CpuPath::Reference => kernels::rms_norm::reference,
            CpuPath::Fast => fast::rms_norm,
        };
        match op.store {
            Store::Replace => norm(self.read(op.x), weight, op.width, op.eps, &mut out),
            Store::Add => {
                let mut normed = core::mem::take(&mut self.row);
                normed.resize(out.len(), 0.0);
                let weight = op.weight.map(|w| self.vector(w));
                norm(self.read(op.x), weight, op.width, op.eps, &mut normed);
                out.iter_mut().zip(&normed).for_each(|(out, n)| *out += n);
                self.row = normed;
            }
        }
        let gain = match op.gain {
            Gain::One => None,
            Gain::Constant(gain) => Some(gain),
            Gain::Learned(id) => Some(self.scalar(id)),
        };
        if let Some(gain) = gain {
            out.iter_mut().for_each(|v| *v *= gain);
        }
        self.put(op.out, out);
    }

    fn embed(&mut self, op: &Embed, tokens: &[u32]) -> Result<()> {
        let (rows, cols) = self.shapes[op.table.0 as usize];
        let mut out = self.take(op.out);
        if let Some(outside) = self.outside.as_mut().filter(|outside| outside.holds(op.table)) {
            outside.gather(op, self.recording.info(op.out).cols, tokens, &mut out)?;
            self.put(op.out, out);
            return Ok(());
        }
        let mut whole = core::mem::take(&mut self.row);
        whole.resize(cols, 0.0);
        let width = self.recording.info(op.out).cols;
        // One row is the last token's.
        let tokens = &tokens[tokens.len() - out.len() / width..];
        for (out, &token) in out.chunks_exact_mut(width).zip(tokens) {
            if token as usize >= rows {
                return Err(Error::format("token id", format!("{token} is beyond the vocabulary of {rows}")));
            }
            self.row(op.table, token as usize, &mut whole);
            out.copy_from_slice(&whole[op.first_column..op.first_column + width]);
            kernels::embed::reference(op.scale, out);
        }
        self.row = whole;
        self.put(op.out, out);
        Ok(())
    }

    /// A row of a matrix as values, its scales applied wherever they lie.
    fn row(&self, id: WeightId, row: usize, out: &mut [f32]) {
        self.weights[id.0 as usize].row(row, out);
        if let (Some(scales), true) = (self.scales[id.0 as usize], self.weights[id.0 as usize].is_codes()) {
            let groups = self.shapes[scales.0 as usize].1;
            apply_scales(out, self.vector(scales).get(row * groups..(row + 1) * groups).unwrap_or_default());
        }
    }

    fn scalar(&self, id: WeightId) -> f32 {
        self.vector(id).first().copied().unwrap_or_default()
    }

    fn matmul(&mut self, op: &MatMul) -> Result<()> {
        let (rows, cols) = self.shapes[op.weight.0 as usize];
        let mut out = self.take(op.out);
        match &self.weights[op.weight.0 as usize] {
            Weight::Fast(_) | Weight::Packed(_) | Weight::Float(_) => self.matmul_fast(op, rows, cols, &mut out)?,
            _ => self.matmul_reference(op, rows, cols, &mut out),
        }
        self.put(op.out, out);
        Ok(())
    }

    /// The scales of a product's static ranges, of input and output.
    fn range(&self, op: &MatMul) -> (f32, f32) {
        op.range.map_or((0.0, 0.0), |r| (self.scalar(r.input), self.scalar(r.output)))
    }

    fn matmul_fast(&mut self, op: &MatMul, rows: usize, cols: usize, out: &mut [f32]) -> Result<()> {
        let (input, grid) = self.range(op);
        let x = &self.buffers[op.x.0 as usize];
        let tokens = x.len() / cols;
        let is_float = matches!(&self.weights[op.weight.0 as usize], Weight::Float(_));
        if !is_float && self.quantized != Some((op.x, input)) {
            match input {
                0.0 => self.activations.quantize(x, tokens, cols),
                scale => self.activations.quantize_on_grid(x, tokens, cols, scale),
            }
            self.quantized = Some((op.x, input));
        }
        match &self.weights[op.weight.0 as usize] {
            Weight::Packed(matrix) => {
                let scales = self.scales[op.weight.0 as usize].map_or(&[][..], |scales| self.vector(scales));
                if scales.len() != rows {
                    return Err(Error::format("weights", format!("{} of {rows} scales have come", scales.len())));
                }
                matrix.matmul(&self.activations, tokens, Outputs { scales, grid, store: op.store }, out);
            }
            Weight::Fast(matrix) => matrix.matmul(&self.activations, tokens, op.store, out),
            Weight::Float(matrix) => matrix.matmul(x, op.store, out),
            _ => {}
        }
        if let Some(bias) = op.bias.map(|b| self.vector(b)) {
            for y in out.chunks_exact_mut(rows) {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(())
    }

    fn matmul_reference(&mut self, op: &MatMul, rows: usize, cols: usize, out: &mut [f32]) {
        let mut row = core::mem::take(&mut self.row);
        row.resize(cols, 0.0);
        let (input, output) = self.range(op);
        let on_grid: Vec<f32>;
        let x = match input {
            0.0 => self.read(op.x),
            scale => {
                on_grid = self.read(op.x).iter().map(|x| kernels::matmul::on_grid(*x, scale)).collect();
                &on_grid
            }
        };
        for n in 0..rows {
            self.row(op.weight, n, &mut row);
            let bias = op.bias.map_or(0.0, |b| self.vector(b)[n]);
            for (x, y) in x.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
                let sum = kernels::matmul::on_grid(kernels::matmul::reference(&row, x), output) + bias;
                match op.store {
                    Store::Replace => y[n] = sum,
                    Store::Add => y[n] += sum,
                }
            }
        }
        self.row = row;
    }

    fn attention(&mut self, op: &Attention, step: Step) -> Result<()> {
        let mut out = self.take(op.out);
        let q = self.read(op.q);
        match &self.kv[op.slot.0 as usize] {
            KvCache::Plain { info, k, v } => attention_reference(op, step, q, *info, (k, v), &mut out),
            KvCache::Fast(cache) => {
                // One row is the last token's.
                let rows = q.len() / self.recording.info(op.q).cols;
                cache.attention(op, step.position + step.tokens - rows, q, &mut out);
            }
        }
        self.put(op.out, out);
        Ok(())
    }
}

/// Static ranges put activations on grids, where the least difference may end on another code and then moves everything after
/// it. So where there are any, nothing else is rounded.
fn precision(recording: &Recording) -> Precision {
    let has_ranges = recording.ops.iter().any(|op| matches!(op, Op::MatMul(product) if product.range.is_some()));
    if has_ranges { Precision::Exact } else { Precision::Rounded }
}

/// Every head of every token by the specification.
fn attention_reference(op: &Attention, step: Step, q: &[f32], info: KvInfo, kv: (&[f32], &[f32]), out: &mut [f32]) {
    let (d, stride) = (info.head_dim, info.heads * info.head_dim);
    let group = op.heads / info.heads;
    // One row is the last token's.
    let rows = q.len() / (op.heads * d);
    for t in 0..rows {
        let visible = op.visible(step.position + step.tokens - rows + t);
        for h in 0..op.heads {
            let at = (t * op.heads + h) * d;
            let first = visible.start * stride + h / group * d;
            let (k, v) = (&kv.0[first..], &kv.1[first..]);
            let out = &mut out[at..at + d];
            kernels::attention::reference(&q[at..at + d], k, v, stride, visible.len(), op.scale, out);
        }
    }
}

impl WeightSink for CpuExecutor {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
        let scales_of_row = spec.scales.map_or(0, |scales| self.shapes[scales.0 as usize].1);
        let weight = &mut self.weights[id.0 as usize];
        match spec.role {
            WeightRole::Vector | WeightRole::Scalar | WeightRole::Scales => {
                if let Weight::Missing = weight {
                    *weight = Weight::Vector(Vec::with_capacity(spec.rows * spec.cols));
                }
                if let Weight::Vector(values) = weight {
                    let before = values.len();
                    values.resize(before + bytes.len() / spec.quant.block_bytes() * spec.quant.block_len(), 0.0);
                    spec.quant.dequantize(bytes, &mut values[before..]);
                }
            }
            WeightRole::Matrix | WeightRole::Gathered => {
                if let Weight::Missing = weight {
                    *weight = Weight::of_matrix(spec, self.path, self.precision, scales_of_row)?;
                }
                match weight {
                    Weight::Stored { bytes: stored, .. } => stored.extend_from_slice(bytes),
                    Weight::Fast(matrix) => matrix.write_rows(first_row, bytes),
                    Weight::Packed(matrix) => matrix.write_rows(first_row, bytes),
                    Weight::Float(matrix) => matrix.write_rows(first_row, bytes),
                    Weight::Missing | Weight::Vector(_) => {}
                }
            }
        }
        Ok(())
    }
}
