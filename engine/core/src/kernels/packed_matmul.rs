//! [`super::MatMul`] on the graphics device with weights of packed codes that have scales of their own (Int2, Int4, Int8):
//! `out[t, n] (+)= on_grid(s_in · scale[n] · (Σ_k code[n, k] · x_code[t, k] − zero · Σ_k x_code[t, k]))` with static scales,
//! an exact sum of integers, else `Σ_k scale[n] · (code[n, k] − zero) · x[t, k]`. The specification is [`super::matmul`]'s.

use crate::error::{Error, Result};
use crate::gpu::Packing;
#[cfg(test)]
use crate::gpu::shader::Variant;
use crate::gpu::shader::{
    Access, Constants, Count, Dispatch, Grid, Mode, Planner, Resource, Shader, Tokens, params, params_bytes,
};
use crate::kernels::GatedActivation;
use crate::kernels::matmul::{MOST, Products, Store};
use crate::kernels::quantize::Codes;
use bytemuck::Zeroable;

params! {
    /// Uniform parameters of `packed_matmul.wgsl`.
    pub struct Params {
        rows: u32,
        cols: u32,
        first_row: u32,
        accumulate: u32,
        tokens: u32,
        stretches: u32,
        grid_quads: u32,
        grid_arrays: u32,
        up_rows: u32,
        up: u32,
        activation: u32,
        cap: f32,
        out_scale: u32,
        first: u32,
        unused: [u32; 2],
        starts: [u32; 4],
        offsets: [u32; 4],
        widths: [u32; 4],
        inputs: [u32; 4],
        arrays: [u32; 4],
        outputs: [u32; 4],
    }
}

const FILES: &[&str] =
    &["lib/activation.wgsl", "lib/grid.wgsl", "lib/matrix.wgsl", "lib/step.wgsl", "packed_matmul.wgsl"];

/// `packed_matmul.wgsl` for one token.
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
        (8, Access::Read),
        (9, Access::Write),
    ],
};

/// `packed_matmul.wgsl` for many tokens.
pub static PREFILL: Shader = Shader {
    files: FILES,
    entry: "prefill",
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

/// Tokens and rows of a tile.
const TILE: u32 = 64;

/// What multiplies an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Nothing,
    /// Another row of the same matrix.
    Row,
    /// A value of another buffer.
    Buffer,
}

fn decode_constants(packing: Packing, cols: usize, gate: Gate, out_step: u32) -> Constants {
    let lanes: u32 = match packing.units(cols) {
        0..32 => 8,
        32..96 => 16,
        _ => 32,
    };
    // Codes are written in whole runs of 4 · step.
    let (lanes, rows) = match out_step {
        0 => (lanes, 64 / lanes),
        step => (lanes.min(64 / step), 4 * step),
    };
    let mut constants = packing.constants();
    constants.extend([
        ("LANES", f64::from(lanes)),
        ("ROWS", f64::from(rows)),
        ("GATE", f64::from(gate as u32)),
        ("OUT_STEP", f64::from(out_step)),
    ]);
    constants
}

/// Every combination of constants that a recording can ask for.
#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for packing in Packing::all().into_iter().filter(|p| p.has_own_scales()) {
        all.push((&PREFILL, packing.constants()));
        for units in [1, 32, 96] {
            let cols = units * 128 / packing.bits();
            for gate in [Gate::Nothing, Gate::Row, Gate::Buffer] {
                // Only gated products make codes.
                for out_step in if gate == Gate::Nothing { &[0][..] } else { &[0, 1, 2, 4] } {
                    let variant = (&DECODE, decode_constants(packing, cols, gate, *out_step));
                    if !all.contains(&variant) {
                        all.push(variant);
                    }
                }
            }
        }
    }
    all
}

/// What a joined product does besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// Codes of the input, for products with static ranges.
    pub codes: Option<&'a Codes>,
    /// Codes made of the gate's output, for the product that reads it.
    pub out_codes: Option<&'a Codes>,
    /// Bounds the output softly.
    pub cap: Option<f32>,
}

