//! `out[t, n] (+)= Σ_k W[n, k] · x[t, k]`, with W `[N, K]` in its file's quantization, x `[T, K]`, out `[T, N]`. Sums in
//! f32.

use crate::error::Result;
use crate::gpu::shader::{Access, Count, Dispatch, Grid, Mode, Planner, Resource, Shader, Tokens, params_bytes};
use crate::recording::BufferId;
use crate::weights::WeightId;
use bytemuck::{Pod, Zeroable};

/// What a product does to the values already in its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Replaces them.
    Replace,
    /// Adds to them: a residual connection.
    Add,
}

/// Matrix product with a quantized weight.
#[derive(Debug, Clone, PartialEq)]
pub struct MatMul {
    /// `[N, K]`.
    pub weight: WeightId,
    /// `[N]`, added to the product.
    pub bias: Option<WeightId>,
    /// `[T, K]`.
    pub x: BufferId,
    /// `[T, N]`.
    pub out: BufferId,
    /// Replace or add.
    pub store: Store,
}

/// One output value: a dequantized weight row times one token's input. Eight partial sums, so that a compiler may use
/// vectors; the order of a sum is not part of the specification.
pub fn reference(row: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (rows, inputs) = (row.chunks_exact(8), x.chunks_exact(8));
    let rest: f32 = rows.remainder().iter().zip(inputs.remainder()).map(|(w, x)| w * x).sum();
    for (w, x) in rows.zip(inputs) {
        for i in 0..8 {
            sums[i] += w[i] * x[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Uniform parameters of `matmul.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    cols: u32,
    first_row: u32,
    out_cols: u32,
    accumulate: u32,
    has_bias: u32,
    tokens: u32,
}

const BINDINGS: &[(u32, Access)] =
    &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (5, Access::Write), (6, Access::Read)];
const FILES: &[&str] = &["lib/matrix.wgsl", "lib/step.wgsl", "matmul.wgsl"];

/// `matmul.wgsl` for one token.
pub static DECODE: Shader = Shader { files: FILES, entry: "decode", params: size_of::<Params>(), bindings: BINDINGS };

/// `matmul.wgsl` for many tokens.
pub static PREFILL: Shader = Shader { files: FILES, entry: "prefill", params: size_of::<Params>(), bindings: BINDINGS };

/// Invocations for each row, and rows, of a workgroup that serves one token.
const LANES: u32 = 16;
const ROWS: u32 = 4;
/// Tokens and rows of a tile.
const TILE: u32 = 32;

impl MatMul {
    /// One dispatch for each shard of the matrix, and two for a low-rank correction.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let x = Resource::Buffer(self.x);
        let out = Resource::Buffer(self.out);
        let tokens = planner.tokens(self.x);
        let mut all = product(planner, self.weight, self.bias, x, out, tokens, self.store)?;
        if let Some((a, b)) = planner.table.get(self.weight).adapter {
            all.extend(product(planner, a, None, x, Resource::LowRank, tokens, Store::Replace)?);
            all.extend(product(planner, b, None, Resource::LowRank, out, tokens, Store::Add)?);
        }
        Ok(all)
    }
}

fn product(
    planner: &Planner<'_>,
    weight: WeightId,
    bias: Option<WeightId>,
    x: Resource,
    out: Resource,
    tokens: Tokens,
    store: Store,
) -> Result<Vec<Dispatch>> {
    let spec = planner.table.get(weight);
    planner.quads("matmul", &format!("a row of {}", spec.name), spec.cols)?;
    let single = tokens == Tokens::One || planner.mode == Mode::Decode;
    let mut constants = planner.packing(weight).constants();
    if single {
        constants.extend([("LANES", f64::from(LANES)), ("ROWS", f64::from(ROWS))]);
    }
    let shards = planner.shard_rows(weight).into_iter().enumerate().map(|(shard, rows)| {
        let count = rows.len() as u32;
        Dispatch {
            shader: if single { &DECODE } else { &PREFILL },
            constants: constants.clone(),
            params: params_bytes(Params {
                rows: count,
                cols: spec.cols as u32,
                first_row: rows.start as u32,
                out_cols: spec.rows as u32,
                accumulate: u32::from(store == Store::Add),
                has_bias: u32::from(bias.is_some()),
                tokens: tokens.own(),
            }),
            resources: vec![
                Resource::Codes(weight, shard),
                Resource::Scales(weight, shard),
                x,
                out,
                bias.map_or(Resource::Unused, Resource::Vector),
            ],
            grid: if single {
                Grid::line(Count::Fixed(count.div_ceil(ROWS)))
            } else {
                Grid { z: Count::Tokens { each: 1, per_group: TILE }, ..Grid::line(Count::Fixed(count.div_ceil(TILE))) }
            },
        }
    });
    Ok(shards.collect())
}
