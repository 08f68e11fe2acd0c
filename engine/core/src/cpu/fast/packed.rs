//! Weights of packed codes whose scales lie in another tensor, one for each row (Int2, Int4, Int8), and their products with
//! [`Activations`]. Codes keep their size: two bits stay two bits.
//!
//! Eight rows lie interleaved, as in [`super::matrix`], in blocks of 32 columns. For row n and token t, with q the int8 inputs and
//! codes unsigned (Int8's are signed, with zero = 0):
//!
//! - on a static range's grid, of step s: `y = s · scale[n] · (Σ_k code · q − zero · Σ_k q)`, one exact sum of integers;
//! - else `y = scale[n] · (Σ_block scale_x · Σ_k code · q − zero · Σ_k x)`, exact within a block of 32.
//!
//! No sum overflows: a block of 32 stays within [`Simd::Sums`]' bounds, and rows of up to 65,536 columns of products of at most
//! 15 · 128, or 128 · 128 of Int8, within 2^30, and Σ q times a zero of 8 within 2^26.

use bytemuck::Pod;

use super::activations::{Activations, BLOCK, InputTile, TILE, Total};
use super::math::on_grid;
use super::simd::{Kernel, Simd, dispatch};
use crate::error::{Error, Result};
use crate::kernels::matmul::Store;
use crate::quant::QuantType;

/// Rows that lie interleaved.
const ROWS: usize = 8;

/// The most columns whose products are summed in an i32: see above.
const MOST_COLUMNS: usize = 1 << 16;

/// Where column `i` of a group of four lies in its four bytes, as the vectors want it; its own inverse.
const PLACE: [usize; 4] = [0, 2, 1, 3];

/// One token's inputs of a block, in both orders: see [`super::activations::InputRow`].
type RowInputs<'a> = (&'a [[[i8; 4]; 2]; 4], &'a [[[i16; 2]; 4]; 4]);

/// Eight rows' 32 columns of codes.
trait Codes: Pod {
    /// The code that stands for 0.
    const ZERO: i32;
    /// Bytes of 32 columns of a row in the file.
    const FILE_BYTES: usize;

    /// Takes a row's bytes as the file has them, `FILE_BYTES`.
    fn set(&mut self, row: usize, bytes: &[u8]);
    /// The unpacked code of a row at column `k`.
    fn get(&self, row: usize, k: usize) -> i32;
    /// One token: Σ code · q of the eight rows.
    fn one<S: Simd>(&self, s: S, x: RowInputs<'_>) -> [S::I; 2];

    /// What [`Codes::many`] reads: codes a byte each.
    type Open: Pod;
    /// Unpacks a block, to be read by many tiles.
    fn open<S: Simd>(&self, s: S, to: &mut Self::Open);
    /// Four tokens: Σ code · q of the eight rows of each.
    fn many<S: Simd>(open: &Self::Open, s: S, x: &InputTile) -> [[S::I; 2]; TILE];
}

/// Two or four bits a code, so 16 or 8 columns in each four bytes.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Narrow<const BITS: usize> {
    /// `[16 or 8 columns][half of the rows]`, 16 bytes: for each of 4 rows, four bytes. Byte `PLACE[j]` holds columns j, j+4
    /// and so on, lowest bits first.
    codes: [[[u8; 16]; 2]; BITS],
}

/// Eight bits a code.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Wide {
    /// `[pair of columns][half of the rows]`, 8 bytes: for each of 4 rows, two columns.
    codes: [[[i8; 8]; 2]; 16],
}

/// [`Narrow`] codes unpacked: `[group of four columns][half of the rows]`.
type Bytes = [[[u8; 16]; 2]; 8];

/// Σ code · q of unpacked codes for four tokens.
#[inline(always)]
fn many_bytes<S: Simd>(codes: &Bytes, s: S, x: &InputTile) -> [[S::I; 2]; TILE] {
    let mut dots = [[s.no_sums(); 2]; TILE];
    for (i, codes) in codes.iter().enumerate() {
        let codes = [s.bytes(&codes[0]), s.bytes(&codes[1])];
        for (t, dots) in dots.iter_mut().enumerate() {
            let x = s.inputs(&x.bytes[i][t], &x.pairs[2 * i][t], &x.pairs[2 * i + 1][t]);
            dots[0] = s.dot4(dots[0], codes[0], x);
            dots[1] = s.dot4(dots[1], codes[1], x);
        }
    }
    dots.map(|dots| dots.map(|dots| s.whole(dots)))
}

