//! `x = cap · tanh(x / cap)`, in place: bounds logits softly. The order of values stays, so a greedy choice may leave it out.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;

/// Soft bound of a buffer's values.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftCap {
    /// `[T, n]` or `[1, n]`, changed in place.
    pub x: BufferId,
    /// The bound; above 0.
    pub cap: f32,
}

/// The specification.
pub fn reference(x: &mut [f32], cap: f32) {
    for v in x {
        *v = cap * (*v / cap).tanh();
    }
}

params! {
    /// Uniform parameters of `soft_cap.wgsl`.
    pub struct Params {
        cols: u32,
        cap: f32,
        tokens: u32,
    }
}

/// `soft_cap.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "soft_cap.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Write)],
};

impl SoftCap {
    /// One invocation for each value.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let (cols, tokens) = (planner.cols(self.x), planner.tokens(self.x));
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params { cols, cap: self.cap, tokens: tokens.own() }),
            resources: vec![Resource::Buffer(self.x)],
            grid: Grid::items(cols, tokens),
        }])
    }
}
