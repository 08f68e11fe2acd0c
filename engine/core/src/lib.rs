//! Sotto's engine: tokens in, tokens out. Builds and tests on any desktop; has no web dependency.

pub mod check;
pub mod cpu;
pub mod error;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod models;
pub mod outside;
pub mod quant;
pub mod recipes;
pub mod recording;
pub mod requantize;
pub mod sampler;
pub mod text;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