impl<const BITS: usize> Narrow<BITS> {
    /// Codes of a byte, each of another group of four columns.
    const GROUPS: usize = 8 / BITS;

    /// The codes of group `group`, a byte each.
    #[inline(always)]
    fn group<S: Simd>(s: S, codes: S::I, group: usize) -> S::I {
        match (BITS, group) {
            (4, 0) => s.low_nibbles(codes),
            (4, _) => s.high_nibbles(codes),
            (_, 0) => s.two_bits::<0>(codes),
            (_, 1) => s.two_bits::<2>(codes),
            (_, 2) => s.two_bits::<4>(codes),
            _ => s.two_bits::<6>(codes),
        }
    }
}

impl<const BITS: usize> Codes for Narrow<BITS> {
    const ZERO: i32 = 1 << (BITS - 1);
    const FILE_BYTES: usize = BLOCK * BITS / 8;

    fn set(&mut self, row: usize, bytes: &[u8]) {
        // Four bytes, each of some columns side by side, become as a transposed matrix the columns of each place.
        for (four, to) in bytes.as_chunks::<4>().0.iter().zip(&mut self.codes) {
            let code =
                |column: usize| four[column / Self::GROUPS] >> (column % Self::GROUPS * BITS) & ((1 << BITS) - 1);
            let to = &mut to[row / 4].as_chunks_mut::<4>().0[row % 4];
            for (j, place) in PLACE.into_iter().enumerate() {
                to[place] = (0..Self::GROUPS).rev().fold(0, |byte, group| byte << BITS | code(4 * group + j));
            }
        }
    }

    fn get(&self, row: usize, k: usize) -> i32 {
        let (group, j) = (k / 4, k % 4);
        let byte = self.codes[group / Self::GROUPS][row / 4][4 * (row % 4) + PLACE[j]];
        i32::from(byte >> (group % Self::GROUPS * BITS) & ((1 << BITS) - 1))
    }

    #[inline(always)]
    fn one<S: Simd>(&self, s: S, (bytes, pairs): RowInputs<'_>) -> [S::I; 2] {
        let mut dots = [s.no_sums(); 2];
        for (i, codes) in self.codes.iter().enumerate() {
            let x = |group: usize| {
                let (eight, four) = ((i * Self::GROUPS + group) / 2, (i * Self::GROUPS + group) % 2);
                s.inputs(&bytes[eight][four], &pairs[eight][2 * four], &pairs[eight][2 * four + 1])
            };
            for (dot, codes) in dots.iter_mut().zip(codes) {
                let codes = s.bytes(codes);
                for group in 0..Self::GROUPS {
                    *dot = s.dot4(*dot, Self::group(s, codes, group), x(group));
                }
            }
        }
        dots.map(|dots| s.whole(dots))
    }

    type Open = Bytes;

    #[inline(always)]
    fn open<S: Simd>(&self, s: S, to: &mut Bytes) {
        for (codes, to) in self.codes.iter().zip(to.chunks_exact_mut(Self::GROUPS)) {
            for (half, codes) in codes.iter().enumerate() {
                let codes = s.bytes(codes);
                for (group, to) in to.iter_mut().enumerate() {
                    s.store_bytes(Self::group(s, codes, group), &mut to[half]);
                }
            }
        }
    }

    #[inline(always)]
    fn many<S: Simd>(open: &Bytes, s: S, x: &InputTile) -> [[S::I; 2]; TILE] {
        many_bytes(open, s, x)
    }
}

impl Codes for Wide {
    const ZERO: i32 = 0;
    const FILE_BYTES: usize = 32;

    fn set(&mut self, row: usize, bytes: &[u8]) {
        for (pair, to) in bytes.as_chunks::<2>().0.iter().zip(&mut self.codes) {
            to[row / 4].as_chunks_mut::<2>().0[row % 4] = pair.map(|b| b as i8);
        }
    }

