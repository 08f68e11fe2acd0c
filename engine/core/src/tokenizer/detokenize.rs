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
