//! How a file spells tokens, and the vocabulary being built from that spelling.

use std::collections::HashMap;

use super::{
    added::{AddedToken, is_plain_text, looks_like_control},
    bpe::{Merge, NO_TOKEN, PairTable},
    is_control,
    vocab::{TokenKind, Vocab},
};
use crate::{Error, Result};

/// Most added tokens a tokenizer may have; the longest list known has 6,415.
const MAX_ADDED: usize = 1 << 17;

/// How a file writes bytes that are no printable text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet: a character for each byte.
    ByteLevel,
    /// `▁` for a space and, with byte tokens, `<0xXX>` for a byte.
    Spaced {
        /// Whether `<0xXX>` is a byte.
        byte_tokens: bool,
    },
}

impl Spelling {
    /// Appends the bytes that the spelled token decodes to; false when this spelling does not write such a token,
    /// which then decodes to its own text.
    fn decode(self, text: &str, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match self {
            Self::ByteLevel => {
                for c in text.chars() {
                    let Some(byte) = alphabet_byte(c) else {
                        out.truncate(start);
                        out.extend_from_slice(text.as_bytes());
                        return false;
                    };
                    out.push(byte);
                }
                true
            }
            Self::Spaced { .. } => {
                let mut parts = text.split('▁');
                out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
                for part in parts {
                    out.push(b' ');
                    out.extend_from_slice(part.as_bytes());
                }
                !text.contains(' ')
            }
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for.
///
/// Printable Latin-1 stands for itself; the other 68 bytes follow in order from U+0100.
fn alphabet_byte(c: char) -> Option<u8> {
    let hidden = |index: u32| match index {
        0..=32 => Some(index as u8),
        33..=66 => Some((index - 33 + 127) as u8),
        67 => Some(173),
        _ => None,
    };
    match u32::from(c) {
        code @ (33..=126 | 161..=172 | 174..=255) => Some(code as u8),
        code => hidden(code.checked_sub(256)?),
    }
}

/// The byte that `<0xXX>` spells.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Quotes an entry for an error, shortened: a file chooses its length.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// A vocabulary while its file is read.
pub(super) struct Builder {
    pub(super) vocab: Vocab,
    pub(super) byte_ids: [u32; 256],
    pub(super) added: Vec<AddedToken>,
    spelling: Spelling,
    /// Entries that the spelling does not write: found by their own text only.
    unspelled: HashMap<Box<str>, u32>,
    scratch: Vec<u8>,
    /// What the last merge made.
    last_joined: u32,
}

impl Builder {
    pub(super) fn new(spelling: Spelling) -> Self {
        Self {
            vocab: Vocab::new(),
            byte_ids: [NO_TOKEN; 256],
            added: Vec::new(),
            spelling,
            unspelled: HashMap::new(),
            scratch: Vec::new(),
            last_joined: 0,
        }
    }

    /// Adds an ordinary token; returns the token that had the same spelling before.
    pub(super) fn put(&mut self, id: usize, text: &str, what: &dyn Fn() -> String) -> Result<Option<u32>> {
        if let Spelling::Spaced { byte_tokens: true } = self.spelling
            && let Some(byte) = byte_token(text)
        {
            self.vocab.put(id, &[byte], TokenKind::Byte, what)?;
            self.byte_ids[byte as usize] = id as u32;
            return Ok(None);
        }
        self.scratch.clear();
        let spelled = self.spelling.decode(text, &mut self.scratch);
        self.vocab.put(id, &self.scratch, TokenKind::Normal, what)?;
        if spelled {
            return self.vocab.index(id as u32, what);
        }
        Ok(self.unspelled.insert(text.into(), id as u32))
    }

    /// Adds a token that is spelled as it is matched; [`Self::index_added`] makes it known later.
    pub(super) fn put_raw(&mut self, id: usize, text: &str, kind: TokenKind, what: &dyn Fn() -> String) -> Result<()> {
        self.scratch.clear();
        match self.spelling {
            Spelling::ByteLevel => self.scratch.extend_from_slice(text.as_bytes()),
            Spelling::Spaced { .. } => _ = self.spelling.decode(text, &mut self.scratch),
        }
        self.vocab.put(id, &self.scratch, kind, what)
    }

    /// Lets the bytes of added tokens lead to them where no ordinary token has the same ones.
    pub(super) fn index_added(&mut self, what: &dyn Fn() -> String) -> Result<()> {
        for token in &self.added {
            if self.vocab.find(self.vocab.bytes(token.id)).is_none() {
                self.vocab.index(token.id, what)?;
            }
        }
        Ok(())
    }

    /// Registers a token to be cut out of text, with the kind that it turns out to have.
    pub(super) fn add(&mut self, mut token: AddedToken, kind: TokenKind, what: &dyn Fn() -> String) -> Result<()> {
        if self.added.len() >= MAX_ADDED {
            return Err(Error::format(what(), format!("there are more than {MAX_ADDED} added tokens")));
        }
        let kind = if kind == TokenKind::UserDefined && looks_like_control(&token.content) {
            TokenKind::Control
        } else {
            kind
        };
        token.plain = kind == TokenKind::UserDefined && is_plain_text(&token.content);
        self.vocab.set_kind(token.id, kind);
        self.added.push(token);
        Ok(())
    }

    /// Id of the token that the file spells so.
    pub(super) fn find(&mut self, text: &str) -> Option<u32> {
        if let Some(&id) = self.unspelled.get(text) {
            return Some(id);
        }
        self.scratch.clear();
        self.spelling.decode(text, &mut self.scratch);
        self.vocab.find(&self.scratch)
    }

    /// Adds the merge of two spelled tokens.
    pub(super) fn merge(
        &mut self,
        pairs: &mut PairTable,
        rank: usize,
        left: &str,
        right: &str,
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        if left.is_empty() || right.is_empty() {
            return Err(Error::format(what(), "one side is empty"));
        }
        self.scratch.clear();
        let unknown = |text: &str| Error::format(what(), format!("{} is not in the vocabulary", quote(text)));
        self.spelling.decode(left, &mut self.scratch);
        let middle = self.scratch.len();
        self.spelling.decode(right, &mut self.scratch);
        let left_id = self.vocab.find(&self.scratch[..middle]).ok_or_else(|| unknown(left))?;
        let right_id = self.vocab.find(&self.scratch[middle..]).ok_or_else(|| unknown(right))?;
        let id = self.joined().ok_or_else(|| unknown(&format!("{left}{right}")))?;
        self.last_joined = id;
        let rank = u32::try_from(rank).map_err(|_| Error::format(what(), "too many merges"))?;
        // Text that merges into a control token stays in parts: it must never become one.
        if is_control(self.vocab.kind(id)) {
            return Ok(());
        }
        pairs.insert(left_id, right_id, Merge { rank, id }, what)
    }

    /// Id of the token whose bytes are in `scratch`. Merges are listed in the order of what they make, or nearly: the last one's
    /// token or the next is tried first, which saves a walk through memory.
    fn joined(&self) -> Option<u32> {
        let is_it = |id: &u32| self.vocab.kind(*id) == TokenKind::Normal && self.vocab.bytes(*id) == self.scratch;
        let near = [self.last_joined, self.last_joined.saturating_add(1)];
        match near.iter().find(|id| self.unspelled.is_empty() && is_it(id)) {
            Some(id) => Some(*id),
            None => self.vocab.find(&self.scratch),
        }
    }

    /// Ids of the bytes of a byte-level vocabulary.
    pub(super) fn find_bytes(&mut self) {
        for byte in 0..=255u8 {
            let id = self.vocab.find(&[byte]).filter(|&id| !is_control(self.vocab.kind(id)));
            self.byte_ids[byte as usize] = id.unwrap_or(NO_TOKEN);
        }
    }

    /// Bytes that some token has right before a space, so that text may not be cut between the two.
    pub(super) fn joins_space(&self) -> Box<[bool; 256]> {
        let mut joins = Box::new([self.vocab.find(b" ").is_none(); 256]);
        for id in 0..self.vocab.len() as u32 {
            for pair in self.vocab.bytes(id).windows(2).filter(|pair| pair[1] == b' ') {
                joins[pair[0] as usize] = true;
            }
        }
        joins
    }
}

/// The character that stands for a byte.
#[cfg(test)]
pub(super) fn alphabet_char(byte: u8) -> char {
    (0..0x200).filter_map(char::from_u32).find(|&c| alphabet_byte(c) == Some(byte)).expect("every byte has one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [0; 256];
        for byte in (0..0x200).filter_map(char::from_u32).filter_map(alphabet_byte) {
            seen[byte as usize] += 1;
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(['Ġ', 'Ċ', 'ĉ', 'č', '¡'].map(alphabet_byte), [Some(32), Some(10), Some(9), Some(13), Some(161)]);
        assert_eq!([' ', '\u{144}', '日'].map(alphabet_byte), [None; 3]);
    }

    #[test]
    fn byte_tokens_are_two_hex_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(["<0xA>", "<0x+1>", "<0x123>", "0x0A"].map(byte_token), [None; 4]);
    }
}
