//! What the device's tests share: an open device, random numbers, random file rows.

use half::f16;

use crate::quant::QuantType;

use super::Gpu;

/// The device of this thread's tests, or none when a person has set `SOTTO_NO_GPU=1`.
pub(crate) fn open() -> Option<Gpu> {
    if std::env::var("SOTTO_NO_GPU").is_ok_and(|v| v == "1") {
        return None;
    }
    match pollster::block_on(super::open_native()) {
        Ok(gpu) => Some(gpu),
        Err(error) => panic!("{error}. These tests need Vulkan; SOTTO_NO_GPU=1 leaves them out."),
    }
}

/// A small generator, the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u32
    }

    /// Uniform in −1 .. 1.
    pub(crate) fn value(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Random rows as a file holds them, and their values. Scales are small, some of them subnormal halves.
pub(crate) fn weights(quant: QuantType, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let mut random = Random::new(seed);
    let blocks = rows * cols / quant.block_len();
    let scales_at: &[usize] = match quant {
        QuantType::F32 | QuantType::F16 | QuantType::BF16 => &[],
        // Their scales lie elsewhere.
        QuantType::Int2 | QuantType::Int4 | QuantType::Int8 => &[],
        QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 => &[0],
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4_K | QuantType::Q5_K => &[0, 2],
        QuantType::Q6_K => &[208],
    };
    let mut bytes = Vec::new();
    for i in 0..blocks {
        match quant {
            QuantType::F32 => bytes.extend(random.value().to_le_bytes()),
            QuantType::F16 => bytes.extend(f16::from_f32(random.value()).to_le_bytes()),
            QuantType::BF16 => bytes.extend(half::bf16::from_f32(random.value()).to_le_bytes()),
            _ => {
                let first = bytes.len();
                bytes.extend((0..quant.block_bytes()).map(|_| random.bits() as u8));
                for at in scales_at {
                    let scale = random.value() * if i % 7 == 0 { 2e-5 } else { 0.01 };
                    bytes[first + at..first + at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                }
            }
        }
    }
    let mut values = vec![0.0; rows * cols];
    quant.dequantize(&bytes, &mut values);
    (bytes, values)
}

/// Fails on the first value that differs by more than `tolerance` of the largest.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * largest, "{what}: value {i} is {g}, expected {w} (largest {largest})");
    }
}
