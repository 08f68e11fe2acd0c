//! A key/value cache, in bf16 or exact, and attention over it.
//!
//! Positions lie in chunks of 128, allocated as they are reached. In a chunk each head's keys lie transposed, 8 positions
//! beside each other for every column, so that a vector lane is a position and scores need no horizontal sums; values lie
//! as they are, 8 columns beside each other, so that a lane is a column.
//!
//! The query heads that share a key/value head, of one token or of several, are rows of one small product: up to four
//! rows meet every unpacked key and value. The softmax runs along the chunks, with a running maximum and sum.

use core::ops::Range;

use super::numbers::{Eight, Exact, LANES, Precision, Rounded, products};
use super::simd::{Exp, Kernel, Simd, dispatch};
use crate::error::{Error, Result};
use crate::kernels::Attention;
use crate::recording::KvInfo;

/// Positions in a chunk.
const CHUNK: usize = 128;

/// The most rows that meet a key at once: their sums and all else in the inner loops fit 15 registers.
const ROWS: usize = 4;

/// The widest head.
const MAX_HEAD_DIM: usize = 1024;

struct Chunk<N> {
    /// `[head][8 positions][column]`.
    keys: Vec<N>,
    /// `[head][8 columns][position]`.
    values: Vec<N>,
}

/// Keys and values of one layer.
pub struct FastKv(Stored);

enum Stored {
    Rounded(Cache<Rounded>),
    Exact(Cache<Exact>),
}

/// Runs an expression on the cache, whatever it stores.
macro_rules! with_cache {
    ($stored:expr, $name:ident => $result:expr) => {
        match $stored {
            Stored::Rounded($name) => $result,
            Stored::Exact($name) => $result,
        }
    };
}

impl FastKv {
    /// An empty cache.
    pub fn new(info: KvInfo, precision: Precision) -> Result<Self> {
        if info.heads == 0 || info.head_dim == 0 || info.head_dim > MAX_HEAD_DIM {
            return Err(Error::unsupported(
                format!("a cache of {} heads of width {}", info.heads, info.head_dim),
                format!("the fast path takes widths of 1 to {MAX_HEAD_DIM}"),
            ));
        }
        Ok(Self(match precision {
            Precision::Rounded => Stored::Rounded(Cache::new(info)),
            Precision::Exact => Stored::Exact(Cache::new(info)),
        }))
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        with_cache!(&self.0, cache => cache.bytes())
    }

    /// Gives back the space of positions from `len` on, but for the rest of the chunk that `len` falls in.
    pub fn truncate(&mut self, len: usize) {
        with_cache!(&mut self.0, cache => cache.chunks.truncate(len.div_ceil(CHUNK)));
    }

    /// Copies rows of k and v, `[T, heads · head_dim]` each, to positions from `position` on.
    pub fn append(&mut self, position: usize, k: &[f32], v: &[f32]) {
        with_cache!(&mut self.0, cache => cache.append(position, k, v));
    }

    /// Attention of queries `q`, `[T, H·d]`, at positions from `position` on, whose keys and values are in the cache
    /// already; `out` is `[T, H·d]`. Heads, scale and window are `op`'s.
    ///
    /// # Panics
    /// If a position is not in the cache, or `out` is shorter than `q`.
    pub fn attention(&self, op: &Attention, position: usize, q: &[f32], out: &mut [f32]) {
        with_cache!(&self.0, cache => cache.attention(op, position, q, out));
    }
}

struct Cache<N> {
    heads: usize,
    head_dim: usize,
    chunks: Vec<Chunk<N>>,
}

impl<N: Eight> Cache<N> {
    fn new(info: KvInfo) -> Self {
        Self { heads: info.heads, head_dim: info.head_dim, chunks: Vec::new() }
    }

    fn bytes(&self) -> usize {
        let one = |c: &Chunk<N>| size_of_val(c.keys.as_slice()) + size_of_val(c.values.as_slice());
        self.chunks.iter().map(one).sum()
    }

