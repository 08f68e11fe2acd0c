//! The weights on the device: shards within the binding limit, filled as file rows stream in.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernels::{Gain, MatMul, Op, RmsNorm};
use crate::recording::Recording;
use crate::weights::{WeightId, WeightSpec, WeightTable};

use super::device::Gpu;
use super::executor::Options;
use super::layout::Packing;
use super::plan::Plan;
use super::shader::MatrixPlaces;

/// File bytes repacked at once; the repacked words of so many stay in CPU memory.
const REPACK_BYTES: usize = 1 << 20;
/// Written bytes after which the queue is flushed, so that a native device frees its staging memory.
const FLUSH_BYTES: u64 = 64 << 20;

struct Shard {
    first_row: usize,
    codes: wgpu::Buffer,
    scales: Option<wgpu::Buffer>,
}

struct Matrix {
    packing: Packing,
    cols: usize,
    rows: usize,
    shards: Vec<Shard>,
}

/// Where a vector's values go.
struct VectorPlace {
    buffer: wgpu::Buffer,
    first: usize,
}

/// All weights that a recording uses.
#[derive(Default)]
pub(super) struct GpuWeights {
    matrices: Vec<Matrix>,
    /// Each weight's matrix, and its first row there.
    places: BTreeMap<WeightId, (usize, usize)>,
    norms: BTreeMap<WeightId, wgpu::Buffer>,
    /// By the first weight of the matrix whose rows they belong to.
    biases: BTreeMap<WeightId, wgpu::Buffer>,
    vectors: BTreeMap<WeightId, Vec<VectorPlace>>,
    /// The matrices that take their scales from a weight, each with the first row of those scales.
    own_scales: BTreeMap<WeightId, Vec<(usize, usize)>>,
    /// Each scalar's place in the buffer of them all.
    scalar_places: BTreeMap<WeightId, usize>,
    scalars: Option<wgpu::Buffer>,
    codes: Vec<u32>,
    scales: Vec<u32>,
    unflushed: u64,
    bytes: u64,
}

impl GpuWeights {
    /// Allocates all weights of a plan, within the limits that `options` set.
    pub(super) fn allocate(
        gpu: &Gpu,
        plan: &Plan<'_>,
        recording: &Recording,
        table: &WeightTable,
        options: &Options,
    ) -> Result<Self> {
        let mut weights = Self::default();
        for ids in &plan.matrices {
            weights.add_matrix(gpu, ids, table, options.binding_bytes)?;
        }
        for id in scalars_of(recording) {
            let next = weights.scalar_places.len();
            weights.scalar_places.entry(id).or_insert(next);
        }
        if !weights.scalar_places.is_empty() {
            let buffer = weights.buffer(gpu, "scalars", weights.scalar_places.len() as u64 * 4);
            for (id, place) in &weights.scalar_places {
                let place = VectorPlace { buffer: buffer.clone(), first: *place };
                weights.vectors.entry(*id).or_default().push(place);
            }
            weights.scalars = Some(buffer);
        }
        for op in &recording.ops {
            if let Op::RmsNorm(op) = op
                && let Some(id) = op.weight
                && !weights.norms.contains_key(&id)
            {
                let spec = table.get(id);
                let buffer = weights.buffer(gpu, &spec.name, spec.cols as u64 * 4);
                weights.norms.insert(id, buffer.clone());
                weights.vectors.entry(id).or_default().push(VectorPlace { buffer, first: 0 });
            }
        }
        for biases in plan.biases() {
            let Some(&(weight, _)) = biases.first() else { continue };
            let rows = weights.places.get(&weight).and_then(|(m, _)| weights.matrices.get(*m)).map_or(0, |m| m.rows);
            let buffer = weights.buffer(gpu, "biases", rows as u64 * 4);
            if weights.biases.insert(weight, buffer.clone()).is_some() {
                return Err(Error::unsupported(&table.get(weight).name, "two products use it with a bias each"));
            }
            for (weight, bias) in biases {
                let first = weights.first_row(weight);
                if let Some(bias) = bias {
                    weights.vectors.entry(bias).or_default().push(VectorPlace { buffer: buffer.clone(), first });
                }
            }
        }
        if weights.bytes > options.weight_bytes {
            let (bytes, most) = (weights.bytes, options.weight_bytes);
            return Err(Error::Gpu(format!("no room for the weights: {bytes} bytes of them, {most} are allowed")));
        }
        Ok(weights)
    }

