//! Every kind of tokenizer against the tokenizers library, on thousands of strings.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

use serde_json::{Value, json};
use sotto_core::tokenizer::{Detokenizer, GgufTokenizer, Specials, Tokenizer};
use tokenizers::Tokenizer as Oracle;

use crate::{
    gguf_metadata::{Metadata, starter},
    strings::{prose, varied},
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

/// Compares both modes and decoding on every string, and checks that `Off` makes no control token.
fn compare(name: &str, ours: &Tokenizer, oracle: &mut Oracle, texts: &[String]) {
    for specials in [Specials::On, Specials::Off] {
        oracle.set_encode_special_tokens(specials == Specials::Off);
        for text in texts {
            let encoding = oracle.encode_fast(text.as_str(), false).expect("the oracle encodes");
            let mut expected = encoding.get_ids().to_vec();
            if specials == Specials::Off {
                // The library leaves unknown tokens in; page text makes no control token of any kind here.
                expected.retain(|&id| !ours.is_special(id));
            }
            let got = ours.encode(text, specials);
            assert_eq!(got, expected, "{name}, specials {specials:?}, {text:?}");
            assert_eq!(ours.decode(&got), oracle.decode(&got, false).expect("the oracle decodes"), "{name}, {text:?}");
            let mut detokenizer = Detokenizer::new(ours, true);
            let mut decoded: String = got.iter().map(|&id| detokenizer.push(ours, id)).collect();
            decoded.push_str(&detokenizer.flush());
            assert_eq!(decoded, oracle.decode(&got, true).expect("the oracle decodes"), "{name}, {text:?}");
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

/// A vocabulary with `▁` for spaces, learned from test strings: three control tokens, byte tokens, the characters
/// that occur more than once, and merges.
struct Learned {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

fn learn(byte_tokens: bool) -> Learned {
    let mut text = prose(3_000, 1) + &varied(400, 2).join(" ");
    // No merge may spell a reserved token.
    text = text.replace(' ', "▁").replace("<s>", "").replace("</s>", "").replace("<unk>", "").replace("<0x41>", "");
    let mut counts = BTreeMap::new();
    for c in text.chars() {
        *counts.entry(c).or_insert(0) += 1;
    }
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    if byte_tokens {
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    }
    tokens.extend(counts.iter().filter(|&(_, &count)| count > 1).map(|(c, _)| c.to_string()));
    let mut ids: HashMap<String, usize> = tokens.iter().cloned().enumerate().map(|(id, token)| (token, id)).collect();
    let mut symbols: Vec<Option<usize>> = text.chars().map(|c| ids.get(&c.to_string()).copied()).collect();
    let mut merges = Vec::new();
    for _ in 0..500 {
        let mut pairs = BTreeMap::new();
        for pair in symbols.windows(2) {
            if let [Some(left), Some(right)] = *pair {
                // As SentencePiece learns: a space may only begin a piece, or be followed by spaces.
                let joins = !tokens[right].starts_with('▁') || tokens[left].chars().all(|c| c == '▁');
                *pairs.entry((left, right)).or_insert(0) += usize::from(joins);
            }
        }
        let Some((&(left, right), _)) = pairs.iter().max_by_key(|&(pair, count)| (*count, std::cmp::Reverse(*pair)))
        else {
            break;
        };
        let merged = format!("{}{}", tokens[left], tokens[right]);
        let id = *ids.entry(merged.clone()).or_insert(tokens.len());
        if id == tokens.len() {
            tokens.push(merged);
        }
        merges.push((tokens[left].clone(), tokens[right].clone()));
        let mut at = 0;
        let mut next = Vec::with_capacity(symbols.len());
        while at < symbols.len() {
            let both = symbols[at] == Some(left) && symbols.get(at + 1) == Some(&Some(right));
            next.push(if both { Some(id) } else { symbols[at] });
            at += 1 + usize::from(both);
        }
        symbols = next;
    }
    Learned { tokens, merges }
}

impl Learned {
    fn json(&self, normalizer: Value, pre_tokenizer: Value, strip: bool) -> Value {
        let vocab: serde_json::Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if strip {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let added: Vec<Value> = (0..3).map(|id| added_token(id, &self.tokens[id], true)).collect();
        json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": {
                "type": "BPE", "vocab": vocab, "merges": self.merges, "unk_token": "<unk>", "fuse_unk": true,
                "byte_fallback": self.tokens.len() > 3 && self.tokens[3] == "<0x00>",
            },
        })
    }
}

fn replace() -> Value {
    json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" })
}

fn prepend() -> Value {
    json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace()] })
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split })
}

