//! The end of a residual branch and the start of the next as one dispatch: `h = (h + norm(x)) · gain`, `out = norm(h)`, and
//! the codes of `out` or `h` for the products that follow. The executor joins the operations; [`super::rms_norm`] and
//! [`super::quantize`] are the specification.

use crate::error::Result;
use crate::gpu::shader::{Access, Count, Dispatch, Grid, Planner, Resource, Shader, Tokens, params, params_bytes};
use crate::kernels::quantize::Codes;
use crate::kernels::{Gain, RmsNorm};
use crate::recording::BufferId;
use bytemuck::Zeroable;

/// Joined operations.
#[derive(Debug, Clone)]
pub struct NormChain<'a> {
    /// `h = (h + norm(x)) · gain`.
    pub branch: Option<&'a RmsNorm>,
    /// `out = norm(h)`.
    pub next: Option<&'a RmsNorm>,
    /// Made of `out`, or of `h` when there is no next norm; one of the two is there.
    pub codes: Option<Codes>,
}

params! {
    /// Uniform parameters of `norm_chain.wgsl`.
    pub struct Params {
        words: u32,
        arrays: u32,
        step: u32,
        tokens: u32,
        has_branch: u32,
        has_next: u32,
        eps: f32,
        next_eps: f32,
        gain: f32,
        gain_scalar: u32,
        unused: [u32; 2],
        scales: [u32; 4],
    }
}

/// `norm_chain.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/grid.wgsl", "lib/step.wgsl", "norm_chain.wgsl"],
    entry: "main",
    params: Params::LAYOUT,
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (4, Access::Write),
        (5, Access::Read),
        (6, Access::Read),
        (7, Access::Write),
        (8, Access::Write),
    ],
};

/// Values of a row that the shader's lanes can hold.
const MOST_COLS: usize = 3072;

/// True when a row of so many values is whole quads, and not too many.
pub(crate) const fn takes(cols: usize) -> bool {
    cols.is_multiple_of(4) && cols <= MOST_COLS
}

/// Constants for the usual widths.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    [64.0, 1536.0, MOST_COLS as f64].map(|d| (&SHADER, vec![("D", d)])).to_vec()
}

impl NormChain<'_> {
    /// The residual stream.
    fn h(&self) -> Option<BufferId> {
        self.branch.map(|b| b.out).or(self.next.map(|n| n.x))
    }

    /// One workgroup for each token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let Some(h) = self.h() else { return Ok(Vec::new()) };
        let weight = |norm: Option<&RmsNorm>| norm.and_then(|n| n.weight).map_or(Resource::Unused, Resource::Vector);
        let (gain, gain_scalar) = self.branch.map_or(Gain::One, |b| b.gain).params(planner)?;
        let (codes, tokens) = (self.codes.as_ref(), planner.tokens(h));
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: vec![("D", f64::from(planner.cols(h)))],
            params: params_bytes(Params {
                words: codes.map_or(0, |c| c.words),
                arrays: codes.map_or(0, |c| c.scales.len() as u32),
                step: codes.map_or(1, |c| c.step),
                tokens: tokens.own(),
                has_branch: u32::from(self.branch.is_some()),
                has_next: u32::from(self.next.is_some()),
                eps: self.branch.map_or(0.0, |b| b.eps),
                next_eps: self.next.map_or(0.0, |n| n.eps),
                gain,
                gain_scalar,
                scales: codes.map_or(Ok([u32::MAX; 4]), |c| c.scalars(planner))?,
                ..Params::zeroed()
            }),
            resources: vec![
                self.branch.map_or(Resource::Unused, |b| Resource::Buffer(b.x)),
                weight(self.branch),
                Resource::Buffer(h),
                weight(self.next),
                Resource::Scalars,
                self.next.map_or(Resource::Unused, |n| Resource::Buffer(n.out)),
                codes.map_or(Resource::Unused, |c| Resource::Grid(c.grid)),
            ],
            grid: Grid::line(match tokens {
                Tokens::Step => Count::Tokens { each: 1, per_group: 1 },
                Tokens::One => Count::Fixed(1),
            }),
        }])
    }
}
