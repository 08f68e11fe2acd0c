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
    /// Every type, for tests and tables.
    pub const ALL: [QuantType; 11] = [
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
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block in the file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
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

    /// Elements that share a scale and a minimum (0 for floats).
    pub const fn group_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 0,
            Self::Q6_K => 16,
            _ => 32,
        }
    }

    /// True when the codes are unsigned and fit 4 bits once `min` absorbs their offset (Q4_0, Q4_1, Q4_K).
    pub const fn fits_4_bits(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q4_K)
    }

    /// True for F32, F16 and BF16.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a row of `cols` elements, or an error that names `what`.
    pub fn row_bytes(self, what: &str, cols: usize) -> Result<usize> {
        if cols == 0 || cols % self.block_len() != 0 {
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
    /// −16..=15, Q6_K −32..=31, Q8_0 −128..=127. `block` must be `block_bytes` long. Floats have no codes: nothing is
    /// written for them.
    pub fn decode_block(self, block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
        let half_at = |i: usize| f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
        match self {
            Self::F32 | Self::F16 | Self::BF16 => {}
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
            Self::Q5_0 | Self::Q5_1 | Self::Q4_K | Self::Q5_K | Self::Q6_K => {
                unimplemented!("quant types of the formats work")
            }
        }
    }

    /// Dequantizes whole blocks: `bytes` holds `out.len()` elements.
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
