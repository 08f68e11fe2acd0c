//! `gate[t, f] = activation(gate[t, f]) · up[t, first + f]`, in place on gate.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^−x)`.
    Silu,
    /// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
}

impl Activation {
    /// The activation of one value.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        }
    }
}

/// Gate of a feed-forward block.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedActivation {
    /// `[T, F]`, changed in place.
    pub gate: BufferId,
    /// `[T, n]`, of which columns `first_column .. first_column + F` are read.
    pub up: BufferId,
    /// Where the gate's partner begins in a row of `up`.
    pub first_column: usize,
    /// Which activation.
    pub activation: Activation,
}

/// The specification, for one token: `gate` and `up` are `[F]`.
pub fn reference(gate: &mut [f32], up: &[f32], activation: Activation) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = activation.apply(*g) * u;
    }
}

params! {
    /// Uniform parameters of `gated_activation.wgsl`.
    pub struct Params {
        cols: u32,
        activation: u32,
        tokens: u32,
        gate: u32,
        up: u32,
        up_cols: u32,
        is_shared: u32,
    }
}

/// `gated_activation.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/activation.wgsl", "lib/step.wgsl", "gated_activation.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Write), (3, Access::Read)],
};

impl Activation {
    /// Its number in `lib/activation.wgsl`.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Silu => 0,
            Self::GeluTanh => 1,
        }
    }
}

impl GatedActivation {
    /// One invocation for each value.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let cols = planner.cols(self.gate);
        let is_shared = planner.share(self.gate, self.up);
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params {
                cols,
                activation: self.activation.number(),
                tokens: planner.tokens(self.gate).own(),
                gate: planner.offset(self.gate),
                up: planner.offset(self.up) + self.first_column as u32,
                up_cols: planner.cols(self.up),
                is_shared: u32::from(is_shared),
            }),
            resources: vec![
                Resource::Shared(self.gate),
                if is_shared { Resource::Unused } else { Resource::Shared(self.up) },
            ],
            grid: Grid::items(cols, planner.tokens(self.gate)),
        }])
    }
}
