//! Weights repacked for the vector kernels, and their products with [`Activations`].
//!
//! Eight rows lie interleaved, so that a vector lane is a row and no product ends in a horizontal sum. A block is 32
//! columns of eight rows with their scales and minimums (f16, as in the files): one stream of memory, as long as the
//! file's own.
//!
//! For row n and token t, with q the int8 inputs: `y = Σ_block scale_w · scale_x · Σ_k code · q + min · sum_x`. The inner
//! sum is exact in integers. A block's f16 numbers are widened by moving their bits, which leaves them 2^112 too small;
//! the inputs' scales carry 2^56 and the outputs get the other 2^56, so that nothing leaves f32's range on the way.

use half::f16;

use super::activations::{Activations, BLOCK, InputRow, InputTile, TILE};
use super::simd::{Kernel, Simd, dispatch};
use crate::error::Result;
use crate::kernels::matmul::Store;
use crate::quant::{Group, MAX_BLOCK, QuantType};

/// Rows that lie interleaved.
const ROWS: usize = 8;

/// The second half of the power of two that the inputs carry the first half of.
const UP: f32 = 72_057_594_037_927_936.0; // 2^56

/// Eight f16 numbers, one for each row, in two vectors' halves.
type Halves = [[u16; 4]; 2];

/// Eight rows' 32 columns as 4-bit codes.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(32))]
struct Block4 {
    /// `[pair of column groups][half of the rows]`, 16 bytes: for each of 4 rows, columns k, k+2, k+1, k+3 of the first
    /// group of four in the low bits and of the second in the high bits.
    codes: [[[u8; 16]; 2]; 4],
    scale: Halves,
    min: Halves,
}

/// Eight rows' 32 columns as 8-bit codes. `M` is [`Halves`] for types with a minimum, nothing for others.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Block8<M> {
    /// `[pair of columns][half of the rows]`, 8 bytes: for each of 4 rows, two columns.
    codes: [[[i8; 8]; 2]; 16],
    scale: Halves,
    min: M,
}

/// A block's minimums, where it has any.
trait Min: Copy {
    const NONE: Self;
    fn get(&self) -> Option<&Halves>;
    fn set(&mut self, row: usize, min: f32);
}

impl Min for Halves {
    const NONE: Self = [[0; 4]; 2];
    #[inline(always)]
    fn get(&self) -> Option<&Halves> {
        Some(self)
    }
    fn set(&mut self, row: usize, min: f32) {
        self[row / 4][row % 4] = to_half(min);
    }
}

impl Min for () {
    const NONE: Self = ();
    #[inline(always)]
    fn get(&self) -> Option<&Halves> {
        None
    }
    fn set(&mut self, _: usize, _: f32) {}
}

/// The nearest finite f16's bits. Scales of file types with f16 scales keep their value.
fn to_half(v: f32) -> u16 {
    f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits()
}

fn from_half(halves: &Halves, row: usize) -> f32 {
    f16::from_bits(halves[row / 4][row % 4]).to_f32()
}

/// Where column `i` of a group of four lies in its four bytes.
const PLACE: [usize; 4] = [0, 2, 1, 3];

impl Block4 {
    const EMPTY: Self = Self { codes: [[[0; 16]; 2]; 4], scale: [[0; 4]; 2], min: [[0; 4]; 2] };

    fn set(&mut self, row: usize, codes: &[i8; BLOCK], group: Group) {
        for (k, code) in codes.iter().enumerate() {
            let byte = &mut self.codes[k / 8][row / 4][4 * (row % 4) + PLACE[k % 4]];
            let shift = k / 4 % 2 * 4;
            *byte = (*byte & (0xf0 >> shift)) | ((*code as u8 & 15) << shift);
        }
        self.scale[row / 4][row % 4] = to_half(group.scale);
        self.min[row / 4][row % 4] = to_half(group.min);
    }

    fn get(&self, row: usize) -> [f32; BLOCK] {
        let (scale, min) = (from_half(&self.scale, row), from_half(&self.min, row));
        core::array::from_fn(|k| {
            let byte = self.codes[k / 8][row / 4][4 * (row % 4) + PLACE[k % 4]];
            scale * f32::from(byte >> (k / 4 % 2 * 4) & 15) + min
        })
    }
}

