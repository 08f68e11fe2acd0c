//! A model opened from its files' headers: forward pass, weights' table, tokenizer. The weights themselves stream in after.

use std::sync::Arc;

use crate::cpu::{CpuExecutor, CpuPath};
use crate::error::Result;
use crate::formats::{Architecture, ModelDescription, WeightFile};
use crate::models::llama;
use crate::recording::Recording;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightTable;

/// A model that knows everything but its weights' values.
pub struct Model {
    /// "llama".
    pub architecture: &'static str,
    /// The forward pass.
    pub recording: Arc<Recording>,
    /// What has to stream in, and from where.
    pub weights: WeightTable,
    /// The files it streams from.
    pub files: Vec<WeightFile>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Tokens the model was made to read at most.
    pub context: usize,
    /// The id that begins a text, if the model wants one.
    pub bos: Option<u32>,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
}

impl Model {
    /// Records the forward pass of a described model and builds its tokenizer.
    pub fn open(description: ModelDescription) -> Result<Self> {
        let tokenizer = Tokenizer::from_source(&description.tokenizer)?;
        let Architecture::Llama { config, tensors } = description.architecture;
        let recording = llama::forward(&config, &tensors, &description.weights)?;
        Ok(Self {
            architecture: "llama",
            recording: Arc::new(recording),
            weights: description.weights,
            files: description.files,
            tokenizer,
            context: config.context,
            bos: description.bos,
            eos: description.eos,
        })
    }

    /// An executor for the CPU, ready for the weights to stream in.
    pub fn cpu(&self, path: CpuPath) -> CpuExecutor {
        CpuExecutor::new(Arc::clone(&self.recording), &self.weights, path)
    }
}
