//! The vocabulary: every token's bytes in one buffer, and a flat hash table from bytes to id.

use crate::{Error, Result};

/// Most entries a vocabulary may have; four times the largest one known.
pub(super) const MAX_TOKENS: usize = 1 << 20;
/// Longest token in bytes; the longest one known has 256.
const MAX_TOKEN_BYTES: usize = 1 << 16;
/// Longest walk through a hash table before it is called hostile.
pub(super) const MAX_PROBES: usize = 1 << 10;

const EMPTY: u64 = u64::MAX;

/// What a token is, with the numbers of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Steers the model; never made from page or user text.
    Control,
    /// Added text that is matched before everything else.
    UserDefined,
    /// No token has this id.
    Unused,
    /// One raw byte.
    Byte,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    kind: TokenKind,
}

/// Tokens by id and ids by bytes.
#[derive(Debug, Clone)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// High half: hash of the bytes; low half: id.
    slots: Vec<u64>,
    used: usize,
}

impl Vocab {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), entries: Vec::new(), slots: vec![EMPTY; 1 << 10], used: 0 }
    }

    /// Number of ids, unused ones included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.entries.get(id as usize).map_or(TokenKind::Unused, |e| e.kind)
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.kind = kind;
        }
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.entries
            .get(id as usize)
            .and_then(|e| self.bytes.get(e.start as usize..e.start as usize + e.len as usize))
            .unwrap_or_default()
    }

    /// Stores a token under an id that is still free. `what` names the entry in an error.
    pub(super) fn put(&mut self, id: usize, bytes: &[u8], kind: TokenKind, what: &dyn Fn() -> String) -> Result<()> {
        if id >= MAX_TOKENS {
            return Err(Error::format(what(), format!("id {id} is past the largest vocabulary, {MAX_TOKENS} tokens")));
        }
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(Error::format(
                what(),
                format!("the token has {} bytes, at most {MAX_TOKEN_BYTES} make sense", bytes.len()),
            ));
        }
        let start = u32::try_from(self.bytes.len())
            .map_err(|_| Error::format(what(), "the vocabulary has more than 4 GiB of text"))?;
        if self.entries.len() <= id {
            self.entries.resize(id + 1, Entry { start: 0, len: 0, kind: TokenKind::Unused });
        }
        if self.entries[id].kind != TokenKind::Unused {
            return Err(Error::format(what(), format!("id {id} is used twice")));
        }
        self.bytes.extend_from_slice(bytes);
        self.entries[id] = Entry { start, len: bytes.len() as u32, kind };
        Ok(())
    }

    /// Makes the token's bytes lead to its id; returns the id they led to before.
    pub(super) fn index(&mut self, id: u32, what: &dyn Fn() -> String) -> Result<Option<u32>> {
        if (self.used + 1) * 10 > self.slots.len() * 7 {
            self.grow(what)?;
        }
        let bytes = self.bytes(id);
        let hash = hash_bytes(bytes);
        let mask = self.slots.len() - 1;
        for probe in 0..MAX_PROBES {
            let at = (hash as usize + probe) & mask;
            let slot = self.slots[at];
            if slot == EMPTY {
                self.slots[at] = u64::from(hash) << 32 | u64::from(id);
                self.used += 1;
                return Ok(None);
            }
            if (slot >> 32) as u32 == hash && self.bytes(slot as u32) == bytes {
                self.slots[at] = u64::from(hash) << 32 | u64::from(id);
                return Ok(Some(slot as u32));
            }
        }
        Err(clustered(what))
    }

    /// Id of the token that is spelled so.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        let hash = hash_bytes(bytes);
        let mask = self.slots.len() - 1;
        for probe in 0..MAX_PROBES {
            let slot = self.slots[(hash as usize + probe) & mask];
            if slot == EMPTY {
                return None;
            }
            if (slot >> 32) as u32 == hash && self.bytes(slot as u32) == bytes {
                return Some(slot as u32);
            }
        }
        None
    }

    fn grow(&mut self, what: &dyn Fn() -> String) -> Result<()> {
        let mut slots = vec![EMPTY; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for &slot in self.slots.iter().filter(|&&slot| slot != EMPTY) {
            let at = (0..MAX_PROBES)
                .map(|probe| ((slot >> 32) as usize + probe) & mask)
                .find(|&at| slots[at] == EMPTY)
                .ok_or_else(|| clustered(what))?;
            slots[at] = slot;
        }
        self.slots = slots;
        Ok(())
    }
}

/// The error for entries chosen so that they all hash alike.
pub(super) fn clustered(what: &dyn Fn() -> String) -> Error {
    Error::format(what(), "too many entries share one hash; the file looks made to slow down its reader")
}

fn hash_bytes(bytes: &[u8]) -> u32 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        state = mix(state ^ word, MULTIPLIER);
    }
    let tail = chunks.remainder().iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    (mix(state ^ tail, MULTIPLIER) >> 32) as u32
}

/// Mixes 64 bits so that every input bit reaches every output bit.
pub(super) fn mix(value: u64, multiplier: u64) -> u64 {
    let product = (value ^ value >> 32).wrapping_mul(multiplier);
    (product ^ product >> 29).wrapping_mul(multiplier)
}
