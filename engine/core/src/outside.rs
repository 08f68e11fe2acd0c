//! Tables that stay where the model lies: of a table that is only gathered, a step needs one row for each of its tokens, and
//! which rows is known before it runs. So the host reads them, decodes them as the reference does, and hands the executor
//! the values: no memory of the device, nor of WebAssembly, is spent on a table of gigabytes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::kernels::{Embed, embed};
use crate::quant::{apply_scales, check_block_scales};
use crate::weights::{WeightId, WeightRole, WeightSpec, WeightTable};

/// Tables of fewer bytes are not worth a read for every token.
pub const WORTH_BYTES: u64 = 64 << 20;

/// Reads a model's files here and there.
pub trait ReadFiles {
    /// Fills `into` from byte `offset` of file number `file`, as [`crate::weights::Location`] counts them. Fails if a byte of
    /// it cannot be read.
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> Result<()>;
}

/// The weights that may lie outside of an executor: tables of `least_bytes` or more that are only gathered, and their scales.
pub fn tables(table: &WeightTable, least_bytes: u64) -> BTreeSet<WeightId> {
    let is_outside = |spec: &WeightSpec| spec.role == WeightRole::Gathered && spec.location.len >= least_bytes;
    let (outside, inside): (Vec<_>, Vec<_>) = table.iter().partition(|(_, spec)| is_outside(spec));
    let scales_inside: BTreeSet<WeightId> = inside.iter().filter_map(|(_, spec)| spec.scales).collect();
    let with_scales = outside.iter().flat_map(|(id, spec)| [Some(*id), spec.scales]).flatten();
    with_scales.filter(|id| !scales_inside.contains(id)).collect()
}

/// Rows of tables that lie outside, read when a step needs them.
pub struct OutsideRows {
    weights: BTreeMap<WeightId, WeightSpec>,
    files: Box<dyn ReadFiles>,
    /// The row in `values`: a model gathers the last token's twice.
    held: Option<(WeightId, u32)>,
    values: Vec<f32>,
    scales: Vec<f32>,
    bytes: Vec<u8>,
}

impl OutsideRows {
    /// Rows of `weights`, which [`tables`] chose from the files' own `table`. Fails if a table needs scales that `weights` does
    /// not have.
    pub fn new(table: &WeightTable, weights: &BTreeSet<WeightId>, files: Box<dyn ReadFiles>) -> Result<Self> {
        let weights: BTreeMap<_, _> = weights.iter().map(|id| (*id, table.get(*id).clone())).collect();
        for spec in weights.values().filter(|spec| spec.role == WeightRole::Gathered) {
            let is_whole = match spec.scales.map(|id| weights.get(&id)) {
                None => !spec.quant.has_own_scales(),
                Some(scales) => scales.is_some_and(|s| {
                    s.rows == spec.rows && s.cols > 0 && spec.cols.is_multiple_of(s.cols) && s.quant.is_float()
                }),
            };
            if !is_whole {
                return Err(Error::format(&spec.name, "its scales are missing, or do not match its shape"));
            }
        }
        Ok(Self { weights, files, held: None, values: Vec::new(), scales: Vec::new(), bytes: Vec::new() })
    }

    /// True if the rows of `id` come from here.
    pub fn holds(&self, id: WeightId) -> bool {
        self.weights.contains_key(&id)
    }

    /// Every weight that lies outside.
    pub fn weights(&self) -> BTreeSet<WeightId> {
        self.weights.keys().copied().collect()
    }

    /// What `op` leaves in its output of `width` columns: `out` is `[T, width]`, or `[1, width]` for the last of `tokens`.
    /// Fails when a row cannot be read ([`Error::Unread`]), naming its table.
    pub fn gather(&mut self, op: &Embed, width: usize, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let first = tokens.len().saturating_sub(out.len() / width.max(1));
        for (out, &token) in out.chunks_exact_mut(width.max(1)).zip(&tokens[first..]) {
            self.hold(op.table, token)?;
            let columns = self.values.get(op.first_column..op.first_column + width);
            let columns = columns.ok_or_else(|| Error::Shape {
                op: "embed",
                what: "the columns of its table".into(),
                got: vec![self.values.len()],
                expected: vec![op.first_column + width],
            })?;
            out.copy_from_slice(columns);
            embed::reference(op.scale, out);
        }
        Ok(())
    }

    /// Reads a row and decodes it, unless that was the last thing done.
    fn hold(&mut self, id: WeightId, row: u32) -> Result<()> {
        if self.held == Some((id, row)) {
            return Ok(());
        }
        self.held = None;
        let Self { weights, files, values, scales, bytes, .. } = self;
        let missing = || Error::format("a table outside", format!("there is no weight {}", id.0));
        let spec = weights.get(&id).ok_or_else(missing)?;
        if row as usize >= spec.rows {
            return Err(Error::format("token id", format!("{row} is beyond the vocabulary of {}", spec.rows)));
        }
        decode(files.as_mut(), spec, row, bytes, values)?;
        if let Some(of) = spec.scales.and_then(|id| weights.get(&id)) {
            decode(files.as_mut(), of, row, bytes, scales)?;
            apply_scales(values, scales);
        }
        self.held = Some((id, row));
        Ok(())
    }
}

/// Reads row `row` of a weight as values, without scales that lie elsewhere.
fn decode(
    files: &mut dyn ReadFiles,
    spec: &WeightSpec,
    row: u32,
    bytes: &mut Vec<u8>,
    out: &mut Vec<f32>,
) -> Result<()> {
    let row_bytes = spec.row_bytes();
    bytes.resize(row_bytes, 0);
    out.resize(spec.cols, 0.0);
    let offset = spec.location.offset + u64::from(row) * row_bytes as u64;
    files
        .read(spec.location.file, offset, bytes)
        .map_err(|error| Error::unread(format!("row {row} of {}", spec.name), error.to_string()))?;
    check_block_scales(spec.quant, &spec.name, bytes)?;
    spec.quant.dequantize(bytes, out);
    Ok(())
}
