//! The GPU's layout of a weight matrix, and the repacking of file rows into it.
//!
//! A row is whole units of 16 bytes: 32 4-bit codes, 16 8-bit codes, 8 halves or 4 floats. In a word of 4-bit codes the
//! low nibbles of its bytes are values 0..3 and the high nibbles values 4..7. Scales and minimums lie in an array of
//! their own, one pair for each group: two f16 in a word where the file's own numbers are f16, else two f32.
//!
//! Codes whose scales are a tensor of their own stay as the file holds them, lowest bits first; a row is padded to whole
//! units. Their scales are f32, each for an equal stretch of a row. `shaders/lib/matrix.wgsl` reads all of it.

use std::borrow::Cow;

use half::f16;

use crate::error::{Error, Result};
use crate::quant::{Group, MAX_BLOCK, QuantType};
use crate::weights::{WeightId, WeightTable};

use super::shader::Constants;

/// What a stored number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// Unsigned 4-bit code.
    Code4,
    /// Signed 8-bit code.
    Code8,
    /// Unsigned 2-bit code as the file holds it, zero at 2.
    Int2,
    /// Unsigned 4-bit code as the file holds it, zero at 8.
    Int4,
    /// Signed 8-bit code, its scales elsewhere.
    Int8,
    /// bfloat16.
    BFloat,
    /// IEEE half.
    Half,
    /// f32.
    Float,
}

/// How the GPU stores a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packing {
    /// The stored numbers.
    pub element: Element,
    /// Values that share a scale and a minimum; 0 for floats.
    pub group: usize,
    /// Scale and minimum are two f16 in a word, else two f32.
    pub half_scales: bool,
}

impl Packing {
    /// The packing of a weight.
    pub fn of_weight(table: &WeightTable, id: WeightId) -> Self {
        let spec = table.get(id);
        let stretches = spec.scales.map_or(1, |scales| table.get(scales).cols.max(1));
        Self::of(spec.quant, spec.cols, stretches)
    }

    /// The packing of a file's type, for rows of `cols` values, and of `stretches` scales where they lie elsewhere.
    pub fn of(quant: QuantType, cols: usize, stretches: usize) -> Self {
        let element = match quant {
            QuantType::Int2 => Element::Int2,
            QuantType::Int4 => Element::Int4,
            QuantType::Int8 => Element::Int8,
            QuantType::F32 => Element::Float,
            // Rows must be whole units of 8 halves.
            QuantType::F16 | QuantType::BF16 if !cols.is_multiple_of(8) => Element::Float,
            QuantType::F16 => Element::Half,
            QuantType::BF16 => Element::BFloat,
            _ if quant.fits_4_bits() => Element::Code4,
            _ => Element::Code8,
        };
        let group = if quant.has_own_scales() { cols / stretches } else { quant.group_len() };
        // Blocks of 32 have f16 scales in the file; K-quants have products of two numbers.
        Self { element, group, half_scales: quant.block_len() == 32 }
    }

