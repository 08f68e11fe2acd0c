//! Eight numbers beside each other, as they are stored: in bf16, or as they are.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::simd::Simd;

/// Numbers that lie beside each other.
pub(super) const LANES: usize = 8;

/// How numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// In bf16: half the memory.
    Rounded,
    /// As they are. Where activations are rounded to a grid later, the least difference may end on another code.
    Exact,
}

/// Eight stored numbers.
pub(super) trait Eight: Pod {
    /// Stores `v`, rounded to what the type holds, as number `i`.
    fn set(&mut self, i: usize, v: f32);
    /// Number `i`.
    fn get(&self, i: usize) -> f32;
    /// The first four and the last four.
    fn load<S: Simd>(&self, s: S) -> [S::F; 2];
}

/// Eight bf16 numbers in the order of [`Simd::bf16`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Rounded([u16; LANES]);

/// Where number `i` of eight lies.
const fn place(i: usize) -> usize {
    if i < 4 { 2 * i } else { 2 * i - 7 }
}

impl Eight for Rounded {
    #[inline(always)]
    fn set(&mut self, i: usize, v: f32) {
        self.0[place(i)] = bf16::from_f32(v).to_bits();
    }
    #[inline(always)]
    fn get(&self, i: usize) -> f32 {
        bf16::from_bits(self.0[place(i)]).to_f32()
    }
    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> [S::F; 2] {
        s.bf16(&self.0)
    }
}

/// Eight f32 numbers.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Exact([[f32; 4]; 2]);

impl Eight for Exact {
    #[inline(always)]
    fn set(&mut self, i: usize, v: f32) {
        self.0[i / 4][i % 4] = v;
    }
    #[inline(always)]
    fn get(&self, i: usize) -> f32 {
        self.0[i / 4][i % 4]
    }
    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> [S::F; 2] {
        [s.load(&self.0[0]), s.load(&self.0[1])]
    }
}

/// Products of `R` rows of numbers with eight stored ones at a time: `out[r] = Σ_k eights[k] · rows[k][r]`.
#[inline(always)]
pub(super) fn products<S: Simd, N: Eight, const R: usize>(s: S, eights: &[N], rows: &[[f32; R]]) -> [[S::F; 2]; R] {
    let mut sums = [[s.splat(0.0); 2]; R];
    for (eight, row) in eights.iter().zip(rows) {
        let [low, high] = eight.load(s);
        for r in 0..R {
            let v = s.splat(row[r]);
            sums[r] = [s.mul_add(low, v, sums[r][0]), s.mul_add(high, v, sums[r][1])];
        }
    }
    sums
}
