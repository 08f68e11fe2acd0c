//! The vector primitives that the fast kernels are written over, and the choice of an instruction set.
//!
//! Each operation acts on 128 bits: four f32, four i32, eight i16 or sixteen bytes. Operations take references to
//! fixed-size arrays, so that the kernels need no bounds checks and no `unsafe`.

/// A kernel that runs on any instruction set. Mark `run` `#[inline(always)]`, or the set's code cannot be generated.
pub(super) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// An instruction set. A value of the type is the proof that the processor has it.
pub(super) trait Simd: Copy {
    /// Its name in reports.
    const NAME: &'static str;
    /// 16 bytes, or integers in them.
    type I: Copy;
    /// Four f32.
    type F: Copy;
    /// Running sums of four rows, each over at most 32 products of a code (0..=15) and an int8 input.
    type Sums: Copy;
    /// Four inputs of one token, spread over the lanes of four rows.
    type X: Copy;

    /// Loads 16 bytes.
    fn bytes(self, b: &[u8; 16]) -> Self::I;
    /// Stores 16 bytes.
    fn store_bytes(self, v: Self::I, to: &mut [u8; 16]);
    /// The low four bits of each byte.
    fn low_nibbles(self, v: Self::I) -> Self::I;
    /// The high four bits of each byte.
    fn high_nibbles(self, v: Self::I) -> Self::I;
    /// Two bits of each byte, from bit `AT` on: 0, 2, 4 or 6.
    fn two_bits<const AT: i32>(self, v: Self::I) -> Self::I;

    /// `n`, where the compiler must not see it: the length of a loop that costs registers when unrolled.
    #[inline(always)]
    fn rolled(self, n: usize) -> usize {
        n
    }

    /// Empty sums.
    fn no_sums(self) -> Self::Sums;
    /// Spreads four inputs: `bytes` holds them as k, k+2, k+1, k+3, `first` as k, k+1, `second` as k+2, k+3.
    fn inputs(self, bytes: &[i8; 4], first: &[i16; 2], second: &[i16; 2]) -> Self::X;
    /// Adds four products for each of four rows; `codes` holds each row's as k, k+2, k+1, k+3.
    fn dot4(self, sums: Self::Sums, codes: Self::I, x: Self::X) -> Self::Sums;
    /// The sums of the four rows, as i32.
    fn whole(self, sums: Self::Sums) -> Self::I;
    /// The sums of the four rows.
    #[inline(always)]
    fn total(self, sums: Self::Sums) -> Self::F {
        self.to_f32(self.whole(sums))
    }

    /// Four zeros.
    #[inline(always)]
    fn zero_i32(self) -> Self::I {
        self.splat_i32(0)
    }
    /// Four i32 that are the same.
    fn splat_i32(self, v: i32) -> Self::I;
    /// `a + b` of four i32.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Two inputs of one token, spread over the lanes of four rows.
    fn pair(self, x: &[i16; 2]) -> Self::I;
    /// Adds two products for each of four rows, exactly, in i32.
    fn dot2(self, sums: Self::I, weights: &[i8; 8], x: Self::I) -> Self::I;
    /// Four i32 as f32.
    fn to_f32(self, v: Self::I) -> Self::F;

    /// Four f32 that are the same.
    fn splat(self, v: f32) -> Self::F;
    /// Four f32 that are the same, for use in a loop.
    #[inline(always)]
    fn hold(self, v: f32) -> Self::F {
        self.splat(v)
    }
    /// Loads four f32.
    fn load(self, v: &[f32; 4]) -> Self::F;
    /// Stores four f32.
    fn store(self, v: Self::F, to: &mut [f32; 4]);
    /// Four f16 times 2^−112: their bits, moved to f32's place. Infinities and NaN become large numbers.
    fn tiny_halves(self, v: &[u16; 4]) -> Self::F;
    /// Eight bf16, stored as 0, 4, 1, 5, 2, 6, 3, 7: the first four and the last four.
    fn bf16(self, v: &[u16; 8]) -> [Self::F; 2];
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a − b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once or twice.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair; where one is not a number, `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; where one is not a number, `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The absolute values.
    fn abs(self, v: Self::F) -> Self::F;
    /// Rounds eight numbers within ±32,767 to whole ones, ties to even.
    fn round(self, low: Self::F, high: Self::F, to: &mut [i16; 8]);
    /// `2^n` from `n + 1.5·2^23`, for whole n in −126..=127.
    fn power(self, n: Self::F) -> Self::F;
    /// `(a0, b0, a1, b1), (a2, b2, a3, b3)` to `(a0..a3), (b0..b3)`.
    fn unzip(self, low: Self::F, high: Self::F) -> [Self::F; 2];
    /// The inverse of [`Simd::unzip`].
    fn zip(self, a: Self::F, b: Self::F) -> [Self::F; 2];

