//! `out[i, :] = x[i, :] · w / sqrt(mean(x[i, :]²) + eps)` over every stretch of `width` values: a token's row, or each of
//! its heads. Sums in f32.

use crate::recording::BufferId;
use crate::weights::WeightId;

/// Root-mean-square norm.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    /// `[T, n·width]`.
    pub x: BufferId,
    /// `[width]`, the full multiplier; none means 1.
    pub weight: Option<WeightId>,
    /// `[T, n·width]`, may not be `x`.
    pub out: BufferId,
    /// Values normed together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// The specification, over all stretches of `width` in `x`.
pub fn reference(x: &[f32], weight: Option<&[f32]>, width: usize, eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean_square = x.iter().map(|v| v * v).sum::<f32>() / width as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for i in 0..width {
            out[i] = x[i] * scale * weight.map_or(1.0, |w| w[i]);
        }
    }
}