impl<M: Min> Block8<M> {
    const EMPTY: Self = Self { codes: [[[0; 8]; 2]; 16], scale: [[0; 4]; 2], min: M::NONE };

    fn set(&mut self, row: usize, codes: &[i8; BLOCK], group: Group) {
        for (k, code) in codes.iter().enumerate() {
            self.codes[k / 2][row / 4][2 * (row % 4) + k % 2] = *code;
        }
        self.scale[row / 4][row % 4] = to_half(group.scale);
        self.min.set(row, group.min);
    }

    fn get(&self, row: usize) -> [f32; BLOCK] {
        let scale = from_half(&self.scale, row);
        let min = self.min.get().map_or(0.0, |m| from_half(m, row));
        core::array::from_fn(|k| scale * f32::from(self.codes[k / 2][row / 4][2 * (row % 4) + k % 2]) + min)
    }
}

/// `[panel of 8 rows][block of 32 columns]`.
enum Blocks {
    Four(Vec<Block4>),
    Eight(Vec<Block8<()>>),
    EightMin(Vec<Block8<Halves>>),
}

/// A weight `[rows, cols]`, repacked.
pub struct FastMatrix {
    quant: QuantType,
    rows: usize,
    cols: usize,
    blocks: Blocks,
}

impl FastMatrix {
    /// Makes space for a weight of the file type `quant`; `name` is for errors.
    ///
    /// Q4_0, Q4_1 and Q4_K keep their 4-bit codes, Q5_0, Q5_1, Q5_K and Q8_0 theirs in 8 bits; floats and Q6_K (whose
    /// groups are 16 long) are quantized to int8 with a scale for each 32. Scales and minimums are kept as f16, which is
    /// exact for the types that store them so.
    pub fn new(name: &str, quant: QuantType, rows: usize, cols: usize) -> Result<Self> {
        quant.row_bytes(name, cols)?;
        let blocks = rows.div_ceil(ROWS) * cols.div_ceil(BLOCK);
        let blocks = match quant {
            QuantType::Q4_0 | QuantType::Q4_1 | QuantType::Q4_K => Blocks::Four(vec![Block4::EMPTY; blocks]),
            QuantType::Q5_1 | QuantType::Q5_K => Blocks::EightMin(vec![Block8::EMPTY; blocks]),
            _ => Blocks::Eight(vec![Block8::EMPTY; blocks]),
        };
        Ok(Self { quant, rows, cols, blocks })
    }

