//! Inputs of a matrix product as int8: `x ≈ scale · q` with one scale for each 32 of a token's values, or with a static range
//! one for all.

use super::simd::{Kernel, Simd, dispatch};

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;

/// Tokens that the many-token kernel takes at once.
pub(super) const TILE: usize = 4;

/// Both factors of a product carry a power of two that keeps them in f32's range: see [`super::matrix`].
const UP: f32 = 72_057_594_037_927_936.0; // 2^56

/// What takes that out again, where a product does not bring the other factor's share.
const DOWN: f32 = 1.0 / UP;

/// 32 inputs of each of four tokens, in the orders that the two kinds of dot product read.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(super) struct InputTile {
    /// `[group of 4][token]`: inputs k, k+2, k+1, k+3.
    pub(super) bytes: [[[i8; 4]; TILE]; 8],
    /// `[pair][token]`: inputs k, k+1.
    pub(super) pairs: [[[i16; 2]; TILE]; 16],
    /// Each token's scale, times 2^56.
    pub(super) scale: [f32; TILE],
    /// Each token's sum of inputs (`scale · Σ q`), times 2^56.
    pub(super) sum: [f32; TILE],
}

impl InputTile {
    const EMPTY: Self =
        Self { bytes: [[[0; 4]; TILE]; 8], pairs: [[[0; 2]; TILE]; 16], scale: [0.0; TILE], sum: [0.0; TILE] };
}

/// One token's inputs, in the same orders.
#[derive(Clone, Default)]
pub(super) struct InputRow {
    /// `[8 columns]`: two groups of 4.
    pub(super) bytes: Vec<[[i8; 4]; 2]>,
    /// `[8 columns]`: four pairs.
    pub(super) pairs: Vec<[[i16; 2]; 4]>,
    /// `[block]`: scale and sum, times 2^56.
    pub(super) scales: Vec<[f32; 2]>,
}

/// Quantizes a block: the inputs, their scale and their sum, the last two times 2^56.
#[inline(always)]
fn quantize<S: Simd>(s: S, x: &[f32; BLOCK]) -> ([i16; BLOCK], [f32; 2]) {
    let quads: &[[f32; 4]; 8] = bytemuck::cast_ref(x);
    let (mut most, mut poison) = (s.splat(0.0), s.splat(0.0));
    for quad in quads {
        let v = s.load(quad);
        most = s.max(most, s.abs(v));
        // A maximum may lose a NaN; a sum of zeros does not.
        poison = s.mul_add(v, s.splat(0.0), poison);
    }
    let (most, poison) = (s.largest(most), s.sum(poison));
    let inverse = 127.0 / most;
    // The inverse of nothing, or nearly nothing, overflows: such a block is zero beside anything else.
    let (scale, inverse) = if inverse.is_finite() { (most / 127.0 + poison, inverse) } else { (poison, 0.0) };
    let mut all = [0; BLOCK];
    let sum = s.round_to_i16(x, inverse, &mut all);
    (all, [scale * UP, scale * sum as f32 * UP])
}

/// The codes on a static range's grid ([`crate::kernels::matmul::on_grid`]), and their sum; poison is 0, or not a number
/// where an input is not a finite one.
#[inline(always)]
fn quantize_on_grid<S: Simd>(s: S, x: &[f32; BLOCK], scale: f32, poison: &mut f32) -> ([i16; BLOCK], i32) {
    let (mut codes, mut bad) = ([0; BLOCK], s.splat(0.0));
    let (scale, low, high) = (s.splat(scale), s.splat(-128.0), s.splat(127.0));
    let eights: &[[[f32; 4]; 2]; 4] = bytemuck::cast_ref(x);
    for (x, to) in eights.iter().zip(codes.as_chunks_mut::<8>().0) {
        let x = [s.load(&x[0]), s.load(&x[1])];
        // Clamped before it is rounded: the same, as both ends are whole.
        let [a, b] = x.map(|x| s.min(high, s.max(low, s.div(x, scale))));
        s.round(a, b, to);
        bad = s.mul_add(x[0], s.splat(0.0), s.mul_add(x[1], s.splat(0.0), bad));
    }
    *poison += s.sum(bad);
    (codes, codes.iter().map(|q| i32::from(*q)).sum())
}

/// What a token's outputs owe to all of its inputs, for weights that have a scale for a whole row.
#[derive(Clone, Copy, Default)]
pub(super) struct Total {
    /// On a grid its step, times no power of two; else 2^−56, since each block has a scale of its own.
    pub(super) scale: f32,
    /// On a grid the sum of the codes, a whole number of at most 24 bits; else that of the inputs, times 2^56.
    pub(super) sum: f32,
}