    /// `x · factor` rounded, and the sum of that. Products are within ±32,767.
    #[inline(always)]
    fn round_to_i16(self, x: &[f32; 32], factor: f32, to: &mut [i16; 32]) -> i32 {
        let factor = self.splat(factor);
        let x: &[[[f32; 4]; 2]; 4] = bytemuck::cast_ref(x);
        for (x, to) in x.iter().zip(to.as_chunks_mut::<8>().0) {
            self.round(self.mul(self.load(&x[0]), factor), self.mul(self.load(&x[1]), factor), to);
        }
        to.iter().map(|q| i32::from(*q)).sum()
    }

    /// The sum of the four.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let mut a = [0.0; 4];
        self.store(v, &mut a);
        (a[0] + a[2]) + (a[1] + a[3])
    }

    /// The largest of the four.
    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        let mut a = [0.0; 4];
        self.store(v, &mut a);
        a[0].max(a[1]).max(a[2].max(a[3]))
    }
}

/// The exponential function, with its constants held ready for a loop.
///
/// A relative error of 2e-7 + 8e-8·|x|; x below −87 or above 88 is taken as that. e^x = 2^n · 2^f with whole n and
/// |f| ≤ ½; 2^f is the polynomial of degree 5 with the least relative error, 7.5e-8.
#[derive(Clone, Copy)]
pub(super) struct Exp<S: Simd> {
    least: S::F,
    most: S::F,
    log2_e: S::F,
    /// Adding this rounds to a whole number, which is then in the lowest bits.
    round: S::F,
    coefficients: [S::F; 6],
}

impl<S: Simd> Exp<S> {
    /// Readies the constants.
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        let c = [0.001_327_647_2, 0.009_675_541, 0.055_507_13, 0.240_221_2, 0.693_146_97, 1.0];
        Self {
            least: s.hold(-87.0),
            most: s.hold(88.0),
            log2_e: s.hold(core::f32::consts::LOG2_E),
            round: s.hold(12_582_912.0),
            coefficients: c.map(|c| s.hold(c)),
        }
    }

    /// `e^x`.
    #[inline(always)]
    pub(super) fn of(&self, s: S, x: S::F) -> S::F {
        let x = s.min(s.max(x, self.least), self.most);
        let y = s.mul(x, self.log2_e);
        let n = s.add(y, self.round);
        let f = s.sub(y, s.sub(n, self.round));
        let mut p = self.coefficients[0];
        for c in &self.coefficients[1..] {
            p = s.mul_add(p, f, *c);
        }
        s.mul(p, s.power(n))
    }
}

/// Runs a kernel on the best instruction set of this build and processor.
#[cfg(target_arch = "wasm32")]
#[inline(never)]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(wasm::Simd128::new())
}

/// Runs a kernel on the best instruction set of this build and processor.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    if super::tests::PLAIN.get() {
        return kernel.run(portable::Portable);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(s) = avx2::Avx2::new() {
        return s.run(kernel);
    }
    kernel.run(portable::Portable)
}

/// Plain arrays, for any processor, and the specification of the primitives.
#[cfg(not(target_arch = "wasm32"))]
mod portable {
    use super::Simd;

    /// Plain arrays.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Portable;

    #[inline(always)]
    fn map(f: impl Fn(usize) -> f32) -> [f32; 4] {
        [f(0), f(1), f(2), f(3)]
    }

    impl Simd for Portable {
        const NAME: &'static str = "portable";
        type I = [u8; 16];
        type F = [f32; 4];
        type Sums = [i32; 4];
        type X = [i16; 4];

