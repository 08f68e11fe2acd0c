//! Rotary position embedding, in place: each pair (a, b) of a head becomes `(a·cos − b·sin, b·cos + a·sin)` with the angle
//! `position · frequency[i]`.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::{BufferId, RopeTable};

/// Which values of a head rotate together, for pair i of d/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + d/2)`: Hugging Face files.
    Halves,
    /// `(2i, 2i + 1)`: GGUF files of the llama architecture, whose q and k rows are permuted to match.
    Adjacent,
}

impl Pairing {
    /// Indices of pair `i` in a head of width `d`.
    pub const fn pair(self, i: usize, d: usize) -> (usize, usize) {
        match self {
            Self::Halves => (i, i + d / 2),
            Self::Adjacent => (2 * i, 2 * i + 1),
        }
    }
}

/// Rotates every head of `x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// `[T, heads·head_dim]`, changed in place; if it has one row, the last token's.
    pub x: BufferId,
    /// Head width d.
    pub head_dim: usize,
    /// Which values pair up.
    pub pairing: Pairing,
    /// Frequencies `[d/2]`.
    pub table: RopeTable,
}

/// Sine and cosine of one position's angles, `[d/2]` pairs of (cos, sin).
pub fn angles(frequencies: &[f64], position: usize) -> Vec<(f32, f32)> {
    frequencies
        .iter()
        .map(|f| {
            let angle = position as f64 * f;
            (angle.cos() as f32, angle.sin() as f32)
        })
        .collect()
}

/// The specification, over one token's row.
pub fn reference(row: &mut [f32], head_dim: usize, pairing: Pairing, angles: &[(f32, f32)]) {
    for head in row.chunks_exact_mut(head_dim) {
        for (i, (cos, sin)) in angles.iter().enumerate() {
            let (a, b) = pairing.pair(i, head_dim);
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }
}

params! {
    /// Uniform parameters of `rope.wgsl`.
    pub struct Params {
        pairs: u32,
        half: u32,
        adjacent: u32,
        tokens: u32,
    }
}

/// `rope.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "rope.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Write)],
};

impl Rope {
    /// One invocation for each pair.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let tokens = planner.tokens(self.x);
        let pairs = planner.cols(self.x) / 2;
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params {
                pairs,
                half: (self.head_dim / 2) as u32,
                adjacent: u32::from(self.pairing == Pairing::Adjacent),
                tokens: tokens.own(),
            }),
            resources: vec![Resource::Angles(self.table), Resource::Buffer(self.x)],
            grid: Grid::items(pairs, tokens),
        }])
    }
}