    /// Rows N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the repacked weight.
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            Blocks::Four(b) => size_of_val(b.as_slice()),
            Blocks::Eight(b) => size_of_val(b.as_slice()),
            Blocks::EightMin(b) => size_of_val(b.as_slice()),
        }
    }

    /// Repacks whole rows of the file, starting at row `first_row`. Rows beyond the weight's are left out.
    pub fn write_rows(&mut self, first_row: usize, bytes: &[u8]) {
        let row_bytes = self.cols / self.quant.block_len() * self.quant.block_bytes();
        let count = self.cols.div_ceil(BLOCK);
        for (row, bytes) in (first_row..self.rows).zip(bytes.chunks_exact(row_bytes)) {
            let first = row / ROWS * count;
            let mut b = first;
            let mut place = |codes: &[i8; BLOCK], group: Group| {
                match &mut self.blocks {
                    Blocks::Four(blocks) => blocks[b].set(row % ROWS, codes, group),
                    Blocks::Eight(blocks) => blocks[b].set(row % ROWS, codes, group),
                    Blocks::EightMin(blocks) => blocks[b].set(row % ROWS, codes, group),
                }
                b += 1;
            };
            if self.quant.group_len() == BLOCK {
                let (mut codes, mut groups) = ([0i8; MAX_BLOCK], [Group::default(); MAX_BLOCK / 16]);
                for block in bytes.chunks_exact(self.quant.block_bytes()) {
                    self.quant.decode_block(block, &mut codes, &mut groups);
                    let (chunks, _) = codes[..self.quant.block_len()].as_chunks::<BLOCK>();
                    for (codes, group) in chunks.iter().zip(&groups) {
                        place(codes, *group);
                    }
                }
            } else {
                let step = self.quant.block_len().max(BLOCK);
                let step_bytes = step / self.quant.block_len() * self.quant.block_bytes();
                for part in bytes.chunks(step_bytes) {
                    let mut values = [0.0f32; MAX_BLOCK];
                    let n = part.len() / self.quant.block_bytes() * self.quant.block_len();
                    self.quant.dequantize(part, &mut values[..n]);
                    let (chunks, _) = values[..n.next_multiple_of(BLOCK)].as_chunks::<BLOCK>();
                    for values in chunks {
                        let (codes, group) = to_int8(values);
                        place(&codes, group);
                    }
                }
            }
        }
    }

    /// Dequantizes row `row` to `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let count = self.cols.div_ceil(BLOCK);
        let first = row / ROWS * count;
        for (b, out) in out[..self.cols].chunks_mut(BLOCK).enumerate() {
            let values = match &self.blocks {
                Blocks::Four(blocks) => blocks[first + b].get(row % ROWS),
                Blocks::Eight(blocks) => blocks[first + b].get(row % ROWS),
                Blocks::EightMin(blocks) => blocks[first + b].get(row % ROWS),
            };
            out.copy_from_slice(&values[..out.len()]);
        }
    }

    /// `y[t, n] (+)= Σ_k W[n, k] · x[t, k]` for all rows, y `[tokens, rows]`.
    ///
    /// # Panics
    /// If `x` has other tokens or columns, or `y` is shorter than its shape.
    pub fn matmul(&self, x: &Activations, tokens: usize, store: Store, y: &mut [f32]) {
        assert_eq!((x.tokens(), x.cols()), (tokens, self.cols), "the product's inputs");
        let y = &mut y[..tokens * self.rows];
        if y.is_empty() {
            return;
        }
        let count = self.cols.div_ceil(BLOCK);
        match (&self.blocks, tokens) {
            (Blocks::Four(blocks), 1) => dispatch(One { blocks, x: &x.single, y, store }),
            (Blocks::Eight(blocks), 1) => dispatch(One { blocks, x: &x.single, y, store }),
            (Blocks::EightMin(blocks), 1) => dispatch(One { blocks, x: &x.single, y, store }),
            (Blocks::Four(blocks), _) => dispatch(Many { blocks, x: &x.tiles, y, rows: self.rows, count, store }),
            (Blocks::Eight(blocks), _) => dispatch(Many { blocks, x: &x.tiles, y, rows: self.rows, count, store }),
            (Blocks::EightMin(blocks), _) => dispatch(Many { blocks, x: &x.tiles, y, rows: self.rows, count, store }),
        }
    }
}

/// The nearest int8 codes and their scale.
fn to_int8(values: &[f32; BLOCK]) -> ([i8; BLOCK], Group) {
    let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_bits(to_half(most / 127.0)).to_f32();
    // A scale below f16's range would round to nothing: its weights are zero beside any others.
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (values.map(|v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8), Group { scale, min: 0.0 })
}

/// Writes or adds eight rows' outputs of one token, as many as `y` has room for.
#[inline(always)]
fn put<S: Simd>(s: S, sums: [S::F; 2], store: Store, y: &mut [f32]) {
    let sums = sums.map(|v| s.mul(v, s.splat(UP)));
    if let Some(y) = y.first_chunk_mut::<ROWS>() {
        let halves: &mut [[f32; 4]; 2] = bytemuck::cast_mut(y);
        for (y, v) in halves.iter_mut().zip(sums) {
            let v = if store == Store::Add { s.add(s.load(y), v) } else { v };
            s.store(v, y);
        }
    } else {
        let mut all = [[0.0; 4]; 2];
        s.store(sums[0], &mut all[0]);
        s.store(sums[1], &mut all[1]);
        for (y, v) in y.iter_mut().zip(all.as_flattened()) {
            *y = if store == Store::Add { *y + v } else { *v };
        }
    }
}

/// A block that the kernels can multiply.
trait Block: Copy {
    /// One token: the outputs of a panel's eight rows.
    fn one<S: Simd>(s: S, panel: &[Self], x: &InputRow) -> [S::F; 2];

    /// What [`Block::many`] reads: codes a byte each, scales and minimums as f32.
    type Open: Copy;
    /// Space for it.
    const SHUT: Self::Open;
    /// Unpacks a block, to be read by many tiles.
    fn open<S: Simd>(&self, s: S, to: &mut Self::Open);
    /// Four tokens: adds the block's part of the eight rows' outputs of each.
    fn many<S: Simd>(open: &Self::Open, s: S, x: &InputTile, sums: &mut [[S::F; 2]; TILE]);
}

