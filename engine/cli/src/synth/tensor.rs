//! A tensor to be made, and the random numbers that fill it.

use std::io::{self, Write};

use half::f16;

/// Bytes made at once.
const PIECE: usize = 1 << 20;

/// How a tensor's elements are stored, in the order in which safetensors files hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    I8,
    U8,
}

impl Dtype {
    /// Its name in a safetensors header.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::I8 => "I8",
            Self::U8 => "U8",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }
}

/// What a tensor holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    /// Codes of 2, 4 or 8 bits, the first two offset-binary. All values occur, and their mean is nearly zero: codes spread evenly have
    /// a mean of −½, which adds up over a row, layer by layer, until nothing else is left.
    Codes { bits: u64 },
    /// Numbers spread evenly over `middle ± spread`.
    Numbers { middle: f32, spread: f32 },
    /// One scale a row around `middle`, as [`Fill::Numbers`]; `quiet` says which rows get an eighth of it.
    RowScales { middle: f32, quiet: fn(u64) -> bool },
    /// Blocks of GGUF's Q4_0: an f16 scale, 32 codes of 4 bits.
    Q4Blocks { scale: f32 },
    /// Blocks of GGUF's Q6_K: 256 codes of 6 bits, 16 scales of 8 bits, an f16 scale. `quiet` as above, for rows of so many blocks.
    Q6Blocks { scale: f32, row: u64, quiet: fn(u64) -> bool },
    /// Exactly these f32 numbers.
    Given(&'static [f32]),
}

/// A tensor to be made.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) fill: Fill,
    /// Tensors with the same number here and the same shape hold the same bytes.
    pub(crate) seed: u64,
}

impl Tensor {
    pub(crate) fn new(name: String, dtype: Dtype, shape: &[u64], fill: Fill) -> Self {
        let seed = hash(&name);
        Self { name, dtype, shape: shape.to_vec(), fill, seed }
    }

    /// Bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.bytes()
    }

    /// Writes the tensor's bytes, a piece at a time.
    pub(crate) fn write(&self, seed: u64, out: &mut impl Write) -> io::Result<()> {
        let mut random = Random(self.seed ^ seed);
        write(self.fill, self.dtype, self.bytes(), &mut random, out)
    }
}

/// Writes `bytes` bytes of `fill`.
pub(crate) fn write(fill: Fill, dtype: Dtype, bytes: u64, random: &mut Random, out: &mut impl Write) -> io::Result<()> {
    let unit = match fill {
        Fill::Q4Blocks { .. } => 18,
        Fill::Q6Blocks { .. } => 210,
        _ => 8,
    };
    let mut piece = vec![0; PIECE / unit * unit];
    let (mut left, mut unit_number) = (bytes, 0);
    while left > 0 {
        let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = &mut piece[..len];
        for (number, unit) in (unit_number..).zip(piece.chunks_mut(unit)) {
            fill_unit(fill, dtype, number, random, unit);
        }
        unit_number += len.div_ceil(unit) as u64;
        out.write_all(piece)?;
        left -= len as u64;
    }
    Ok(())
}

/// Fills one block, or eight bytes or the rest of them.
fn fill_unit(fill: Fill, dtype: Dtype, number: u64, random: &mut Random, unit: &mut [u8]) {
    let mut elements = |unit: &mut [u8], value: &mut dyn FnMut(u64, &mut Random) -> f32| {
        let width = dtype.bytes() as usize;
        let first = number * 8 / width as u64;
        for (index, element) in (first..).zip(unit.chunks_mut(width)) {
            // The upper half of an f32 is a bf16, rounded towards zero.
            let bytes = value(index, random).to_le_bytes();
            element.copy_from_slice(&bytes[4 - width..]);
        }
    };
    match fill {
        Fill::Codes { bits } => copy(unit, codes(bits, number, random.next())),
        Fill::Numbers { middle, spread } => elements(unit, &mut |_, random| middle + spread * random.unit()),
        Fill::RowScales { middle, quiet } => {
            elements(unit, &mut |row, random| loudness(row, quiet) * middle * (1.0 + 0.25 * random.unit()));
        }
        Fill::Given(numbers) => elements(unit, &mut |index, _| numbers[index as usize % numbers.len()]),
        Fill::Q4Blocks { scale } => {
            let (head, codes) = unit.split_at_mut(2);
            head.copy_from_slice(&f16::from_f32(scale * (1.0 + 0.25 * random.unit())).to_le_bytes());
            codes.chunks_mut(8).for_each(|part| copy(part, self::codes(4, number, random.next())));
        }
        Fill::Q6Blocks { scale, row, quiet } => {
            let (codes, tail) = unit.split_at_mut(192);
            codes.chunks_mut(8).for_each(|part| copy(part, random.next()));
            let (scales, last) = tail.split_at_mut(16);
            // 48 … 79, so that no group is silent.
            scales
                .chunks_mut(8)
                .for_each(|part| copy(part, (random.next() & 0x1f1f_1f1f_1f1f_1f1f) + 0x3030_3030_3030_3030));
            last.copy_from_slice(&f16::from_f32(loudness(number / row, quiet) * scale).to_le_bytes());
        }
    }
}

