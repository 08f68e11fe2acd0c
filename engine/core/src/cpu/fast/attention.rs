//! A key/value cache in bf16 and attention over it.
//!
//! Positions lie in chunks of 128, allocated as they are reached. In a chunk each head's keys lie transposed, 16 positions
//! beside each other for every column, so that a vector lane is a position and scores need no horizontal sums; values lie
//! as they are, 16 columns beside each other, so that a lane is a column.
//!
//! The query heads that share a key/value head, of one token or of several, are rows of one small product: up to three
//! rows meet every unpacked key and value. The softmax runs along the chunks, with a running maximum and sum.

use half::bf16;

use super::simd::{Kernel, Simd, dispatch};
use crate::error::{Error, Result};
use crate::kernels::Attention;
use crate::recording::KvInfo;

/// Positions in a chunk.
const CHUNK: usize = 128;

/// Numbers that lie beside each other: positions of a key column, columns of a value.
const LANES: usize = 16;

/// The widest head.
const MAX_HEAD_DIM: usize = 512;

/// Sixteen bf16 numbers as two vectors, each in the order of [`Simd::bf16`].
type Sixteen = [[u16; 8]; 2];

/// Where number `i` of sixteen lies.
const fn place(i: usize) -> (usize, usize) {
    (i / 8, if i % 8 < 4 { i % 4 * 2 } else { i % 4 * 2 + 1 })
}

struct Chunk {
    /// `[head][16 positions][column]`.
    keys: Vec<Sixteen>,
    /// `[head][16 columns][position]`.
    values: Vec<Sixteen>,
}

/// Keys and values of one layer.
pub struct FastKv {
    heads: usize,
    head_dim: usize,
    chunks: Vec<Chunk>,
}

impl FastKv {
    /// An empty cache.
    pub fn new(info: KvInfo) -> Result<Self> {
        if info.head_dim == 0 || info.head_dim > MAX_HEAD_DIM {
            return Err(Error::unsupported(
                format!("a head of width {}", info.head_dim),
                format!("the fast path takes 1 to {MAX_HEAD_DIM}"),
            ));
        }
        Ok(Self { heads: info.heads, head_dim: info.head_dim, chunks: Vec::new() })
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let one = |c: &Chunk| size_of_val(c.keys.as_slice()) + size_of_val(c.values.as_slice());
        self.chunks.iter().map(one).sum()
    }

    /// Gives back the space of positions from `len` on, but for the chunk that holds it.
    pub fn truncate(&mut self, len: usize) {
        self.chunks.truncate(len.div_ceil(CHUNK));
    }

    fn value_groups(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Copies rows of k and v, `[T, heads · head_dim]` each, to positions from `position` on.
    pub fn append(&mut self, position: usize, k: &[f32], v: &[f32]) {
        let (d, groups) = (self.head_dim, self.value_groups());
        let width = self.heads * d;
        for (i, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let (chunk, at) = ((position + i) / CHUNK, (position + i) % CHUNK);
            while self.chunks.len() <= chunk {
                self.chunks.push(Chunk {
                    keys: vec![[[0; 8]; 2]; self.heads * CHUNK / LANES * d],
                    values: vec![[[0; 8]; 2]; self.heads * CHUNK * groups],
                });
            }
            let chunk = &mut self.chunks[chunk];
            let (half, slot) = place(at % LANES);
            for (head, k) in k.chunks_exact(d).enumerate() {
                let first = (head * CHUNK / LANES + at / LANES) * d;
                for (to, k) in chunk.keys[first..first + d].iter_mut().zip(k) {
                    to[half][slot] = bf16::from_f32(*k).to_bits();
                }
            }
            for (head, v) in v.chunks_exact(d).enumerate() {
                for (group, v) in v.chunks(LANES).enumerate() {
                    let to = &mut chunk.values[(head * groups + group) * CHUNK + at];
                    for (i, v) in v.iter().enumerate() {
                        let (half, slot) = place(i);
                        to[half][slot] = bf16::from_f32(*v).to_bits();
                    }
                }
            }
        }
    }

    /// Attention of queries `q`, `[T, H·d]`, at positions from `position` on, whose keys and values are in the cache
    /// already; `out` is `[T, H·d]`. Heads, scale and window are `op`'s.
    ///
    /// # Panics
    /// If a position is not in the cache, or `out` is shorter than `q`.
    pub fn attention(&self, op: &Attention, position: usize, q: &[f32], out: &mut [f32]) {
        let width = op.heads * self.head_dim;
        let tokens = q.len() / width;
        let group = op.heads / self.heads;
        let out = &mut out[..tokens * width];
        for head in 0..self.heads {
            // Row r is query head r % group of token r / group.
            let total = tokens * group;
            let mut row = 0;
            while row < total {
                let step = Step { kv: self, op, position, head, group, first: row, q, out: &mut *out };
                row += match total - row {
                    1 => dispatch(Rows::<1>(step)),
                    2 | 4 => dispatch(Rows::<2>(step)),
                    _ => dispatch(Rows::<3>(step)),
                };
            }
        }
    }
}

struct Step<'a> {
    kv: &'a FastKv,
    op: &'a Attention,
    position: usize,
    /// The key/value head.
    head: usize,
    /// Query heads that share it.
    group: usize,
    /// The first row.
    first: usize,
    q: &'a [f32],
    out: &'a mut [f32],
}

/// Attention of `R` rows; returns `R`.
struct Rows<'a, const R: usize>(Step<'a>);

/// What a masked score is: below every real one, and finite.
const MASKED: f32 = -3e38;

