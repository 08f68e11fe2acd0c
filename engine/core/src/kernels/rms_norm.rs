//! `n = x[i, :] · w / sqrt(mean(x[i, :]²) + eps)` over every stretch of `width` values: a token's row, or each of its heads;
//! then `out[i, :] = n · gain`, or `(out[i, :] + n) · gain` where the norm ends a residual branch. Sums in f32.

use crate::error::Result;
use crate::gpu::shader::{Access, Count, Dispatch, Grid, Planner, Resource, Shader, Tokens, params, params_bytes};
use crate::kernels::matmul::Store;
use crate::recording::BufferId;
use crate::weights::WeightId;

/// What multiplies a norm's result, the residual it was added to included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gain {
    /// Nothing.
    One,
    /// A constant of the architecture.
    Constant(f32),
    /// A learned scalar `[1]`.
    Learned(WeightId),
}

/// Root-mean-square norm.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    /// `[T, n·width]`.
    pub x: BufferId,
    /// `[width]`, the full multiplier; none means 1.
    pub weight: Option<WeightId>,
    /// `[T, n·width]`, may not be `x`.
    pub out: BufferId,
    /// Values normed together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Replace or add.
    pub store: Store,
    /// Multiplies what is stored.
    pub gain: Gain,
}

impl RmsNorm {
    /// A norm that stands before a block: `out = x · w / sqrt(mean(x²) + eps)`.
    pub fn plain(x: BufferId, weight: Option<WeightId>, out: BufferId, width: usize, eps: f32) -> Self {
        Self { x, weight, out, width, eps, store: Store::Replace, gain: Gain::One }
    }

    /// True for what [`Self::plain`] makes.
    pub fn is_plain(&self) -> bool {
        self.store == Store::Replace && self.gain == Gain::One
    }
}

/// The specification of the norm itself, over all stretches of `width` in `x`.
pub fn reference(x: &[f32], weight: Option<&[f32]>, width: usize, eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean_square = x.iter().map(|v| v * v).sum::<f32>() / width as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for i in 0..width {
            out[i] = x[i] * scale * weight.map_or(1.0, |w| w[i]);
        }
    }
}

params! {
    /// Uniform parameters of `rms_norm.wgsl`.
    pub struct Params {
        width: u32,
        stretches: u32,
        has_weight: u32,
        eps: f32,
        tokens: u32,
        accumulate: u32,
        gain: f32,
        scalar: u32,
    }
}

/// `rms_norm.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "rms_norm.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Write), (5, Access::Read)],
};

/// Lanes of a workgroup that norms `width` values.
const fn lanes(width: usize) -> u32 {
    if width < 1024 { 64 } else { 256 }
}

/// Every combination of constants that a recording can ask for.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    [1, 1024].map(|width| (&SHADER, vec![("LANES", f64::from(lanes(width)))])).to_vec()
}

impl Gain {
    /// The constant, and where the learned scalar is.
    pub(crate) fn params(self, planner: &Planner<'_>) -> Result<(f32, u32)> {
        match self {
            Self::One => Ok((1.0, u32::MAX)),
            Self::Constant(gain) => Ok((gain, u32::MAX)),
            Self::Learned(id) => Ok((1.0, planner.scalar(id)?)),
        }
    }
}

impl RmsNorm {
    /// One workgroup for each stretch.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let each = planner.cols(self.x) / self.width as u32;
        let (gain, scalar) = self.gain.params(planner)?;
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: vec![("LANES", f64::from(lanes(self.width)))],
            params: params_bytes(Params {
                width: self.width as u32,
                stretches: each,
                has_weight: u32::from(self.weight.is_some()),
                eps: self.eps,
                tokens: planner.tokens(self.x).own(),
                accumulate: u32::from(self.store == Store::Add),
                gain,
                scalar,
            }),
            resources: vec![
                Resource::Buffer(self.x),
                self.weight.map_or(Resource::Unused, Resource::Vector),
                Resource::Buffer(self.out),
                Resource::Scalars,
            ],
            grid: Grid::line(match planner.tokens(self.x) {
                Tokens::Step => Count::Tokens { each, per_group: 1 },
                Tokens::One => Count::Fixed(each),
            }),
        }])
    }
}