    fn value_groups(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn append(&mut self, position: usize, k: &[f32], v: &[f32]) {
        let (d, groups) = (self.head_dim, self.value_groups());
        let width = self.heads * d;
        for (i, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let (chunk, at) = ((position + i) / CHUNK, (position + i) % CHUNK);
            while self.chunks.len() <= chunk {
                self.chunks.push(Chunk {
                    keys: bytemuck::zeroed_vec(self.heads * CHUNK / LANES * d),
                    values: bytemuck::zeroed_vec(self.heads * CHUNK * groups),
                });
            }
            let chunk = &mut self.chunks[chunk];
            for (head, k) in k.chunks_exact(d).enumerate() {
                let first = (head * CHUNK / LANES + at / LANES) * d;
                for (to, k) in chunk.keys[first..first + d].iter_mut().zip(k) {
                    to.set(at % LANES, *k);
                }
            }
            for (head, v) in v.chunks_exact(d).enumerate() {
                for (group, v) in v.chunks(LANES).enumerate() {
                    let to = &mut chunk.values[(head * groups + group) * CHUNK + at];
                    for (i, v) in v.iter().enumerate() {
                        to.set(i, *v);
                    }
                }
            }
        }
    }

    fn attention(&self, op: &Attention, position: usize, q: &[f32], out: &mut [f32]) {
        let width = op.heads * self.head_dim;
        let tokens = q.len() / width;
        let group = op.heads / self.heads;
        let mut scratch = vec![[0.0; 4]; ROWS * (self.head_dim.div_ceil(4) + 2 * self.value_groups())];
        for head in 0..self.heads {
            let total = tokens * group;
            let mut row = 0;
            while row < total {
                let step = Step {
                    kv: self,
                    op,
                    position,
                    head,
                    group,
                    first: row,
                    q,
                    scratch: &mut scratch,
                    out: &mut out[..tokens * width],
                };
                row += match total - row {
                    1 => dispatch(Rows::<N, 1>(step)),
                    2 => dispatch(Rows::<N, 2>(step)),
                    3 => dispatch(Rows::<N, 3>(step)),
                    _ => dispatch(Rows::<N, ROWS>(step)),
                };
            }
        }
    }
}

struct Step<'a, N> {
    kv: &'a Cache<N>,
    op: &'a Attention,
    position: usize,
    /// The key/value head.
    head: usize,
    /// Query heads that share it.
    group: usize,
    /// The first row: row r is query head r % group of token r / group.
    first: usize,
    q: &'a [f32],
    /// Space for the rows' queries and sums.
    scratch: &'a mut [[f32; 4]],
    out: &'a mut [f32],
}

/// Attention of `R` rows; returns `R`.
struct Rows<'a, N, const R: usize>(Step<'a, N>);

/// What a masked score is: below every real one, and finite.
const MASKED: f32 = -3e38;

