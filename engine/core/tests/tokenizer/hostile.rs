//! Broken and hostile tokenizers: a clear error, never a panic, a hang or a control token from text.

use serde_json::{Value, json};
use sotto_core::tokenizer::{GgufTokenizer, Specials, Tokenizer};

use crate::strings::Random;

fn small() -> Value {
    json!({
        "added_tokens": [
            { "id": 0, "content": "<s>", "special": true, "normalized": false },
            { "id": 9, "content": "<new>", "special": false, "normalized": true },
        ],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }] },
        "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
        "model": {
            "type": "BPE",
            "unk_token": "<s>",
            "byte_fallback": true,
            "vocab": { "<s>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "▁ab": 5, "ba": 6, "s": 7, "<0x41>": 8, "<": 10, ">": 11, "<s": 12 },
            "merges": ["a b", ["▁", "ab"], "b a", "< s", "<s >"],
        },
    })
}

fn read(json: &str) -> Result<Tokenizer, String> {
    Tokenizer::from_json(json.as_bytes(), None).map_err(|error| error.to_string())
}

#[test]
fn a_sound_file_reads() {
    let tokenizer = read(&small().to_string()).expect("it is sound");
    assert_eq!(tokenizer.encode("ab abA<s>", Specials::On), [4, 5, 8, 0]);
    assert_eq!(tokenizer.encode("<s><new>", Specials::Off), [12, 11, 10, 11], "no merge spells a control token");
    assert_eq!((tokenizer.bos(), tokenizer.add_bos(), tokenizer.vocab_len()), (Some(0), true, 13));
    assert_eq!((tokenizer.id_of("<new>"), tokenizer.id_of(" ab"), tokenizer.id_of("no")), (Some(9), Some(5), None));
    assert_eq!((tokenizer.token_bytes(8), &*tokenizer.token_text(5)), (b"A".as_slice(), " ab"));
    assert_eq!(tokenizer.token_bytes(99), b"");
}

#[test]
fn errors_name_the_entry() {
    let long = "x".repeat(300);
    let cases: &[(&str, Value, &[&str])] = &[
        ("/model/merges/0", json!("a c"), &["model.merges", "merge 0", "\"c\" is not in the vocabulary"]),
        ("/model/merges/1", json!(["b", "b"]), &["model.merges", "merge 1", "\"bb\""]),
        ("/model/merges/2", json!("ab"), &["model.merges", "two tokens"]),
        ("/model/merges/2", json!(["a", "b", "a"]), &["model.merges", "two tokens"]),
        ("/model/merges/2", json!(["", "b"]), &["merge 2", "empty"]),
        ("/model/merges/2", json!(7), &["model.merges", "two tokens"]),
        ("/model/vocab/ab", json!(3), &["model.vocab", "\"b\"", "id 3 is used twice"]),
        ("/model/vocab/ab", json!(4_000_000_000_u64), &["model.vocab", "\"ab\"", "4000000000"]),
        ("/model/vocab/ab", json!(-1), &["model.vocab", "-1"]),
        ("/model/vocab/ab", json!(1e300), &["model.vocab"]),
        ("/model/vocab/ab", json!(long), &["model.vocab", "invalid type"]),
        ("/model/vocab", json!([1, 2]), &["model.vocab", "a map from token to id"]),
        ("/model/unk_token", json!("nowhere"), &["model.unk_token", "nowhere"]),
        ("/model/type", json!("Unigram"), &["model.type", "Unigram", "BPE"]),
        ("/model/dropout", json!(0.5), &["model.dropout"]),
        ("/model/continuing_subword_prefix", json!("##"), &["model.continuing_subword_prefix"]),
        ("/normalizer", json!({ "type": "NFC" }), &["normalizer", "NFC", "not supported"]),
        (
            "/normalizer",
            json!({ "type": "Sequence", "normalizers": [{ "type": "Lowercase" }] }),
            &["normalizer[0]", "Lowercase"],
        ),
        ("/normalizer", Value::Null, &["pre_tokenizer", "Metaspace"]),
        ("/pre_tokenizer", json!({ "type": "Whitespace" }), &["pre_tokenizer", "Whitespace"]),
        (
            "/pre_tokenizer",
            json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Isolated", "invert": false }),
            &["pre_tokenizer", "(a+)+$"],
        ),
        ("/pre_tokenizer", json!({ "type": "ByteLevel", "add_prefix_space": false }), &["ByteLevel"]),
        (
            "/pre_tokenizer",
            json!({ "type": "Sequence", "pretokenizers": vec![json!({ "type": "Digits" }); 20] }),
            &["Digits"],
        ),
        ("/pre_tokenizer", json!("x".repeat(70_000)), &["pre_tokenizer", "70002 bytes"]),
        ("/decoder", json!({ "type": "CTC" }), &["decoder", "CTC"]),
        ("/added_tokens/1/content", json!(long), &["added token", "300 bytes"]),
        ("/added_tokens/1/id", json!(u64::MAX), &["added_tokens", "<new>"]),
        ("/added_tokens/1/id", json!(3), &["added_tokens", "<new>", "id 3 is used twice"]),
    ];
    for (pointer, value, words) in cases {
        let mut json = small();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        match json.pointer_mut(parent).expect("the parent is there") {
            Value::Object(map) => _ = map.insert(key.to_owned(), value.clone()),
            Value::Array(list) => list[key.parse::<usize>().expect("an index")] = value.clone(),
            _ => panic!("{pointer}"),
        }
        let error = read(&json.to_string()).expect_err(pointer);
        for word in *words {
            assert!(error.contains(word), "{pointer}: {word:?} is not in {error:?}");
        }
        assert!(error.len() < 700, "{pointer}: {error}");
    }
    let twice = small().to_string().replacen("\"vocab\":{", "\"vocab\":{\"b\":20,", 1);
    assert!(read(&twice).expect_err("twice").contains("token \"b\" is listed twice"));
    let surrogate = small().to_string().replacen("\"vocab\":{", "\"vocab\":{\"\\ud800\":20,", 1);
    assert!(read(&surrogate).expect_err("a lone surrogate").contains("model"));
}

