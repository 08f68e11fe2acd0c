//! Reads just the tokenizer's keys of a GGUF file, for tests.

use std::{collections::HashMap, path::PathBuf};

use sotto_core::tokenizer::{GgufTokenizer, Tokenizer};

/// The keys of one file.
#[derive(Default)]
pub(crate) struct Metadata {
    pub(crate) strings: HashMap<String, String>,
    pub(crate) lists: HashMap<String, Vec<String>>,
    pub(crate) numbers: HashMap<String, Vec<i32>>,
    pub(crate) scalars: HashMap<String, u64>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (head, tail) = self.0.split_at(len);
        self.0 = tail;
        head.to_vec()
    }

    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn string(&mut self) -> String {
        let len = self.number(8) as usize;
        String::from_utf8(self.bytes(len)).expect("GGUF strings are UTF-8")
    }

    fn scalar(&mut self, kind: u64) -> u64 {
        self.number(match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            other => panic!("GGUF value type {other}"),
        })
    }
}

impl Metadata {
    /// Reads the metadata at the start of a GGUF file.
    pub(crate) fn read(file: &[u8]) -> Self {
        let mut reader = Reader(file);
        assert_eq!(reader.bytes(4), b"GGUF");
        let _version = reader.number(4);
        let _tensors = reader.number(8);
        let mut metadata = Self::default();
        for _ in 0..reader.number(8) {
            let key = reader.string();
            match reader.number(4) {
                8 => _ = metadata.strings.insert(key, reader.string()),
                9 => {
                    let kind = reader.number(4);
                    let count = reader.number(8);
                    if kind == 8 {
                        metadata.lists.insert(key, (0..count).map(|_| reader.string()).collect());
                    } else {
                        let numbers = (0..count).map(|_| reader.scalar(kind) as i32).collect();
                        metadata.numbers.insert(key, numbers);
                    }
                }
                kind => _ = metadata.scalars.insert(key, reader.scalar(kind)),
            }
        }
        metadata
    }

    pub(crate) fn list(&self, key: &str) -> &[String] {
        self.lists.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        let id = |key: &str| self.scalars.get(key).map(|&id| id as u32);
        let flag = |key: &str| self.scalars.get(key).map(|&flag| flag != 0);
        let keys = GgufTokenizer {
            model: &self.strings["tokenizer.ggml.model"],
            pre: self.strings.get("tokenizer.ggml.pre").map(String::as_str),
            token_types: &self.numbers["tokenizer.ggml.token_type"],
            bos: id("tokenizer.ggml.bos_token_id"),
            eos: id("tokenizer.ggml.eos_token_id"),
            unknown: id("tokenizer.ggml.unknown_token_id"),
            add_bos: flag("tokenizer.ggml.add_bos_token"),
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix"),
            chat_template: self.strings.get("tokenizer.chat_template").map(String::as_str),
            scores: &[],
        };
        Tokenizer::from_gguf(
            self.list("tokenizer.ggml.tokens").iter().map(String::as_bytes),
            self.list("tokenizer.ggml.merges").iter().map(String::as_bytes),
            &keys,
        )
        .expect("the starter's tokenizer is well formed")
    }
}

/// The starter model's file.
pub(crate) fn starter_path() -> PathBuf {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let cache = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models");
    let folder = std::env::var_os("SOTTO_MODELS").map_or(cache, PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{name} is not in {}: run `cargo xtask model`, or set SOTTO_MODELS", folder.display());
    path
}

/// The starter model's tokenizer keys.
pub(crate) fn starter() -> Metadata {
    let mut head = Vec::new();
    let file = std::fs::File::open(starter_path()).expect("the model opens");
    // The metadata ends before the first 4 MiB.
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4 << 20), &mut head).expect("the model reads");
    Metadata::read(&head)
}
