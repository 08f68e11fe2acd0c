//! Models on this machine's disk: a GGUF file or a Hugging Face folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Gguf, HuggingFaceTexts, ModelDescription, Safetensors, TensorList, gguf, gguf_rope_divisors, safetensors};
use crate::error::{Error, Result};
use crate::outside::ReadFiles;
use crate::weights::{PIECE, WeightId, WeightSink, WeightStream};

/// The first read; most headers of folders fit, and a GGUF header asks for more.
const FIRST_READ: u64 = 64 << 10;

/// A model on disk, described; its weights still to be streamed.
#[derive(Debug, Clone)]
pub struct DiskModel {
    /// What it is.
    pub description: ModelDescription,
    /// Its weights' files, indexed by [`crate::weights::Location::file`].
    pub paths: Vec<PathBuf>,
}

impl DiskModel {
    /// Reads the headers of a GGUF file, or of all files of a Hugging Face folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { Self::open_folder(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let mut file = Growing::open(path)?;
        let gguf = file.gguf()?;
        let divisors = match gguf_rope_divisors(&gguf) {
            Some(tensor) => Some(file.range(tensor.location.offset, tensor.location.len)?),
            None => None,
        };
        let description = ModelDescription::from_gguf(gguf, divisors.as_deref())?;
        Ok(Self { description, paths: vec![path.to_owned()] })
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        let index = optional_text(&folder.join("model.safetensors.index.json"))?;
        let names = match index {
            Some(index) => safetensors::index_files(&index)?,
            None => vec!["model.safetensors".to_owned()],
        };
        let texts = HuggingFaceTexts {
            config: text(&folder.join("config.json"))?,
            generation_config: optional_text(&folder.join("generation_config.json"))?,
            tokenizer: optional_text(&folder.join("tokenizer.json"))?,
            tokenizer_config: optional_text(&folder.join("tokenizer_config.json"))?,
            chat_template: optional_text(&folder.join("chat_template.jinja"))?,
        };
        let (mut files, mut paths) = (Vec::new(), Vec::new());
        for name in names {
            let path = folder.join(&name);
            let header = Growing::open(&path)?.safetensors()?;
            files.push((name, header));
            paths.push(path);
        }
        Ok(Self { description: ModelDescription::from_hugging_face(texts, files)?, paths })
    }

    /// Streams all weights into `sink`.
    pub fn stream(&self, sink: &mut dyn WeightSink) -> Result<()> {
        self.stream_without(&BTreeSet::new(), sink)
    }

    /// Streams all weights but those `outside` into `sink`.
    pub fn stream_without(&self, outside: &BTreeSet<WeightId>, sink: &mut dyn WeightSink) -> Result<()> {
        let mut piece = vec![0; PIECE];
        for (number, path) in self.paths.iter().enumerate() {
            let start = self.description.files.get(number).map_or(0, |f| f.data_start);
            let mut stream = WeightStream::new(&self.description.weights, number, start).without(outside);
            let mut file = File::open(path).map_err(|e| io_error(path, &e))?;
            while let Some(wanted) = stream.wanted() {
                stream.skip_to(wanted.start)?;
                file.seek(SeekFrom::Start(wanted.start)).map_err(|e| io_error(path, &e))?;
                let n = file.read(&mut piece).map_err(|e| io_error(path, &e))?;
                if n == 0 {
                    break;
                }
                stream.push(&piece[..n], sink)?;
            }
            stream.finish()?;
        }
        Ok(())
    }

    /// The weights' files, to be read here and there.
    pub fn files(&self) -> Result<DiskFiles> {
        let open = |path: &PathBuf| match File::open(path) {
            Ok(file) => Ok((path.clone(), file)),
            Err(error) => Err(io_error(path, &error)),
        };
        Ok(DiskFiles(self.paths.iter().map(open).collect::<Result<_>>()?))
    }
}

/// A model's open files.
pub struct DiskFiles(Vec<(PathBuf, File)>);

impl ReadFiles for DiskFiles {
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> Result<()> {
        let missing = || Error::format("the model's files", format!("there is no file {file}"));
        let (path, file) = self.0.get_mut(file).ok_or_else(missing)?;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(into)).map_err(|e| io_error(path, &e))
    }
}

/// The header of one GGUF or safetensors file: its tensors, and a GGUF's keys and values.
pub fn inspect(path: &Path) -> Result<(TensorList, gguf::Metadata)> {
    let mut file = Growing::open(path)?;
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok((file.safetensors()?.tensors, gguf::Metadata::default()));
    }
    let gguf = file.gguf()?;
    Ok((gguf.tensors, gguf.metadata))
}

/// A file of which more and more is read, from its start.
struct Growing {
    file: File,
    path: PathBuf,
    len: u64,
    prefix: Vec<u8>,
}

