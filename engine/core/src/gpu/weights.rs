//! The weights on the device: shards within the binding limit, filled as file rows stream in.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::kernels::Op;
use crate::recording::Recording;
use crate::weights::{WeightId, WeightSpec, WeightTable};

use super::device::Gpu;
use super::layout::{Element, Packing};

/// File bytes repacked at once; the repacked words of so many stay in CPU memory.
const REPACK_BYTES: usize = 1 << 20;
/// Written bytes after which the queue is flushed, so that a native device frees its staging memory.
const FLUSH_BYTES: u64 = 64 << 20;

struct Shard {
    first_row: usize,
    codes: wgpu::Buffer,
    scales: Option<wgpu::Buffer>,
}

struct Stored {
    packing: Packing,
    rows: usize,
    shards: Vec<Shard>,
}

/// All weights that a recording uses.
pub(super) struct GpuWeights {
    stored: BTreeMap<WeightId, Stored>,
    codes: Vec<u32>,
    scales: Vec<u32>,
    unflushed: u64,
    /// Bytes allocated.
    pub(super) bytes: u64,
}

/// Weights that operations read as matrices, and as vectors of f32.
fn used(recording: &Recording, table: &WeightTable) -> (BTreeSet<WeightId>, BTreeSet<WeightId>) {
    let (mut matrices, mut vectors) = (BTreeSet::new(), BTreeSet::new());
    for op in &recording.ops {
        match op {
            Op::Embed(op) => {
                matrices.insert(op.table);
            }
            Op::RmsNorm(op) => vectors.extend(op.weight),
            Op::MatMul(op) => {
                matrices.insert(op.weight);
                if let Some((a, b)) = table.get(op.weight).adapter {
                    matrices.extend([a, b]);
                }
                vectors.extend(op.bias);
            }
            Op::Rope(_) | Op::KvAppend(_) | Op::Attention(_) | Op::GatedActivation(_) | Op::LastRow(_) => {}
        }
    }
    (matrices, vectors)
}

impl GpuWeights {
    /// Allocates all weights that `recording` uses; a binding holds at most `limit` bytes.
    pub(super) fn allocate(gpu: &Gpu, recording: &Recording, table: &WeightTable, limit: u64) -> Result<Self> {
        let (matrices, vectors) = used(recording, table);
        let mut weights = Self { stored: BTreeMap::new(), codes: vec![], scales: vec![], unflushed: 0, bytes: 0 };
        for id in matrices {
            let spec = table.get(id);
            weights.add(gpu, id, spec, Packing::of(spec.quant, spec.cols), limit)?;
        }
        for id in vectors {
            if weights.stored.contains_key(&id) {
                return Err(Error::unsupported(&table.get(id).name, "it is used both as a matrix and as a vector"));
            }
            let float = Packing { element: Element::Float, group: 0, half_scales: false };
            weights.add(gpu, id, table.get(id), float, limit)?;
        }
        Ok(weights)
    }

    fn add(&mut self, gpu: &Gpu, id: WeightId, spec: &WeightSpec, packing: Packing, limit: u64) -> Result<()> {
        let code_bytes = 4 * packing.code_words(spec.cols) as u64;
        let scale_bytes = 4 * packing.scale_words(spec.cols) as u64;
        let fitting = limit / code_bytes.max(scale_bytes).max(1);
        if fitting == 0 {
            return Err(Error::unsupported(&spec.name, format!("a row is larger than the device's {limit} bytes")));
        }
        let per_shard = usize::try_from(fitting).unwrap_or(usize::MAX).min(spec.rows.max(1));
        let mut buffer = |label: &str, row_bytes: u64, rows: usize| {
            let size = (row_bytes * rows as u64).next_multiple_of(16);
            self.bytes += size;
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let mut shards = Vec::new();
        for first_row in (0..spec.rows).step_by(per_shard) {
            let rows = per_shard.min(spec.rows - first_row);
            shards.push(Shard {
                first_row,
                codes: buffer(&spec.name, code_bytes, rows),
                scales: (scale_bytes > 0).then(|| buffer(&spec.name, scale_bytes, rows)),
            });
        }
        self.stored.insert(id, Stored { packing, rows: spec.rows, shards });
        Ok(())
    }

    /// First rows of the shards, and the number of rows last.
    pub(super) fn shards(&self, id: WeightId) -> Vec<usize> {
        self.stored.get(&id).map_or_else(Vec::new, |s| s.shards.iter().map(|s| s.first_row).chain([s.rows]).collect())
    }

    /// The buffer of codes or floats.
    pub(super) fn codes(&self, id: WeightId, shard: usize) -> Option<&wgpu::Buffer> {
        Some(&self.stored.get(&id)?.shards.get(shard)?.codes)
    }

    /// The buffer of scales; floats have none.
    pub(super) fn scales(&self, id: WeightId, shard: usize) -> Option<&wgpu::Buffer> {
        self.stored.get(&id)?.shards.get(shard)?.scales.as_ref()
    }

    /// Repacks whole file rows and writes them to their shards.
    pub(super) fn rows(
        &mut self,
        gpu: &Gpu,
        id: WeightId,
        spec: &WeightSpec,
        first_row: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let Some(stored) = self.stored.get(&id) else {
            return Ok(());
        };
        let row_bytes = spec.row_bytes();
        let (code_words, scale_words) = (stored.packing.code_words(spec.cols), stored.packing.scale_words(spec.cols));
        let mut row = first_row;
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(shard) = stored.shards.iter().rev().find(|s| s.first_row <= row) else {
                break;
            };
            let end = stored.shards.iter().map(|s| s.first_row).find(|f| *f > row).unwrap_or(stored.rows);
            let rows = (rest.len() / row_bytes).min(end - row).min((REPACK_BYTES / row_bytes).max(1));
            if rows == 0 {
                return Err(Error::format(&spec.name, format!("{} bytes after its last row", rest.len())));
            }
            let (piece, after) = rest.split_at(rows * row_bytes);
            self.codes.clear();
            self.scales.clear();
            stored.packing.repack(&spec.name, spec.quant, piece, &mut self.codes, &mut self.scales)?;
            let at = (row - shard.first_row) as u64 * 4;
            gpu.queue.write_buffer(&shard.codes, at * code_words as u64, bytemuck::cast_slice(&self.codes));
            if let Some(scales) = &shard.scales {
                gpu.queue.write_buffer(scales, at * scale_words as u64, bytemuck::cast_slice(&self.scales));
            }
            self.unflushed += piece.len() as u64;
            row += rows;
            rest = after;
        }
        if self.unflushed > FLUSH_BYTES {
            self.unflushed = 0;
            gpu.queue.submit([]);
        }
        gpu.check()
    }
}
