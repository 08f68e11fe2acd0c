//! `synth`: a checkpoint with a published model's names, shapes, types and length, and random weights. Size and speed can be
//! measured with it where the model itself is not at hand; what it writes means nothing.

mod gguf;
mod mobile;
mod rename;
mod safetensors;
mod sizes;
mod tensor;
mod texts;
mod tokenizer;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use sotto_core::tokenizer::Tokenizer;
use sotto_core::{Error, Result};

use crate::arguments::Arguments;
use sizes::Sizes;
use tokenizer::Lists;

const KINDS: &str = "e2b-mobile, e4b-mobile, e2b-q4_0, tiny-mobile, tiny-q4_0 or tokenizer";

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let [kind, folder] = arguments.words()?;
    let seed = arguments.number("seed", 0)?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let given = arguments.text("tokenizer");
    let (sizes, tokenizer) = match kind.as_str() {
        "e2b-mobile" | "e2b-q4_0" => (Sizes::E2B, tokenizer::read(given)?),
        "e4b-mobile" => (Sizes::E4B, tokenizer::read(given)?),
        "tiny-mobile" | "tiny-q4_0" => {
            (Sizes::TINY, given.map_or_else(|| Ok(tokenizer::tiny()), |_| tokenizer::read(given))?)
        }
        "tokenizer" => {
            write_tokenizer(folder, &tokenizer::read(given)?)?;
            return Ok(true);
        }
        other => return Err(Error::format(format!("synth {other}"), format!("there is {KINDS}"))),
    };
    let read = Tokenizer::from_json(tokenizer.as_bytes(), None)?;
    let vocab = read.vocab_len() as u64;
    if sizes.vocab != 0 && sizes.vocab != vocab {
        return Err(Error::format("the tokenizer", format!("it has {vocab} entries, the model {}", sizes.vocab)));
    }
    let sizes = Sizes { vocab, ..sizes };
    if kind.ends_with("-q4_0") {
        let lists = Lists::read(&tokenizer)?;
        return write_file(&folder.join("model.gguf"), |out| gguf::write(&sizes, &lists, seed, out));
    }
    write_tokenizer(folder, &tokenizer)?;
    write_text(&folder.join("config.json"), &format!("{:#}\n", texts::config(&sizes)))?;
    write_text(&folder.join("generation_config.json"), &format!("{:#}\n", texts::generation()))?;
    write_text(&folder.join("chat_template.jinja"), texts::TEMPLATE)?;
    let tensors = mobile::tensors(&sizes);
    write_file(&folder.join("model.safetensors"), |out| safetensors::write(&tensors, seed, out))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::format(path.display().to_string(), error.to_string())
}

fn write_tokenizer(folder: &Path, json: &str) -> Result<()> {
    write_text(&folder.join("tokenizer.json"), json)?;
    write_text(&folder.join("tokenizer_config.json"), &format!("{:#}\n", texts::tokenizer_config()))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| failed(path, &e))
}

/// Writes a file under another name first, so that half a checkpoint never looks like one.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<bool> {
    let part = path.with_extension("part");
    let whole = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
        write(&mut out)?;
        out.flush()?;
        std::fs::rename(&part, path)?;
        std::fs::metadata(path).map(|m| m.len())
    };
    let bytes = whole().map_err(|e| failed(path, &e))?;
    println!("{}: {bytes} bytes", path.display());
    Ok(true)
}

#[cfg(test)]
mod tests;
