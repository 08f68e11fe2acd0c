//! `out[t, :] = scale · table[token[t], first ..]`, with table `[V, n]` and out `[T, D]`, or `[1, D]` for the last token.

use crate::error::{Error, Result};
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;
use crate::weights::WeightId;

/// Gathers the tokens' rows of an embedding table.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// `[V, n]`, of which columns `first_column .. first_column + D` are read.
    pub table: WeightId,
    /// The first column read.
    pub first_column: usize,
    /// `[T, D]`; if it has one row, the last token's.
    pub out: BufferId,
    /// Multiplies every value.
    pub scale: f32,
}

/// One row: `row` holds the dequantized table row on entry.
pub fn reference(scale: f32, row: &mut [f32]) {
    for v in row {
        *v *= scale;
    }
}

params! {
    /// Uniform parameters of `embed.wgsl`.
    pub struct Params {
        rows: u32,
        quads: u32,
        first_row: u32,
        scale: f32,
        tokens: u32,
        stretch: u32,
        first_quad: u32,
        out_quads: u32,
    }
}

/// `embed.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/matrix.wgsl", "lib/step.wgsl", "embed.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (5, Access::Write)],
};

/// Every combination of constants that a recording can ask for.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    crate::gpu::Packing::all().into_iter().map(|packing| (&SHADER, packing.constants())).collect()
}

impl Embed {
    /// One dispatch for each shard of the table.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let cols = planner.table.get(self.table).cols;
        let width = planner.cols(self.out) as usize;
        if self.first_column + width > cols {
            return Err(Error::Shape {
                op: "embed",
                what: planner.table.get(self.table).name.clone(),
                got: vec![cols],
                expected: vec![self.first_column + width],
            });
        }
        let (quads, out_quads) = (planner.quads("embed", "a row", cols)?, planner.quads("embed", "a row", width)?);
        let first_quad = match self.first_column {
            0 => 0,
            first => planner.quads("embed", "a first column", first)?,
        };
        let packing = planner.packing(self.table);
        let stretch = match packing.has_own_scales() {
            true => planner.quads("embed", "a scale's stretch", packing.group)?,
            false => quads,
        };
        let shards = planner.matrices.shards(self.table).into_iter().enumerate().map(|(shard, rows)| Dispatch {
            shader: &SHADER,
            constants: packing.constants(),
            params: params_bytes(Params {
                rows: rows.len() as u32,
                quads,
                first_row: rows.start as u32,
                scale: self.scale,
                tokens: planner.tokens(self.out).own(),
                stretch,
                first_quad,
                out_quads,
            }),
            resources: vec![
                Resource::Codes(self.table, shard),
                Resource::Scales(self.table, shard),
                Resource::Tokens,
                Resource::Buffer(self.out),
            ],
            grid: Grid::items(out_quads, planner.tokens(self.out)),
        });
        Ok(shards.collect())
    }
}