impl Growing {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| io_error(path, &e))?;
        let len = file.metadata().map_err(|e| io_error(path, &e))?.len();
        Ok(Self { file, path: path.to_owned(), len, prefix: Vec::new() })
    }

    fn gguf(&mut self) -> Result<Gguf> {
        self.header(|prefix, len| {
            Ok(match Gguf::parse(prefix, Some(len))? {
                gguf::Parsed::NeedMore(n) => Err(n),
                gguf::Parsed::Gguf(gguf) => Ok(gguf),
            })
        })
    }

    fn safetensors(&mut self) -> Result<Safetensors> {
        self.header(|prefix, len| {
            Ok(match Safetensors::parse(prefix, Some(len))? {
                safetensors::Parsed::NeedMore(n) => Err(n),
                safetensors::Parsed::Safetensors(header) => Ok(header),
            })
        })
    }

    /// Reads until `parse` has its header; it answers how many bytes it needs otherwise.
    fn header<T>(&mut self, parse: impl Fn(&[u8], u64) -> Result<Result<T, u64>>) -> Result<T> {
        let mut need = FIRST_READ;
        loop {
            let more = need.min(self.len).saturating_sub(self.prefix.len() as u64);
            let read = self.file.by_ref().take(more).read_to_end(&mut self.prefix);
            if read.map_err(|e| io_error(&self.path, &e))? == 0 && more > 0 {
                self.len = self.prefix.len() as u64;
            }
            match parse(&self.prefix, self.len)? {
                Ok(header) => return Ok(header),
                Err(n) => need = n,
            }
        }
    }

    fn range(&mut self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| io_error(&self.path, &e))?;
        self.file.by_ref().take(len).read_to_end(&mut bytes).map_err(|e| io_error(&self.path, &e))?;
        Ok(bytes)
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| io_error(path, &e))
}

fn optional_text(path: &Path) -> Result<Option<String>> {
    if path.exists() { text(path).map(Some) } else { Ok(None) }
}

fn io_error(path: &Path, error: &std::io::Error) -> Error {
    Error::format(path.display().to_string(), format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Architecture, TokenizerSource};
    use crate::kernels::Pairing;
    use crate::models::llama_config::LlamaConfig;
    use crate::quant::QuantType;
    use crate::weights::{WeightId, WeightSpec};

    fn shapes() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/shapes")
    }

    fn open_shape(name: &str) -> (LlamaConfig, DiskModel) {
        let folder = shapes().join(name);
        let file = folder.join("model.gguf");
        let model = DiskModel::open(if file.exists() { &file } else { &folder }).unwrap();
        let Architecture::Llama { config, .. } = model.description.architecture.clone() else { panic!("{name}") };
        (config, model)
    }

    /// Counts the rows of every weight.
    struct Rows(Vec<usize>);
    impl WeightSink for Rows {
        fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
            assert_eq!(self.0[id.0 as usize], first_row, "{}", spec.name);
            assert_eq!(bytes.len() % spec.row_bytes(), 0, "{}", spec.name);
            self.0[id.0 as usize] += bytes.len() / spec.row_bytes();
            Ok(())
        }
    }

    #[test]
    fn every_shape_opens_and_streams_all_its_rows() {
        let mut types = std::collections::HashSet::new();
        for name in ["llama2-gguf", "llama3-gguf", "llama3-hf", "mistral-hf", "smollm-hf", "tinyllama-hf", "biases-hf"]
        {
            let (config, model) = open_shape(name);
            let d = &model.description;
            assert_eq!((config.vocab, config.context), (1024, 512), "{name}");
            assert_eq!(model.paths.len(), if name == "llama3-hf" { 2 } else { 1 });
            let gguf = name.ends_with("gguf");
            assert_eq!(config.pairing, if gguf { Pairing::Adjacent } else { Pairing::Halves }, "{name}");
            assert_eq!(matches!(d.tokenizer, TokenizerSource::Gguf(_)), gguf, "{name}");
            let tied = ["llama3-gguf", "smollm-hf", "biases-hf"].contains(&name);
            assert_eq!(config.tied, tied, "{name}");
            let Architecture::Llama { tensors, .. } = &d.architecture else { panic!("{name}") };
            assert_eq!(tensors.head == tensors.embedding, tied, "{name}");
            assert_eq!(tensors.layers[0].down_bias.is_some(), name == "biases-hf");
            assert_eq!(config.window, (name == "mistral-hf").then_some(12), "{name}");

            let mut rows = Rows(vec![0; d.weights.len()]);
            model.stream(&mut rows).unwrap();
            for (id, spec) in d.weights.iter() {
                assert_eq!(rows.0[id.0 as usize], spec.rows, "{name}: {}", spec.name);
                types.insert(spec.quant);
            }
        }
        assert_eq!(types.len(), QuantType::SELF_CONTAINED.len(), "every type is in some shape: {types:?}");
    }

    #[test]
    fn both_formats_stretch_llama_3_frequencies_alike() {
        let (gguf, _) = open_shape("llama3-gguf");
        let (hugging_face, _) = open_shape("llama3-hf");
        // Every eighth frequency of heads of 64 is one of heads of 8.
        for (i, h) in hugging_face.rope.iter().enumerate() {
            let g = gguf.rope[8 * i];
            assert!((g / h - 1.0).abs() < 3e-7, "{i}: {g} {h}");
        }
    }

    #[test]
    fn stop_ids_come_with_the_files() {
        for (name, bos, eos) in
            [("llama2-gguf", 1, &[2][..]), ("llama3-gguf", 1019, &[1020]), ("llama3-hf", 1019, &[1020, 1023])]
        {
            let d = open_shape(name).1.description;
            assert_eq!((d.bos, &d.eos[..]), (Some(bos), eos), "{name}");
        }
    }

    #[test]
    fn a_missing_or_cut_file_is_named() {
        let error = DiskModel::open(&shapes().join("nothing.gguf")).unwrap_err().to_string();
        assert!(error.contains("nothing.gguf"), "{error}");

        let folder = std::env::temp_dir().join(format!("sotto-disk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(shapes().join("smollm-hf").join(name), folder.join(name)).unwrap();
        }
        let error = DiskModel::open(&folder).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
        let whole = std::fs::read(shapes().join("smollm-hf/model.safetensors")).unwrap();
        std::fs::write(folder.join("model.safetensors"), &whole[..whole.len() - 1]).unwrap();
        let error = DiskModel::open(&folder).unwrap_err().to_string();
        assert!(error.contains("model.norm.weight") && error.contains("cut short"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
