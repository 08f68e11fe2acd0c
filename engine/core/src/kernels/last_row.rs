//! `out[0, :] = x[T − 1, :]`: only the last token's logits are needed.

use crate::recording::BufferId;

/// Copies the last token's row.
#[derive(Debug, Clone, PartialEq)]
pub struct LastRow {
    /// `[T, D]`.
    pub x: BufferId,
    /// `[1, D]`.
    pub out: BufferId,
}
