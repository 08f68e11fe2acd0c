//! Copies the step's keys and values to the cache: `K[position + t, :] = k[t, :]`, the same for V.

use crate::recording::{BufferId, KvSlot};

/// Appends to a key/value cache.
#[derive(Debug, Clone, PartialEq)]
pub struct KvAppend {
    /// `[T, K·d]`, rotated already.
    pub k: BufferId,
    /// `[T, K·d]`.
    pub v: BufferId,
    /// The cache.
    pub slot: KvSlot,
}
