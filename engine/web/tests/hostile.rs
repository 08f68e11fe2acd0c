//! The fuzz corpus of the model store's documents again: nothing may panic.

#[path = "../../../tests/fuzz/manifests.rs"]
mod manifests;

use std::path::Path;

#[test]
fn corpus_of_manifests() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/manifests");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder)? {
        manifests::manifests(&std::fs::read(entry?.path())?);
        replayed += 1;
    }
    assert!(replayed > 5, "the corpus is gone");
    Ok(())
}