    fn get(&self, row: usize, k: usize) -> i32 {
        i32::from(self.codes[k / 2][row / 4][2 * (row % 4) + k % 2])
    }

    #[inline(always)]
    fn one<S: Simd>(&self, s: S, (_, pairs): RowInputs<'_>) -> [S::I; 2] {
        let mut dots = [s.zero_i32(); 2];
        for (codes, x) in self.codes.iter().zip(pairs.as_flattened()) {
            let x = s.pair(x);
            dots[0] = s.dot2(dots[0], &codes[0], x);
            dots[1] = s.dot2(dots[1], &codes[1], x);
        }
        dots
    }

    // The load that widens costs as much as one that does not, so there is nothing to unpack.
    type Open = Self;

    #[inline(always)]
    fn open<S: Simd>(&self, _: S, to: &mut Self) {
        *to = *self;
    }

    #[inline(always)]
    fn many<S: Simd>(open: &Self, s: S, x: &InputTile) -> [[S::I; 2]; TILE] {
        let mut dots = [[s.zero_i32(); 2]; TILE];
        for (codes, x) in open.codes.iter().zip(&x.pairs) {
            for (dots, x) in dots.iter_mut().zip(x) {
                let x = s.pair(x);
                dots[0] = s.dot2(dots[0], &codes[0], x);
                dots[1] = s.dot2(dots[1], &codes[1], x);
            }
        }
        dots
    }
}

/// How the blocks of a row add up.
trait Adding {
    /// Sums of four rows.
    type Sums<S: Simd>: Copy;
    /// Before the first block: what the codes' zero takes from the row's sum.
    fn start<S: Simd>(s: S, zero: i32, total: Total) -> Self::Sums<S>;
    /// Adds a block's dots; `scale` is its inputs'.
    fn add<S: Simd>(s: S, sums: Self::Sums<S>, dots: S::I, scale: f32) -> Self::Sums<S>;
    /// After the last block.
    fn value<S: Simd>(s: S, sums: Self::Sums<S>) -> S::F;
}

/// In integers: all inputs have one scale.
struct OnGrid;

impl Adding for OnGrid {
    type Sums<S: Simd> = S::I;
    #[inline(always)]
    fn start<S: Simd>(s: S, zero: i32, total: Total) -> S::I {
        s.splat_i32(-zero * total.sum as i32)
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, sums: S::I, dots: S::I, _: f32) -> S::I {
        s.add_i32(sums, dots)
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, sums: S::I) -> S::F {
        s.to_f32(sums)
    }
}

/// In f32: each block's inputs have a scale.
struct InBlocks;

impl Adding for InBlocks {
    type Sums<S: Simd> = S::F;
    #[inline(always)]
    fn start<S: Simd>(s: S, zero: i32, total: Total) -> S::F {
        s.splat(-(zero as f32) * total.sum)
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, sums: S::F, dots: S::I, scale: f32) -> S::F {
        s.mul_add(s.to_f32(dots), s.splat(scale), sums)
    }
    #[inline(always)]
    fn value<S: Simd>(_: S, sums: S::F) -> S::F {
        sums
    }
}

/// `[panel of 8 rows][block of 32 columns]`.
enum Blocks {
    Two(Vec<Narrow<2>>),
    Four(Vec<Narrow<4>>),
    Eight(Vec<Wide>),
}

/// Runs an expression on the blocks, whatever their type.
macro_rules! with_blocks {
    ($blocks:expr, $name:ident => $result:expr) => {
        match $blocks {
            Blocks::Two($name) => $result,
            Blocks::Four($name) => $result,
            Blocks::Eight($name) => $result,
        }
    };
}

/// A weight `[rows, cols]` of packed codes, repacked.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    blocks: Blocks,
}

/// What becomes of a product's sums.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// A scale for each row.
    pub scales: &'a [f32],
    /// The step of the output's static range; 0 leaves it as it is.
    pub grid: f32,
    /// Replace or add.
    pub store: Store,
}

