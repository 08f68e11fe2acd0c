//! How a file stores numbers: block size, layout and decoder of every type, said once.
//!
//! Every quantized type here is affine: a block holds integer codes in groups of 16 or 32, and each group has a scale
//! and a minimum, `value = scale · code + min`. The reference, the SIMD path and the GPU repacker all start from
//! [`QuantType::decode_block`], so a layout is written down in one place only.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// How the numbers of a tensor are stored in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the field's own names")]
pub enum QuantType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of 32: f16 scale, 4-bit codes minus 8.
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 4-bit codes.
    Q4_1,
    /// Blocks of 32: f16 scale, 5-bit codes minus 16.
    Q5_0,
    /// Blocks of 32: f16 scale, f16 minimum, 5-bit codes.
    Q5_1,
    /// Blocks of 32: f16 scale, signed 8-bit codes.
    Q8_0,
    /// Blocks of 256: 8 groups of 32 with 6-bit scales and minimums, 4-bit codes.
    Q4_K,
    /// Blocks of 256: 8 groups of 32 with 6-bit scales and minimums, 5-bit codes.
    Q5_K,
    /// Blocks of 256: 16 groups of 16 with 8-bit scales, 6-bit codes minus 32.
    Q6_K,
    /// Four codes a byte, lowest bits first, minus 2. The scales lie in a tensor of their own:
    /// [`WeightSpec::scales`](crate::weights::WeightSpec::scales).
    Int2,
    /// Two codes a byte, low nibble first, minus 8. Scales as for [`Self::Int2`].
    Int4,
    /// Signed bytes. Scales as for [`Self::Int2`].
    Int8,
}

/// Scale and minimum of a group of codes: `value = scale · code + min`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Group {
    /// Multiplies the code.
    pub scale: f32,
    /// Added after.
    pub min: f32,
}

/// The largest block of any type, in elements.
pub const MAX_BLOCK: usize = 256;

