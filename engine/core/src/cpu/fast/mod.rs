//! The fast CPU path: int8 activations, in blocks of 32 or on a static range's grid, against weights of 2 to 8 bits, a
//! key/value cache, and the small kernels around them, on 128-bit vectors.
//!
//! Every kernel is written once, over [`simd::Simd`], and is safe code on fixed-size blocks; an instruction set is one
//! small file's worth of primitives. In WebAssembly the relaxed dot product is chosen when the module is built with it.

mod activations;
mod attention;
mod float;
mod math;
mod matrix;
mod numbers;
mod packed;
mod simd;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use attention::FastKv;
pub use float::FloatMatrix;
pub use math::{gated_activation, rms_norm, rope, soft_cap};
pub use matrix::FastMatrix;
pub use numbers::Precision;
pub use packed::{Outputs, PackedMatrix};

/// The instruction set that the kernels run on here, for reports.
pub fn instruction_set() -> &'static str {
    struct Name;
    impl simd::Kernel for Name {
        type Output = &'static str;
        fn run<S: simd::Simd>(self, _: S) -> &'static str {
            S::NAME
        }
    }
    simd::dispatch(Name)
}
