//! What the fuzz target of the model store does with its bytes; the corpus is replayed through it by an ordinary test. By the
//! first byte: `p` a mirror's list of hashes, `a` an address, else a stored model's manifest.

#![allow(unreachable_pub, reason = "the fuzz target and the replaying test each include this file as a module")]

use std::collections::BTreeSet;

use sotto_core::formats::pinned::{PinnedManifest, chunk_count};
use sotto_core::{Error, Result};
use sotto_web::store::manifest::Manifest;
use sotto_web::store::source::split_address;
use sotto_web::store::stored::{Data, Stored};

/// A data file of zeros.
struct Zeros;

impl Data for Zeros {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        if at > 1 << 50 {
            return Err(Error::format("data", "past the end"));
        }
        into.fill(0);
        Ok(())
    }
}

/// Reads one document and uses what it says.
pub fn manifests(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'p' => {
            if let Ok(pinned) = PinnedManifest::parse(data) {
                for file in pinned.files() {
                    assert_eq!(chunk_count(file.bytes), file.sha256.len() as u64);
                }
            }
        }
        b'a' => {
            if let Ok((source, name)) = split_address(&String::from_utf8_lossy(data)) {
                let address = source.address(&name).unwrap_or_default().to_ascii_lowercase();
                assert!(address.starts_with("http://") || address.starts_with("https://"));
            }
        }
        _ => {
            let Ok(manifest) = Manifest::parse(data) else { return };
            let (done, total) = manifest.progress();
            assert!(done <= total && total <= manifest.data_end());
            let text = manifest.text().unwrap_or_default();
            assert_eq!(Manifest::parse(text.as_bytes()).ok().as_ref(), Some(&manifest));
            let stored = Stored { manifest, data: Zeros };
            // A header of zeros is none; what matters is that asking for it ends.
            drop(stored.describe(&BTreeSet::new(), false));
            for piece in stored.manifest.stored() {
                let mut bytes = [0; 2];
                let end = piece.len.min(2) as usize;
                stored.read(piece.file, piece.offset, bytes.get_mut(..end).unwrap_or_default()).unwrap_or_default();
            }
        }
    }
}
