//! Every kind of tokenizer against the tokenizers library, on thousands of strings.

use std::str::FromStr;

use serde_json::{Value, json};
use sotto_core::tokenizer::{Specials, Tokenizer};
use tokenizers::Tokenizer as Oracle;

use crate::{
    gguf_metadata::{Metadata, starter},
    strings::varied,
};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `tokenizer.json` with the starter's vocabulary and merges.
fn byte_level_json(starter: &Metadata, pre_tokenizer: &Value, ignore_merges: bool) -> Value {
    let tokens = starter.list("tokenizer.ggml.tokens");
    let types = &starter.numbers["tokenizer.ggml.token_type"];
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .filter(|&(id, _)| types[id] == 3)
        .map(|(id, token)| added_token(id, token, true))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "vocab": vocab, "merges": starter.list("tokenizer.ggml.merges"), "ignore_merges": ignore_merges,
        },
    })
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

fn split(regex: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex })
}

fn sequence(nodes: &[Value]) -> Value {
    json!({ "type": "Sequence", "pretokenizers": nodes })
}

/// Compares both modes on every string, and that `Off` makes no control token.
fn compare(name: &str, ours: &Tokenizer, oracle: &mut Oracle, texts: &[String]) {
    for specials in [Specials::On, Specials::Off] {
        oracle.set_encode_special_tokens(specials == Specials::Off);
        for text in texts {
            let expected = oracle.encode_fast(text.as_str(), false).expect("the oracle encodes");
            let got = ours.encode(text, specials);
            assert_eq!(got, expected.get_ids(), "{name}, specials {specials:?}, {text:?}");
            if specials == Specials::Off {
                assert!(!got.iter().any(|&id| ours.is_special(id)), "{name}: a control token from {text:?}");
            }
        }
    }
}

fn compare_json(name: &str, json: &Value, texts: &[String]) -> Tokenizer {
    let json = json.to_string();
    let ours = Tokenizer::from_json(json.as_bytes(), None).expect("ours reads it");
    let mut oracle = Oracle::from_str(&json).expect("the oracle reads it");
    compare(name, &ours, &mut oracle, texts);
    ours
}

#[test]
fn byte_level_kinds_encode_as_the_oracle() {
    let starter = starter();
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let digit_runs = json!({ "type": "Digits", "individual_digits": false });
    let kinds = [
        ("gpt-2", byte_level(false, true), false),
        ("gpt-2 with a space before", byte_level(true, true), false),
        ("gpt-2 as a regex", sequence(&[split(GPT2), byte_level(false, false)]), false),
        ("smollm", sequence(&[digits, byte_level(false, true)]), false),
        ("digit runs", sequence(&[digit_runs, byte_level(false, true)]), false),
        ("llama-bpe", sequence(&[split(LLAMA3), byte_level(false, false)]), true),
        ("qwen2", sequence(&[split(QWEN2), byte_level(false, false)]), false),
        ("bytes only", byte_level(false, false), false),
    ];
    for (seed, (name, pre_tokenizer, ignore_merges)) in kinds.into_iter().enumerate() {
        let json = byte_level_json(&starter, &pre_tokenizer, ignore_merges);
        compare_json(name, &json, &varied(2_000, seed as u64));
    }
}

#[test]
fn the_starter_from_gguf_encodes_as_the_oracle() {
    let starter = starter();
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let json = byte_level_json(&starter, &sequence(&[digits, byte_level(false, true)]), false);
    let mut oracle = Oracle::from_str(&json.to_string()).expect("the oracle reads it");
    compare("starter", &starter.tokenizer(), &mut oracle, &varied(3_000, 100));
}

#[test]
fn gguf_pre_tokenizers_encode_as_the_oracle() {
    let punctuation = split(r"[\p{P}\$\+<=>\^~\|]+");
    let kinds = [
        ("gpt-2", byte_level(false, true), false),
        ("llama-bpe", sequence(&[split(LLAMA3), byte_level(false, false)]), true),
        ("qwen2", sequence(&[split(QWEN2), byte_level(false, false)]), false),
        (
            "default",
            sequence(&[punctuation, split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), byte_level(false, false)]),
            false,
        ),
    ];
    let mut starter = starter();
    for (seed, (pre, pre_tokenizer, ignore_merges)) in kinds.into_iter().enumerate() {
        let json = byte_level_json(&starter, &pre_tokenizer, ignore_merges);
        let mut oracle = Oracle::from_str(&json.to_string()).expect("the oracle reads it");
        starter.strings.insert("tokenizer.ggml.pre".into(), pre.into());
        compare(pre, &starter.tokenizer(), &mut oracle, &varied(2_000, 200 + seed as u64));
    }
}