    /// Every packing there is.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        let packed = [QuantType::Int2, QuantType::Int4, QuantType::Int8];
        for quant in QuantType::SELF_CONTAINED.into_iter().chain(packed) {
            let packing = Self::of(quant, MAX_BLOCK, 1);
            if !all.contains(&packing) {
                all.push(packing);
            }
        }
        all
    }

    /// Bits of a stored number.
    pub const fn bits(self) -> usize {
        match self.element {
            Element::Int2 => 2,
            Element::Code4 | Element::Int4 => 4,
            Element::Code8 | Element::Int8 => 8,
            Element::BFloat | Element::Half => 16,
            Element::Float => 32,
        }
    }

    /// True for codes as the file holds them, whose scales are another weight's values.
    pub const fn has_own_scales(self) -> bool {
        matches!(self.element, Element::Int2 | Element::Int4 | Element::Int8)
    }

    /// Units of 16 bytes of a row's codes or floats.
    pub const fn units(self, cols: usize) -> usize {
        (cols * self.bits()).div_ceil(128)
    }

    /// Words of a row's codes or floats.
    pub const fn code_words(self, cols: usize) -> usize {
        4 * self.units(cols)
    }

    /// Words of a row's scales and minimums.
    pub const fn scale_words(self, cols: usize) -> usize {
        if self.group == 0 {
            return 0;
        }
        cols / self.group * if self.half_scales || self.has_own_scales() { 1 } else { 2 }
    }

    /// Constants of `lib/matrix.wgsl`.
    pub fn constants(self) -> Constants {
        vec![
            ("BITS", self.bits() as f64),
            ("BFLOAT", f64::from(self.element == Element::BFloat)),
            ("GROUP", if self.group == 0 || self.has_own_scales() { 32.0 } else { self.group as f64 }),
            ("HALF_SCALES", f64::from(self.half_scales)),
            ("OWN_SCALES", f64::from(self.has_own_scales())),
        ]
    }

    /// Appends file rows of `name` to `codes` and `scales`. `bytes` is whole blocks. Not for codes whose scales lie
    /// elsewhere: see [`Self::pad`].
    pub fn repack(
        self,
        name: &str,
        quant: QuantType,
        bytes: &[u8],
        codes: &mut Vec<u32>,
        scales: &mut Vec<u32>,
    ) -> Result<()> {
        if quant.is_float() {
            let keep = match self.element {
                Element::Float => quant == QuantType::F32,
                _ => true,
            };
            if keep {
                codes.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            } else {
                let mut values = vec![0.0f32; bytes.len() / quant.block_bytes()];
                quant.dequantize(bytes, &mut values);
                codes.extend(values.iter().map(|v| v.to_bits()));
            }
            return Ok(());
        }
        let (mut block_codes, mut groups) = ([0i8; MAX_BLOCK], [Group::default(); MAX_BLOCK / 16]);
        let block_codes = &mut block_codes[..quant.block_len()];
        let groups = &mut groups[..quant.block_len() / quant.group_len()];
        for block in bytes.chunks_exact(quant.block_bytes()) {
            quant.decode_block(block, block_codes, groups);
            match self.element {
                Element::Code4 => codes.extend(block_codes.chunks_exact(8).map(nibbles)),
                _ => codes.extend(
                    block_codes
                        .chunks_exact(4)
                        .map(|c| u32::from_le_bytes([c[0] as u8, c[1] as u8, c[2] as u8, c[3] as u8])),
                ),
            }
            for group in groups.iter() {
                self.push_group(name, *group, scales)?;
            }
        }
        Ok(())
    }

    /// File rows of codes whose scales lie elsewhere: the same bytes, or a copy with rows padded to whole units.
    pub fn pad(self, bytes: &[u8], row_bytes: usize) -> Cow<'_, [u8]> {
        let padded = row_bytes.next_multiple_of(16);
        if padded == row_bytes {
            return Cow::Borrowed(bytes);
        }
        let mut out = vec![0; bytes.len() / row_bytes * padded];
        for (to, row) in out.chunks_exact_mut(padded).zip(bytes.chunks_exact(row_bytes)) {
            to[..row_bytes].copy_from_slice(row);
        }
        Cow::Owned(out)
    }

    fn push_group(self, name: &str, group: Group, scales: &mut Vec<u32>) -> Result<()> {
        if !(group.scale.is_finite() && group.min.is_finite()) {
            return Err(Error::format(name, format!("a scale is {} and its minimum {}", group.scale, group.min)));
        }
        if !self.half_scales {
            scales.extend([group.scale.to_bits(), group.min.to_bits()]);
            return Ok(());
        }
        let (scale, min) = (f16::from_f32(group.scale), f16::from_f32(group.min));
        if scale.to_f32() != group.scale || min.to_f32() != group.min {
            return Err(Error::format(name, format!("the scale {} is too large to be a weight's", group.scale)));
        }
        scales.push(u32::from(scale.to_bits()) | u32::from(min.to_bits()) << 16);
        Ok(())
    }
}

/// Eight codes in a word: low nibbles of its bytes first, then the high ones.
fn nibbles(codes: &[i8]) -> u32 {
    (0..4).fold(0, |word, i| word | (codes[i] as u32 & 15) << (8 * i) | (codes[i + 4] as u32 & 15) << (8 * i + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shader does, in Rust.
    fn value(p: Packing, codes: &[u32], scales: &[u32], i: usize) -> f32 {
        let stored = match p.element {
            Element::Float => return f32::from_bits(codes[i]),
            Element::Half => return f16::from_bits((codes[i / 2] >> (16 * (i % 2))) as u16).to_f32(),
            Element::BFloat => return half::bf16::from_bits((codes[i / 2] >> (16 * (i % 2))) as u16).to_f32(),
            Element::Code8 => f32::from((codes[i / 4] >> (8 * (i % 4))) as i8),
            Element::Int2 | Element::Int4 | Element::Int8 => unreachable!("not repacked"),
            Element::Code4 => ((codes[i / 8] >> (8 * (i % 4) + 4 * (i / 4 % 2))) & 15) as f32,
        };
        let g = i / p.group;
        let (scale, min) = if p.half_scales {
            (f16::from_bits(scales[g] as u16).to_f32(), f16::from_bits((scales[g] >> 16) as u16).to_f32())
        } else {
            (f32::from_bits(scales[2 * g]), f32::from_bits(scales[2 * g + 1]))
        };
        scale * stored + min
    }

    #[test]
    fn repacked_rows_hold_the_file_s_values_exactly() {
        for quant in QuantType::SELF_CONTAINED {
            for cols in [256, 1536] {
                let (bytes, values) = crate::gpu::testing::weights(quant, 3, cols, 7);
                let p = Packing::of(quant, cols, 1);
                let (mut codes, mut scales) = (Vec::new(), Vec::new());
                p.repack("w", quant, &bytes, &mut codes, &mut scales).unwrap();
                assert_eq!((codes.len(), scales.len()), (3 * p.code_words(cols), 3 * p.scale_words(cols)), "{quant:?}");
                for (i, v) in values.iter().enumerate() {
                    assert_eq!(value(p, &codes, &scales, i), *v, "{quant:?} {i}");
                }
            }
        }
    }

    #[test]
    fn a_scale_that_is_not_a_number_names_its_tensor() {
        let mut block = [0u8; 20];
        block[0..2].copy_from_slice(&f16::NAN.to_le_bytes());
        let p = Packing::of(QuantType::Q4_1, 32, 1);
        let error = p.repack("blk.3.ffn_up.weight", QuantType::Q4_1, &block, &mut vec![], &mut vec![]).unwrap_err();
        assert!(error.to_string().contains("blk.3.ffn_up.weight"), "{error}");
    }
}
