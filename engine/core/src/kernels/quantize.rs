//! `grid[t, a, :] = clamp(round_half_even(x[t, :] / s[a]), −128, 127)`: the codes of products with a static range
//! ([`super::StaticRange`]), four in a word, made by the graphics device before them. Not an operation of its own: the
//! executor adds it.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, GridId, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;
use crate::weights::WeightId;
use bytemuck::Zeroable;

/// Codes of a buffer for one or more scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// `[T, K]`.
    pub x: BufferId,
    /// Where the codes go: `[T, scales, words]`.
    pub grid: GridId,
    /// One to four static scales.
    pub scales: Vec<WeightId>,
    /// 8 / bits of the weights that meet the codes; decides their order.
    pub step: u32,
    /// Words of K codes, padded to whole units of the weights.
    pub words: u32,
}

impl Codes {
    /// Where the scales are; the rest is none.
    pub fn scalars(&self, planner: &Planner<'_>) -> Result<[u32; 4]> {
        let mut places = [u32::MAX; 4];
        for (place, id) in places.iter_mut().zip(&self.scales) {
            *place = planner.scalar(*id)?;
        }
        Ok(places)
    }
}

params! {
    /// Uniform parameters of `quantize.wgsl`.
    pub struct Params {
        cols: u32,
        words: u32,
        arrays: u32,
        step: u32,
        tokens: u32,
        unused: [u32; 3],
        scales: [u32; 4],
    }
}

/// `quantize.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/grid.wgsl", "lib/step.wgsl", "quantize.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Write), (6, Access::Read)],
};

impl Codes {
    /// One invocation for each word.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let (arrays, tokens) = (self.scales.len() as u32, planner.tokens(self.x));
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params {
                cols: planner.cols(self.x),
                words: self.words,
                arrays,
                step: self.step,
                tokens: tokens.own(),
                scales: self.scalars(planner)?,
                ..Params::zeroed()
            }),
            resources: vec![Resource::Buffer(self.x), Resource::Grid(self.grid), Resource::Scalars],
            grid: Grid::items(self.words * arrays, tokens),
        }])
    }
}
