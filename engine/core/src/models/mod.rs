//! The models: one file each, holding a forward pass that fits on a page.

pub mod gemma4;
pub mod gemma4_config;
pub mod llama;
pub mod llama_config;
mod mapper;

pub use mapper::Linear;
