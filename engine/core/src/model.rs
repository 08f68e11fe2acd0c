//! A model opened from its files' headers: forward pass, weights' table, tokenizer. The weights themselves stream in after.

use std::sync::Arc;

use crate::cpu::{CpuExecutor, CpuPath};
use crate::error::{Error, Result};
use crate::formats::gguf::{Metadata, NumberArray};
use crate::formats::{Architecture, ModelDescription, TokenizerSource, WeightFile};
use crate::models::llama;
use crate::recording::Recording;
use crate::tokenizer::{ChatFormat, GgufTokenizer, Tokenizer};
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
    pub fn open(description: &ModelDescription) -> Result<Self> {
        let tokenizer = open_tokenizer(&description.tokenizer)?;
        let Architecture::Llama { config, tensors } = &description.architecture;
        let recording = llama::forward(config, tensors, &description.weights)?;
        Ok(Self {
            architecture: "llama",
            recording: Arc::new(recording),
            weights: description.weights.clone(),
            files: description.files.clone(),
            tokenizer,
            context: config.context,
            bos: description.bos,
            eos: description.eos.clone(),
        })
    }

    /// The chat format that the model's own template asks for.
    pub fn chat_format(&self) -> Result<ChatFormat> {
        match self.tokenizer.chat_template() {
            Some(template) => ChatFormat::of_template(template),
            None => Err(Error::unsupported(
                "chat with this model",
                "its files have no chat template; give a plain prompt instead",
            )),
        }
    }

    /// An executor for the CPU, ready for the weights to stream in.
    pub fn cpu(&self, path: CpuPath) -> Result<CpuExecutor> {
        CpuExecutor::new(Arc::clone(&self.recording), &self.weights, path)
    }
}

fn open_tokenizer(source: &TokenizerSource) -> Result<Tokenizer> {
    match source {
        TokenizerSource::HuggingFace { tokenizer, config } => {
            Tokenizer::from_json(tokenizer.as_bytes(), config.as_deref().map(str::as_bytes))
        }
        TokenizerSource::Gguf(metadata) => gguf_tokenizer(metadata),
    }
}

fn gguf_tokenizer(metadata: &Metadata) -> Result<Tokenizer> {
    let numbers = |key| Ok::<_, Error>(metadata.opt_numbers(key)?.into_iter());
    let kinds: Vec<i32> = numbers("tokenizer.ggml.token_type")?
        .flat_map(NumberArray::integers)
        .map(|n| n.and_then(|n| i32::try_from(n).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::format("tokenizer.ggml.token_type", "it holds something that is not a token's kind"))?;
    let scores: Vec<f32> = numbers("tokenizer.ggml.scores")?.flat_map(NumberArray::floats).map(|f| f as f32).collect();
    let keys = GgufTokenizer {
        model: metadata.get_str("tokenizer.ggml.model")?,
        pre: metadata.opt_str("tokenizer.ggml.pre")?,
        token_types: &kinds,
        scores: &scores,
        bos: metadata.opt_u32("tokenizer.ggml.bos_token_id")?,
        eos: metadata.opt_u32("tokenizer.ggml.eos_token_id")?,
        unknown: metadata.opt_u32("tokenizer.ggml.unknown_token_id")?,
        add_bos: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: metadata.opt_str("tokenizer.chat_template")?,
    };
    let merges = metadata.opt_texts("tokenizer.ggml.merges")?;
    Tokenizer::from_gguf(
        metadata.get_texts("tokenizer.ggml.tokens")?.iter(),
        merges.into_iter().flat_map(|list| list.iter()),
        &keys,
    )
}