        #[inline(always)]
        fn bytes(self, b: &[u8; 16]) -> [u8; 16] {
            *b
        }
        #[inline(always)]
        fn store_bytes(self, v: [u8; 16], to: &mut [u8; 16]) {
            *to = v;
        }
        #[inline(always)]
        fn low_nibbles(self, v: [u8; 16]) -> [u8; 16] {
            v.map(|b| b & 15)
        }
        #[inline(always)]
        fn high_nibbles(self, v: [u8; 16]) -> [u8; 16] {
            v.map(|b| b >> 4)
        }
        #[inline(always)]
        fn two_bits<const AT: i32>(self, v: [u8; 16]) -> [u8; 16] {
            v.map(|b| b >> AT & 3)
        }
        #[inline(always)]
        fn no_sums(self) -> [i32; 4] {
            [0; 4]
        }
        #[inline(always)]
        fn inputs(self, _: &[i8; 4], first: &[i16; 2], second: &[i16; 2]) -> [i16; 4] {
            [first[0], second[0], first[1], second[1]]
        }
        #[inline(always)]
        fn dot4(self, mut sums: [i32; 4], codes: [u8; 16], x: [i16; 4]) -> [i32; 4] {
            for (row, sum) in sums.iter_mut().enumerate() {
                for (i, x) in x.iter().enumerate() {
                    *sum += i32::from(codes[4 * row + i]) * i32::from(*x);
                }
            }
            sums
        }
        #[inline(always)]
        fn whole(self, sums: [i32; 4]) -> [u8; 16] {
            bytemuck::cast(sums)
        }
        #[inline(always)]
        fn splat_i32(self, v: i32) -> [u8; 16] {
            bytemuck::cast([v; 4])
        }
        #[inline(always)]
        fn add_i32(self, a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
            let (a, b): ([i32; 4], [i32; 4]) = (bytemuck::cast(a), bytemuck::cast(b));
            bytemuck::cast([a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]])
        }
        #[inline(always)]
        fn pair(self, x: &[i16; 2]) -> [u8; 16] {
            bytemuck::cast([*x; 4])
        }
        #[inline(always)]
        fn dot2(self, sums: [u8; 16], weights: &[i8; 8], x: [u8; 16]) -> [u8; 16] {
            let (mut sums, x): ([i32; 4], [i16; 8]) = (bytemuck::cast(sums), bytemuck::cast(x));
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum +=
                    i32::from(weights[2 * row]) * i32::from(x[0]) + i32::from(weights[2 * row + 1]) * i32::from(x[1]);
            }
            bytemuck::cast(sums)
        }
        #[inline(always)]
        fn to_f32(self, v: [u8; 16]) -> [f32; 4] {
            bytemuck::cast::<_, [i32; 4]>(v).map(|v| v as f32)
        }
        #[inline(always)]
        fn splat(self, v: f32) -> [f32; 4] {
            [v; 4]
        }
        #[inline(always)]
        fn load(self, v: &[f32; 4]) -> [f32; 4] {
            *v
        }
        #[inline(always)]
        fn store(self, v: [f32; 4], to: &mut [f32; 4]) {
            *to = v;
        }
        #[inline(always)]
        fn tiny_halves(self, v: &[u16; 4]) -> [f32; 4] {
            v.map(|h| f32::from_bits((u32::from(h & 0x8000) << 16) | (u32::from(h & 0x7fff) << 13)))
        }
        #[inline(always)]
        fn bf16(self, v: &[u16; 8]) -> [[f32; 4]; 2] {
            [0, 1].map(|odd| map(|i| f32::from_bits(u32::from(v[2 * i + odd]) << 16)))
        }
        #[inline(always)]
        fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| a[i] + b[i])
        }
        #[inline(always)]
        fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| a[i] - b[i])
        }
        #[inline(always)]
        fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| a[i] * b[i])
        }
        #[inline(always)]
        fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| a[i] / b[i])
        }
        #[inline(always)]
        fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
            map(|i| a[i] * b[i] + c[i])
        }
        #[inline(always)]
        fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| if a[i] > b[i] { a[i] } else { b[i] })
        }
        #[inline(always)]
        fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            map(|i| if a[i] < b[i] { a[i] } else { b[i] })
        }
        #[inline(always)]
        fn abs(self, v: [f32; 4]) -> [f32; 4] {
            v.map(f32::abs)
        }
        #[inline(always)]
        fn round(self, low: [f32; 4], high: [f32; 4], to: &mut [i16; 8]) {
            for (to, v) in to.iter_mut().zip(low.iter().chain(&high)) {
                *to = v.round_ties_even() as i16;
            }
        }
        #[inline(always)]
        fn power(self, n: [f32; 4]) -> [f32; 4] {
            n.map(|n| f32::from_bits(n.to_bits().wrapping_add(127) << 23))
        }
        #[inline(always)]
        fn unzip(self, low: [f32; 4], high: [f32; 4]) -> [[f32; 4]; 2] {
            [[low[0], low[2], high[0], high[2]], [low[1], low[3], high[1], high[3]]]
        }
        #[inline(always)]
        fn zip(self, a: [f32; 4], b: [f32; 4]) -> [[f32; 4]; 2] {
            [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
        }
    }
}