impl QuantType {
    /// The types whose blocks hold all that a value needs: those of GGUF files, and floats.
    pub const SELF_CONTAINED: [QuantType; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Elements in a block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Int8 => 1,
            Self::Int4 => 2,
            Self::Int2 => 4,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block in the file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Int2 | Self::Int4 | Self::Int8 => 1,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Elements of a block that share a scale and a minimum (0 for floats, and where scales lie elsewhere).
    pub const fn group_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Int2 | Self::Int4 | Self::Int8 => 0,
            Self::Q6_K => 16,
            _ => 32,
        }
    }

    /// True when the codes are unsigned and fit 4 bits once `min` absorbs their offset (Q4_0, Q4_1, Q4_K).
    pub const fn fits_4_bits(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q4_K)
    }

    /// True when the scales lie in a tensor of their own (Int2, Int4, Int8).
    pub const fn has_own_scales(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// True for F32, F16 and BF16.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a row of `cols` elements, or an error that names `what`.
    pub fn row_bytes(self, what: &str, cols: usize) -> Result<usize> {
        if cols == 0 || !cols.is_multiple_of(self.block_len()) {
            return Err(Error::format(
                what,
                format!("its rows have {cols} elements, but {self:?} is stored in blocks of {}", self.block_len()),
            ));
        }
        (cols / self.block_len())
            .checked_mul(self.block_bytes())
            .ok_or_else(|| Error::format(what, format!("its rows have {cols} elements, too many to address")))
    }

    /// Decodes one quantized block into codes (`block_len`) and groups (`block_len / group_len`).
    ///
    /// Codes of Q4_0, Q4_1 and Q4_K are 0..=15 (Q4_0's offset is in `min`), those of Q5_1 and Q5_K 0..=31; Q5_0 is
    /// −16..=15, Q6_K −32..=31, Q8_0 and Int8 −128..=127, Int4 −8..=7, Int2 −2..=1 (these three have no groups). `block` must be `block_bytes` long. Floats have no codes: nothing is
    /// written for them.
    pub fn decode_block(self, block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
        let half_at = |i: usize| f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
        match self {
            Self::F32 | Self::F16 | Self::BF16 => {}
            Self::Int8 => codes[0] = block[0] as i8,
            Self::Int4 => {
                codes[0] = (block[0] & 15) as i8 - 8;
                codes[1] = (block[0] >> 4) as i8 - 8;
            }
            Self::Int2 => {
                for (j, code) in codes.iter_mut().enumerate().take(4) {
                    *code = (block[0] >> (2 * j) & 3) as i8 - 2;
                }
            }
            Self::Q4_0 | Self::Q4_1 => {
                let (scale, min, first) = match self {
                    Self::Q4_0 => (half_at(0), -8.0 * half_at(0), 2),
                    _ => (half_at(0), half_at(2), 4),
                };
                groups[0] = Group { scale, min };
                for j in 0..16 {
                    codes[j] = (block[first + j] & 15) as i8;
                    codes[j + 16] = (block[first + j] >> 4) as i8;
                }
            }
            Self::Q8_0 => {
                groups[0] = Group { scale: half_at(0), min: 0.0 };
                for j in 0..32 {
                    codes[j] = block[2 + j] as i8;
                }
            }
            Self::Q5_0 | Self::Q5_1 => {
                let (group, offset, first) = match self {
                    Self::Q5_0 => (Group { scale: half_at(0), min: 0.0 }, 16, 2),
                    _ => (Group { scale: half_at(0), min: half_at(2) }, 0, 4),
                };
                groups[0] = group;
                let high = u32::from_le_bytes([block[first], block[first + 1], block[first + 2], block[first + 3]]);
                for j in 0..16 {
                    let low = block[first + 4 + j];
                    let bit = |i: usize| ((high >> i & 1) << 4) as u8;
                    codes[j] = (low & 15 | bit(j)) as i8 - offset;
                    codes[j + 16] = (low >> 4 | bit(j + 16)) as i8 - offset;
                }
            }
            Self::Q4_K | Self::Q5_K => {
                let (scale, min) = (half_at(0), half_at(2));
                for (j, group) in groups.iter_mut().enumerate().take(8) {
                    let (s, m) = scale_min_6_bits(&block[4..16], j);
                    *group = Group { scale: scale * f32::from(s), min: -(min * f32::from(m)) };
                }
                // Four runs of 32 bytes: low nibbles are one group, high nibbles the next. Q5_K's fifth bits lie
                // before them, bit g of byte l for code l of group g.
                let (fifth, nibbles) = match self {
                    Self::Q4_K => (&[0u8; 32][..], &block[16..144]),
                    _ => (&block[16..48], &block[48..176]),
                };
                for (run, bytes) in nibbles.chunks_exact(32).enumerate() {
                    for (l, (byte, high)) in bytes.iter().zip(fifth).enumerate() {
                        let bit = |group: usize| (high >> group & 1) << 4;
                        codes[64 * run + l] = (byte & 15 | bit(2 * run)) as i8;
                        codes[64 * run + 32 + l] = (byte >> 4 | bit(2 * run + 1)) as i8;
                    }
                }
            }
            Self::Q6_K => {
                let scale = half_at(208);
                for (group, &s) in groups.iter_mut().zip(&block[192..208]) {
                    *group = Group { scale: scale * f32::from(s as i8), min: 0.0 };
                }
                // Two halves of 128 codes: 64 bytes of low nibbles and 32 bytes that hold the top two bits of four.
                for half in 0..2 {
                    let (low, high) = (&block[64 * half..], &block[128 + 32 * half..]);
                    for l in 0..32 {
                        let top = |quarter: usize| (high[l] >> (2 * quarter) & 3) << 4;
                        let codes = &mut codes[128 * half..];
                        codes[l] = (low[l] & 15 | top(0)) as i8 - 32;
                        codes[l + 32] = (low[l + 32] & 15 | top(1)) as i8 - 32;
                        codes[l + 64] = (low[l] >> 4 | top(2)) as i8 - 32;
                        codes[l + 96] = (low[l + 32] >> 4 | top(3)) as i8 - 32;
                    }
                }
            }
        }
    }

    /// Dequantizes whole blocks: `bytes` holds `out.len()` elements. Where scales lie in a tensor of their own, `out` gets
    /// the codes: [`apply_scales`] does the rest.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (v, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Self::F16 => {
                for (v, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *v = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Self::BF16 => {
                for (v, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *v = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Self::Int2 | Self::Int4 | Self::Int8 => {
                let mut codes = [0i8; 4];
                for (values, block) in out.chunks_exact_mut(self.block_len()).zip(bytes) {
                    self.decode_block(core::slice::from_ref(block), &mut codes, &mut []);
                    values.iter_mut().zip(codes).for_each(|(v, code)| *v = f32::from(code));
                }
            }
            _ => {
                let (mut codes, mut groups) = ([0i8; MAX_BLOCK], [Group::default(); MAX_BLOCK / 16]);
                for (values, block) in
                    out.chunks_exact_mut(self.block_len()).zip(bytes.chunks_exact(self.block_bytes()))
                {
                    self.decode_block(block, &mut codes, &mut groups);
                    for (i, v) in values.iter_mut().enumerate() {
                        let g = groups[i / self.group_len()];
                        *v = g.scale * f32::from(codes[i]) + g.min;
                    }
                }
            }
        }
    }
}

/// Turns a row of codes into values: each of `scales` belongs to an equal stretch of the row.
pub fn apply_scales(row: &mut [f32], scales: &[f32]) {
    if scales.is_empty() {
        return;
    }
    for (values, scale) in row.chunks_exact_mut((row.len() / scales.len()).max(1)).zip(scales) {
        values.iter_mut().for_each(|v| *v *= scale);
    }
}

/// Scale and minimum of group `j` of 8, unpacked from the 12 bytes of a Q4_K or Q5_K block: groups 0 to 3 fill the low 6
/// bits of a byte, groups 4 to 7 a nibble and the two bits left over.
fn scale_min_6_bits(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// Fails, naming the tensor `what`, when a block's scale or minimum is NaN or infinite (of floats: any value). `bytes`
/// holds whole blocks, such as the rows a weight stream hands on.
pub fn check_block_scales(quant: QuantType, what: &str, bytes: &[u8]) -> Result<()> {
    let half_is_bad = |block: &[u8], at: usize| block[at + 1] & 0x7c == 0x7c;
    let mut blocks = bytes.chunks_exact(quant.block_bytes());
    let bad = match quant {
        QuantType::F32 => blocks.position(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 == 0x80),
        QuantType::BF16 => blocks.position(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 == 0x80),
        QuantType::F16 | QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 => blocks.position(|b| half_is_bad(b, 0)),
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4_K | QuantType::Q5_K => {
            blocks.position(|b| half_is_bad(b, 0) || half_is_bad(b, 2))
        }
        QuantType::Q6_K => blocks.position(|b| half_is_bad(b, 208)),
        // Codes alone; their scales are a tensor of floats.
        QuantType::Int2 | QuantType::Int4 | QuantType::Int8 => None,
    };
    match bad {
        None => Ok(()),
        Some(_) => {
            let part = if quant.is_float() { "a value" } else { "a block's scale" };
            Err(Error::format(what, format!("{part} is NaN or infinite: the file is damaged")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_come_lowest_bits_first_and_take_their_scales_from_elsewhere() {
        for (quant, bytes, expected) in [
            (QuantType::Int2, &[0b11_10_01_00, 0b00_00_00_11][..], &[-2.0, -1.0, 0.0, 1.0, 1.0, -2.0, -2.0, -2.0][..]),
            (QuantType::Int4, &[0xf0, 0x78], &[-8.0, 7.0, 0.0, -1.0]),
            (QuantType::Int8, &[0x80, 0x7f], &[-128.0, 127.0]),
        ] {
            let mut row = vec![0.0; expected.len()];
            quant.dequantize(bytes, &mut row);
            assert_eq!(row, expected, "{quant:?}");
            apply_scales(&mut row, &[2.0, 0.5]);
            let half = expected.len() / 2;
            let scaled: Vec<f32> =
                expected.iter().enumerate().map(|(i, v)| v * if i < half { 2.0 } else { 0.5 }).collect();
            assert_eq!(row, scaled, "{quant:?}");
        }
    }

    fn golden(quant: QuantType) -> (Vec<u8>, Vec<f32>) {
        let path = format!("{}/../../tests/golden/quants/{quant:?}.bin", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(path).unwrap();
        let n = u32::from_le_bytes(file[..4].try_into().unwrap()) as usize;
        let (blocks, values) = file[4..].split_at(n / quant.block_len() * quant.block_bytes());
        let values: Vec<f32> = values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(values.len(), n);
        (blocks.to_vec(), values)
    }

    #[test]
    fn every_type_decodes_to_exactly_what_the_gguf_package_says() {
        for quant in QuantType::SELF_CONTAINED {
            let (blocks, expected) = golden(quant);
            let mut got = vec![f32::NAN; expected.len()];
            quant.dequantize(&blocks, &mut got);
            for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(g, e, "{quant:?} element {i}");
            }
        }
    }

    #[test]
    fn codes_stay_in_the_range_their_type_promises() {
        for (quant, range) in [
            (QuantType::Q4_0, 0..=15),
            (QuantType::Q4_1, 0..=15),
            (QuantType::Q4_K, 0..=15),
            (QuantType::Q5_0, -16..=15),
            (QuantType::Q5_1, 0..=31),
            (QuantType::Q5_K, 0..=31),
            (QuantType::Q6_K, -32..=31),
            (QuantType::Q8_0, -128..=127),
        ] {
            let (blocks, _) = golden(quant);
            let (mut codes, mut groups) = ([0i8; MAX_BLOCK], [Group::default(); MAX_BLOCK / 16]);
            let mut seen = std::collections::BTreeSet::new();
            for block in blocks.chunks_exact(quant.block_bytes()) {
                quant.decode_block(block, &mut codes, &mut groups);
                seen.extend(&codes[..quant.block_len()]);
            }
            assert!(seen.iter().all(|c| range.contains(c)), "{quant:?}: {seen:?}");
            if quant != QuantType::Q8_0 {
                assert_eq!((seen.first(), seen.last()), (Some(range.start()), Some(range.end())), "{quant:?}");
            }
        }
    }

    #[test]
    fn a_scale_that_is_not_finite_is_found_wherever_it_is() {
        for quant in QuantType::SELF_CONTAINED {
            let (blocks, _) = golden(quant);
            check_block_scales(quant, "w", &blocks).unwrap();
            let bytes = quant.block_bytes();
            let places: &[(usize, &[u8])] = match quant {
                QuantType::F32 => &[(0, &[0, 0, 0x80, 0x7f]), (0, &[0, 0, 0xc0, 0xff])],
                QuantType::BF16 => &[(0, &[0x80, 0x7f]), (0, &[0xc1, 0xff])],
                QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4_K | QuantType::Q5_K => {
                    &[(0, &[0, 0x7c]), (0, &[1, 0xfe]), (2, &[0, 0xfc]), (2, &[0, 0x7e])]
                }
                QuantType::Q6_K => &[(208, &[0, 0x7c]), (208, &[1, 0xfe])],
                _ => &[(0, &[0, 0x7c]), (0, &[1, 0xfe])],
            };
            for block in [0, 1, blocks.len() / bytes - 1] {
                for (at, bad) in places {
                    let mut broken = blocks.clone();
                    broken[block * bytes + at..][..bad.len()].copy_from_slice(bad);
                    let error = check_block_scales(quant, "blk.3.ffn_up.weight", &broken).unwrap_err().to_string();
                    assert!(error.contains("blk.3.ffn_up.weight"), "{quant:?}: {error}");
                }
            }
        }
    }
}