impl Products<'_> {
    /// Parameters that all shards share.
    fn packed_params(&self, planner: &Planner<'_>) -> Result<Params> {
        let Some(&first) = self.products.first() else { return Ok(Params::zeroed()) };
        let spec = planner.table.get(first.weight);
        let packing = planner.packing(first.weight);
        if self.products.iter().any(|p| p.bias.is_some()) {
            return Err(Error::unsupported(
                format!("a bias on {}", spec.name),
                "the graphics device takes none with packed codes; run this model on the CPU",
            ));
        }
        let (stretches, unit) = (packing.scale_words(spec.cols), 128 / packing.bits());
        let codes = self.extras.codes;
        if stretches > 1 && (codes.is_some() || !packing.group.is_multiple_of(unit)) {
            return Err(Error::unsupported(
                &spec.name,
                format!("the graphics device takes one scale a row, or without static ranges one for {unit} columns"),
            ));
        }
        let mut params = Params {
            cols: spec.cols as u32,
            accumulate: u32::from(first.store == Store::Add),
            tokens: planner.tokens(first.x).own(),
            stretches: stretches as u32,
            grid_quads: codes.map_or(0, |c| c.words / 4),
            grid_arrays: codes.map_or(0, |c| c.scales.len() as u32),
            cap: self.extras.cap.unwrap_or(0.0),
            out_scale: u32::MAX,
            starts: [u32::MAX; 4],
            inputs: [u32::MAX; 4],
            outputs: [u32::MAX; 4],
            ..Params::zeroed()
        };
        for (i, product) in self.products.iter().enumerate().take(MOST) {
            params.starts[i] = planner.matrices.first_row(product.weight) as u32;
            params.offsets[i] = planner.offset(product.out);
            params.widths[i] = planner.cols(product.out);
            if let Some(range) = product.range {
                let array = codes.and_then(|c| c.scales.iter().position(|s| *s == range.input));
                let missing = || Error::Gpu(format!("no codes are made for {}", spec.name));
                params.arrays[i] = array.ok_or_else(missing)? as u32;
                params.inputs[i] = planner.scalar(range.input)?;
                params.outputs[i] = planner.scalar(range.output)?;
            }
        }
        Ok(params)
    }

    /// One dispatch for each shard, and for many tokens for each run of products with the same static input scale.
    pub(crate) fn packed_dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let Some(&first) = self.products.first() else { return Ok(Vec::new()) };
        let (weight, spec) = (first.weight, planner.table.get(first.weight));
        planner.quads("matmul", &format!("a row of {}", spec.name), spec.cols)?;
        let mut params = self.packed_params(planner)?;
        let is_single = planner.tokens(first.x) == Tokens::One || planner.mode == Mode::Decode;
        let shards = planner.matrices.shards(weight);
        let packing = planner.packing(weight);
        let inputs = |shard| {
            vec![
                Resource::Codes(weight, shard),
                Resource::Scales(weight, shard),
                Resource::Buffer(first.x),
                Resource::Shared(first.out),
                Resource::Scalars,
                self.extras.codes.map_or(Resource::Unused, |c| Resource::Grid(c.grid)),
            ]
        };
        let mut dispatches = Vec::new();
        if !is_single {
            for run in self.products.chunk_by(|a, b| a.range.map(|r| r.input) == b.range.map(|r| r.input)) {
                let begin = planner.matrices.first_row(run[0].weight);
                let end = begin + run.iter().map(|p| planner.table.get(p.weight).rows).sum::<usize>();
                for (shard, rows) in shards.iter().enumerate() {
                    let (from, to) = (begin.max(rows.start), end.min(rows.end));
                    if from >= to {
                        continue;
                    }
                    let (from, to) = ((from - rows.start) as u32, (to - rows.start) as u32);
                    let params = Params { rows: to, first_row: rows.start as u32, first: from, ..params };
                    dispatches.push(Dispatch {
                        shader: &PREFILL,
                        constants: packing.constants(),
                        params: params_bytes(params),
                        resources: inputs(shard),
                        grid: Grid {
                            z: Count::Tokens { each: 1, per_group: TILE },
                            ..Grid::line(Count::Fixed((to - from).div_ceil(TILE)))
                        },
                    });
                }
            }
            return Ok(dispatches);
        }
        let mut gate = Gate::Nothing;
        let mut partner = Resource::Unused;
        if let Some(GatedActivation { up, first_column, activation, .. }) = self.gate {
            params.activation = activation.number();
            if self.products.len() == 2 {
                gate = Gate::Row;
                params.up_rows = spec.rows as u32;
            } else {
                gate = Gate::Buffer;
                partner = Resource::Buffer(*up);
                params.up = *first_column as u32;
            }
        }
        let out_codes = self.extras.out_codes;
        if let Some(codes) = out_codes {
            params.out_scale = codes.scalars(planner)?[0];
        }
        let constants = decode_constants(packing, spec.cols, gate, out_codes.map_or(0, |c| c.step));
        let of_group = constants.iter().find(|(name, _)| *name == "ROWS").map_or(1, |(_, rows)| *rows as u32);
        for (shard, rows) in shards.into_iter().enumerate() {
            // A gate's rows come with those of its partner.
            let count = if gate == Gate::Row { spec.rows } else { rows.len() } as u32;
            let mut resources = inputs(shard);
            resources.extend([partner, out_codes.map_or(Resource::Unused, |c| Resource::Grid(c.grid))]);
            dispatches.push(Dispatch {
                shader: &DECODE,
                constants: constants.clone(),
                params: params_bytes(Params { rows: count, first_row: rows.start as u32, ..params }),
                resources,
                grid: Grid::line(Count::Fixed(count.div_ceil(of_group))),
            });
        }
        Ok(dispatches)
    }
}
