//! The model store: gets models from the hub, from a mirror or from files, chunk by chunk and resumable; keeps them in the
//! browser's file system; opens them for loading; deletes them.
//!
//! A model lies in `models/<id>/` of the origin private file system: `manifest.json` (complete) or `part.json` (not yet), and
//! one data file of whole chunks. A model that is fetched or imported again comes into another data file beside the old one, so
//! that a failed attempt harms nothing.

pub mod manifest;
pub mod source;
pub mod speed;
pub mod stored;
pub mod trouble;

#[cfg(target_arch = "wasm32")]
mod job;
#[cfg(target_arch = "wasm32")]
mod library;
#[cfg(target_arch = "wasm32")]
mod net;
#[cfg(target_arch = "wasm32")]
pub(crate) mod opfs;
#[cfg(target_arch = "wasm32")]
mod page;

#[cfg(target_arch = "wasm32")]
pub(crate) use library::Library;

/// An id for a model of the user's own, from the name of its file or folder: `own-` and what of the name is fit for a folder.
pub fn own_id(name: &str) -> String {
    let name = name.strip_suffix(".gguf").unwrap_or(name).to_lowercase();
    let mut id = "own".to_owned();
    let mut gap = true;
    for c in name.chars() {
        if id.len() > 80 {
            break;
        }
        if c.is_ascii_alphanumeric() || c == '.' {
            if core::mem::take(&mut gap) {
                id.push('-');
            }
            id.push(c);
        } else {
            gap = true;
        }
    }
    id
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_of_own_models() {
        for (name, id) in [
            ("Gemma 4 (my tune).gguf", "own-gemma-4-my-tune"),
            ("SmolLM2-135M.Q4_1.gguf", "own-smollm2-135m.q4-1"),
            ("../..", "own-..-.."),
            ("模型", "own"),
            ("", "own"),
        ] {
            assert_eq!(super::own_id(name), id);
        }
        assert!(super::own_id(&"x".repeat(999)).len() < 100);
    }
}
