//! A model opened from its files' headers: forward pass, weights' table, tokenizer. The weights themselves stream in after.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cpu::{CpuExecutor, CpuPath};
use crate::error::{Error, Result};
use crate::formats::gguf::{Metadata, NumberArray};
use crate::formats::{Architecture, ModelDescription, TokenizerSource, WeightFile};
use crate::kernels::Op;
use crate::models::{gemma4, llama};
use crate::recording::Recording;
use crate::tokenizer::{ChatFormat, GgufTokenizer, Tokenizer};
use crate::weights::{WeightId, WeightTable};

/// A forward pass and the weights it needs: all that running ids takes.
#[derive(Clone)]
pub struct Network {
    /// The forward pass.
    pub recording: Arc<Recording>,
    /// What has to stream in, and from where.
    pub weights: WeightTable,
}

/// Whether a recording keeps the points where a check reads its buffers. Executors join nothing across them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stages {
    /// For answering.
    Dropped,
    /// For checking.
    Kept,
}

impl Network {
    /// Records the forward pass of a described model.
    pub fn open(description: &ModelDescription, stages: Stages) -> Result<Self> {
        let mut recording = match &description.architecture {
            Architecture::Llama { config, tensors } => llama::forward(config, tensors, &description.weights)?,
            Architecture::Gemma4 { config, tensors } => gemma4::forward(config, tensors)?,
        };
        if stages == Stages::Dropped {
            recording.stages.clear();
        }
        Ok(Self { recording: Arc::new(recording), weights: description.weights.clone() })
    }

    /// An executor for the CPU, ready for the weights to stream in.
    pub fn cpu(&self, path: CpuPath) -> Result<CpuExecutor> {
        CpuExecutor::new(Arc::clone(&self.recording), &self.weights, path)
    }

    /// The scales of static activation ranges.
    pub fn ranges(&self) -> BTreeSet<WeightId> {
        let ranges = self.recording.ops.iter().filter_map(|op| match op {
            Op::MatMul(op) => op.range,
            _ => None,
        });
        ranges.flat_map(|range| [range.input, range.output]).collect()
    }
}

/// A model that knows everything but its weights' values.
pub struct Model {
    /// "llama" or "gemma4".
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
        Self::open_with(description, Stages::Dropped)
    }

    /// The same, for a check that reads stages.
    pub fn open_with(description: &ModelDescription, stages: Stages) -> Result<Self> {
        Self::complete(description, Network::open(description, stages)?)
    }

    /// The model whose forward pass is recorded already: builds its tokenizer, which for a large vocabulary takes half a second.
    pub fn complete(description: &ModelDescription, network: Network) -> Result<Self> {
        let tokenizer = open_tokenizer(&description.tokenizer)?;
        let Network { recording, weights } = network;
        Ok(Self {
            architecture: description.architecture.name(),
            recording,
            weights,
            files: description.files.clone(),
            tokenizer,
            context: description.architecture.context(),
            bos: description.bos,
            eos: description.eos.clone(),
        })
    }

    /// Its forward pass and weights, which are all that a device needs.
    pub fn network(&self) -> Network {
        Network { recording: Arc::clone(&self.recording), weights: self.weights.clone() }
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
        TokenizerSource::HuggingFace { tokenizer, config, chat_template } => {
            let read = Tokenizer::from_json(tokenizer.as_bytes(), config.as_deref().map(str::as_bytes))?;
            Ok(match chat_template {
                Some(template) => read.with_chat_template(template.clone()),
                None => read,
            })
        }
        TokenizerSource::Gguf(metadata) => gguf_tokenizer(metadata),
        TokenizerSource::Absent => {
            Err(Error::format("tokenizer.json", "the model's folder does not have this file: add it"))
        }
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