    fn buffer(&mut self, gpu: &Gpu, label: &str, bytes: u64) -> wgpu::Buffer {
        let size = bytes.next_multiple_of(16).max(16);
        self.bytes += size;
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    fn add_matrix(&mut self, gpu: &Gpu, ids: &[WeightId], table: &WeightTable, limit: u64) -> Result<()> {
        let Some(&id) = ids.first() else { return Ok(()) };
        let (first, packing) = (table.get(id), Packing::of_weight(table, id));
        let code_bytes = 4 * packing.code_words(first.cols) as u64;
        let scale_bytes = 4 * packing.scale_words(first.cols) as u64;
        let fitting = limit / code_bytes.max(scale_bytes).max(1);
        if fitting == 0 {
            return Err(Error::unsupported(
                &first.name,
                format!("a row takes {code_bytes} bytes, and the graphics device binds at most {limit}"),
            ));
        }
        let mut rows = 0;
        for id in ids {
            self.places.insert(*id, (self.matrices.len(), rows));
            let spec = table.get(*id);
            if packing.has_own_scales() {
                let scales = spec.scales.map(|scales| (scales, table.get(scales)));
                let Some((scales, of)) =
                    scales.filter(|(_, of)| of.rows == spec.rows && spec.cols.is_multiple_of(of.cols.max(1)))
                else {
                    return Err(Error::format(&spec.name, "its scales are missing, or do not match its shape"));
                };
                if !of.quant.is_float() {
                    return Err(Error::format(
                        &of.name,
                        format!("scales are stored as {:?}, expected floats", of.quant),
                    ));
                }
                self.own_scales.entry(scales).or_default().push((self.matrices.len(), rows));
            }
            rows += spec.rows;
        }
        let per_shard = usize::try_from(fitting).unwrap_or(usize::MAX).min(rows.max(1));
        let mut shards = Vec::new();
        for first_row in (0..rows).step_by(per_shard) {
            let rows = per_shard.min(rows - first_row) as u64;
            let codes = self.buffer(gpu, &first.name, code_bytes * rows);
            let scales = (scale_bytes > 0).then(|| self.buffer(gpu, &first.name, scale_bytes * rows));
            shards.push(Shard { first_row, codes, scales });
        }
        self.matrices.push(Matrix { packing, cols: first.cols, rows, shards });
        Ok(())
    }

    fn matrix(&self, id: WeightId) -> Option<&Matrix> {
        self.matrices.get(self.places.get(&id)?.0)
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The buffer of codes or floats.
    pub(super) fn codes(&self, id: WeightId, shard: usize) -> Option<&wgpu::Buffer> {
        Some(&self.matrix(id)?.shards.get(shard)?.codes)
    }

    /// The buffer of scales; floats have none.
    pub(super) fn scales(&self, id: WeightId, shard: usize) -> Option<&wgpu::Buffer> {
        self.matrix(id)?.shards.get(shard)?.scales.as_ref()
    }

    /// Every scalar, in one buffer.
    pub(super) fn scalars(&self) -> Option<&wgpu::Buffer> {
        self.scalars.as_ref()
    }

    /// A norm's weight.
    pub(super) fn norm(&self, id: WeightId) -> Option<&wgpu::Buffer> {
        self.norms.get(&id)
    }

    /// The biases of the matrix that begins with a weight.
    pub(super) fn biases(&self, id: WeightId) -> Option<&wgpu::Buffer> {
        self.biases.get(&id)
    }

    /// Repacks whole file rows and writes them to their shards. Weights that the recording does not use are ignored.
    pub(super) fn rows(
        &mut self,
        gpu: &Gpu,
        id: WeightId,
        spec: &WeightSpec,
        first_row: usize,
        bytes: &[u8],
    ) -> Result<()> {
        if self.vectors.contains_key(&id) || self.own_scales.contains_key(&id) {
            let mut values = vec![0.0f32; bytes.len() / spec.quant.block_bytes() * spec.quant.block_len()];
            spec.quant.dequantize(bytes, &mut values);
            for &(matrix, first) in self.own_scales.get(&id).into_iter().flatten() {
                self.scale_rows(gpu, matrix, first + first_row, spec.cols, &values);
            }
            for place in self.vectors.get(&id).into_iter().flatten() {
                let at = (place.first + first_row * spec.cols) as u64 * 4;
                gpu.queue.write_buffer(&place.buffer, at, bytemuck::cast_slice(&values));
            }
        }
        if let Some(&(matrix, offset)) = self.places.get(&id) {
            self.matrix_rows(gpu, matrix, spec, offset + first_row, bytes)?;
        }
        self.unflushed += bytes.len() as u64;
        if self.unflushed > FLUSH_BYTES {
            self.unflushed = 0;
            gpu.queue.submit([]);
        }
        gpu.check()
    }

    /// Where `rows` rows of a weight from `first_row` on lie on the device, as buffer, offset and bytes, in order, if they lie there
    /// as in the file; `None` if they are repacked, padded, or needed in more than one form.
    pub(super) fn stretches(
        &self,
        id: WeightId,
        spec: &WeightSpec,
        first_row: usize,
        rows: usize,
    ) -> Option<Vec<(wgpu::Buffer, u64, u64)>> {
        let &(matrix, offset) = self.places.get(&id)?;
        let matrix = self.matrices.get(matrix)?;
        let row_bytes = 4 * matrix.packing.code_words(matrix.cols);
        let is_as_stored = matrix.packing.has_own_scales() && row_bytes == spec.row_bytes();
        if !is_as_stored || self.vectors.contains_key(&id) || self.own_scales.contains_key(&id) {
            return None;
        }
        let (mut row, end) = (offset + first_row, offset + first_row + rows);
        let mut stretches = Vec::new();
        for (i, shard) in matrix.shards.iter().enumerate() {
            let shard_end = matrix.shards.get(i + 1).map_or(matrix.rows, |next| next.first_row);
            if row < shard_end && row < end {
                let here = end.min(shard_end) - row;
                let at = (row - shard.first_row) * row_bytes;
                stretches.push((shard.codes.clone(), at as u64, (here * row_bytes) as u64));
                row += here;
            }
        }
        (row == end).then_some(stretches)
    }

    /// Writes f32 scales, `each` for a row, from `row` on.
    fn scale_rows(&self, gpu: &Gpu, matrix: usize, row: usize, each: usize, values: &[f32]) {
        let Some(matrix) = self.matrices.get(matrix) else { return };
        let (mut row, mut rest) = (row, values);
        for (i, shard) in matrix.shards.iter().enumerate() {
            let end = matrix.shards.get(i + 1).map_or(matrix.rows, |next| next.first_row);
            let rows = (rest.len() / each.max(1)).min(end.saturating_sub(row));
            if let (1.., Some(buffer)) = (rows, &shard.scales) {
                let (piece, after) = rest.split_at(rows * each);
                gpu.queue.write_buffer(
                    buffer,
                    ((row - shard.first_row) * each) as u64 * 4,
                    bytemuck::cast_slice(piece),
                );
                row += rows;
                rest = after;
            }
        }
    }

    fn matrix_rows(&mut self, gpu: &Gpu, matrix: usize, spec: &WeightSpec, row: usize, bytes: &[u8]) -> Result<()> {
        let Some(matrix) = self.matrices.get(matrix) else { return Ok(()) };
        let (codes, scales) = (&mut self.codes, &mut self.scales);
        let (mut row, mut rest) = (row, bytes);
        let row_bytes = spec.row_bytes();
        for (i, shard) in matrix.shards.iter().enumerate() {
            let end = matrix.shards.get(i + 1).map_or(matrix.rows, |next| next.first_row);
            while row < end && rest.len() >= row_bytes {
                let rows = (rest.len() / row_bytes).min(end - row).min((REPACK_BYTES / row_bytes).max(1));
                let (piece, after) = rest.split_at(rows * row_bytes);
                if matrix.packing.has_own_scales() {
                    // The kernels read the file's own bytes.
                    let at = (row - shard.first_row) as u64 * 4 * matrix.packing.code_words(matrix.cols) as u64;
                    gpu.queue.write_buffer(&shard.codes, at, &matrix.packing.pad(piece, row_bytes));
                    (row, rest) = (row + rows, after);
                    continue;
                }
                codes.clear();
                scales.clear();
                matrix.packing.repack(&spec.name, spec.quant, piece, codes, scales)?;
                let at = (row - shard.first_row) as u64 * 4;
                let code_words = matrix.packing.code_words(matrix.cols) as u64;
                gpu.queue.write_buffer(&shard.codes, at * code_words, bytemuck::cast_slice(codes));
                if let Some(buffer) = &shard.scales {
                    let scale_words = matrix.packing.scale_words(matrix.cols) as u64;
                    gpu.queue.write_buffer(buffer, at * scale_words, bytemuck::cast_slice(scales));
                }
                row += rows;
                rest = after;
            }
        }
        match rest.len() {
            0 => Ok(()),
            left => Err(Error::format(&spec.name, format!("{left} bytes beyond its last row"))),
        }
    }
}

/// Scalars that a recording uses: gains and static scales.
fn scalars_of(recording: &Recording) -> impl Iterator<Item = WeightId> {
    recording.ops.iter().flat_map(|op| match op {
        Op::RmsNorm(RmsNorm { gain: Gain::Learned(id), .. }) => vec![*id],
        Op::MatMul(MatMul { range: Some(range), .. }) => vec![range.input, range.output],
        _ => Vec::new(),
    })
}

impl MatrixPlaces for GpuWeights {
    fn scalar(&self, id: WeightId) -> Option<usize> {
        self.scalar_places.get(&id).copied()
    }

    fn first_row(&self, id: WeightId) -> usize {
        self.places.get(&id).map_or(0, |p| p.1)
    }

    fn shards(&self, id: WeightId) -> Vec<Range<usize>> {
        let Some(matrix) = self.matrix(id) else { return Vec::new() };
        let ends = matrix.shards.iter().skip(1).map(|s| s.first_row).chain([matrix.rows]);
        matrix.shards.iter().zip(ends).map(|(s, end)| s.first_row..end).collect()
    }
}
