//! The models: one file each, holding a forward pass that fits on a page.

pub mod llama;
pub mod llama_config;