#[test]
fn a_truncated_file_is_an_error_everywhere() {
    let json = small().to_string();
    for end in (0..json.len()).filter(|&end| json.is_char_boundary(end)) {
        assert!(read(&json[..end]).is_err());
    }
}

#[test]
fn mutated_files_never_panic() {
    let json = small().to_string().into_bytes();
    let parts: &[&[u8]] =
        &[b"\"", b"{", b"}", b"[", b"]", b",", b"0", b"99", b"\"a\"", b"\xe2\x96\x81", b"null", b"true", b" "];
    let mut random = Random::new(9);
    let mut sound = 0;
    for _ in 0..20_000 {
        let mut bytes = json.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.below(256) as u8,
                1 => _ = bytes.drain(at..(at + random.below(12)).min(bytes.len())),
                _ => _ = bytes.splice(at..at, parts[random.below(parts.len())].iter().copied()),
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, None) {
            sound += 1;
            let text = "ab ba<s>  <new>\u{0}é▁日";
            _ = tokenizer.decode(&tokenizer.encode(text, Specials::On));
            let ids = tokenizer.encode(text, Specials::Off);
            assert!(!ids.iter().any(|&id| tokenizer.is_special(id)));
        }
    }
    assert!(sound > 100, "some mutations leave the file sound");
}

fn gguf(tokens: &[&str], merges: &[&str], keys: &GgufTokenizer) -> Result<Tokenizer, String> {
    let tokens = tokens.iter().map(|token| token.as_bytes());
    let merges = merges.iter().map(|merge| merge.as_bytes());
    Tokenizer::from_gguf(tokens, merges, keys).map_err(|error| error.to_string())
}

