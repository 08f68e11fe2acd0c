//! Model files: what they hold, read from their first bytes, and one description that every format gives.

#[cfg(not(target_arch = "wasm32"))]
pub mod disk;
pub mod gguf;
mod gguf_gemma4;
mod gguf_llama;
mod hf_config;
mod hf_gemma4;
pub mod pinned;
pub mod safetensors;
#[cfg(test)]
pub(crate) mod testing;

use crate::error::{Error, Result};
use crate::models::gemma4_config::{Gemma4Config, Gemma4Tensors, ModuleNames};
use crate::models::llama_config::{LlamaConfig, LlamaTensors, Names};
use crate::quant::QuantType;
use crate::weights::{Location, WeightTable};

pub use gguf::Gguf;
pub use safetensors::Safetensors;

/// How a file stores a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Real numbers, plain or quantized.
    Number(QuantType),
    /// 64-bit float.
    F64,
    /// Unsigned bytes; packed codes in some checkpoints.
    U8,
    /// Signed bytes.
    I8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// One byte each, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of a tensor of `shape` (slowest axis first), or an error that names it.
    pub fn bytes(self, name: &str, shape: &[usize]) -> Result<u64> {
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let size = match self {
            Self::Number(quant) => {
                let cols = shape.last().copied().unwrap_or(1);
                if !cols.is_multiple_of(quant.block_len()) {
                    return Err(Error::format(
                        shown(name),
                        format!(
                            "its rows have {cols} elements, but {quant:?} comes in blocks of {}",
                            quant.block_len()
                        ),
                    ));
                }
                elements.and_then(|n| (n / quant.block_len() as u64).checked_mul(quant.block_bytes() as u64))
            }
            Self::U8 | Self::I8 | Self::Bool => elements,
            Self::I16 => elements.and_then(|n| n.checked_mul(2)),
            Self::I32 => elements.and_then(|n| n.checked_mul(4)),
            Self::I64 | Self::F64 => elements.and_then(|n| n.checked_mul(8)),
        };
        size.ok_or_else(|| Error::format(shown(name), format!("its shape {shape:?} is absurd")))
    }
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its bytes.
    pub location: Location,
}

/// Tensors of one or several files: names are unique, locations do not overlap.
#[derive(Debug, Clone, Default)]
pub struct TensorList {
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
}

impl TensorList {
    /// Checks that no name comes twice and that no two tensors share a byte.
    pub fn new(mut tensors: Vec<TensorInfo>) -> Result<Self> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| (tensors[i].location.file, tensors[i].location.offset, tensors[i].location.len));
        for pair in order.windows(2) {
            let (a, b) = (&tensors[pair[0]], &tensors[pair[1]]);
            let end = a.location.offset.checked_add(a.location.len);
            if a.location.file == b.location.file && end.is_none_or(|end| end > b.location.offset) {
                return Err(Error::format(
                    shown(&b.name),
                    format!("it overlaps {} in the file (both hold byte {})", shown(&a.name), b.location.offset),
                ));
            }
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::format(shown(&pair[0].name), "the model has this tensor twice"));
        }
        Ok(Self { tensors })
    }

    /// Fails when a tensor of file `file` reaches past its `len` bytes.
    pub fn check_end(&self, file: usize, len: u64) -> Result<()> {
        for t in self.tensors.iter().filter(|t| t.location.file == file) {
            let end = t.location.offset.saturating_add(t.location.len);
            if end > len {
                return Err(Error::format(
                    shown(&t.name),
                    format!("it ends at byte {end}, but the file has only {len}: the file is cut short or damaged"),
                ));
            }
        }
        Ok(())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|i| &self.tensors[i])
    }

    /// Every tensor, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True when empty.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    fn into_vec(self) -> Vec<TensorInfo> {
        self.tensors
    }
}

/// Where a model's tokenizer comes from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// The keys `tokenizer.*` of a GGUF file.
    Gguf(gguf::Metadata),
    /// A Hugging Face folder's `tokenizer.json`, and what lies beside it.
    HuggingFace {
        /// Text of `tokenizer.json`.
        tokenizer: String,
        /// Text of `tokenizer_config.json`.
        config: Option<String>,
        /// Text of `chat_template.jinja`, which goes before a template in `config`.
        chat_template: Option<String>,
    },
    /// The folder has none: its model can be checked with ids, not talked to.
    Absent,
}

/// A model whose forward pass Sotto knows.
#[derive(Debug, Clone)]
pub enum Architecture {
    /// The llama family.
    Llama {
        /// Sizes and constants.
        config: LlamaConfig,
        /// Its weights by role.
        tensors: LlamaTensors,
    },
    /// Gemma 4's text decoder.
    Gemma4 {
        /// Sizes and constants.
        config: Gemma4Config,
        /// Its weights by role.
        tensors: Gemma4Tensors,
    },
}

impl Architecture {
    /// The model's name in GGUF files: "llama".
    pub fn name(&self) -> &'static str {
        match self {
            Self::Llama { .. } => "llama",
            Self::Gemma4 { .. } => gguf_gemma4::ARCHITECTURE,
        }
    }

    /// Tokens the model was made to read at most.
    pub fn context(&self) -> usize {
        match self {
            Self::Llama { config, .. } => config.context,
            Self::Gemma4 { config, .. } => config.context,
        }
    }
}

