//! `out[t, n] (+)= Σ_k W[n, k] · x[t, k]`, with W `[N, K]` in its file's quantization, x `[T, K]`, out `[T, N]`. Sums in
//! f32.

use crate::recording::BufferId;
use crate::weights::WeightId;

/// What a product does to the values already in its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Replaces them.
    Replace,
    /// Adds to them: a residual connection.
    Add,
}

/// Matrix product with a quantized weight.
#[derive(Debug, Clone, PartialEq)]
pub struct MatMul {
    /// `[N, K]`.
    pub weight: WeightId,
    /// `[N]`, added to the product.
    pub bias: Option<WeightId>,
    /// `[T, K]`.
    pub x: BufferId,
    /// `[T, N]`.
    pub out: BufferId,
    /// Replace or add.
    pub store: Store,
}

/// One output value: a dequantized weight row times one token's input.
pub fn reference(row: &[f32], x: &[f32]) -> f32 {
    row.iter().zip(x).map(|(w, x)| w * x).sum()
}