#[test]
fn gguf_errors_name_the_key() {
    let sound = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), ..GgufTokenizer::default() };
    let scored = GgufTokenizer { model: "llama", scores: &[0.0, -1.0, -2.0], ..GgufTokenizer::default() };
    let tokens = &["a", "b", "ab"];
    assert_eq!(gguf(tokens, &["a b"], &sound).expect("it is sound").encode("abab", Specials::On), [2, 2]);
    assert_eq!(
        gguf(tokens, &[], &scored).expect("it is sound").encode("ab", Specials::On),
        [2],
        "no space, no bytes: left out"
    );
    let cases: &[(GgufTokenizer, &[&str], &[&str])] = &[
        (GgufTokenizer { model: "bert", ..sound }, &[], &["tokenizer.ggml.model", "bert"]),
        (GgufTokenizer { pre: Some("mystery"), ..sound }, &[], &["tokenizer.ggml.pre", "mystery"]),
        (GgufTokenizer { token_types: &[1, 1], ..sound }, &[], &["token_type", "2 entries for 3"]),
        (GgufTokenizer { token_types: &[1, 9, 1], ..sound }, &[], &["token_type[1]", "9"]),
        (GgufTokenizer { bos: Some(3), ..sound }, &[], &["bos_token_id", "3 tokens"]),
        (GgufTokenizer { scores: &[], ..scored }, &[], &["scores", "missing"]),
        (GgufTokenizer { scores: &[0.0, f32::NAN, 0.0], ..scored }, &[], &["scores[1]", "not a number"]),
        (sound, &["ab"], &["merges[0]", "two tokens"]),
        (sound, &["a b", ""], &["merges[1]", "two tokens"]),
        (sound, &["a "], &["merges[0]", "empty"]),
        (sound, &["a b", "b a"], &["merges[1]", "\"ba\""]),
    ];
    for (keys, merges, words) in cases {
        let error = gguf(tokens, merges, keys).expect_err("it is broken");
        for word in *words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }
    let bad = Tokenizer::from_gguf([b"a".as_slice(), b"\xff"], [], &sound).expect_err("no UTF-8");
    assert!(bad.to_string().contains("tokens[1]"));
}

#[test]
fn merges_in_a_circle_end() {
    let keys = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), ..GgufTokenizer::default() };
    let tokens = ["a", "b", "ab", "ba", "aba", "bab", "abab", "baba"];
    let merges = ["a b", "b a", "ab a", "a ba", "b ab", "ba b", "ab ab", "ba ba", "aba b", "a bab", "bab a", "b aba"];
    let tokenizer = gguf(&tokens, &merges, &keys).expect("it is sound");
    let text = "ab".repeat(1_000) + "b";
    let ids = tokenizer.encode(&text, Specials::Off);
    assert_eq!(tokenizer.decode(&ids), text);
}

#[test]
fn a_page_of_one_letter_is_no_harder_than_any_other() {
    let tokens: Vec<String> = (1..200).map(|len| "a".repeat(len)).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let scores: Vec<f32> = (0..199).map(|len| len as f32).collect();
    let text = "a".repeat(300_000);
    let scored =
        GgufTokenizer { model: "llama", scores: &scores, add_space_prefix: Some(false), ..GgufTokenizer::default() };
    let ids = gguf(&tokens, &[], &scored).expect("it is sound").encode(&text, Specials::Off);
    assert_eq!(ids.iter().map(|id| id + 1).sum::<u32>(), 300_000);
    let merges: Vec<String> = (1..100).map(|len| format!("{0} {0}", "a".repeat(len))).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let ranked = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), ..GgufTokenizer::default() };
    let ids = gguf(&tokens, &merges, &ranked).expect("it is sound").encode(&text, Specials::Off);
    assert_eq!(ids.iter().map(|id| id + 1).sum::<u32>(), 300_000);
}

#[test]
fn a_settings_file_beside_it_is_read() {
    let config = json!({
        "bos_token": { "content": "<s>", "lstrip": false }, "eos_token": "ab", "add_bos_token": false,
        "chat_template": [{ "name": "tool_use", "template": "no" }, { "name": "default", "template": "<|im_start|>" }],
        "added_tokens_decoder": { "0": { "content": "<s>" } },
    });
    let json = small().to_string();
    let tokenizer = Tokenizer::from_json(json.as_bytes(), Some(config.to_string().as_bytes())).expect("it is sound");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()), (Some(0), Some(4), false));
    assert_eq!(tokenizer.chat_template(), Some("<|im_start|>"));
    let broken = Tokenizer::from_json(json.as_bytes(), Some(b"{")).expect_err("broken");
    assert!(broken.to_string().starts_with("tokenizer_config.json"));
}