#[test]
fn spaced_kinds_encode_as_the_oracle() {
    let no_op =
        json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
    let old = json!({ "type": "Metaspace", "replacement": "▁", "add_prefix_space": true });
    let kinds = [
        ("llama 2", prepend(), Value::Null, true),
        ("gemma", replace(), no_op, false),
        ("replace only", replace(), Value::Null, false),
        ("metaspace first", Value::Null, metaspace("first", false), true),
        ("metaspace always", Value::Null, metaspace("always", false), true),
        ("metaspace always, words apart", Value::Null, metaspace("always", true), true),
        ("metaspace never", Value::Null, metaspace("never", false), false),
        ("metaspace of old files", Value::Null, old, true),
    ];
    for byte_tokens in [true, false] {
        let learned = learn(byte_tokens);
        for (seed, (name, normalizer, pre_tokenizer, strip)) in kinds.iter().enumerate() {
            let json = learned.json(normalizer.clone(), pre_tokenizer.clone(), *strip);
            compare_json(name, &json, &varied(2_000, 300 + seed as u64));
        }
    }
}

#[test]
fn added_tokens_match_as_in_the_oracle() {
    let learned = learn(true);
    for normalizer in [prepend(), replace()] {
        let mut json = learned.json(normalizer, Value::Null, true);
        for token in json["added_tokens"].as_array_mut().expect("added tokens") {
            token["normalized"] = true.into();
        }
        let extra = [
            ("<|eats_before|>", "lstrip", true),
            ("<|eats_after|>", "rstrip", true),
            ("zeb", "single_word", false),
            ("<td>", "special", false),
            ("</td>", "special", false),
        ];
        let mut next_id = learned.tokens.len();
        for (content, flag, special) in extra {
            let known = learned.tokens.iter().position(|token| token == content);
            let mut token = added_token(known.unwrap_or(next_id), content, special);
            next_id += usize::from(known.is_none());
            if flag != "special" {
                token[flag] = true.into();
            }
            json["added_tokens"].as_array_mut().expect("added tokens").push(token);
        }
        let text = json.to_string();
        let ours = Tokenizer::from_json(text.as_bytes(), None).expect("ours reads it");
        let oracle = Oracle::from_str(&text).expect("the oracle reads it");
        let parts = [
            "<|eats_before|>",
            "<|eats_after|>",
            "zeb",
            "<td>",
            "</td>",
            "\n\n",
            " ",
            "\n",
            "zebu",
            "_",
            "<s>",
            "</s>",
            "x",
        ];
        let mut random = crate::strings::Random::new(5);
        for _ in 0..2_000 {
            let text: String = (0..random.below(12)).map(|_| parts[random.below(parts.len())]).collect();
            let expected = oracle.encode_fast(text.as_str(), false).expect("the oracle encodes");
            assert_eq!(ours.encode(&text, Specials::On), expected.get_ids(), "{text:?}");
            let off = ours.encode(&text, Specials::Off);
            let word = ours.id_of("zeb").expect("added");
            assert!(!off.iter().any(|&id| ours.is_special(id) || id == word), "{text:?}: {off:?}");
        }
        let td = [ours.id_of("<td>").expect("added")];
        assert_eq!(ours.encode("<td>", Specials::Off), td, "markup that the vocabulary has is ordinary text");
    }
}

#[test]
fn merging_by_score_encodes_as_the_oracle() {
    let learned = learn(true);
    let ids: HashMap<&str, usize> = learned.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let types: Vec<i32> = (0..learned.tokens.len())
        .map(|id| match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        })
        .collect();
    let scores: Vec<f32> = (0..learned.tokens.len()).map(|id| 259.0 - id as f32).collect();
    // What the converter of Hugging Face makes of a SentencePiece model: every cut of every piece into two pieces.
    let mut merges = Vec::new();
    for token in &learned.tokens[259..] {
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((left, right));
            }
        }
    }
    for add_space_prefix in [true, false] {
        let normalizer = if add_space_prefix { prepend() } else { replace() };
        let mut json = learned.json(normalizer, Value::Null, add_space_prefix);
        json["model"]["merges"] = json!(merges);
        let mut oracle = Oracle::from_str(&json.to_string()).expect("the oracle reads it");
        let keys = GgufTokenizer {
            model: "llama",
            pre: Some("default"),
            token_types: &types,
            scores: &scores,
            unknown: Some(0),
            bos: Some(1),
            eos: Some(2),
            add_space_prefix: Some(add_space_prefix),
            ..GgufTokenizer::default()
        };
        let tokens = learned.tokens.iter().map(String::as_bytes);
        let ours = Tokenizer::from_gguf(tokens, std::iter::empty(), &keys).expect("ours reads it");
        compare("scores", &ours, &mut oracle, &varied(3_000, 400));
    }
}