impl<const R: usize> Kernel for Rows<'_, R> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Step { kv, op, position, head, group, first, q, out } = self.0;
        let (d, groups) = (kv.head_dim, kv.value_groups());
        let row = |r: usize| {
            let (token, member) = ((first + r) / group, (first + r) % group);
            (position + token, ((token * kv.heads + head) * group + member) * d)
        };
        let mut queries = [[0.0; R]; MAX_HEAD_DIM];
        let queries = &mut queries[..d];
        let mut seen: [_; R] = core::array::from_fn(|_| 0..0);
        for r in 0..R {
            let (at, start) = row(r);
            seen[r] = op.visible(at);
            for (to, q) in queries.iter_mut().zip(&q[start..start + d]) {
                to[r] = q * op.scale;
            }
        }
        let begin = seen.iter().map(|s| s.start).min().unwrap_or(0);
        let end = seen.iter().map(|s| s.end).max().unwrap_or(0);

        let mut sums = [[[[0.0f32; 4]; 4]; R]; MAX_HEAD_DIM / LANES];
        let sums = &mut sums[..groups];
        let (mut most, mut total) = ([-1e30f32; R], [0.0f32; R]);
        let mut scores = [[0.0f32; CHUNK]; R];
        for c in begin / CHUNK..end.div_ceil(CHUNK) {
            let chunk = &kv.chunks[c];
            // Whole groups of 16 positions; those outside a row's range are masked.
            let from = begin.saturating_sub(c * CHUNK) / LANES * LANES;
            let to = (end - c * CHUNK).min(CHUNK).next_multiple_of(LANES);
            let keys = &chunk.keys[head * CHUNK / LANES * d..][..CHUNK / LANES * d];
            for g in from / LANES..to / LANES {
                let found = score(s, &keys[g * d..(g + 1) * d], queries);
                for r in 0..R {
                    for (i, v) in found[r].into_iter().enumerate() {
                        if let Some(to) = scores[r][g * LANES + 4 * i..].first_chunk_mut() {
                            s.store(v, to);
                        }
                    }
                }
            }
            for r in 0..R {
                for (i, v) in scores[r].iter_mut().enumerate().take(to).skip(from) {
                    if !seen[r].contains(&(c * CHUNK + i)) {
                        *v = MASKED;
                    }
                }
                let (quads, _) = scores[r][from..to].as_chunks_mut::<4>();
                let mut best = s.splat(most[r]);
                for quad in &*quads {
                    best = s.max(best, s.load(quad));
                }
                let best = s.largest(best);
                let mut sum = s.splat(0.0);
                for quad in quads {
                    let p = s.exp(s.sub(s.load(quad), s.splat(best)));
                    sum = s.add(sum, p);
                    s.store(p, quad);
                }
                if best > most[r] {
                    let shrink = (most[r] - best).exp();
                    total[r] *= shrink;
                    for v in sums.iter_mut().flat_map(|g| g[r].as_flattened_mut()) {
                        *v *= shrink;
                    }
                    most[r] = best;
                }
                total[r] += s.sum(sum);
            }
            for (group, sums) in sums.iter_mut().enumerate() {
                let values = &chunk.values[(head * groups + group) * CHUNK..][..CHUNK];
                weigh(s, &values[from..to], &scores, from, sums);
            }
        }
        for r in 0..R {
            let (_, start) = row(r);
            for (sums, out) in sums.iter().zip(out[start..start + d].chunks_mut(LANES)) {
                for (out, v) in out.iter_mut().zip(sums[r].as_flattened()) {
                    *out = v / total[r];
                }
            }
        }
        R
    }
}

/// Scores of `R` rows at 16 positions: `keys` is `[d]`, 16 positions each.
#[inline(always)]
fn score<S: Simd, const R: usize>(s: S, keys: &[Sixteen], queries: &[[f32; R]]) -> [[S::F; 4]; R] {
    let mut sums = [[s.splat(0.0); 4]; R];
    for (key, q) in keys.iter().zip(queries) {
        let ([a, b], [c, d]) = (s.bf16(&key[0]), s.bf16(&key[1]));
        for (sums, q) in sums.iter_mut().zip(q) {
            let q = s.splat(*q);
            sums[0] = s.mul_add(a, q, sums[0]);
            sums[1] = s.mul_add(b, q, sums[1]);
            sums[2] = s.mul_add(c, q, sums[2]);
            sums[3] = s.mul_add(d, q, sums[3]);
        }
    }
    sums
}

/// Adds 16 columns of values, weighted by each row's `weights[from..]`.
#[inline(always)]
fn weigh<S: Simd, const R: usize>(
    s: S,
    values: &[Sixteen],
    weights: &[[f32; CHUNK]; R],
    from: usize,
    out: &mut [[[f32; 4]; 4]; R],
) {
    let mut sums: [[S::F; 4]; R] = core::array::from_fn(|r| core::array::from_fn(|i| s.load(&out[r][i])));
    let from = from.min(CHUNK - values.len().min(CHUNK));
    for (i, value) in values.iter().enumerate().take(CHUNK) {
        let ([a, b], [c, d]) = (s.bf16(&value[0]), s.bf16(&value[1]));
        for r in 0..R {
            let w = s.splat(weights[r][from + i]);
            sums[r][0] = s.mul_add(a, w, sums[r][0]);
            sums[r][1] = s.mul_add(b, w, sums[r][1]);
            sums[r][2] = s.mul_add(c, w, sums[r][2]);
            sums[r][3] = s.mul_add(d, w, sums[r][3]);
        }
    }
    for r in 0..R {
        for i in 0..4 {
            s.store(sums[r][i], &mut out[r][i]);
        }
    }
}