impl Block for Block4 {
    #[inline(always)]
    fn one<S: Simd>(s: S, panel: &[Self], x: &InputRow) -> [S::F; 2] {
        // A block in rows of 32 bytes: four of codes, one of scales and minimums. Unrolled, the loop over the four needs
        // more registers than there are, and finishes one half of the rows before it begins the other.
        let rows: &[[[u16; 8]; 2]] = bytemuck::cast_slice(panel);
        let four = s.rolled(4);
        let mut sums = [s.splat(0.0); 2];
        let inputs = x.bytes.chunks_exact(four).zip(x.pairs.chunks_exact(four));
        for ((rows, (bytes, pairs)), scales) in rows.chunks_exact(four + 1).zip(inputs).zip(&x.scales) {
            let mut dots = [s.no_sums(); 2];
            for ((codes, bytes), pairs) in rows.iter().zip(bytes).zip(pairs) {
                let low = s.inputs(&bytes[0], &pairs[0], &pairs[1]);
                let high = s.inputs(&bytes[1], &pairs[2], &pairs[3]);
                for (dot, codes) in dots.iter_mut().zip(codes) {
                    let codes = s.bytes(bytemuck::cast_ref(codes));
                    *dot = s.dot4(*dot, s.low_nibbles(codes), low);
                    *dot = s.dot4(*dot, s.high_nibbles(codes), high);
                }
            }
            let (scale_x, sum_x) = (s.splat(scales[0]), s.splat(scales[1]));
            let [scale, min]: &[Halves; 2] = bytemuck::cast_ref(&rows[four]);
            for half in 0..2 {
                let scale = s.mul(s.tiny_halves(&scale[half]), scale_x);
                sums[half] = s.mul_add(s.tiny_halves(&min[half]), sum_x, sums[half]);
                sums[half] = s.mul_add(s.total(dots[half]), scale, sums[half]);
            }
        }
        sums
    }

    type Open = Open4;
    const SHUT: Open4 = Open4 { codes: [[[0; 16]; 2]; 8], scale: [[0.0; 4]; 2], min: [[0.0; 4]; 2] };

    #[inline(always)]
    fn open<S: Simd>(&self, s: S, to: &mut Open4) {
        for (i, codes) in self.codes.iter().enumerate() {
            for (half, codes) in codes.iter().enumerate() {
                let codes = s.bytes(codes);
                s.store_bytes(s.low_nibbles(codes), &mut to.codes[2 * i][half]);
                s.store_bytes(s.high_nibbles(codes), &mut to.codes[2 * i + 1][half]);
            }
        }
        for half in 0..2 {
            s.store(s.tiny_halves(&self.scale[half]), &mut to.scale[half]);
            s.store(s.tiny_halves(&self.min[half]), &mut to.min[half]);
        }
    }

    #[inline(always)]
    fn many<S: Simd>(open: &Open4, s: S, x: &InputTile, sums: &mut [[S::F; 2]; TILE]) {
        let mut dots = [[s.no_sums(); 2]; TILE];
        for (i, codes) in open.codes.iter().enumerate() {
            let codes = [s.bytes(&codes[0]), s.bytes(&codes[1])];
            for (t, dots) in dots.iter_mut().enumerate() {
                let x = s.inputs(&x.bytes[i][t], &x.pairs[2 * i][t], &x.pairs[2 * i + 1][t]);
                dots[0] = s.dot4(dots[0], codes[0], x);
                dots[1] = s.dot4(dots[1], codes[1], x);
            }
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let (scale_x, sum_x) = (s.splat(x.scale[t]), s.splat(x.sum[t]));
            for half in 0..2 {
                let scale = s.mul(s.load(&open.scale[half]), scale_x);
                sums[half] = s.mul_add(s.total(dots[t][half]), scale, sums[half]);
                sums[half] = s.mul_add(s.load(&open.min[half]), sum_x, sums[half]);
            }
        }
    }
}

/// A [`Block4`] unpacked.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Open4 {
    /// `[group of four columns][half of the rows]`.
    codes: [[[u8; 16]; 2]; 8],
    scale: [[f32; 4]; 2],
    min: [[f32; 4]; 2],
}

