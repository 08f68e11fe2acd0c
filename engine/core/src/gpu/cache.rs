//! Key/value caches on the graphics device: how they are stored, which of them are rings, and what they take.

use crate::kernels::Op;
use crate::recording::{KvInfo, Recording};

/// How keys and values are stored. Neither format needs a feature of the device: f16 are packed in words, by functions that
/// every WGSL compiler has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheFormat {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to f16, and what is beyond ±65504 to that.
    F16,
}

impl CacheFormat {
    /// Both.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Bytes of a key's or value's number.
    pub const fn value_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Bytes of so many positions in one of a slot's two caches.
    pub(super) const fn bytes(self, kv: &KvInfo, positions: usize) -> u64 {
        (kv.heads * kv.head_dim * positions) as u64 * self.value_bytes()
    }
}

/// A ring holds so many windows: a conversation may be resumed that far before its end.
const RING_WINDOWS: usize = 3;

/// For each slot what positions are masked with to find their row: caches that only windows read are rings. `max_tokens` are
/// the most of a step.
pub(super) fn rings(recording: &Recording, max_tokens: usize) -> Vec<u32> {
    let ring = |slot: usize| {
        let readers = recording.ops.iter().filter_map(|op| match op {
            Op::Attention(op) if op.slot.0 as usize == slot => Some(op.window),
            _ => None,
        });
        // The widest window, if every reader has one.
        let window = readers.map(|w| w.unwrap_or(usize::MAX)).max().unwrap_or(usize::MAX);
        // A step's first token still sees its whole window when the last one is in.
        let rows = window.checked_mul(RING_WINDOWS)?.checked_add(max_tokens)?.checked_next_power_of_two()?;
        u32::try_from(rows).ok().map(|rows| rows - 1)
    };
    (0..recording.kv.len()).map(|slot| ring(slot).unwrap_or(u32::MAX)).collect()
}

/// The row of a cache's end: rows for `positions`, or all of a ring.
pub(super) fn cache_rows(ring: u32, positions: usize) -> usize {
    positions.min((ring as usize).saturating_add(1))
}

/// Bytes of all caches of a recording, keys and values, when they hold `positions`, on an executor whose steps have at most
/// `max_tokens` tokens.
pub fn all_caches_bytes(recording: &Recording, max_tokens: usize, positions: usize, format: CacheFormat) -> u64 {
    let rings = rings(recording, max_tokens);
    recording.kv.iter().zip(rings).map(|(kv, ring)| 2 * format.bytes(kv, cache_rows(ring, positions))).sum()
}
