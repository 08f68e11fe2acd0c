//! `gate[t, f] = activation(gate[t, f]) · up[t, first + f]`, in place on gate.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes, unsupported};
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
    }
}

/// `gated_activation.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/activation.wgsl", "lib/step.wgsl", "gated_activation.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Write)],
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
        if self.first_column != 0 || planner.cols(self.up) != cols {
            return Err(unsupported("a gate whose partner is part of a wider row"));
        }
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params {
                cols,
                activation: self.activation.number(),
                tokens: planner.tokens(self.gate).own(),
                gate: planner.offset(self.gate),
                up: planner.offset(self.up),
            }),
            resources: vec![Resource::Shared(self.gate)],
            grid: Grid::items(cols, planner.tokens(self.gate)),
        }])
    }
}