/// Eight bytes of codes out of 64 random bits.
fn codes(bits: u64, number: u64, word: u64) -> u64 {
    const PAIRS: u64 = 0x5555_5555_5555_5555;
    const NIBBLES: u64 = 0x1111_1111_1111_1111;
    let (low, high) = (word & PAIRS, word >> 1 & PAIRS);
    match bits {
        // −1, 0, 0, 1 and −2, 0, 1, 1 in turn.
        2 if number.is_multiple_of(2) => low + high + PAIRS,
        2 => (low ^ high) | (low | high) << 1,
        // −8 becomes 0, but for one word in 64.
        4 if !number.is_multiple_of(64) => word | (!(word | word >> 1 | word >> 2 | word >> 3) & NIBBLES) << 3,
        _ => word,
    }
}

fn loudness(row: u64, quiet: fn(u64) -> bool) -> f32 {
    if quiet(row) { 0.125 } else { 1.0 }
}

fn copy(unit: &mut [u8], word: u64) {
    let len = unit.len();
    unit.copy_from_slice(&word.to_le_bytes()[..len]);
}

/// SplitMix64 of Steele, Lea and Flood: a few gigabytes a second, which no disk can follow.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number between −1 and 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 * (2.0 / (1 << 24) as f32) - 1.0
    }
}

/// FNV-1a: a number of its own for each name.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(fill: Fill, dtype: Dtype, shape: &[u64]) -> Vec<u8> {
        let tensor = Tensor::new("t".into(), dtype, shape, fill);
        let mut bytes = Vec::new();
        tensor.write(1, &mut bytes).expect("memory takes everything");
        assert_eq!(bytes.len() as u64, tensor.bytes());
        bytes
    }

    #[test]
    fn codes_have_all_values_and_hardly_a_mean() {
        for bits in [2, 4] {
            let bytes = made(Fill::Codes { bits }, Dtype::U8, &[1000, 77]);
            let mut counts = vec![0u32; 1 << bits];
            for byte in &bytes {
                (0..8 / bits).for_each(|j| counts[usize::from(byte >> (bits * j)) % (1 << bits)] += 1);
            }
            let total: u32 = counts.iter().sum();
            let moment = |power: i32| {
                let zero = f64::from(1 << (bits - 1));
                let sum = |(code, &n): (usize, &u32)| (code as f64 - zero).powi(power) * f64::from(n);
                counts.iter().enumerate().map(sum).sum::<f64>() / f64::from(total)
            };
            assert!(counts.iter().all(|&n| n > total / 2000), "{counts:?}");
            let deviation = moment(2).sqrt();
            assert!(moment(1).abs() < 0.01 * deviation, "{counts:?}");
            assert!((deviation / f64::from(super::super::mobile::deviation(bits)) - 1.0).abs() < 0.02, "{deviation}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range_in_both_widths() {
        let fill = Fill::Numbers { middle: 0.5, spread: 0.25 };
        let wide = made(fill, Dtype::F32, &[333]);
        let wide: Vec<f32> = wide.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let narrow = made(fill, Dtype::Bf16, &[333]);
        let narrow: Vec<f32> = narrow.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect();
        for numbers in [wide, narrow] {
            assert!(numbers.iter().all(|n| (0.25..=0.75).contains(n)));
            assert!(numbers.iter().any(|&n| n < 0.3) && numbers.iter().any(|&n| n > 0.7));
        }
    }

    #[test]
    fn quiet_rows_are_quiet() {
        let scales = made(Fill::RowScales { middle: 1.0, quiet: |row| row == 3 }, Dtype::F32, &[8, 1]);
        let scales: Vec<f32> = scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(scales.iter().enumerate().all(|(row, &s)| if row == 3 { s < 0.16 } else { s > 0.7 }), "{scales:?}");
    }

    #[test]
    fn pieces_join_without_a_seam() {
        let long = made(Fill::Codes { bits: 8 }, Dtype::I8, &[PIECE as u64 + 5]);
        assert_ne!(long[..64], long[PIECE..][..5].repeat(13)[..64]);
        assert_eq!(made(Fill::Codes { bits: 8 }, Dtype::I8, &[100])[..], long[..100]);
    }
}
