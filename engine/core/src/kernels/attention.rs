//! Causal attention over a cache: for query head h of token t at position p,
//! `out = Σ_j softmax_j(scale · q·K[j]) · V[j]` over positions `j ≤ p`, and `j > p − window` when there is a window. Query
//! head h reads key/value head `h / (H/K)`. Softmax in f32.

use crate::recording::{BufferId, KvSlot};

/// Attention of the step's queries over the cached and appended keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// `[T, H·d]`, rotated already.
    pub q: BufferId,
    /// The cache, the step's own keys and values included.
    pub slot: KvSlot,
    /// `[T, H·d]`.
    pub out: BufferId,
    /// Query heads H.
    pub heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Positions a token sees, its own included.
    pub window: Option<usize>,
}

impl Attention {
    /// The positions that a token at `position` sees.
    pub fn visible(&self, position: usize) -> core::ops::Range<usize> {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1
    }
}

/// The specification, for one head: `k` and `v` are that head's `[n, d]` rows, `n·d` values apart by `stride`.
pub fn reference(q: &[f32], k: &[f32], v: &[f32], stride: usize, n: usize, scale: f32, out: &mut [f32]) {
    let d = q.len();
    let mut scores: Vec<f32> =
        (0..n).map(|j| scale * q.iter().zip(&k[j * stride..j * stride + d]).map(|(a, b)| a * b).sum::<f32>()).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for s in &mut scores {
        *s = (*s - max).exp();
        sum += *s;
    }
    out.fill(0.0);
    for (j, s) in scores.iter().enumerate() {
        for i in 0..d {
            out[i] += s / sum * v[j * stride + i];
        }
    }
}