/// The inputs of a step, quantized once and read by every product that takes them (q, k and v; gate and up).
#[derive(Clone, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    /// One token.
    pub(super) single: InputRow,
    /// More: `[tile of 4 tokens][block]`, the last tile filled up with zeros.
    pub(super) tiles: Vec<InputTile>,
    /// One for each token.
    pub(super) totals: Vec<Total>,
    /// The step of the static range's grid, if there is one.
    grid: Option<f32>,
}

impl Activations {
    /// Quantizes `x`, `[tokens, cols]`, of values up to 1e18. A value that is not a number or infinite makes all outputs
    /// of its token NaN.
    ///
    /// # Panics
    /// If `x` is shorter than its shape.
    pub fn quantize(&mut self, x: &[f32], tokens: usize, cols: usize) {
        self.fill(x, tokens, cols, None);
    }

    /// The same on the grid of a static range, whose step is `scale`: the codes are the specification's own.
    ///
    /// # Panics
    /// If `x` is shorter than its shape.
    pub fn quantize_on_grid(&mut self, x: &[f32], tokens: usize, cols: usize, scale: f32) {
        self.fill(x, tokens, cols, Some(scale));
    }

    fn fill(&mut self, x: &[f32], tokens: usize, cols: usize, grid: Option<f32>) {
        let x = &x[..tokens * cols];
        (self.tokens, self.cols, self.grid) = (tokens, cols, grid);
        self.totals.clear();
        let blocks = cols.div_ceil(BLOCK);
        if tokens == 1 {
            self.single.bytes.resize(4 * blocks, [[0; 4]; 2]);
            self.single.pairs.resize(4 * blocks, [[0; 2]; 4]);
            self.single.scales.resize(blocks, [0.0; 2]);
        } else {
            self.tiles.resize(tokens.div_ceil(TILE) * blocks, InputTile::EMPTY);
            // The tokens that fill up the last tile.
            let last = self.tiles.len() - blocks;
            self.tiles[last..].fill(InputTile::EMPTY);
        }
        dispatch(Quantize { to: self, x, blocks });
    }

    /// Tokens of the last [`Activations::quantize`].
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of the last [`Activations::quantize`].
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// True when the inputs lie on a static range's grid: sums over a whole row are then exact in integers.
    pub fn is_on_grid(&self) -> bool {
        self.grid.is_some()
    }
}

struct Quantize<'a> {
    to: &'a mut Activations,
    x: &'a [f32],
    blocks: usize,
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.is_empty() {
            return;
        }
        let Self { to, x, blocks } = self;
        for (token, row) in x.chunks_exact(to.cols).enumerate() {
            let first = token / TILE * blocks;
            let (chunks, rest) = row.as_chunks::<BLOCK>();
            let mut last = [0.0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            let (mut total, mut poison) = (0.0, 0.0);
            for (b, x) in chunks.iter().chain((!rest.is_empty()).then_some(&last)).enumerate() {
                let (q, scales) = match to.grid {
                    None => {
                        let (q, scales) = quantize(s, x);
                        total += scales[1];
                        (q, scales)
                    }
                    Some(step) => {
                        let (q, sum) = quantize_on_grid(s, x, step, &mut poison);
                        total += sum as f32;
                        (q, [step * UP, step * sum as f32 * UP])
                    }
                };
                match to.tokens {
                    1 => to.single.set(b, &q, scales),
                    _ => to.tiles[first + b].set(token % TILE, &q, scales),
                }
            }
            to.totals.push(Total { scale: to.grid.map_or(DOWN, |step| step + poison), sum: total });
        }
    }
}

impl InputRow {
    #[inline(always)]
    fn set(&mut self, block: usize, q: &[i16; BLOCK], scales: [f32; 2]) {
        self.scales[block] = scales;
        let (bytes, _) = self.bytes.as_chunks_mut::<4>();
        let (pairs, _) = self.pairs.as_chunks_mut::<4>();
        pairs[block] = bytemuck::cast(*q);
        let (quads, _) = q.as_chunks::<4>();
        for (to, q) in bytes[block].as_flattened_mut().iter_mut().zip(quads) {
            *to = narrow(*q);
        }
    }
}

impl InputTile {
    #[inline(always)]
    fn set(&mut self, t: usize, q: &[i16; BLOCK], scales: [f32; 2]) {
        [self.scale[t], self.sum[t]] = scales;
        let (pairs, _) = q.as_chunks::<2>();
        for (to, q) in self.pairs.iter_mut().zip(pairs) {
            to[t] = *q;
        }
        let (quads, _) = q.as_chunks::<4>();
        for (to, q) in self.bytes.iter_mut().zip(quads) {
            to[t] = narrow(*q);
        }
    }
}

/// Four inputs in the order of bytes.
#[inline(always)]
fn narrow(q: [i16; 4]) -> [i8; 4] {
    [q[0] as i8, q[2] as i8, q[1] as i8, q[3] as i8]
}
