//! `id = argmax_v logits[0, v]`, the lowest of equals: greedy sampling. [`super::sample::NO_TOKEN`] when a logit is NaN or infinite.

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

const FILES: &[&str] = &["lib/rank.wgsl", "argmax.wgsl"];

/// `argmax.wgsl`: all logits by one workgroup.
pub static SHADER: Shader =
    Shader { files: FILES, entry: "main", params: Params::LAYOUT, bindings: &[(2, Access::Read), (3, Access::Write)] };

/// `argmax.wgsl`: some logits.
pub static PART: Shader =
    Shader { files: FILES, entry: "part", params: Params::LAYOUT, bindings: &[(2, Access::Read), (4, Access::Write)] };

/// `argmax.wgsl`: the best of the parts.
pub static JOIN: Shader =
    Shader { files: FILES, entry: "join", params: Params::LAYOUT, bindings: &[(3, Access::Write), (5, Access::Read)] };

/// Logits of a part.
const PART_COLS: usize = 4096;

/// Bytes that the parts of `cols` logits need.
pub(crate) const fn scratch_bytes(cols: usize) -> u64 {
    (cols.div_ceil(PART_COLS) * 8) as u64
}

impl Argmax {
    /// One workgroup, or one for each part and one for them all. The id lands where the next step reads its token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let cols = planner.cols(self.logits);
        let dispatch = |shader, resources, groups| Dispatch {
            shader,
            constants: Vec::new(),
            params: params_bytes(Params { cols }),
            resources,
            grid: Grid::line(Count::Fixed(groups)),
        };
        let logits = Resource::Buffer(self.logits);
        let parts = cols.div_ceil(PART_COLS as u32);
        if parts == 1 {
            return Ok(vec![dispatch(&SHADER, vec![logits, Resource::Tokens], 1)]);
        }
        Ok(vec![
            dispatch(&PART, vec![logits, Resource::Scratch], parts),
            dispatch(&JOIN, vec![Resource::Tokens, Resource::Scratch], 1),
        ])
    }
}
