//! `out[0, :] = x[T − 1, :]`: only the last token's logits are needed.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, Tokens, params, params_bytes};
use crate::recording::BufferId;

/// Copies the last token's row.
#[derive(Debug, Clone, PartialEq)]
pub struct LastRow {
    /// `[T, D]`.
    pub x: BufferId,
    /// `[1, D]`.
    pub out: BufferId,
}

params! {
    /// Uniform parameters of `last_row.wgsl`.
    pub struct Params {
        cols: u32,
    }
}

/// `last_row.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "last_row.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Write)],
};

impl LastRow {
    /// One invocation for each value.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let cols = planner.cols(self.x);
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params { cols }),
            resources: vec![Resource::Buffer(self.x), Resource::Buffer(self.out)],
            grid: Grid::items(cols, Tokens::One),
        }])
    }
}
