//! `gate[t, f] = activation(gate[t, f]) · up[t, f]`, in place on gate.

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
    /// `[T, F]`.
    pub up: BufferId,
    /// Which activation.
    pub activation: Activation,
}

/// The specification.
pub fn reference(gate: &mut [f32], up: &[f32], activation: Activation) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = activation.apply(*g) * u;
    }
}
