//! The models: one file each records the forward pass.

pub mod llama_config;
