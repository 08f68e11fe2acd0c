//! The small kernels: norm, rotation and gate.

use super::simd::{Exp, Kernel, Simd, dispatch};
use crate::kernels::{Activation, Pairing};

/// [`crate::kernels::rms_norm::reference`] on vectors; relative error of a value at most 1e-6.
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, width: usize, eps: f32, out: &mut [f32]) {
    struct Norm<'a>(&'a [f32], Option<&'a [f32]>, usize, f32, &'a mut [f32]);
    impl Kernel for Norm<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(x, weight, width, eps, out) = self;
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let (quads, rest) = x.as_chunks::<4>();
                let mut sums = [s.splat(0.0); 2];
                for (i, quad) in quads.iter().enumerate() {
                    let v = s.load(quad);
                    sums[i % 2] = s.mul_add(v, v, sums[i % 2]);
                }
                let squares = s.sum(s.add(sums[0], sums[1])) + rest.iter().map(|v| v * v).sum::<f32>();
                let scale = 1.0 / (squares / width as f32 + eps).sqrt();
                match weight {
                    Some(weight) => {
                        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * scale * w;
                        }
                    }
                    None => {
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = x * scale;
                        }
                    }
                }
            }
        }
    }
    dispatch(Norm(x, weight, width, eps, out));
}

/// [`crate::kernels::gated_activation::reference`] on vectors; a value differs by at most 1e-6 of `|gate · up|`. Only SiLU
/// is on vectors.
pub fn gated_activation(gate: &mut [f32], up: &[f32], activation: Activation) {
    struct SiluMul<'a>(&'a mut [f32], &'a [f32]);
    impl Kernel for SiluMul<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (exp, unit, zero) = (Exp::new(s), s.hold(1.0), s.hold(0.0));
            let one = |gate: &mut [f32; 4], up: &[f32; 4]| {
                let g = s.load(gate);
                let below = s.add(unit, exp.of(s, s.sub(zero, g)));
                s.store(s.mul(s.div(g, below), s.load(up)), gate);
            };
            let n = self.0.len().min(self.1.len());
            let (gates, gate) = self.0[..n].as_chunks_mut::<4>();
            let (ups, up) = self.1[..n].as_chunks::<4>();
            for (gate, up) in gates.iter_mut().zip(ups) {
                one(gate, up);
            }
            let (mut last, mut last_up) = ([0.0; 4], [0.0; 4]);
            last[..gate.len()].copy_from_slice(gate);
            last_up[..up.len()].copy_from_slice(up);
            one(&mut last, &last_up);
            gate.copy_from_slice(&last[..gate.len()]);
        }
    }
    match activation {
        Activation::Silu => dispatch(SiluMul(gate, up)),
        Activation::GeluTanh => crate::kernels::gated_activation::reference(gate, up, activation),
    }
}

/// [`crate::kernels::rope::reference`] on vectors, for one token's row; a value differs by at most 1e-6 of its pair's
/// length.
pub fn rope(row: &mut [f32], head_dim: usize, pairing: Pairing, angles: &[(f32, f32)]) {
    struct Rotate<'a>(&'a mut [f32], usize, Pairing, &'a [(f32, f32)]);
    impl Kernel for Rotate<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(row, head_dim, pairing, angles) = self;
            for head in row.chunks_exact_mut(head_dim) {
                match pairing {
                    Pairing::Adjacent => {
                        let (pairs, _) = head.as_chunks_mut::<8>();
                        for (pairs, angles) in pairs.iter_mut().zip(angles.as_chunks::<4>().0) {
                            let [low, high]: &mut [[f32; 4]; 2] = bytemuck::cast_mut(pairs);
                            let [a, b] = s.unzip(s.load(low), s.load(high));
                            let [a, b] = turn(s, a, b, angles);
                            let [l, h] = s.zip(a, b);
                            s.store(l, low);
                            s.store(h, high);
                        }
                    }
                    Pairing::Halves => {
                        let (first, second) = head.split_at_mut(head_dim / 2);
                        let quads = first.as_chunks_mut::<4>().0.iter_mut().zip(second.as_chunks_mut::<4>().0);
                        for ((a, b), angles) in quads.zip(angles.as_chunks::<4>().0) {
                            let [x, y] = turn(s, s.load(a), s.load(b), angles);
                            s.store(x, a);
                            s.store(y, b);
                        }
                    }
                }
            }
        }
    }
    if head_dim.is_multiple_of(8) && angles.len() == head_dim / 2 {
        dispatch(Rotate(row, head_dim, pairing, angles));
    } else {
        crate::kernels::rope::reference(row, head_dim, pairing, angles);
    }
}

/// Rotates four pairs.
#[inline(always)]
fn turn<S: Simd>(s: S, a: S::F, b: S::F, angles: &[(f32, f32); 4]) -> [S::F; 2] {
    let cos = s.load(&angles.map(|a| a.0));
    let sin = s.load(&angles.map(|a| a.1));
    let minus = s.sub(s.splat(0.0), sin);
    [s.mul_add(b, minus, s.mul(a, cos)), s.mul_add(a, sin, s.mul(b, cos))]
}
