//! `out[t, n] (+)= Σ_k W[n, k] · x[t, k]`, with W `[N, K]` in its file's quantization, x `[T, K]`, out `[T, N]`. Sums in
//! f32.

use crate::error::Result;
use crate::gpu::Packing;
#[cfg(test)]
use crate::gpu::shader::Variant;
use crate::gpu::shader::{
    Access, Constants, Count, Dispatch, Grid, Mode, Planner, Resource, Shader, Tokens, params, params_bytes,
    unsupported,
};
use crate::kernels::packed_matmul::Extras;
use crate::kernels::{GatedActivation, RmsNorm};
use crate::recording::BufferId;
use crate::weights::WeightId;
use bytemuck::Zeroable;

/// What a product does to the values already in its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Replaces them.
    Replace,
    /// Adds to them: a residual connection.
    Add,
}

/// Static scales that a checkpoint was trained with: the product's input and output are rounded to 8-bit codes,
/// `clamp(round_half_even(x / s), −128, 127) · s`. A scale of 0 leaves its side as it is. Part of the model, not an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRange {
    /// `[1]`, of the input.
    pub input: WeightId,
    /// `[1]`, of the output.
    pub output: WeightId,
}

/// One value on the grid of scale `s`: see [`StaticRange`].
pub fn on_grid(x: f32, s: f32) -> f32 {
    if s == 0.0 { x } else { (x / s).round_ties_even().clamp(-128.0, 127.0) * s }
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
    /// Rounds input and product, the bias and what is added to left out.
    pub range: Option<StaticRange>,
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

params! {
    /// Uniform parameters of `matmul.wgsl`.
    pub struct Params {
        rows: u32,
        cols: u32,
        first_row: u32,
        accumulate: u32,
        has_bias: u32,
        tokens: u32,
        up_rows: u32,
        activation: u32,
        eps: f32,
        unused: [u32; 3],
        starts: [u32; 4],
        offsets: [u32; 4],
        widths: [u32; 4],
    }
}

/// Products that one dispatch can hold.
pub const MOST: usize = 4;

const FILES: &[&str] = &["lib/activation.wgsl", "lib/matrix.wgsl", "lib/step.wgsl", "matmul.wgsl"];

/// `matmul.wgsl` for one token.
pub static DECODE: Shader = Shader {
    files: FILES,
    entry: "decode",
    params: Params::LAYOUT,
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (5, Access::Write),
        (6, Access::Read),
        (7, Access::Read),
    ],
};

/// `matmul.wgsl` for many tokens.
pub static PREFILL: Shader = Shader {
    files: FILES,
    entry: "prefill",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (5, Access::Write), (6, Access::Read)],
};

/// Tokens and rows of a tile.
const TILE: u32 = 32;
/// Invocations of a workgroup that serves one token.
const INVOCATIONS: u32 = 64;

/// Invocations for each row of `units` units, of a workgroup that serves one token.
const fn lanes(units: usize) -> u32 {
    if units < 64 { 16 } else { 32 }
}

fn decode_constants(packing: Packing, lanes: u32, is_normed: bool, is_gated: bool) -> Constants {
    let mut constants = packing.constants();
    constants.extend([
        ("LANES", f64::from(lanes)),
        ("ROWS", f64::from(INVOCATIONS / lanes)),
        ("NORMED", f64::from(is_normed)),
        ("GATED", f64::from(is_gated)),
    ]);
    constants
}

/// Every combination of constants that a recording can ask for.
#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for packing in Packing::all().into_iter().filter(|p| !p.has_own_scales()) {
        all.push((&PREFILL, packing.constants()));
        for units in [1, 64] {
            for (is_normed, is_gated) in [(false, false), (false, true), (true, false), (true, true)] {
                all.push((&DECODE, decode_constants(packing, lanes(units), is_normed, is_gated)));
            }
        }
    }
    all
}

/// Products that share an input and run as one: their weights are one matrix, their outputs share a buffer.
#[derive(Debug, Clone)]
pub struct Products<'a> {
    /// Norms the input first.
    pub norm: Option<&'a RmsNorm>,
    /// One to [`MOST`].
    pub products: &'a [&'a MatMul],
    /// Joins the first two outputs, or the only one with another buffer.
    pub gate: Option<&'a GatedActivation>,
    /// What only packed codes know.
    pub extras: Extras<'a>,
}

impl Products<'_> {
    /// One dispatch for each shard of the matrix; norm and gate only for one token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let Some(&&MatMul { weight, x, out, store, .. }) = self.products.first() else {
            return Ok(Vec::new());
        };
        let spec = planner.table.get(weight);
        if spec.quant.has_own_scales() {
            return self.packed_dispatches(planner);
        }
        if self.products.iter().any(|p| p.range.is_some()) {
            return Err(unsupported(&format!("static activation ranges with weights stored as {:?}", spec.quant)));
        }
        planner.quads("matmul", &format!("a row of {}", spec.name), spec.cols)?;
        let tokens = planner.tokens(x);
        let single = tokens == Tokens::One || planner.mode == Mode::Decode;
        let packing = planner.packing(weight);
        let lanes = lanes(spec.cols * packing.bits() / 128);
        let rows_of_group = INVOCATIONS / lanes;

        let mut params = Params {
            cols: spec.cols as u32,
            accumulate: u32::from(store == Store::Add),
            has_bias: u32::from(self.products.iter().any(|p| p.bias.is_some())),
            tokens: tokens.own(),
            starts: [u32::MAX; 4],
            ..Params::zeroed()
        };
        for (i, product) in self.products.iter().enumerate().take(MOST) {
            params.starts[i] = planner.matrices.first_row(product.weight) as u32;
            params.offsets[i] = planner.offset(product.out);
            params.widths[i] = planner.cols(product.out);
        }
        let constants = if single {
            decode_constants(packing, lanes, self.norm.is_some(), self.gate.is_some())
        } else {
            packing.constants()
        };
        if let Some(norm) = self.norm {
            params.eps = norm.eps;
        }
        if let Some(gate) = self.gate {
            params.up_rows = spec.rows as u32;
            params.activation = gate.activation.number();
        }
        let input = self.norm.map_or(x, |n| n.x);
        let norm = self.norm.and_then(|n| n.weight).map_or(Resource::Unused, Resource::Vector);
        let shards = planner.matrices.shards(weight).into_iter().enumerate().map(|(shard, rows)| {
            // A gate's rows come with those of its partner.
            let count = if self.gate.is_some() { spec.rows } else { rows.len() } as u32;
            let mut resources = vec![
                Resource::Codes(weight, shard),
                Resource::Scales(weight, shard),
                Resource::Buffer(input),
                Resource::Shared(out),
                if params.has_bias == 0 { Resource::Unused } else { Resource::Bias(weight) },
            ];
            if single {
                resources.push(norm);
            }
            Dispatch {
                shader: if single { &DECODE } else { &PREFILL },
                constants: constants.clone(),
                params: params_bytes(Params { rows: count, first_row: rows.start as u32, ..params }),
                resources,
                grid: if single {
                    Grid::line(Count::Fixed(count.div_ceil(rows_of_group)))
                } else {
                    let tiles = Grid::line(Count::Fixed(count.div_ceil(TILE)));
                    Grid { z: Count::Tokens { each: 1, per_group: TILE }, ..tiles }
                },
            }
        });
        Ok(shards.collect())
    }
}
