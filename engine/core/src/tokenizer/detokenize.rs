//! Ids back to text while they arrive, never half a character.

use super::Tokenizer;

/// Turns a stream of ids into text that is always valid UTF-8.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// Bytes that may still become a character.
    held: Vec<u8>,
    skip_specials: bool,
    strip_space: bool,
}

impl Detokenizer {
    /// Starts a text. `skip_specials` leaves control tokens out of it.
    pub fn new(tokenizer: &Tokenizer, skip_specials: bool) -> Self {
        Self { held: Vec::new(), skip_specials, strip_space: tokenizer.strips_first_space() }
    }

    /// Goes on with a text that has begun elsewhere: keeps a leading space.
    pub fn continuing(skip_specials: bool) -> Self {
        Self { held: Vec::new(), skip_specials, strip_space: false }
    }

    /// Takes the next id and returns the text that is now complete, often none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if self.skip_specials && tokenizer.is_special(id) {
            return String::new();
        }
        let mut bytes = tokenizer.token_bytes(id);
        if self.strip_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.strip_space = false;
        }
        self.held.extend_from_slice(bytes);
        self.take_complete()
    }

    /// Ends the text: bytes that never became a character turn into U+FFFD.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest = &self.held[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = tail;
                    if let Some(bad) = error.error_len() {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &rest[bad..];
                        continue;
                    }
                }
            }
            break;
        }
        let held = rest.len();
        self.held.drain(..self.held.len() - held);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{GgufTokenizer, spelling::alphabet_char};

    /// A tokenizer whose tokens are exactly these bytes; the last one is a control token.
    fn of_tokens(tokens: &[&[u8]]) -> Tokenizer {
        let spelled: Vec<String> =
            tokens.iter().map(|token| token.iter().map(|&byte| alphabet_char(byte)).collect()).collect();
        let mut types = vec![1; tokens.len()];
        types[tokens.len() - 1] = 3;
        let keys = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), token_types: &types, ..GgufTokenizer::default() };
        Tokenizer::from_gguf(spelled.iter().map(String::as_bytes), [], &keys).expect("it is well formed")
    }

    #[test]
    fn a_cut_at_any_byte_emits_whole_characters() {
        let text = "né 日本 👩\u{200d}👧🇩🇪!".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let tokenizer = of_tokens(&[&text[..first], &text[first..second], &text[second..], b"<end>"]);
                let mut detokenizer = Detokenizer::new(&tokenizer, true);
                let mut out = Vec::new();
                for (id, end) in [(0, first), (3, first), (1, second), (2, text.len())] {
                    out.extend_from_slice(detokenizer.push(&tokenizer, id).as_bytes());
                    assert!(text.starts_with(&out), "only what is there");
                    assert!(end - out.len() < 4, "no more than one character is held");
                    assert!(!out.ends_with("\u{fffd}".as_bytes()));
                }
                assert_eq!(out, text);
                assert_eq!(detokenizer.flush(), "");
            }
        }
    }

    #[test]
    fn broken_bytes_become_replacement_characters_as_in_the_whole_text() {
        let bytes = b"a\xf0\x9f\x98b\xff\xe6\x97\xa5\xe6\x97";
        let tokens: Vec<[u8; 1]> = bytes.iter().map(|&byte| [byte]).collect();
        let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_slice()).chain([b"<end>".as_slice()]).collect();
        let tokenizer = of_tokens(&tokens);
        let mut detokenizer = Detokenizer::new(&tokenizer, false);
        let mut text: String = (0..bytes.len() as u32).map(|id| detokenizer.push(&tokenizer, id)).collect();
        assert_eq!(text, "a\u{fffd}b\u{fffd}日", "an unfinished character is held");
        text += &detokenizer.flush();
        assert_eq!(text, String::from_utf8_lossy(bytes));
        assert_eq!(text, tokenizer.decode(&(0..bytes.len() as u32).collect::<Vec<_>>()));
    }

    #[test]
    fn only_a_text_that_begins_loses_the_space_before_it() {
        let keys = GgufTokenizer { model: "llama", scores: &[0.0, -1.0], ..GgufTokenizer::default() };
        let tokenizer = Tokenizer::from_gguf(["▁a".as_bytes(), "b".as_bytes()], [], &keys).expect("it is well formed");
        assert_eq!(tokenizer.decode(&[0, 1, 0]), "ab a");
        let mut detokenizer = Detokenizer::continuing(true);
        assert_eq!([0, 1, 0].map(|id| detokenizer.push(&tokenizer, id)).concat(), " ab a");
    }

    #[test]
    fn special_tokens_are_shown_on_demand() {
        let tokenizer = of_tokens(&[b"a", b"<end>"]);
        assert_eq!(Detokenizer::new(&tokenizer, false).push(&tokenizer, 1), "<end>");
        assert_eq!(Detokenizer::new(&tokenizer, true).push(&tokenizer, 1), "");
        assert_eq!(
            Detokenizer::new(&tokenizer, true).push(&tokenizer, 99),
            "",
            "an id past the vocabulary says nothing"
        );
    }
}
