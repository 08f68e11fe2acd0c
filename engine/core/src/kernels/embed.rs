//! `out[t, :] = scale · table[token[t], :]`, with table `[V, D]` and out `[T, D]`.

use crate::recording::BufferId;
use crate::weights::WeightId;

/// Gathers the tokens' rows of an embedding table.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// `[V, D]`.
    pub table: WeightId,
    /// `[T, D]`.
    pub out: BufferId,
    /// Multiplies every value.
    pub scale: f32,
}

/// One row: `row` holds the dequantized table row on entry.
pub fn reference(scale: f32, row: &mut [f32]) {
    for v in row {
        *v *= scale;
    }
}
