//! `manifest`: the hashes that a mirror's files are checked against.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256 as Hasher};
use sotto_core::formats::pinned::{CHUNK, PINNED_NAME, PinnedFile, PinnedManifest, Sha256};
use sotto_core::{Error, Result};

use crate::arguments::Arguments;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let folder = arguments.model()?;
    let paths = files(folder)?;
    if paths.is_empty() {
        return Err(Error::format(
            folder.display().to_string(),
            "this folder holds no files: give the folder of a model",
        ));
    }
    let files = paths.iter().map(|path| hash(path)).collect::<Result<Vec<_>>>()?;
    let manifest = PinnedManifest::new(files)?;
    let target = folder.join(PINNED_NAME);
    let text = serde_json::to_string(&manifest).map_err(|e| Error::format(PINNED_NAME, e.to_string()))?;
    std::fs::write(&target, text).map_err(|e| failed(&target, &e))?;
    for file in manifest.files() {
        println!("{:<32} {:>14} bytes, {} chunks", file.path, file.bytes, file.sha256.len());
    }
    println!("{}", target.display());
    Ok(true)
}

/// The folder's own files, without the manifest itself and hidden ones.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| failed(folder, &e))? {
        let path = entry.map_err(|e| failed(folder, &e))?.path();
        let name = name(&path);
        if path.is_file() && name != PINNED_NAME && !name.starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn hash(path: &Path) -> Result<PinnedFile> {
    let mut file = File::open(path).map_err(|e| failed(path, &e))?;
    let (mut bytes, mut sha256) = (0, Vec::new());
    loop {
        let mut chunk = Vec::new();
        let read = file.by_ref().take(CHUNK).read_to_end(&mut chunk).map_err(|e| failed(path, &e))?;
        if read == 0 {
            return Ok(PinnedFile { path: name(path), bytes, sha256 });
        }
        bytes += read as u64;
        sha256.push(Sha256(Hasher::digest(&chunk).into()));
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::format(path.display().to_string(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_hashed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/shapes/smollm-hf");
        let config = hash(&folder.join("config.json")).unwrap();
        let whole = std::fs::read(folder.join("config.json")).unwrap();
        assert_eq!((config.bytes, config.path.as_str()), (whole.len() as u64, "config.json"));
        assert_eq!(config.sha256, [Sha256(Hasher::digest(&whole).into())]);
        assert!(PinnedManifest::new(vec![config]).is_ok());
        assert!(files(&folder).unwrap().iter().any(|path| path.ends_with("model.safetensors")));
    }
}
