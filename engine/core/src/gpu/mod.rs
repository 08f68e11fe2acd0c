//! The graphics device's executor: a recording becomes dispatches, bound once and replayed for each step.

mod cache;
mod device;
mod executor;
mod flight;
mod fuse;
mod layout;
mod pipelines;
mod plan;
pub mod shader;
#[cfg(test)]
mod shader_tests;
mod signal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upload;
mod weights;

pub use cache::{CacheFormat, all_caches_bytes};
#[cfg(target_arch = "wasm32")]
pub use device::Found;
#[cfg(not(target_arch = "wasm32"))]
pub use device::open_native;
pub use device::{Adapter, Fault, Fence, Gpu};
pub use executor::{GpuExecutor, Options, StepParams};
pub use layout::{Element, Packing};
pub use upload::Mapped;
