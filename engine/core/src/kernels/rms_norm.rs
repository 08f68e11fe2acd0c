//! `n = x[i, :] · w / sqrt(mean(x[i, :]²) + eps)` over every stretch of `width` values: a token's row, or each of its heads;
//! then `out[i, :] = n · gain`, or `(out[i, :] + n) · gain` where the norm ends a residual branch. Sums in f32.

use crate::error::Result;
use crate::gpu::shader::{
    Access, Count, Dispatch, Grid, Planner, Resource, Shader, Tokens, params, params_bytes, unsupported,
};
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
    }
}

/// `rms_norm.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "rms_norm.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Write)],
};

impl RmsNorm {
    /// One workgroup for each stretch.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        if !self.is_plain() {
            return Err(unsupported("a norm that ends a residual branch"));
        }
        let each = planner.cols(self.x) / self.width as u32;
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params {
                width: self.width as u32,
                stretches: each,
                has_weight: u32::from(self.weight.is_some()),
                eps: self.eps,
                tokens: planner.tokens(self.x).own(),
            }),
            resources: vec![
                Resource::Buffer(self.x),
                self.weight.map_or(Resource::Unused, Resource::Vector),
                Resource::Buffer(self.out),
            ],
            grid: Grid::line(match planner.tokens(self.x) {
                Tokens::Step => Count::Tokens { each, per_group: 1 },
                Tokens::One => Count::Fixed(each),
            }),
        }])
    }
}