impl<M: Min> Block for Block8<M> {
    #[inline(always)]
    fn one<S: Simd>(s: S, panel: &[Self], x: &InputRow) -> [S::F; 2] {
        let mut sums = [s.splat(0.0); 2];
        let (inputs, _) = x.pairs.as_chunks::<4>();
        for ((block, x), scales) in panel.iter().zip(inputs).zip(&x.scales) {
            let mut dots = [s.zero_i32(); 2];
            for (codes, x) in block.codes.iter().zip(x.as_flattened()) {
                let x = s.pair(x);
                dots[0] = s.dot2(dots[0], &codes[0], x);
                dots[1] = s.dot2(dots[1], &codes[1], x);
            }
            let (scale_x, sum_x) = (s.splat(scales[0]), s.splat(scales[1]));
            for half in 0..2 {
                let scale = s.mul(s.tiny_halves(&block.scale[half]), scale_x);
                if let Some(min) = block.min.get() {
                    sums[half] = s.mul_add(s.tiny_halves(&min[half]), sum_x, sums[half]);
                }
                sums[half] = s.mul_add(s.to_f32(dots[half]), scale, sums[half]);
            }
        }
        sums
    }

    // The load that widens costs as much as one that does not, so there is nothing to unpack.
    type Open = Self;
    const SHUT: Self = Self::EMPTY;

    #[inline(always)]
    fn open<S: Simd>(&self, _: S, to: &mut Self) {
        *to = *self;
    }

    #[inline(always)]
    fn many<S: Simd>(open: &Self, s: S, x: &InputTile, sums: &mut [[S::F; 2]; TILE]) {
        let mut dots = [[s.zero_i32(); 2]; TILE];
        for (codes, x) in open.codes.iter().zip(&x.pairs) {
            for (dots, x) in dots.iter_mut().zip(x) {
                let x = s.pair(x);
                dots[0] = s.dot2(dots[0], &codes[0], x);
                dots[1] = s.dot2(dots[1], &codes[1], x);
            }
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let scale_x = s.splat(x.scale[t]);
            for half in 0..2 {
                let scale = s.mul(s.tiny_halves(&open.scale[half]), scale_x);
                sums[half] = s.mul_add(s.to_f32(dots[t][half]), scale, sums[half]);
                if let Some(min) = open.min.get() {
                    sums[half] = s.mul_add(s.tiny_halves(&min[half]), s.splat(x.sum[t]), sums[half]);
                }
            }
        }
    }
}

/// The product for one token: every weight is read once, in order.
struct One<'a, B> {
    blocks: &'a [B],
    x: &'a InputRow,
    y: &'a mut [f32],
    store: Store,
}

impl<B: Block> Kernel for One<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (panel, y) in self.blocks.chunks_exact(self.x.scales.len()).zip(self.y.chunks_mut(ROWS)) {
            put(s, B::one(s, panel, self.x), self.store, y);
        }
    }
}

/// Blocks that stay unpacked while the tiles of four tokens pass: they and a tile's inputs fit the first-level cache.
const DEPTH: usize = 24;

/// The product for several tokens: eight rows are unpacked once and meet all tokens, four at a time.
struct Many<'a, B> {
    blocks: &'a [B],
    x: &'a [InputTile],
    y: &'a mut [f32],
    rows: usize,
    /// Blocks in a row.
    count: usize,
    store: Store,
}

impl<B: Block> Kernel for Many<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut open = [B::SHUT; DEPTH];
        for (panel, row) in self.blocks.chunks_exact(self.count).zip((0..self.rows).step_by(ROWS)) {
            let wide = ROWS.min(self.rows - row);
            for (part, blocks) in panel.chunks(DEPTH).enumerate() {
                let store = if part == 0 { self.store } else { Store::Add };
                for (open, block) in open.iter_mut().zip(blocks) {
                    block.open(s, open);
                }
                for (x, y) in self.x.chunks_exact(self.count).zip(self.y.chunks_mut(TILE * self.rows)) {
                    let mut sums = [[s.splat(0.0); 2]; TILE];
                    for (open, x) in open[..blocks.len()].iter().zip(&x[part * DEPTH..]) {
                        B::many(open, s, x, &mut sums);
                    }
                    for (sums, y) in sums.into_iter().zip(y.chunks_exact_mut(self.rows)) {
                        put(s, sums, store, &mut y[row..row + wide]);
                    }
                }
            }
        }
    }
}
