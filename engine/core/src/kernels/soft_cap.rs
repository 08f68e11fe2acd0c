//! `x = cap · tanh(x / cap)`, in place: bounds logits softly. The order of values stays, so a greedy choice may leave it out.

use crate::error::Result;
use crate::gpu::shader::{Dispatch, Planner, unsupported};
use crate::recording::BufferId;

/// Soft bound of a buffer's values.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftCap {
    /// `[T, n]` or `[1, n]`, changed in place.
    pub x: BufferId,
    /// The bound; above 0.
    pub cap: f32,
}

/// The specification.
pub fn reference(x: &mut [f32], cap: f32) {
    for v in x {
        *v = cap * (*v / cap).tanh();
    }
}

impl SoftCap {
    /// Not on the graphics device yet.
    pub fn dispatches(&self, _planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        Err(unsupported("a soft cap"))
    }
}