/// A file that holds weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Its name within the model's folder; empty for a single GGUF file.
    pub name: String,
    /// Where its tensors' bytes start: a weight stream may begin here.
    pub data_start: u64,
}

/// All that the engine needs to know of a model before its weights stream in.
#[derive(Debug, Clone)]
pub struct ModelDescription {
    /// What the model computes, and with which weights.
    pub architecture: Architecture,
    /// Where every weight lies.
    pub weights: WeightTable,
    /// The weights' files, indexed by [`Location::file`].
    pub files: Vec<WeightFile>,
    /// The tokenizer.
    pub tokenizer: TokenizerSource,
    /// The id that begins a text, as far as the model's own files say.
    pub bos: Option<u32>,
    /// The ids that end an answer, as far as the model's own files say.
    pub eos: Vec<u32>,
}

/// The text files of a Hugging Face folder.
#[derive(Debug, Clone, Default)]
pub struct HuggingFaceTexts {
    /// `config.json`.
    pub config: String,
    /// `generation_config.json`, if there.
    pub generation_config: Option<String>,
    /// `tokenizer.json`, if there: without it a model can only be given ids.
    pub tokenizer: Option<String>,
    /// `tokenizer_config.json`, if there.
    pub tokenizer_config: Option<String>,
    /// `chat_template.jinja`, if there.
    pub chat_template: Option<String>,
}

impl ModelDescription {
    /// Describes the model of a GGUF file. `rope_divisors` are the bytes of [`gguf_rope_divisors`]'s tensor, when the file
    /// has it.
    pub fn from_gguf(gguf: Gguf, rope_divisors: Option<&[u8]>) -> Result<Self> {
        let mut weights = WeightTable::default();
        let architecture = match gguf.metadata.get_str("general.architecture")? {
            gguf_gemma4::ARCHITECTURE => {
                let config = gguf_gemma4::config(&gguf, rope_divisors)?;
                let tensors = Gemma4Tensors::map(&config, &ModuleNames::gguf(), &gguf.tensors, &mut weights)?;
                Architecture::Gemma4 { config, tensors }
            }
            _ => {
                let config = gguf_llama::config(&gguf, rope_divisors)?;
                let tensors = LlamaTensors::map(&config, Names::Gguf, &gguf.tensors, &mut weights)?;
                Architecture::Llama { config, tensors }
            }
        };
        let (bos, eos) = gguf_llama::special_ids(&gguf.metadata)?;
        Ok(Self {
            architecture,
            weights,
            files: vec![WeightFile { name: String::new(), data_start: gguf.data_start }],
            bos,
            eos,
            tokenizer: TokenizerSource::Gguf(gguf.metadata),
        })
    }

    /// Describes the model of a Hugging Face folder, given the headers of all its safetensors files in order. Where there
    /// are several, [`safetensors::index_files`] lists them.
    pub fn from_hugging_face(texts: HuggingFaceTexts, files: Vec<(String, Safetensors)>) -> Result<Self> {
        let (bos, eos) = hf_config::special_ids(&texts.config, texts.generation_config.as_deref())?;
        let (mut all, mut weight_files) = (Vec::new(), Vec::new());
        for (number, (name, header)) in files.into_iter().enumerate() {
            weight_files.push(WeightFile { name, data_start: header.data_start });
            all.extend(header.tensors.into_vec().into_iter().map(|mut t| {
                t.location.file = number;
                t
            }));
        }
        let list = TensorList::new(all)?;
        let mut weights = WeightTable::default();
        let architecture = if hf_gemma4::is_gemma4(&hf_config::model_type(&texts.config)?) {
            let config = hf_gemma4::config(&texts.config)?;
            let tensors = Gemma4Tensors::map(&config, &ModuleNames::hugging_face(&list), &list, &mut weights)?;
            Architecture::Gemma4 { config, tensors }
        } else {
            let hf = hf_config::HfConfig::parse(&texts.config)?;
            let config = hf.llama_config()?;
            let tensors = LlamaTensors::map(&config, Names::HuggingFace, &list, &mut weights)?;
            hf.check_biases(&tensors)?;
            Architecture::Llama { config, tensors }
        };
        Ok(Self {
            architecture,
            weights,
            files: weight_files,
            tokenizer: match texts.tokenizer {
                Some(tokenizer) => TokenizerSource::HuggingFace {
                    tokenizer,
                    config: texts.tokenizer_config,
                    chat_template: texts.chat_template,
                },
                None => TokenizerSource::Absent,
            },
            bos,
            eos,
        })
    }
}

/// The tensor of a GGUF file whose values belong to the model's description, and so must be read before its weights
/// stream in: the divisors of the rotary frequencies. A few hundred bytes, usually the first of the data.
pub fn gguf_rope_divisors(gguf: &Gguf) -> Option<&TensorInfo> {
    gguf.tensors.get(gguf_llama::ROPE_DIVISORS)
}

/// A file's own name, made fit for a message: control characters escaped, cut at 96 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == 96 {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
