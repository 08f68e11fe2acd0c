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

/// [`crate::kernels::gated_activation::reference`] on vectors; a value differs by at most 1e-6 of `|gate · up|`.
pub fn gated_activation(gate: &mut [f32], up: &[f32], activation: Activation) {
    struct Gated<'a>(&'a mut [f32], &'a [f32], Activation);
    impl Kernel for Gated<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(gate, up, activation) = self;
            match activation {
                Activation::Silu => {
                    let minus = s.hold(-1.0);
                    gated(s, gate, up, |g| s.mul(g, minus));
                }
                // ½·(1 + tanh(u)) is 1 / (1 + e^(−2u)).
                Activation::GeluTanh => {
                    let (linear, cubic) = (s.hold(-1.595_769), s.hold(-0.071_354_814));
                    gated(s, gate, up, |g| s.mul(g, s.mul_add(s.mul(g, g), cubic, linear)));
                }
            }
        }
    }
    dispatch(Gated(gate, up, activation));
}

/// `gate = gate / (1 + e^exponent(gate)) · up`.
#[inline(always)]
fn gated<S: Simd>(s: S, gate: &mut [f32], up: &[f32], exponent: impl Fn(S::F) -> S::F) {
    let (exp, unit) = (Exp::new(s), s.hold(1.0));
    let one = |gate: &mut [f32; 4], up: &[f32; 4]| {
        let g = s.load(gate);
        let below = s.add(unit, exp.of(s, exponent(g)));
        s.store(s.mul(s.div(g, below), s.load(up)), gate);
    };
    let n = gate.len().min(up.len());
    let (gates, gate) = gate[..n].as_chunks_mut::<4>();
    let (ups, up) = up[..n].as_chunks::<4>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        one(gate, up);
    }
    let (mut last, mut last_up) = ([0.0; 4], [0.0; 4]);
    last[..gate.len()].copy_from_slice(gate);
    last_up[..up.len()].copy_from_slice(up);
    one(&mut last, &last_up);
    gate.copy_from_slice(&last[..gate.len()]);
}

/// [`crate::kernels::soft_cap::reference`] on vectors; a value differs by at most 4e-7 of the cap.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    struct Cap<'a>(&'a mut [f32], f32);
    impl Kernel for Cap<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(x, cap) = self;
            // tanh(u) is 1 − 2 / (1 + e^2u).
            let (exp, unit) = (Exp::new(s), s.hold(1.0));
            let (double, cap, twice) = (s.hold(2.0 / cap), s.hold(cap), s.hold(2.0 * cap));
            let one = |x: &mut [f32; 4]| {
                let below = s.add(unit, exp.of(s, s.mul(s.load(x), double)));
                s.store(s.sub(cap, s.div(twice, below)), x);
            };
            let (quads, rest) = x.as_chunks_mut::<4>();
            quads.iter_mut().for_each(one);
            let mut last = [0.0; 4];
            last[..rest.len()].copy_from_slice(rest);
            one(&mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
    dispatch(Cap(x, cap));
}

/// [`crate::kernels::matmul::on_grid`] on vectors, for a step other than 0: the same value.
#[inline(always)]
pub(super) fn on_grid<S: Simd>(s: S, v: S::F, step: f32) -> S::F {
    let step = s.splat(step);
    // Clamped before it is rounded: the same, as both ends are whole. Adding 1.5·2^23 rounds, ties to even.
    let v = s.min(s.splat(127.0), s.max(s.splat(-128.0), s.div(v, step)));
    let shift = s.splat(12_582_912.0);
    s.mul(s.sub(s.add(v, shift), shift), step)
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
