//! Words of the command line: positional arguments and `--name value` options.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use sotto_core::check::fixture::Ranges;
use sotto_core::cpu::CpuPath;
use sotto_core::gpu::CacheFormat;
use sotto_core::requantize::Target;
use sotto_core::{Error, Result};

/// The words after the command.
pub(crate) struct Arguments {
    words: Vec<String>,
    options: BTreeMap<String, String>,
}

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Cpu(CpuPath),
    /// With caches of this format.
    Gpu(CacheFormat),
}

/// Where tables are that are only gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// With the other weights.
    Inside,
    /// In the model's files.
    Outside,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut positional, mut options) = (Vec::new(), BTreeMap::new());
        while let Some(word) = words.next() {
            if let Some(name) = word.strip_prefix("--") {
                let value = words.next().ok_or_else(|| Error::format(&word, "needs a value"))?;
                options.insert(name.to_owned(), value);
            } else {
                positional.push(word);
            }
        }
        Ok(Self { words: positional, options })
    }

    pub(crate) fn model(&self) -> Result<&Path> {
        match &self.words[..] {
            [model] => Ok(Path::new(model)),
            [] => Err(Error::format("MODEL", "is missing: name a GGUF file or a Hugging Face folder")),
            [_, more, ..] => Err(Error::format(more, "is one argument too many")),
        }
    }

    /// Exactly so many positional arguments.
    pub(crate) fn words<const N: usize>(&self) -> Result<[String; N]> {
        let found = self.words.len();
        self.words
            .clone()
            .try_into()
            .map_err(|_| Error::format("arguments", format!("{N} are needed, {found} were given")))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(word) => {
                word.parse().map_err(|_| Error::format(format!("--{name}"), format!("{word} is not a number")))
            }
        }
    }

    /// `--quantize`: what float matrices become while they load.
    pub(crate) fn quantize(&self) -> Result<Option<Target>> {
        match self.text("quantize") {
            None => Ok(None),
            Some("int8") => Ok(Some(Target::Int8)),
            Some("int4") => Ok(Some(Target::Int4)),
            Some(other) => Err(Error::format("--quantize", format!("{other} is neither int8 nor int4"))),
        }
    }

    /// `--ranges`: whether static activation ranges apply.
    pub(crate) fn ranges(&self) -> Result<Ranges> {
        match self.text("ranges") {
            None | Some("kept") => Ok(Ranges::Kept),
            Some("ignored") => Ok(Ranges::Ignored),
            Some(other) => Err(Error::format("--ranges", format!("{other} is neither kept nor ignored"))),
        }
    }

    /// `--tables`: where tables are that are only gathered.
    pub(crate) fn tables(&self) -> Result<Tables> {
        match self.text("tables") {
            None | Some("inside") => Ok(Tables::Inside),
            Some("outside") => Ok(Tables::Outside),
            Some(other) => Err(Error::format("--tables", format!("{other} is neither inside nor outside"))),
        }
    }

    /// `--device`, `--path` and `--cache`; the exact path is the default of `check` only.
    pub(crate) fn device(&self, default: CpuPath) -> Result<DeviceChoice> {
        let path = match self.text("path") {
            None => default,
            Some("reference") => CpuPath::Reference,
            Some("fast") => CpuPath::Fast,
            Some(other) => return Err(Error::format("--path", format!("{other} is neither reference nor fast"))),
        };
        let cache = match self.text("cache") {
            None => None,
            Some("f32") => Some(CacheFormat::F32),
            Some("f16") => Some(CacheFormat::F16),
            Some(other) => return Err(Error::format("--cache", format!("{other} is neither f32 nor f16"))),
        };
        match self.text("device") {
            None | Some("cpu") if cache.is_some() => Err(Error::format(
                "--cache",
                "only a graphics device has caches in either format: add --device gpu, or leave --cache out",
            )),
            None | Some("cpu") => Ok(DeviceChoice::Cpu(path)),
            Some("gpu") => Ok(DeviceChoice::Gpu(cache.unwrap_or_default())),
            Some(other) => Err(Error::format("--device", format!("{other} is neither cpu nor gpu"))),
        }
    }
}
