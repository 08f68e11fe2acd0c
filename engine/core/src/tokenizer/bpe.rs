//! Byte-pair merging in O(n log n): a heap of candidate pairs over a linked list of symbols.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::vocab::{MAX_PROBES, Vocab, clustered, mix};
use crate::{Error, Result};

/// Most merges a tokenizer may have; six times the largest list known.
pub(super) const MAX_MERGES: usize = 3 << 20;
/// Longest piece that merging by score looks up; bounds the work a hostile vocabulary can cause.
const MAX_SCORED_BYTES: usize = 512;
/// A symbol that no token spells.
pub(super) const NO_TOKEN: u32 = u32::MAX;

const NONE: u32 = u32::MAX;

/// What two neighbours become: the lowest rank merges first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

#[derive(Debug, Clone, Copy)]
struct PairSlot {
    left: u32,
    right: u32,
    merge: Merge,
}

const EMPTY: PairSlot = PairSlot { left: NONE, right: NONE, merge: Merge { rank: NONE, id: NONE } };

/// A flat hash table from a pair of ids to their merge.
#[derive(Debug, Clone)]
pub(super) struct PairTable {
    slots: Vec<PairSlot>,
    used: usize,
}

impl PairTable {
    /// An empty table that takes about so many merges before it grows.
    pub(super) fn with_room_for(merges: usize) -> Self {
        let slots = (merges.min(MAX_MERGES) * 4 / 3).next_power_of_two().max(1 << 8);
        Self { slots: vec![EMPTY; slots], used: 0 }
    }

    pub(super) fn insert(&mut self, left: u32, right: u32, merge: Merge, what: &dyn Fn() -> String) -> Result<()> {
        if self.used >= MAX_MERGES {
            return Err(Error::format(what(), format!("there are more than {MAX_MERGES} merges")));
        }
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![EMPTY; old.len() * 2];
            self.used = 0;
            for slot in old.iter().filter(|slot| slot.left != NONE) {
                self.place(*slot, what)?;
            }
        }
        self.place(PairSlot { left, right, merge }, what)
    }

    pub(super) fn find(&self, left: u32, right: u32) -> Option<Merge> {
        let mask = self.slots.len() - 1;
        let hash = hash_pair(left, right);
        for probe in 0..MAX_PROBES {
            let slot = self.slots[(hash + probe) & mask];
            if slot.left == left && slot.right == right {
                return (left != NONE).then_some(slot.merge);
            }
            if slot.left == NONE {
                return None;
            }
        }
        None
    }

    fn place(&mut self, new: PairSlot, what: &dyn Fn() -> String) -> Result<()> {
        let mask = self.slots.len() - 1;
        let hash = hash_pair(new.left, new.right);
        for probe in 0..MAX_PROBES {
            let slot = &mut self.slots[(hash + probe) & mask];
            if slot.left == NONE {
                self.used += 1;
                *slot = new;
                return Ok(());
            }
            if slot.left == new.left && slot.right == new.right {
                *slot = new;
                return Ok(());
            }
        }
        Err(clustered(what))
    }
}

fn hash_pair(left: u32, right: u32) -> usize {
    (mix(u64::from(left) << 32 | u64::from(right), 0xD6E8_FEB8_6659_FD93) >> 20) as usize
}

/// Where merges come from.
#[derive(Debug, Clone)]
pub(super) enum Merges {
    /// A list of pairs in the order they were learned.
    Ranked(PairTable),
    /// A score per token: neighbours merge into any token that spells both, the best score first.
    Scored(Vec<f32>),
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    /// Bytes of the text that it covers.
    start: u32,
    end: u32,
    prev: u32,
    next: u32,
    /// Merge with the next symbol; rank `NONE` when there is none.
    merge: Merge,
}

/// Scratch space for merging, reused from run to run.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// Rank in the high half, position in the low half: pops the best, then the leftmost.
    heap: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Starts a run.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends a symbol that covers `start..end` of the run's text.
    pub(super) fn push(&mut self, id: u32, start: usize, end: usize) {
        let at = self.symbols.len() as u32;
        self.symbols.push(Symbol {
            id,
            start: start as u32,
            end: end as u32,
            prev: at.wrapping_sub(1),
            next: at + 1,
            merge: EMPTY.merge,
        });
    }

    /// Merges until nothing merges any more, then hands each symbol's id and text range to `emit`.
    pub(super) fn run(&mut self, text: &[u8], vocab: &Vocab, merges: &Merges, mut emit: impl FnMut(u32, &[u8])) {
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for at in 0..self.symbols.len() as u32 {
            self.offer(at, text, vocab, merges);
        }
        while let Some(Reverse(entry)) = self.heap.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32);
            let symbol = self.symbols[at as usize];
            if symbol.merge.rank != rank || symbol.next == NONE {
                continue;
            }
            let right = self.symbols[symbol.next as usize];
            // The swallowed symbol may still be named by the heap.
            self.symbols[symbol.next as usize].merge = EMPTY.merge;
            self.symbols[at as usize].id = symbol.merge.id;
            self.symbols[at as usize].end = right.end;
            self.symbols[at as usize].next = right.next;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = at;
            }
            self.offer(at, text, vocab, merges);
            if symbol.prev != NONE {
                self.offer(symbol.prev, text, vocab, merges);
            }
        }
        let mut at = if self.symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = self.symbols[at as usize];
            emit(symbol.id, text.get(symbol.start as usize..symbol.end as usize).unwrap_or_default());
            at = symbol.next;
        }
    }

    /// Looks up the merge of the symbol with its right neighbour and queues it.
    fn offer(&mut self, at: u32, text: &[u8], vocab: &Vocab, merges: &Merges) {
        let symbol = self.symbols[at as usize];
        let merge = match self.symbols.get(symbol.next as usize) {
            None => None,
            Some(right) => match merges {
                Merges::Ranked(pairs) => pairs.find(symbol.id, right.id),
                Merges::Scored(scores) => scored(text, symbol.start, right.end, vocab, scores),
            },
        };
        self.symbols[at as usize].merge = merge.unwrap_or(EMPTY.merge);
        if let Some(merge) = merge {
            self.heap.push(Reverse(u64::from(merge.rank) << 32 | u64::from(at)));
        }
    }
}

fn scored(text: &[u8], start: u32, end: u32, vocab: &Vocab, scores: &[f32]) -> Option<Merge> {
    let bytes = text.get(start as usize..end as usize).filter(|bytes| bytes.len() <= MAX_SCORED_BYTES)?;
    let id = vocab.find(bytes).filter(|&id| !super::is_control(vocab.kind(id)))?;
    let bits = scores.get(id as usize)?.to_bits();
    // Maps floats to integers in falling order, so that the highest score has the lowest rank.
    let rising = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    Some(Merge { rank: (!rising).min(NONE - 1), id })
}
