//! Weights that a checkpoint keeps as floats beside packed codes, and their products in f32: nothing is rounded.
//!
//! Eight rows lie interleaved, so that a vector lane is a row.

use super::numbers::{Eight, Exact, LANES, Rounded, products};
use super::simd::{Kernel, Simd, dispatch};
use crate::error::{Error, Result};
use crate::kernels::matmul::Store;
use crate::quant::QuantType;

/// Tokens that meet a weight at once.
const TILE: usize = 4;

/// `[panel of 8 rows][column]`.
enum Panels {
    Bf16(Vec<Rounded>),
    F32(Vec<Exact>),
}

/// A weight `[rows, cols]` of floats, repacked.
pub struct FloatMatrix {
    quant: QuantType,
    rows: usize,
    cols: usize,
    panels: Panels,
}

impl FloatMatrix {
    /// An empty matrix, or an error that names `name` when it does not hold floats.
    pub fn new(name: &str, quant: QuantType, rows: usize, cols: usize) -> Result<Self> {
        quant.row_bytes(name, cols)?;
        let count = rows.div_ceil(LANES) * cols;
        let panels = match quant {
            QuantType::BF16 => Panels::Bf16(bytemuck::zeroed_vec(count)),
            QuantType::F16 | QuantType::F32 => Panels::F32(bytemuck::zeroed_vec(count)),
            _ => return Err(Error::unsupported(name, format!("{quant:?} does not hold floats"))),
        };
        Ok(Self { quant, rows, cols, panels })
    }

    /// Repacks whole rows of the file, starting at row `first_row`. Rows beyond the weight's are left out.
    pub fn write_rows(&mut self, first_row: usize, bytes: &[u8]) {
        let mut values = vec![0.0; self.cols];
        for (row, bytes) in (first_row..self.rows).zip(bytes.chunks_exact(self.cols * self.quant.block_bytes())) {
            self.quant.dequantize(bytes, &mut values);
            let first = row / LANES * self.cols;
            match &mut self.panels {
                Panels::Bf16(eights) => write(&mut eights[first..], row % LANES, &values),
                Panels::F32(eights) => write(&mut eights[first..], row % LANES, &values),
            }
        }
    }

    /// Row `row` to `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let first = row / LANES * self.cols;
        match &self.panels {
            Panels::Bf16(eights) => read(&eights[first..], row % LANES, &mut out[..self.cols]),
            Panels::F32(eights) => read(&eights[first..], row % LANES, &mut out[..self.cols]),
        }
    }

    /// `y[t, n] (+)= Σ_k W[n, k] · x[t, k]` for all rows, x `[tokens, cols]`, y `[tokens, rows]`.
    ///
    /// # Panics
    /// If `y` is shorter than its shape.
    pub fn matmul(&self, x: &[f32], store: Store, y: &mut [f32]) {
        match &self.panels {
            Panels::Bf16(eights) => self.run(eights, x, store, y),
            Panels::F32(eights) => self.run(eights, x, store, y),
        }
    }

    fn run<N: Eight>(&self, eights: &[N], x: &[f32], store: Store, y: &mut [f32]) {
        let (rows, cols) = (self.rows, self.cols);
        for (x, y) in x.chunks(TILE * cols).zip(y.chunks_mut(TILE * rows)) {
            match x.len() / cols {
                1 => dispatch(One { eights, x, store, y }),
                2 => dispatch(Many::<N, 2> { eights, x: &transposed(x, cols), rows, store, y }),
                3 => dispatch(Many::<N, 3> { eights, x: &transposed(x, cols), rows, store, y }),
                _ => dispatch(Many::<N, TILE> { eights, x: &transposed(x, cols), rows, store, y }),
            }
        }
    }
}

fn write<N: Eight>(panel: &mut [N], row: usize, values: &[f32]) {
    panel.iter_mut().zip(values).for_each(|(eight, v)| eight.set(row, *v));
}

fn read<N: Eight>(panel: &[N], row: usize, out: &mut [f32]) {
    out.iter_mut().zip(panel).for_each(|(v, eight)| *v = eight.get(row));
}

/// `[R, cols]` as `[cols, R]`.
fn transposed<const R: usize>(x: &[f32], cols: usize) -> Vec<[f32; R]> {
    (0..cols).map(|k| core::array::from_fn(|r| x[r * cols + k])).collect()
}

/// Writes or adds a panel's outputs, as many as `y` has room for.
#[inline(always)]
fn put<S: Simd>(s: S, sums: [S::F; 2], store: Store, y: &mut [f32]) {
    let mut all = [[0.0; 4]; 2];
    s.store(sums[0], &mut all[0]);
    s.store(sums[1], &mut all[1]);
    for (y, v) in y.iter_mut().zip(all.as_flattened()) {
        *y = if store == Store::Add { *y + v } else { *v };
    }
}

/// The product for one token.
struct One<'a, N> {
    eights: &'a [N],
    x: &'a [f32],
    store: Store,
    y: &'a mut [f32],
}

impl<N: Eight> Kernel for One<'_, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (quads, rest) = self.x.as_chunks::<4>();
        for (panel, y) in self.eights.chunks_exact(self.x.len()).zip(self.y.chunks_mut(LANES)) {
            // Four sums, so that an addition need not wait for the one before it.
            let mut sums = [[s.splat(0.0); 2]; 4];
            let (fours, others) = panel.as_chunks::<4>();
            for (eights, x) in fours.iter().zip(quads) {
                for i in 0..4 {
                    let ([low, high], v) = (eights[i].load(s), s.splat(x[i]));
                    sums[i] = [s.mul_add(low, v, sums[i][0]), s.mul_add(high, v, sums[i][1])];
                }
            }
            for (eight, x) in others.iter().zip(rest) {
                let ([low, high], v) = (eight.load(s), s.splat(*x));
                sums[0] = [s.mul_add(low, v, sums[0][0]), s.mul_add(high, v, sums[0][1])];
            }
            let total = |i: usize| s.add(s.add(sums[0][i], sums[1][i]), s.add(sums[2][i], sums[3][i]));
            put(s, [total(0), total(1)], self.store, y);
        }
    }
}

/// The product for `R` tokens, `x` `[cols, R]`.
struct Many<'a, N, const R: usize> {
    eights: &'a [N],
    x: &'a [[f32; R]],
    rows: usize,
    store: Store,
    y: &'a mut [f32],
}

impl<N: Eight, const R: usize> Kernel for Many<'_, N, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panels = self.eights.chunks_exact(self.x.len());
        for (panel, row) in panels.zip((0..self.rows).step_by(LANES)) {
            let end = self.rows.min(row + LANES);
            for (sums, y) in products(s, panel, self.x).into_iter().zip(self.y.chunks_exact_mut(self.rows)) {
                put(s, sums, self.store, &mut y[row..end]);
            }
        }
    }
}
