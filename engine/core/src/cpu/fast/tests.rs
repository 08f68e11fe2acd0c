//! The fast kernels against their specifications, on awkward sizes.

use core::cell::Cell;

use half::{bf16, f16};

use super::*;
use crate::kernels::matmul::Store;
use crate::kernels::{self, Activation, Attention, Pairing};
use crate::quant::QuantType;
use crate::recording::{KvInfo, KvSlot};

thread_local! {
    /// Makes this thread's kernels run on plain arrays.
    pub(super) static PLAIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test on the processor's instructions and on plain arrays.
fn on_every_set(test: impl Fn()) {
    for plain in [false, true] {
        PLAIN.set(plain);
        test();
    }
}

/// A small generator: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// −1 to 1.
    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// Blocks of random codes with sane scales.
    fn weight(&mut self, quant: QuantType, elements: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..elements / quant.block_len() * quant.block_bytes()).map(|_| self.next() as u8).collect();
        for block in bytes.chunks_exact_mut(quant.block_bytes()) {
            let scale = f16::from_f32(0.01 + 0.01 * self.unit().abs()).to_le_bytes();
            let min = f16::from_f32(0.1 * self.unit()).to_le_bytes();
            let value = self.unit() / 8.0;
            match quant {
                QuantType::F32 => block.copy_from_slice(&value.to_le_bytes()),
                QuantType::F16 => block.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                QuantType::BF16 => block.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4_K | QuantType::Q5_K => {
                    block[..2].copy_from_slice(&scale);
                    block[2..4].copy_from_slice(&min);
                }
                QuantType::Q6_K => block[208..].copy_from_slice(&scale),
                _ => block[..2].copy_from_slice(&scale),
            }
        }
        bytes
    }
}

/// Int8 inputs as numbers, each at most half a step from its original.
fn rounded(input: &Activations, x: &[f32], cols: usize) -> Vec<f32> {
    let up = 2f32.powi(56);
    let mut out = Vec::new();
    for (i, x) in x.iter().enumerate() {
        let (t, k) = (i / cols, i % cols);
        let (block, pair) = (k / 32, k % 32 / 2);
        let (q, byte, scale) = if input.tokens() == 1 {
            let b = &input.single;
            (b.pairs[k / 8][k % 8 / 2][k % 2], b.bytes[k / 8][k % 8 / 4][[0, 2, 1, 3][k % 4]], b.scales[block][0])
        } else {
            let b = &input.tiles[t / 4 * cols.div_ceil(32) + block];
            (b.pairs[pair][t % 4][k % 2], b.bytes[k % 32 / 4][t % 4][[0, 2, 1, 3][k % 4]], b.scale[t % 4])
        };
        assert_eq!(q, i16::from(byte));
        let v = f32::from(q) * (scale / up);
        assert!((v - x).abs() <= 0.5001 * scale / up, "{v} for {x}");
        out.push(v);
    }
    out
}

/// Largest difference, and the scale to judge it by: the largest sum of absolute products.
fn difference(w: &[f32], x: &[f32], y: &[f32], before: &[f32], rows: usize, cols: usize) -> f64 {
    let mut worst = 0.0f64;
    for (t, x) in x.chunks_exact(cols).enumerate() {
        for (n, w) in w.chunks_exact(cols).enumerate() {
            let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let want = products().sum::<f64>() + f64::from(before[t * rows + n]);
            let scale = products().map(f64::abs).sum::<f64>() + 1e-3;
            worst = worst.max((want - f64::from(y[t * rows + n])).abs() / scale);
        }
    }
    worst
}

const SHAPES: [(usize, usize); 9] =
    [(1, 32), (3, 32), (7, 96), (8, 96), (13, 576), (24, 576), (5, 1536), (20, 1536), (9, 2048)];
