//! `sotto-manifest.json`: the SHA-256 of every chunk of a model's files. It lies beside the files of a mirror or a folder, so
//! that each chunk can be checked by itself when it comes, whichever part of a file is fetched. `sotto-cli manifest` writes it.
//!
//! ```json
//! { "version": 1, "chunkBytes": 8388608,
//!   "files": [{ "path": "model.safetensors", "bytes": 12345678, "sha256": ["<64 hexadecimal digits>", "…"] }] }
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::shown;
use crate::error::{Error, Result};

/// The file's name.
pub const PINNED_NAME: &str = "sotto-manifest.json";

/// Files are cut into chunks of this many bytes; the last one of a file is shorter.
pub const CHUNK: u64 = 8 << 20;

/// The longest document read, in bytes: enough for the chunks of 400 GB.
pub const MAX_PINNED: usize = 4 << 20;

/// Most files of a model, text files and weights.
pub const MAX_FILES: usize = 1 << 10;

/// Most bytes of a model's file.
const MAX_FILE: u64 = 1 << 40;

/// How many chunks a file of `bytes` bytes has.
pub fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK)
}

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Reads 64 hexadecimal digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl core::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl core::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = Sha256;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("64 hexadecimal digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Sha256, E> {
                Sha256::parse(text).ok_or_else(|| E::custom("a SHA-256 has 64 hexadecimal digits"))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PinnedManifest {
    version: u32,
    chunk_bytes: u64,
    files: Vec<PinnedFile>,
}

/// A file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its path within the folder, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// The hash of each chunk of [`CHUNK`] bytes.
    pub sha256: Vec<Sha256>,
}

impl PinnedManifest {
    /// Of these files.
    pub fn new(files: Vec<PinnedFile>) -> Result<Self> {
        let manifest = Self { version: 1, chunk_bytes: CHUNK, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Fails on a document too long to be read.
    pub fn check_len(bytes: usize) -> Result<()> {
        match bytes <= MAX_PINNED {
            true => Ok(()),
            false => Err(Error::format(PINNED_NAME, format!("it has {bytes} bytes, more than {MAX_PINNED}"))),
        }
    }

    /// Reads the document; errors say what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Self::check_len(text.len())?;
        let manifest: Self = serde_json::from_slice(text)
            .map_err(|e| Error::format(PINNED_NAME, format!("{e}: make it anew with `sotto-cli manifest`")))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::format(PINNED_NAME, reason));
        if self.version != 1 || self.chunk_bytes != CHUNK {
            let (version, chunk) = (self.version, self.chunk_bytes);
            return wrong(format!(
                "version 1 with chunks of {CHUNK} bytes is read, not version {version} with {chunk}"
            ));
        }
        if self.files.len() > MAX_FILES {
            return wrong(format!("{} files, more than {MAX_FILES}", self.files.len()));
        }
        let mut paths = BTreeSet::new();
        for file in &self.files {
            let name = shown(&file.path);
            check_path(&file.path)?;
            if file.bytes > MAX_FILE || chunk_count(file.bytes) != file.sha256.len() as u64 {
                let (bytes, hashes) = (file.bytes, file.sha256.len());
                return wrong(format!(
                    "{name} has {bytes} bytes and {hashes} hashes: one for each {CHUNK} bytes is needed"
                ));
            }
            if !paths.insert(file.path.as_str()) {
                return wrong(format!("{name} is there twice"));
            }
        }
        Ok(())
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&PinnedFile> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Every file.
    pub fn files(&self) -> &[PinnedFile] {
        &self.files
    }
}

/// Fails unless `path` stays inside of its folder and is fit for an address and a file system: names of letters, digits and
/// `._-+@ ` with single slashes between.
pub fn check_path(path: &str) -> Result<()> {
    let fits = |name: &str| {
        let letters = name.chars().all(|c| c.is_alphanumeric() || "._-+@ ".contains(c));
        !name.is_empty() && name != "." && name != ".." && letters
    };
    if path.len() <= 240 && path.split('/').all(fits) {
        return Ok(());
    }
    Err(Error::format(shown(path), "this is no name for a model's file: use letters, digits, dots and dashes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn document(path: &str, bytes: u64, hashes: usize) -> String {
        let hashes = vec![HASH; hashes];
        serde_json::json!({ "version": 1, "chunkBytes": CHUNK, "files": [{ "path": path, "bytes": bytes, "sha256": hashes }] })
            .to_string()
    }

    #[test]
    fn a_document_comes_back() {
        let text = document("model.safetensors", CHUNK + 1, 2);
        let manifest = PinnedManifest::parse(text.as_bytes()).unwrap();
        let file = manifest.file("model.safetensors").unwrap();
        assert_eq!((file.bytes, file.sha256[1].to_string().as_str()), (CHUNK + 1, HASH));
        assert_eq!(PinnedManifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
        assert!(manifest.file("config.json").is_none());
    }

    #[test]
    fn wrong_documents_are_refused_in_words() {
        for (text, says) in [
            (document("model.safetensors", CHUNK + 1, 1), "one for each"),
            (document("model.safetensors", u64::MAX, 1), "one for each"),
            (document("../model.safetensors", 1, 1), "no name for a model's file"),
            (document("a//b", 1, 1), "no name"),
            (document("/etc/passwd", 1, 1), "no name"),
            (document("a?b", 1, 1), "no name"),
            (document("m", 1, 1).replace("\"version\":1", "\"version\":2"), "version 1"),
            (document("m", 1, 1).replace("8388608", "8388609"), "version 1"),
            (document("m", 1, 1).replace("ba78", "xx78"), "64 hexadecimal digits"),
            (document("m", 1, 1).replace("ba78", "78"), "64 hexadecimal digits"),
            ("[]".to_owned(), "sotto-cli manifest"),
        ] {
            let error = PinnedManifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let twice = document("m", 1, 1);
        let twice = twice.replace("[{", &format!("[{{\"path\":\"m\",\"bytes\":1,\"sha256\":[\"{HASH}\"]}},{{"));
        assert!(PinnedManifest::parse(twice.as_bytes()).unwrap_err().to_string().contains("twice"));
    }
}