impl<N: Eight, const R: usize> Kernel for Rows<'_, N, R> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Step { kv, op, position, head, group, first, q, scratch, out } = self.0;
        let (d, groups) = (kv.head_dim, kv.value_groups());
        let row = |r: usize| {
            let (token, member) = ((first + r) / group, (first + r) % group);
            (position + token, ((token * kv.heads + head) * group + member) * d)
        };
        let (sums, queries) = scratch.split_at_mut(groups * 2 * R);
        let (sums, _) = sums.as_chunks_mut::<2>();
        let (sums, _) = sums.as_chunks_mut::<R>();
        sums.as_flattened_mut().fill([[0.0; 4]; 2]);
        let (queries, _) = queries.as_flattened_mut().as_chunks_mut::<R>();
        let queries = &mut queries[..d];
        let seen: [_; R] = core::array::from_fn(|r| op.visible(row(r).0));
        for r in 0..R {
            let start = row(r).1;
            for (to, q) in queries.iter_mut().zip(&q[start..start + d]) {
                to[r] = q * op.scale;
            }
        }
        let begin = seen.iter().map(|s| s.start).min().unwrap_or(0);
        let end = seen.iter().map(|s| s.end).max().unwrap_or(0);

        let (mut most, mut total) = ([-1e30f32; R], [0.0f32; R]);
        let mut scores = [[0.0f32; CHUNK]; R];
        let exp = Exp::new(s);
        for c in begin / CHUNK..end.div_ceil(CHUNK) {
            let chunk = &kv.chunks[c];
            // Whole groups of 8 positions; those outside a row's range are masked.
            let from = begin.saturating_sub(c * CHUNK) / LANES * LANES;
            let to = (end - c * CHUNK).min(CHUNK).next_multiple_of(LANES);
            let keys = &chunk.keys[head * CHUNK / LANES * d..][..CHUNK / LANES * d];
            for (g, keys) in keys.chunks_exact(d).enumerate().take(to / LANES).skip(from / LANES) {
                let found = products(s, keys, queries);
                for (scores, found) in scores.iter_mut().zip(found) {
                    let (scores, _) = scores.as_chunks_mut::<4>();
                    if let [low, high] = &mut scores[2 * g..2 * g + 2] {
                        s.store(found[0], low);
                        s.store(found[1], high);
                    }
                }
            }
            for r in 0..R {
                let scores = &mut scores[r];
                for (i, v) in scores.iter_mut().enumerate().take(to).skip(from) {
                    if !seen[r].contains(&(c * CHUNK + i)) {
                        *v = MASKED;
                    }
                }
                let (quads, _) = scores[from..to].as_chunks_mut::<4>();
                let mut best = s.splat(most[r]);
                for quad in &*quads {
                    best = s.max(best, s.load(quad));
                }
                let best = s.largest(best);
                let (largest, best) = (best, s.splat(best));
                let mut sum = s.splat(0.0);
                for quad in quads {
                    let p = exp.of(s, s.sub(s.load(quad), best));
                    sum = s.add(sum, p);
                    s.store(p, quad);
                }
                if largest > most[r] {
                    let shrink = (most[r] - largest).exp();
                    total[r] *= shrink;
                    for v in sums.iter_mut().flat_map(|group| group[r].as_flattened_mut()) {
                        *v *= shrink;
                    }
                    most[r] = largest;
                }
                total[r] += s.sum(sum);
            }
            let (values, _) = chunk.values[head * groups * CHUNK..].as_chunks::<CHUNK>();
            for (values, sums) in values.iter().zip(sums.iter_mut()) {
                weigh(s, values, &scores, from..to, sums);
            }
        }
        for r in 0..R {
            let start = row(r).1;
            for (sums, out) in sums.iter().zip(out[start..start + d].chunks_mut(LANES)) {
                for (out, v) in out.iter_mut().zip(sums[r].as_flattened()) {
                    *out = v / total[r];
                }
            }
        }
        R
    }
}

/// Adds 8 columns of the values at `positions` of a chunk, weighted by each row's weights.
#[inline(always)]
fn weigh<S: Simd, N: Eight, const R: usize>(
    s: S,
    values: &[N; CHUNK],
    weights: &[[f32; CHUNK]; R],
    positions: Range<usize>,
    out: &mut [[[f32; 4]; 2]; R],
) {
    let mut sums: [[S::F; 2]; R] = core::array::from_fn(|r| [s.load(&out[r][0]), s.load(&out[r][1])]);
    for j in positions.start..positions.end.min(CHUNK) {
        let [low, high] = values[j].load(s);
        for r in 0..R {
            let w = s.splat(weights[r][j]);
            sums[r] = [s.mul_add(low, w, sums[r][0]), s.mul_add(high, w, sums[r][1])];
        }
    }
    for r in 0..R {
        s.store(sums[r][0], &mut out[r][0]);
        s.store(sums[r][1], &mut out[r][1]);
    }
}
