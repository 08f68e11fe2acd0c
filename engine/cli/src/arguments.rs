//! Words of the command line: one positional argument and `--name value` options.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use sotto_core::cpu::CpuPath;
use sotto_core::requantize::Target;
use sotto_core::{Error, Result};

/// The words after the command.
pub(crate) struct Arguments {
    model: Option<PathBuf>,
    options: BTreeMap<String, String>,
}

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Cpu(CpuPath),
    Gpu,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut model, mut options) = (None, BTreeMap::new());
        while let Some(word) = words.next() {
            if let Some(name) = word.strip_prefix("--") {
                let value = words.next().ok_or_else(|| Error::format(&word, "needs a value"))?;
                options.insert(name.to_owned(), value);
            } else if model.replace(PathBuf::from(&word)).is_some() {
                return Err(Error::format(word, "is one argument too many"));
            }
        }
        Ok(Self { model, options })
    }

    pub(crate) fn model(&self) -> Result<&PathBuf> {
        self.model
            .as_ref()
            .ok_or_else(|| Error::format("MODEL", "is missing: name a GGUF file or a Hugging Face folder"))
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

    /// `--device` and `--path`; the exact path is the default of `check` only.
    pub(crate) fn device(&self, default: CpuPath) -> Result<DeviceChoice> {
        let path = match self.text("path") {
            None => default,
            Some("reference") => CpuPath::Reference,
            Some("fast") => CpuPath::Fast,
            Some(other) => return Err(Error::format("--path", format!("{other} is neither reference nor fast"))),
        };
        match self.text("device") {
            None | Some("cpu") => Ok(DeviceChoice::Cpu(path)),
            Some("gpu") => Ok(DeviceChoice::Gpu),
            Some(other) => Err(Error::format("--device", format!("{other} is neither cpu nor gpu"))),
        }
    }
}
