//! The kernels: one file each, with the formula, the operation an executor runs, and the plain reference that is its
//! specification. `shaders/` holds the WGSL twin under the same stem.

pub mod argmax;
pub mod attention;
pub mod embed;
pub mod gated_activation;
pub mod grouped_attention;
pub mod head_norms;
pub mod kv_append;
pub mod last_row;
pub mod matmul;
pub mod norm_chain;
pub mod packed_matmul;
pub mod quantize;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod soft_cap;

pub use argmax::Argmax;
pub use attention::Attention;
pub use embed::Embed;
pub use gated_activation::{Activation, GatedActivation};
pub use kv_append::KvAppend;
pub use last_row::LastRow;
pub use matmul::{MatMul, StaticRange};
pub use rms_norm::{Gain, RmsNorm};
pub use rope::{Pairing, Rope};
pub use sample::Sample;
pub use soft_cap::SoftCap;

/// One step of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// See [`embed`].
    Embed(Embed),
    /// See [`rms_norm`].
    RmsNorm(RmsNorm),
    /// See [`matmul`].
    MatMul(MatMul),
    /// See [`rope`].
    Rope(Rope),
    /// See [`kv_append`].
    KvAppend(KvAppend),
    /// See [`attention`].
    Attention(Attention),
    /// See [`gated_activation`].
    GatedActivation(GatedActivation),
    /// See [`last_row`].
    LastRow(LastRow),
    /// See [`soft_cap`].
    SoftCap(SoftCap),
}

macro_rules! op_from {
    ($($kernel:ident),*) => {$(
        impl From<$kernel> for Op {
            fn from(kernel: $kernel) -> Self {
                Self::$kernel(kernel)
            }
        }
    )*};
}
op_from!(Embed, RmsNorm, MatMul, Rope, KvAppend, Attention, GatedActivation, LastRow, SoftCap);
