//! Inputs of a matrix product as int8: `x ≈ scale · q` with one scale for each 32 of a token's values.

use super::simd::{Kernel, Simd, dispatch};

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;

/// Tokens that the many-token kernel takes at once.
pub(super) const TILE: usize = 4;

/// Both factors of a product carry a power of two that keeps them in f32's range: see [`super::matrix`].
const UP: f32 = 72_057_594_037_927_936.0; // 2^56

/// 32 inputs of each of `W` tokens, in the orders that the two kinds of dot product read.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct InputBlock<const W: usize> {
    /// `[group of 4][token]`: inputs k, k+2, k+1, k+3.
    pub(super) bytes: [[[i8; 4]; W]; 8],
    /// `[pair][token]`: inputs k, k+1.
    pub(super) pairs: [[[i16; 2]; W]; 16],
    /// Each token's scale, times 2^56.
    pub(super) scale: [f32; W],
    /// Each token's sum of inputs (`scale · Σ q`), times 2^56.
    pub(super) sum: [f32; W],
}

impl<const W: usize> InputBlock<W> {
    const EMPTY: Self = Self { bytes: [[[0; 4]; W]; 8], pairs: [[[0; 2]; W]; 16], scale: [0.0; W], sum: [0.0; W] };

    #[inline(always)]
    fn set<S: Simd>(&mut self, s: S, token: usize, x: &[f32; BLOCK]) {
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
        let mut sum = 0;
        for (group, quad) in quads.iter().enumerate() {
            let mut q = [0.0; 4];
            s.store(s.nearest(s.mul(s.load(quad), s.splat(inverse))), &mut q);
            let q = q.map(|q| q as i16);
            self.bytes[group][token] = [q[0] as i8, q[2] as i8, q[1] as i8, q[3] as i8];
            self.pairs[2 * group][token] = [q[0], q[1]];
            self.pairs[2 * group + 1][token] = [q[2], q[3]];
            sum += i32::from(q[0]) + i32::from(q[1]) + i32::from(q[2]) + i32::from(q[3]);
        }
        self.scale[token] = scale * UP;
        self.sum[token] = scale * sum as f32 * UP;
    }
}

/// The inputs of a step, quantized once and read by every product that takes them (q, k and v; gate and up).
#[derive(Clone, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    /// One token: a block for each 32 columns.
    pub(super) single: Vec<InputBlock<1>>,
    /// More: `[tile of 4 tokens][block]`, the last tile filled up with zeros.
    pub(super) tiles: Vec<InputBlock<TILE>>,
}

impl Activations {
    /// Quantizes `x`, `[tokens, cols]`, of values up to 1e18. A value that is not a number or infinite makes all outputs
    /// of its token NaN.
    ///
    /// # Panics
    /// If `x` is shorter than its shape.
    pub fn quantize(&mut self, x: &[f32], tokens: usize, cols: usize) {
        let x = &x[..tokens * cols];
        (self.tokens, self.cols) = (tokens, cols);
        let blocks = cols.div_ceil(BLOCK);
        self.single.clear();
        self.tiles.clear();
        if tokens == 1 {
            self.single.resize(blocks, InputBlock::EMPTY);
        } else {
            self.tiles.resize(tokens.div_ceil(TILE) * blocks, InputBlock::EMPTY);
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
        for (token, row) in self.x.chunks_exact(self.to.cols).enumerate() {
            let first = token / TILE * self.blocks;
            let (chunks, rest) = row.as_chunks::<BLOCK>();
            let mut last = [0.0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            let values = chunks.iter().chain((!rest.is_empty()).then_some(&last));
            if self.to.tokens == 1 {
                for (block, x) in self.to.single.iter_mut().zip(values) {
                    block.set(s, 0, x);
                }
            } else {
                for (block, x) in self.to.tiles[first..].iter_mut().zip(values) {
                    block.set(s, token % TILE, x);
                }
            }
        }
    }
}