/// AVX2's instructions on 128 bits, in the same shapes as WebAssembly's.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::{Kernel, Simd};

    /// The proof that the processor has AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        #[inline(always)]
        pub(in super::super) fn new() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
        }

        #[inline(always)]
        pub(in super::super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx2,fma")]
            fn with_features<K: Kernel>(kernel: K, s: Avx2) -> K::Output {
                kernel.run(s)
            }
            // SAFETY: a value of this type exists only where the features were found.
            unsafe { with_features(kernel, self) }
        }
    }

    /// An instruction of SSE to AVX2 or FMA on values.
    macro_rules! op {
        ($instruction:ident $(::<$n:tt>)? ($($argument:expr),*)) => {
            // SAFETY: a value of `Avx2` exists only where the processor has the instruction.
            unsafe { $instruction $(::<$n>)? ($($argument),*) }
        };
    }

    /// A load from a reference to at least the bytes the instruction reads, without alignment.
    macro_rules! load {
        ($instruction:ident, $from:expr) => {
            // SAFETY: as above, and the reference covers exactly what is read.
            unsafe { $instruction(core::ptr::from_ref($from).cast()) }
        };
    }

    impl Simd for Avx2 {
        const NAME: &'static str = "avx2";
        type I = __m128i;
        type F = __m128;
        type Sums = __m128i;
        type X = __m128i;

        #[inline(always)]
        fn bytes(self, b: &[u8; 16]) -> __m128i {
            load!(_mm_loadu_si128, b)
        }
        #[inline(always)]
        fn store_bytes(self, v: __m128i, to: &mut [u8; 16]) {
            // SAFETY: as above, and the reference covers the 16 bytes that are written.
            unsafe { _mm_storeu_si128(core::ptr::from_mut(to).cast(), v) }
        }
        #[inline(always)]
        fn low_nibbles(self, v: __m128i) -> __m128i {
            op!(_mm_and_si128(v, _mm_set1_epi8(15)))
        }
        #[inline(always)]
        fn high_nibbles(self, v: __m128i) -> __m128i {
            op!(_mm_and_si128(_mm_srli_epi16::<4>(v), _mm_set1_epi8(15)))
        }
        #[inline(always)]
        fn two_bits<const AT: i32>(self, v: __m128i) -> __m128i {
            op!(_mm_and_si128(_mm_srli_epi16::<AT>(v), _mm_set1_epi8(3)))
        }
        #[inline(always)]
        fn no_sums(self) -> __m128i {
            op!(_mm_setzero_si128())
        }
        #[inline(always)]
        fn inputs(self, bytes: &[i8; 4], _: &[i16; 2], _: &[i16; 2]) -> __m128i {
            op!(_mm_set1_epi32(i32::from_le_bytes(bytes.map(|b| b as u8))))
        }
        #[inline(always)]
        fn dot4(self, sums: __m128i, codes: __m128i, x: __m128i) -> __m128i {
            op!(_mm_add_epi16(sums, _mm_maddubs_epi16(codes, x)))
        }
        #[inline(always)]
        fn whole(self, sums: __m128i) -> __m128i {
            op!(_mm_madd_epi16(sums, _mm_set1_epi16(1)))
        }
        #[inline(always)]
        fn splat_i32(self, v: i32) -> __m128i {
            op!(_mm_set1_epi32(v))
        }
        #[inline(always)]
        fn add_i32(self, a: __m128i, b: __m128i) -> __m128i {
            op!(_mm_add_epi32(a, b))
        }
        #[inline(always)]
        fn pair(self, x: &[i16; 2]) -> __m128i {
            op!(_mm_set1_epi32(bytemuck::cast(*x)))
        }
        #[inline(always)]
        fn dot2(self, sums: __m128i, weights: &[i8; 8], x: __m128i) -> __m128i {
            let weights = load!(_mm_loadl_epi64, weights);
            let wide = op!(_mm_cvtepi8_epi16(weights));
            op!(_mm_add_epi32(sums, _mm_madd_epi16(wide, x)))
        }
        #[inline(always)]
        fn to_f32(self, v: __m128i) -> __m128 {
            op!(_mm_cvtepi32_ps(v))
        }
        #[inline(always)]
        fn splat(self, v: f32) -> __m128 {
            op!(_mm_set1_ps(v))
        }
        #[inline(always)]
        fn load(self, v: &[f32; 4]) -> __m128 {
            load!(_mm_loadu_ps, v)
        }
        #[inline(always)]
        fn store(self, v: __m128, to: &mut [f32; 4]) {
            // SAFETY: as above, and the reference covers the 16 bytes that are written.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn tiny_halves(self, v: &[u16; 4]) -> __m128 {
            let v = load!(_mm_loadl_epi64, v);
            let wide = op!(_mm_slli_epi32::<13>(_mm_cvtepi16_epi32(v)));
            op!(_mm_castsi128_ps(_mm_and_si128(wide, _mm_set1_epi32(0x8fff_e000_u32 as i32))))
        }
        #[inline(always)]
        fn bf16(self, v: &[u16; 8]) -> [__m128; 2] {
            let v = load!(_mm_loadu_si128, v);
            let high = op!(_mm_and_si128(v, _mm_set1_epi32(0xffff_0000_u32 as i32)));
            [op!(_mm_slli_epi32::<16>(v)), high].map(|v| op!(_mm_castsi128_ps(v)))
        }
        #[inline(always)]
        fn add(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_add_ps(a, b))
        }
        #[inline(always)]
        fn sub(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_sub_ps(a, b))
        }
        #[inline(always)]
        fn mul(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_mul_ps(a, b))
        }
        #[inline(always)]
        fn div(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_div_ps(a, b))
        }
        #[inline(always)]
        fn mul_add(self, a: __m128, b: __m128, c: __m128) -> __m128 {
            op!(_mm_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        fn max(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_max_ps(a, b))
        }
        #[inline(always)]
        fn min(self, a: __m128, b: __m128) -> __m128 {
            op!(_mm_min_ps(a, b))
        }
        #[inline(always)]
        fn abs(self, v: __m128) -> __m128 {
            op!(_mm_andnot_ps(_mm_set1_ps(-0.0), v))
        }
        #[inline(always)]
        fn round(self, low: __m128, high: __m128, to: &mut [i16; 8]) {
            let both = op!(_mm_packs_epi32(_mm_cvtps_epi32(low), _mm_cvtps_epi32(high)));
            // SAFETY: as above, and the reference covers the 16 bytes that are written.
            unsafe { _mm_storeu_si128(core::ptr::from_mut(to).cast(), both) }
        }
        #[inline(always)]
        fn power(self, n: __m128) -> __m128 {
            let n = op!(_mm_add_epi32(_mm_castps_si128(n), _mm_set1_epi32(127)));
            op!(_mm_castsi128_ps(_mm_slli_epi32::<23>(n)))
        }
        #[inline(always)]
        fn unzip(self, low: __m128, high: __m128) -> [__m128; 2] {
            [op!(_mm_shuffle_ps::<0b10_00_10_00>(low, high)), op!(_mm_shuffle_ps::<0b11_01_11_01>(low, high))]
        }
        #[inline(always)]
        fn zip(self, a: __m128, b: __m128) -> [__m128; 2] {
            [op!(_mm_unpacklo_ps(a, b)), op!(_mm_unpackhi_ps(a, b))]
        }
    }
}

