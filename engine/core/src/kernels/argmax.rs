//! `id = argmax_v logits[0, v]`, the lowest of equals: greedy sampling.

use crate::error::Result;
use crate::gpu::shader::{Access, Count, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;

/// Picks the most likely token.
#[derive(Debug, Clone, PartialEq)]
pub struct Argmax {
    /// `[1, V]`.
    pub logits: BufferId,
}

/// The specification: the index of the largest value, the lowest of equals.
pub fn reference(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

params! {
    /// Uniform parameters of `argmax.wgsl`.
    pub struct Params {
        cols: u32,
    }
}

/// `argmax.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["argmax.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Write)],
};

impl Argmax {
    /// One workgroup. The id lands where the next step reads its token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params { cols: planner.cols(self.logits) }),
            resources: vec![Resource::Buffer(self.logits), Resource::Tokens],
            grid: Grid::line(Count::Fixed(1)),
        }])
    }
}