impl PackedMatrix {
    /// An empty matrix, or an error that names `name` when the type or the width has no fast form.
    pub fn new(name: &str, quant: QuantType, rows: usize, cols: usize) -> Result<Self> {
        quant.row_bytes(name, cols)?;
        if cols > MOST_COLUMNS {
            return Err(Error::unsupported(
                format!("{name} with rows of {cols}"),
                format!("the fast path sums at most {MOST_COLUMNS} products of packed codes"),
            ));
        }
        let count = rows.div_ceil(ROWS) * cols.div_ceil(BLOCK);
        let blocks = match quant {
            QuantType::Int2 => Blocks::Two(bytemuck::zeroed_vec(count)),
            QuantType::Int4 => Blocks::Four(bytemuck::zeroed_vec(count)),
            QuantType::Int8 => Blocks::Eight(bytemuck::zeroed_vec(count)),
            _ => return Err(Error::unsupported(name, format!("{quant:?} has its scales in its blocks"))),
        };
        Ok(Self { rows, cols, blocks })
    }

    /// Bytes of the repacked weight.
    pub fn bytes(&self) -> usize {
        with_blocks!(&self.blocks, blocks => size_of_val(blocks.as_slice()))
    }

    /// Repacks whole rows of the file, starting at row `first_row`. Rows beyond the weight's are left out.
    pub fn write_rows(&mut self, first_row: usize, bytes: &[u8]) {
        fn write<C: Codes>(blocks: &mut [C], (rows, cols): (usize, usize), first_row: usize, bytes: &[u8]) {
            let row_bytes = cols * C::FILE_BYTES / BLOCK;
            for (row, bytes) in (first_row..rows).zip(bytes.chunks_exact(row_bytes)) {
                let count = cols.div_ceil(BLOCK);
                let panel = &mut blocks[row / ROWS * count..][..count];
                for (block, bytes) in panel.iter_mut().zip(bytes.chunks(C::FILE_BYTES)) {
                    if bytes.len() == C::FILE_BYTES {
                        block.set(row % ROWS, bytes);
                    } else {
                        let mut whole = [0; BLOCK];
                        whole[..bytes.len()].copy_from_slice(bytes);
                        block.set(row % ROWS, &whole[..C::FILE_BYTES]);
                    }
                }
            }
        }
        let shape = (self.rows, self.cols);
        with_blocks!(&mut self.blocks, blocks => write(blocks, shape, first_row, bytes));
    }

    /// The codes of row `row` less their zero, to `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        fn read<C: Codes>(panel: &[C], row: usize, out: &mut [f32]) {
            for (block, out) in panel.iter().zip(out.chunks_mut(BLOCK)) {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = (block.get(row, k) - C::ZERO) as f32;
                }
            }
        }
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let first = row / ROWS * self.cols.div_ceil(BLOCK);
        with_blocks!(&self.blocks, blocks => read(&blocks[first..], row % ROWS, &mut out[..self.cols]));
    }

    /// `y[t, n] (+)= on_grid(scales[n] · Σ_k W[n, k] · x[t, k])` for all rows, y `[tokens, rows]`.
    ///
    /// # Panics
    /// If `x` has other tokens or columns, or `y` or the scales are shorter than their shape.
    pub fn matmul(&self, x: &Activations, tokens: usize, outputs: Outputs<'_>, y: &mut [f32]) {
        assert_eq!((x.tokens(), x.cols()), (tokens, self.cols), "the product's inputs");
        let y = &mut y[..tokens * self.rows];
        if y.is_empty() {
            return;
        }
        let outputs = Outputs { scales: &outputs.scales[..self.rows], ..outputs };
        with_blocks!(&self.blocks, blocks => match x.is_on_grid() {
            true => run::<_, OnGrid>(blocks, x, outputs, y),
            false => run::<_, InBlocks>(blocks, x, outputs, y),
        });
    }
}

fn run<C: Codes, A: Adding>(blocks: &[C], x: &Activations, outputs: Outputs<'_>, y: &mut [f32]) {
    let adding = core::marker::PhantomData::<A>;
    match x.tokens() {
        1 => dispatch(One { blocks, x, outputs, y, adding }),
        _ => dispatch(Many { blocks, x, outputs, y, adding }),
    }
}