/// WebAssembly's 128-bit vectors, with the relaxed dot product where the module is built with it.
#[cfg(target_arch = "wasm32")]
mod wasm {
    use core::arch::wasm32::*;
    use core::hint::black_box;

    use super::Simd;

    /// SIMD128: a module with these instructions does not load without them.
    ///
    /// It carries the constants that inner loops use: the engine builds a vector constant anew, in several instructions,
    /// wherever it stands, so the compiler must not see that these are constants.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Simd128 {
        /// 15 in each byte.
        low_bits: v128,
        /// 3 in each byte.
        lowest_two: v128,
        /// 1 in each i16.
        #[cfg(target_feature = "relaxed-simd")]
        ones: v128,
        /// Where a moved f16 has its bits.
        half_bits: v128,
        /// The upper half of each 32 bits.
        upper: v128,
    }

    impl Simd128 {
        #[inline(always)]
        pub(in super::super) fn new() -> Self {
            Self {
                low_bits: black_box(u8x16_splat(15)),
                lowest_two: black_box(u8x16_splat(3)),
                #[cfg(target_feature = "relaxed-simd")]
                ones: black_box(i16x8_splat(1)),
                half_bits: black_box(u32x4_splat(0x8fff_e000)),
                upper: black_box(u32x4_splat(0xffff_0000)),
            }
        }
    }

    /// Loads from a reference to at least the bytes the instruction reads; no instruction here needs alignment.
    macro_rules! load {
        ($instruction:ident, $from:expr) => {
            // SAFETY: the reference covers exactly what the instruction reads.
            unsafe { $instruction(core::ptr::from_ref($from).cast()) }
        };
    }

    macro_rules! store {
        ($v:expr, $to:expr) => {
            // SAFETY: the reference covers the 16 bytes that are written.
            unsafe { v128_store(core::ptr::from_mut($to).cast(), $v) }
        };
    }

    impl Simd for Simd128 {
        const NAME: &'static str =
            if cfg!(target_feature = "relaxed-simd") { "wasm relaxed-simd" } else { "wasm simd128" };
        type I = v128;
        type F = v128;
        type Sums = v128;
        #[cfg(target_feature = "relaxed-simd")]
        type X = v128;
        #[cfg(not(target_feature = "relaxed-simd"))]
        type X = [v128; 2];

        #[inline(always)]
        fn rolled(self, n: usize) -> usize {
            black_box(n)
        }
        #[inline(always)]
        fn bytes(self, b: &[u8; 16]) -> v128 {
            load!(v128_load, b)
        }
        #[inline(always)]
        fn store_bytes(self, v: v128, to: &mut [u8; 16]) {
            store!(v, to);
        }
        #[inline(always)]
        fn low_nibbles(self, v: v128) -> v128 {
            v128_and(v, self.low_bits)
        }
        #[inline(always)]
        fn high_nibbles(self, v: v128) -> v128 {
            // Engines have no byte shift and build one from more instructions than these two.
            v128_and(u16x8_shr(v, 4), self.low_bits)
        }
        #[inline(always)]
        fn two_bits<const AT: i32>(self, v: v128) -> v128 {
            v128_and(if AT == 0 { v } else { u16x8_shr(v, AT as u32) }, self.lowest_two)
        }
        #[inline(always)]
        fn no_sums(self) -> v128 {
            i32x4_splat(0)
        }

        // Relaxed: eight dots of pairs of at most 2·15·128 = 3,840 stay below 32,768, so a block of 32 adds up in i16.
        #[cfg(target_feature = "relaxed-simd")]
        #[inline(always)]
        fn inputs(self, bytes: &[i8; 4], _: &[i16; 2], _: &[i16; 2]) -> v128 {
            load!(v128_load32_splat, bytes)
        }
        #[cfg(target_feature = "relaxed-simd")]
        #[inline(always)]
        fn dot4(self, sums: v128, codes: v128, x: v128) -> v128 {
            // Codes fit 7 bits, where every engine gives the same result.
            i16x8_add(sums, i16x8_relaxed_dot_i8x16_i7x16(x, codes))
        }
        #[cfg(target_feature = "relaxed-simd")]
        #[inline(always)]
        fn whole(self, sums: v128) -> v128 {
            i32x4_dot_i16x8(sums, self.ones)
        }

        #[cfg(not(target_feature = "relaxed-simd"))]
        #[inline(always)]
        fn inputs(self, _: &[i8; 4], first: &[i16; 2], second: &[i16; 2]) -> [v128; 2] {
            [load!(v128_load32_splat, first), load!(v128_load32_splat, second)]
        }
        #[cfg(not(target_feature = "relaxed-simd"))]
        #[inline(always)]
        fn dot4(self, sums: v128, codes: v128, x: [v128; 2]) -> v128 {
            let first = i32x4_dot_i16x8(v128_and(codes, u16x8_splat(255)), x[0]);
            let second = i32x4_dot_i16x8(u16x8_shr(codes, 8), x[1]);
            i32x4_add(sums, i32x4_add(first, second))
        }
        #[cfg(not(target_feature = "relaxed-simd"))]
        #[inline(always)]
        fn whole(self, sums: v128) -> v128 {
            sums
        }

        #[inline(always)]
        fn splat_i32(self, v: i32) -> v128 {
            i32x4_splat(v)
        }
        #[inline(always)]
        fn add_i32(self, a: v128, b: v128) -> v128 {
            i32x4_add(a, b)
        }
        #[inline(always)]
        fn pair(self, x: &[i16; 2]) -> v128 {
            load!(v128_load32_splat, x)
        }
        #[inline(always)]
        fn dot2(self, sums: v128, weights: &[i8; 8], x: v128) -> v128 {
            i32x4_add(sums, i32x4_dot_i16x8(load!(i16x8_load_extend_i8x8, weights), x))
        }
        #[inline(always)]
        fn to_f32(self, v: v128) -> v128 {
            f32x4_convert_i32x4(v)
        }
        #[inline(always)]
        fn splat(self, v: f32) -> v128 {
            f32x4_splat(v)
        }
        #[inline(always)]
        fn hold(self, v: f32) -> v128 {
            black_box(f32x4_splat(v))
        }
        #[inline(always)]
        fn load(self, v: &[f32; 4]) -> v128 {
            load!(v128_load, v)
        }
        #[inline(always)]
        fn store(self, v: v128, to: &mut [f32; 4]) {
            store!(v, to);
        }
        #[inline(always)]
        fn tiny_halves(self, v: &[u16; 4]) -> v128 {
            let wide = i32x4_shl(load!(i32x4_load_extend_i16x4, v), 13);
            v128_and(wide, self.half_bits)
        }
        #[inline(always)]
        fn bf16(self, v: &[u16; 8]) -> [v128; 2] {
            let v = load!(v128_load, v);
            [i32x4_shl(v, 16), v128_and(v, self.upper)]
        }
        #[inline(always)]
        fn add(self, a: v128, b: v128) -> v128 {
            f32x4_add(a, b)
        }
        #[inline(always)]
        fn sub(self, a: v128, b: v128) -> v128 {
            f32x4_sub(a, b)
        }
        #[inline(always)]
        fn mul(self, a: v128, b: v128) -> v128 {
            f32x4_mul(a, b)
        }
        #[inline(always)]
        fn div(self, a: v128, b: v128) -> v128 {
            f32x4_div(a, b)
        }
        #[inline(always)]
        fn mul_add(self, a: v128, b: v128, c: v128) -> v128 {
            #[cfg(target_feature = "relaxed-simd")]
            return f32x4_relaxed_madd(a, b, c);
            #[cfg(not(target_feature = "relaxed-simd"))]
            return f32x4_add(f32x4_mul(a, b), c);
        }
        #[inline(always)]
        fn max(self, a: v128, b: v128) -> v128 {
            f32x4_pmax(b, a)
        }
        #[inline(always)]
        fn min(self, a: v128, b: v128) -> v128 {
            f32x4_pmin(b, a)
        }
        #[inline(always)]
        fn abs(self, v: v128) -> v128 {
            f32x4_abs(v)
        }
        #[inline(always)]
        fn round(self, low: v128, high: v128, to: &mut [i16; 8]) {
            // Adding 1.5·2^23 rounds and leaves the whole number in the low 16 bits.
            let shift = f32x4_splat(12_582_912.0);
            let (low, high) = (f32x4_add(low, shift), f32x4_add(high, shift));
            store!(i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(low, high), to);
        }
        #[inline(always)]
        fn power(self, n: v128) -> v128 {
            i32x4_shl(i32x4_add(n, i32x4_splat(127)), 23)
        }
        #[inline(always)]
        fn unzip(self, low: v128, high: v128) -> [v128; 2] {
            [i32x4_shuffle::<0, 2, 4, 6>(low, high), i32x4_shuffle::<1, 3, 5, 7>(low, high)]
        }
        #[inline(always)]
        fn zip(self, a: v128, b: v128) -> [v128; 2] {
            [i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b)]
        }
    }
}