const TOKENS: [usize; 7] = [1, 2, 3, 4, 5, 7, 33];
#[test]
fn products_are_exact_in_their_integers() {
    on_every_set(|| {
        let mut random = Random(1);
        for quant in QuantType::SELF_CONTAINED {
            for (rows, cols) in SHAPES {
                if cols % quant.block_len() != 0 {
                    continue;
                }
                let bytes = random.weight(quant, rows * cols);
                let mut matrix = FastMatrix::new("w", quant, rows, cols).unwrap();
                let row_bytes = bytes.len() / rows;
                // In pieces of uneven length.
                let mut first = 0;
                while first < rows {
                    let n = (1 + random.next() as usize % 5).min(rows - first);
                    matrix.write_rows(first, &bytes[first * row_bytes..(first + n) * row_bytes]);
                    first += n;
                }
                let mut w = vec![0.0; rows * cols];
                for (n, row) in w.chunks_exact_mut(cols).enumerate() {
                    matrix.row(n, row);
                }
                let mut file = vec![0.0; rows * cols];
                quant.dequantize(&bytes, &mut file);
                // Half a step of new codes, or the rounding of scales and minimums that were products; else none at all.
                let most = file.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let allowed = match quant {
                    QuantType::Q4_K | QuantType::Q5_K => most / 1024.0,
                    QuantType::Q6_K => most * 1.02 / 254.0,
                    _ if quant.is_float() => most * 1.02 / 254.0,
                    _ => 0.0,
                };
                for (a, b) in w.iter().zip(&file) {
                    assert!((a - b).abs() <= allowed, "{quant:?} [{rows}, {cols}]: {a} for {b}");
                }
                for tokens in TOKENS {
                    let x = random.units(tokens * cols);
                    let mut input = Activations::default();
                    input.quantize(&x, tokens, cols);
                    for store in [Store::Replace, Store::Add] {
                        let old = random.units(tokens * rows);
                        let mut y = old.clone();
                        matrix.matmul(&input, tokens, store, &mut y);
                        let before = if store == Store::Add { old } else { vec![0.0; tokens * rows] };
                        let exact = difference(&w, &rounded(&input, &x, cols), &y, &before, rows, cols);
                        assert!(exact < 2e-6, "{quant:?} [{rows}, {cols}] {tokens} tokens: {exact}");
                        let whole = difference(&file, &x, &y, &before, rows, cols);
                        assert!(whole < 6e-3, "{quant:?} [{rows}, {cols}] {tokens} tokens: {whole}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_float_weight_may_have_any_width() {
    on_every_set(|| {
        let mut random = Random(2);
        for cols in [1, 20, 33, 100] {
            let w = random.units(5 * cols);
            let bytes: Vec<u8> = w.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut matrix = FastMatrix::new("w", QuantType::F32, 5, cols).unwrap();
            matrix.write_rows(0, &bytes);
            for tokens in [1, 6] {
                let x = random.units(tokens * cols);
                let mut input = Activations::default();
                input.quantize(&x, tokens, cols);
                let mut y = vec![0.0; tokens * 5];
                matrix.matmul(&input, tokens, Store::Replace, &mut y);
                let found = difference(&w, &x, &y, &vec![0.0; tokens * 5], 5, cols);
                assert!(found < 1e-2, "{cols} columns, {tokens} tokens: {found}");
            }
        }
    });
}

#[test]
fn extreme_codes_do_not_overflow() {
    on_every_set(|| {
        for (quant, low, high) in [(QuantType::Q4_1, 0u8, 255u8), (QuantType::Q8_0, 128, 127)] {
            for fill in [low, high] {
                let mut block = vec![fill; quant.block_bytes()];
                block[..2].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
                if quant == QuantType::Q4_1 {
                    block[2..4].copy_from_slice(&f16::from_f32(-3.0).to_le_bytes());
                }
                let mut matrix = FastMatrix::new("w", quant, 8, 32).unwrap();
                matrix.write_rows(0, &block.repeat(8));
                let mut w = [0.0; 32];
                matrix.row(7, &mut w);
                for x in [127.0, -127.0, 1e-20, 1e18, 0.0] {
                    for tokens in [1, 4] {
                        let mut input = Activations::default();
                        input.quantize(&vec![x; 32 * tokens], tokens, 32);
                        let mut y = vec![9.0; 8 * tokens];
                        matrix.matmul(&input, tokens, Store::Replace, &mut y);
                        let want = 32.0 * w[0] * x;
                        assert!(
                            y.iter().all(|y| (y - want).abs() <= want.abs() * 1e-5),
                            "{quant:?} {x}: {y:?} for {want}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn a_broken_input_is_not_hidden() {
    on_every_set(|| {
        let mut matrix = FastMatrix::new("w", QuantType::Q8_0, 8, 64).unwrap();
        matrix.write_rows(0, &Random(3).weight(QuantType::Q8_0, 8 * 64));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 33, 63] {
                let mut x = vec![1.0; 64];
                x[at] = bad;
                let mut input = Activations::default();
                input.quantize(&x, 1, 64);
                let mut y = [0.0; 8];
                matrix.matmul(&input, 1, Store::Replace, &mut y);
                assert!(y.iter().all(|y| y.is_nan()), "{bad} at {at}: {y:?}");
            }
        }
    });
}

/// A random matrix of packed codes in its file's form, streamed in pieces of uneven length, and its scales.
fn packed(random: &mut Random, quant: QuantType, rows: usize, cols: usize) -> (PackedMatrix, Vec<u8>, Vec<f32>) {
    let row_bytes = cols / quant.block_len() * quant.block_bytes();
    let bytes: Vec<u8> = (0..rows * row_bytes).map(|_| random.next() as u8).collect();
    let mut matrix = PackedMatrix::new("w", quant, rows, cols).unwrap();
    let mut first = 0;
    while first < rows {
        let n = (1 + random.next() as usize % 5).min(rows - first);
        matrix.write_rows(first, &bytes[first * row_bytes..(first + n) * row_bytes]);
        first += n;
    }
    let scales = (0..rows).map(|_| 0.01 + 0.01 * random.unit().abs()).collect();
    (matrix, bytes, scales)
}

const PACKED: [QuantType; 3] = [QuantType::Int2, QuantType::Int4, QuantType::Int8];

/// Rows and columns; the last is the widest that a model has.
const PACKED_SHAPES: [(usize, usize); 9] =
    [(1, 4), (3, 32), (7, 36), (8, 64), (13, 100), (24, 576), (20, 1536), (9, 2060), (5, 12_288)];

#[test]
fn packed_codes_keep_their_values_and_their_size() {
    let mut random = Random(6);
    for quant in PACKED {
        for (rows, cols) in PACKED_SHAPES {
            let (matrix, bytes, _) = packed(&mut random, quant, rows, cols);
            let mut file = vec![0.0; rows * cols];
            quant.dequantize(&bytes, &mut file);
            let mut row = vec![9.0; cols];
            for (n, want) in file.chunks_exact(cols).enumerate() {
                matrix.row(n, &mut row);
                assert_eq!(row, want, "{quant:?} [{rows}, {cols}] row {n}");
            }
            let whole = rows.next_multiple_of(8) * cols.next_multiple_of(32);
            assert_eq!(matrix.bytes() * quant.block_len(), whole, "{quant:?} [{rows}, {cols}]");
        }
    }
    assert!(PackedMatrix::new("w", QuantType::Q4_0, 8, 64).is_err());
    assert!(PackedMatrix::new("w", QuantType::Int2, 8, 1 << 20).is_err());
}

#[test]
fn packed_products_on_a_grid_are_their_formula() {
    on_every_set(|| {
        let mut random = Random(7);
        for quant in PACKED {
            for (rows, cols) in PACKED_SHAPES {
                let (matrix, _, scales) = packed(&mut random, quant, rows, cols);
                let mut w = vec![0.0; rows * cols];
                w.chunks_exact_mut(cols).enumerate().for_each(|(n, row)| matrix.row(n, row));
                for tokens in TOKENS {
                    // Some lie beyond the grid's ends, some on the border between two codes.
                    let step = 0.013f32;
                    let at = |v: f32| if v.abs() < 0.2 { (v * 100.0).round() * step / 2.0 } else { v * 2.5 };
                    let x: Vec<f32> = random.units(tokens * cols).into_iter().map(at).collect();
                    let codes: Vec<i64> =
                        x.iter().map(|x| (x / step).round_ties_even().clamp(-128.0, 127.0) as i64).collect();
                    let mut input = Activations::default();
                    input.quantize_on_grid(&x, tokens, cols, step);
                    for (grid, store) in [(0.0, Store::Replace), (0.05, Store::Replace), (0.05, Store::Add)] {
                        let old = random.units(tokens * rows);
                        let mut y = old.clone();
                        matrix.matmul(&input, tokens, Outputs { scales: &scales, grid, store }, &mut y);
                        for (i, y) in y.iter().enumerate() {
                            let (t, n) = (i / rows, i % rows);
                            let products = w[n * cols..][..cols].iter().zip(&codes[t * cols..]);
                            let sum: i64 = products.map(|(w, q)| *w as i64 * q).sum();
                            let value = kernels::matmul::on_grid(step * scales[n] * sum as f32, grid);
                            let want = if store == Store::Add { old[i] + value } else { value };
                            assert_eq!(*y, want, "{quant:?} [{rows}, {cols}] {tokens} tokens, grid {grid}, output {i}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn packed_products_in_blocks_are_exact_in_their_integers() {
    on_every_set(|| {
        let mut random = Random(8);
        for quant in PACKED {
            for (rows, cols) in PACKED_SHAPES {
                let (matrix, _, scales) = packed(&mut random, quant, rows, cols);
                let mut w = vec![0.0; rows * cols];
                for (n, row) in w.chunks_exact_mut(cols).enumerate() {
                    matrix.row(n, row);
                    row.iter_mut().for_each(|w| *w *= scales[n]);
                }
                for tokens in TOKENS {
                    let x = random.units(tokens * cols);
                    let mut input = Activations::default();
                    input.quantize(&x, tokens, cols);
                    let mut y = vec![9.0; tokens * rows];
                    let outputs = Outputs { scales: &scales, grid: 0.0, store: Store::Replace };
                    matrix.matmul(&input, tokens, outputs, &mut y);
                    let before = vec![0.0; y.len()];
                    let exact = difference(&w, &rounded(&input, &x, cols), &y, &before, rows, cols);
                    // The codes' zero is taken out at the end: sums of unsigned codes are that much larger.
                    assert!(exact < 8e-6, "{quant:?} [{rows}, {cols}] {tokens} tokens: {exact}");
                    let whole = difference(&w, &x, &y, &before, rows, cols);
                    assert!(whole < 1e-2, "{quant:?} [{rows}, {cols}] {tokens} tokens: {whole}");
                }
            }
        }
    });
}

#[test]
fn extreme_packed_codes_do_not_overflow() {
    on_every_set(|| {
        let cols = 12_288;
        for quant in PACKED {
            for fill in [0u8, 0x7f, 0x80, 0xff] {
                let mut matrix = PackedMatrix::new("w", quant, 8, cols).unwrap();
                let row = vec![fill; cols / quant.block_len()];
                matrix.write_rows(0, &row.repeat(8));
                let mut w = vec![0.0; cols];
                matrix.row(7, &mut w);
                let sum: f64 = w.iter().map(|w| f64::from(*w)).sum();
                for x in [127.0f32, -128.0, 1e30, -1e30] {
                    for tokens in [1, 4] {
                        let mut input = Activations::default();
                        input.quantize_on_grid(&vec![x; cols * tokens], tokens, cols, 1.0);
                        let mut y = vec![9.0; 8 * tokens];
                        let outputs = Outputs { scales: &[1.0; 8], grid: 0.0, store: Store::Replace };
                        matrix.matmul(&input, tokens, outputs, &mut y);
                        let want = (sum * f64::from(x.clamp(-128.0, 127.0))) as f32;
                        assert!(y.iter().all(|y| *y == want), "{quant:?} {fill} {x}: {y:?} for {want}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_broken_input_of_packed_codes_is_not_hidden() {
    on_every_set(|| {
        let (matrix, _, scales) = packed(&mut Random(9), QuantType::Int4, 8, 64);
        for bad in [f32::NAN, f32::INFINITY] {
            for tokens in [1, 2] {
                let mut x = vec![1.0; 64 * tokens];
                x[33] = bad;
                for (step, grid) in [(Some(0.1), 0.0), (Some(0.1), 0.3), (None, 0.3), (None, 0.0)] {
                    let mut input = Activations::default();
                    match step {
                        Some(step) => input.quantize_on_grid(&x, tokens, 64, step),
                        None => input.quantize(&x, tokens, 64),
                    }
                    let mut y = vec![0.0; 8 * tokens];
                    matrix.matmul(&input, tokens, Outputs { scales: &scales, grid, store: Store::Replace }, &mut y);
                    let (broken, whole) = y.split_at(8);
                    assert!(broken.iter().all(|y| y.is_nan()), "{bad}, {tokens} tokens: {broken:?}");
                    assert!(whole.iter().all(|y| y.is_finite()), "{bad}: {whole:?}");
                }
            }
        }
    });
}

#[test]
fn float_products_are_their_specification() {
    on_every_set(|| {
        let mut random = Random(10);
        for quant in [QuantType::BF16, QuantType::F16, QuantType::F32] {
            for (rows, cols) in [(1, 1), (7, 33), (8, 64), (20, 1536)] {
                let bytes = random.weight(quant, rows * cols);
                let mut matrix = FloatMatrix::new("w", quant, rows, cols).unwrap();
                let (first, rest) = bytes.split_at(rows / 3 * cols * quant.block_bytes());
                matrix.write_rows(0, first);
                matrix.write_rows(rows / 3, rest);
                let (mut w, mut row) = (vec![0.0; rows * cols], vec![0.0; cols]);
                quant.dequantize(&bytes, &mut w);
                for (n, want) in w.chunks_exact(cols).enumerate() {
                    matrix.row(n, &mut row);
                    assert_eq!(row, want, "{quant:?} [{rows}, {cols}] row {n}");
                }
                for tokens in TOKENS {
                    let x = random.units(tokens * cols);
                    for store in [Store::Replace, Store::Add] {
                        // Small: its own rounding is not the product's.
                        let old: Vec<f32> = random.units(tokens * rows).iter().map(|v| v / 64.0).collect();
                        let mut y = old.clone();
                        matrix.matmul(&x, store, &mut y);
                        let before = if store == Store::Add { old } else { vec![0.0; tokens * rows] };
                        let found = difference(&w, &x, &y, &before, rows, cols);
                        assert!(found < 2e-6, "{quant:?} [{rows}, {cols}] {tokens} tokens: {found}");
                    }
                }
            }
        }
        assert!(FloatMatrix::new("w", QuantType::Q4_0, 8, 64).is_err());
    });
}

#[test]
fn attention_is_its_reference() {
    on_every_set(|| {
        let mut random = Random(4);
        let cases = [
            // heads, kv heads, d, window
            (9, 3, 64, None),
            (4, 4, 64, None),
            (8, 2, 32, Some(5)),
            (6, 3, 20, Some(130)),
            (5, 1, 128, None),
            (2, 1, 8, Some(1)),
            (8, 1, 256, Some(64)),
            (4, 1, 512, None),
        ];
        for ((heads, kv_heads, d, window), precision) in
            cases.into_iter().flat_map(|case| [(case, Precision::Rounded), (case, Precision::Exact)])
        {
            let slot = KvSlot(0);
            let buffer = crate::recording::BufferId(0);
            let op = Attention { q: buffer, slot, out: buffer, heads, scale: 1.0 / (d as f32).sqrt(), window };
            for (position, tokens) in [(0, 1), (0, 5), (1, 1), (15, 2), (126, 4), (300, 1), (250, 33)] {
                let n = position + tokens;
                let (k, v) = (random.units(n * kv_heads * d), random.units(n * kv_heads * d));
                let mut kv = FastKv::new(KvInfo { heads: kv_heads, head_dim: d }, precision).unwrap();
                // Stale entries beyond the end must not matter.
                kv.append(n, &vec![7.0; 3 * kv_heads * d], &vec![1e30; 3 * kv_heads * d]);
                kv.append(0, &k[..position * kv_heads * d], &v[..position * kv_heads * d]);
                kv.append(position, &k[position * kv_heads * d..], &v[position * kv_heads * d..]);
                let round = |x: &[f32]| x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect::<Vec<_>>();
                let (k, v) = if precision == Precision::Rounded { (round(&k), round(&v)) } else { (k, v) };
                let q: Vec<f32> = random.units(tokens * heads * d).iter().map(|v| v * 4.0).collect();
                let mut out = vec![f32::NAN; tokens * heads * d];
                kv.attention(&op, position, &q, &mut out);
                let mut want = vec![0.0; d];
                for t in 0..tokens {
                    let seen = op.visible(position + t);
                    for h in 0..heads {
                        let start = (seen.start * kv_heads + h / (heads / kv_heads)) * d;
                        let at = (t * heads + h) * d;
                        let q = &q[at..at + d];
                        let (k, v) = (&k[start..], &v[start..]);
                        kernels::attention::reference(q, k, v, kv_heads * d, seen.len(), op.scale, &mut want);
                        for (a, b) in out[at..at + d].iter().zip(&want) {
                            assert!(
                                (a - b).abs() < 1e-5,
                                "{heads}/{kv_heads} d {d} at {position}+{t} head {h}: {a} for {b}"
                            );
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_cache_stays_within_its_bytes() {
    on_every_set(|| {
        let mut kv = FastKv::new(KvInfo { heads: 3, head_dim: 64 }, Precision::Rounded).unwrap();
        assert_eq!(kv.bytes(), 0);
        let row = vec![0.5; 192];
        for position in 0..2048 {
            kv.append(position, &row, &row);
        }
        assert!(kv.bytes() * 30 <= 50_000_000, "{} bytes", kv.bytes() * 30);
        kv.truncate(1);
        assert!(kv.bytes() * 30 <= 3_000_000, "{} bytes", kv.bytes() * 30);
        assert!(FastKv::new(KvInfo { heads: 1, head_dim: 1 << 40 }, Precision::Exact).is_err());
    });
}

#[test]
fn small_kernels_are_their_references() {
    on_every_set(|| {
        let mut random = Random(5);
        for n in [4, 7, 20, 64, 576, 1536] {
            let x: Vec<f32> = random.units(3 * n).iter().map(|v| v * 20.0).collect();
            let w = random.units(n);
            for weight in [None, Some(w.as_slice())] {
                let (mut a, mut b) = (vec![0.0; 3 * n], vec![0.0; 3 * n]);
                rms_norm(&x, weight, n, 1e-5, &mut a);
                kernels::rms_norm::reference(&x, weight, n, 1e-5, &mut b);
                for (a, b) in a.iter().zip(&b) {
                    assert!((a - b).abs() <= 1e-6 * b.abs(), "norm of {n}: {a} for {b}");
                }
            }
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let up = random.units(3 * n);
                let (mut a, mut b) = (x.clone(), x.clone());
                gated_activation(&mut a, &up, activation);
                kernels::gated_activation::reference(&mut b, &up, activation);
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    assert!((a - b).abs() <= 1e-6 * (x[i] * up[i]).abs(), "gate of {n}: {a} for {b}");
                }
            }
        }
        for (n, cap) in [(1, 30.0), (7, 30.0), (64, 0.5), (4096, 30.0)] {
            let x: Vec<f32> = random.units(n).iter().map(|v| v * 100.0).collect();
            let (mut a, mut b) = (x.clone(), x);
            soft_cap(&mut a, cap);
            kernels::soft_cap::reference(&mut b, cap);
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 4e-7 * cap, "cap {cap} of {n}: {a} for {b}");
            }
        }
        for (d, position) in [(64, 0), (64, 4097), (8, 3), (20, 7), (128, 100)] {
            let frequencies: Vec<f64> = (0..d / 2).map(|i| 1e5f64.powf(-2.0 * i as f64 / d as f64)).collect();
            let angles = kernels::rope::angles(&frequencies, position);
            for pairing in [Pairing::Adjacent, Pairing::Halves] {
                let mut a = random.units(3 * d);
                let mut b = a.clone();
                rope(&mut a, d, pairing, &angles);
                kernels::rope::reference(&mut b, d, pairing, &angles);
                for (a, b) in a.iter().zip(&b) {
                    assert!((a - b).abs() <= 1.5e-6, "{pairing:?} d {d} at {position}: {a} for {b}");
                }
            }
        }
    });
}

#[test]
fn exp_is_accurate() {
    on_every_set(|| {
        struct Four([f32; 4]);
        impl simd::Kernel for Four {
            type Output = [f32; 4];
            fn run<S: simd::Simd>(self, s: S) -> [f32; 4] {
                let mut out = [0.0; 4];
                s.store(simd::Exp::new(s).of(s, s.load(&self.0)), &mut out);
                out
            }
        }
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let found = f64::from(simd::dispatch(Four([x; 4]))[3]);
            let want = f64::from(x).exp();
            assert!(
                (found - want).abs() <= (2e-7 + 8e-8 * f64::from(x.abs())) * want,
                "e^{x} = {found}, should be {want}"
            );
        }
        let ends = simd::dispatch(Four([-1e30, f32::NEG_INFINITY, 89.0, f32::INFINITY]));
        assert!(ends[..2].iter().all(|v| (0.0..1e-37).contains(v)) && ends[2..].iter().all(|v| *v > 1e38), "{ends:?}");
    });
}