/// A panel's outputs of one token: scaled, on the grid, written or added.
#[inline(always)]
fn put<S: Simd>(s: S, values: [S::F; 2], total: Total, scales: &[f32; ROWS], outputs: &Outputs<'_>, y: &mut [f32]) {
    let scales: &[[f32; 4]; 2] = bytemuck::cast_ref(scales);
    let mut all = [[0.0; 4]; 2];
    for half in 0..2 {
        let scale = s.mul(s.splat(total.scale), s.load(&scales[half]));
        let value = s.mul(scale, values[half]);
        s.store(if outputs.grid == 0.0 { value } else { on_grid(s, value, outputs.grid) }, &mut all[half]);
    }
    for (y, v) in y.iter_mut().zip(all.as_flattened()) {
        *y = if outputs.store == Store::Add { *y + v } else { *v };
    }
}

/// A panel's scales; rows beyond the last have none.
#[inline(always)]
fn scales_of(scales: &[f32]) -> [f32; ROWS] {
    let mut all = [0.0; ROWS];
    all[..scales.len()].copy_from_slice(scales);
    all
}

/// The product for one token: every code is read once, in order.
struct One<'a, C, A> {
    blocks: &'a [C],
    x: &'a Activations,
    outputs: Outputs<'a>,
    y: &'a mut [f32],
    adding: core::marker::PhantomData<A>,
}

impl<C: Codes, A: Adding> Kernel for One<'_, C, A> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, total) = (&self.x.single, self.x.totals[0]);
        let (bytes, _) = x.bytes.as_chunks::<4>();
        let (pairs, _) = x.pairs.as_chunks::<4>();
        let panels = self.blocks.chunks_exact(x.scales.len()).zip(self.outputs.scales.chunks(ROWS));
        for ((panel, scales), y) in panels.zip(self.y.chunks_mut(ROWS)) {
            let mut sums = [A::start(s, C::ZERO, total); 2];
            for (((block, bytes), pairs), scale) in panel.iter().zip(bytes).zip(pairs).zip(&x.scales) {
                let dots = block.one(s, (bytes, pairs));
                sums = [A::add(s, sums[0], dots[0], scale[0]), A::add(s, sums[1], dots[1], scale[0])];
            }
            put(s, sums.map(|v| A::value(s, v)), total, &scales_of(scales), &self.outputs, y);
        }
    }
}

/// The product for several tokens: eight rows are unpacked once and meet all tokens, four at a time.
struct Many<'a, C, A> {
    blocks: &'a [C],
    x: &'a Activations,
    outputs: Outputs<'a>,
    y: &'a mut [f32],
    adding: core::marker::PhantomData<A>,
}

impl<C: Codes, A: Adding> Kernel for Many<'_, C, A> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.x.cols().div_ceil(BLOCK);
        let rows = self.outputs.scales.len();
        let mut open: Vec<C::Open> = bytemuck::zeroed_vec(count);
        let panels = self.blocks.chunks_exact(count).zip(self.outputs.scales.chunks(ROWS));
        for ((panel, scales), row) in panels.zip((0..rows).step_by(ROWS)) {
            for (open, block) in open.iter_mut().zip(panel) {
                block.open(s, open);
            }
            let wide = scales.len();
            let scales = scales_of(scales);
            let tiles = self.x.tiles.chunks_exact(count).zip(self.x.totals.chunks(TILE));
            for ((x, totals), y) in tiles.zip(self.y.chunks_mut(TILE * rows)) {
                let total = |t: usize| totals.get(t).copied().unwrap_or_default();
                let mut sums: [_; TILE] = core::array::from_fn(|t| [A::start(s, C::ZERO, total(t)); 2]);
                for (open, x) in open.iter().zip(x) {
                    let dots = C::many(open, s, x);
                    for t in 0..TILE {
                        sums[t] = [0, 1].map(|half| A::add(s, sums[t][half], dots[t][half], x.scale[t]));
                    }
                }
                for ((sums, total), y) in sums.into_iter().zip(totals).zip(y.chunks_exact_mut(rows)) {
                    put(s, sums.map(|v| A::value(s, v)), *total, &scales, &self.outputs, &mut y[row..row + wide]);
                }
            }
        }
    }
}
