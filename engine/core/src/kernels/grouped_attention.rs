//! [`super::Attention`] on the graphics device for wide heads, or many query heads on one key/value head: a workgroup takes
//! several query heads, so that each key and value is read once for all of them. The specification is
//! [`super::attention`]'s.

use crate::error::{Error, Result};
use crate::gpu::shader::{
    Access, ByCache, Constants, Count, Dispatch, Grid, Mode, Planner, Resource, Shader, Tokens, When, params,
    params_bytes,
};
use crate::kernels::Attention;
use crate::kernels::quantize::Codes;
use crate::recording::{KvInfo, Rows};

params! {
    /// Uniform parameters of `grouped_attention.wgsl`.
    pub struct Params {
        heads: u32,
        groups: u32,
        kv_quads: u32,
        window: u32,
        scale: f32,
        tokens: u32,
        ring: u32,
        parts: u32,
        out_scale: u32,
    }
}

const FILES: [&[&str]; 2] = [
    &["lib/grid.wgsl", "lib/step.wgsl", "lib/cache_f32.wgsl", "grouped_attention.wgsl"],
    &["lib/grid.wgsl", "lib/step.wgsl", "lib/cache_f16.wgsl", "grouped_attention.wgsl"],
];
const READERS: &[(u32, Access)] = &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (5, Access::Write)];

/// `grouped_attention.wgsl`: all positions by one workgroup.
pub static WHOLE: ByCache = ByCache::new(FILES, "whole", Params::LAYOUT, READERS);

/// `grouped_attention.wgsl`: some positions of a single token.
pub static PART: ByCache = ByCache::new(FILES, "part", Params::LAYOUT, READERS);

/// `grouped_attention.wgsl`: joins the parts, and sees no cache.
pub static MERGE: Shader = Shader {
    files: FILES[0],
    entry: "merge",
    params: Params::LAYOUT,
    bindings: &[(5, Access::Write), (6, Access::Read), (7, Access::Read), (8, Access::Write)],
};

/// Positions that a workgroup scores at once: few, so that a context makes many parts.
const BLOCK: u32 = 16;
/// The same where a workgroup has all positions: a longer block waits less often.
const WHOLE_BLOCK: u32 = 32;
/// Most parts of a context.
const PARTS: u32 = 128;
/// Quads of a head that a workgroup joins.
const SPAN: u32 = 32;
/// Most query heads of a workgroup, and most of their values: its memory.
const MOST_HEADS: usize = 8;
const MOST_VALUES: usize = 2048;
/// Head widths that the shader's lanes can hold.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Query heads of a workgroup, when this kernel suits the shape or no other takes it: queries of the last token alone.
pub(crate) fn heads_of_group(heads: usize, kv: &KvInfo, rows: Rows) -> Option<usize> {
    let per_kv_head = heads / kv.heads.max(1);
    let suits = per_kv_head >= 4 || kv.head_dim > 256 || rows == Rows::One;
    if !suits || kv.head_dim > MAX_HEAD_DIM {
        return None;
    }
    let most = (MOST_VALUES / kv.head_dim).min(MOST_HEADS);
    (1..=most).rev().find(|n| per_kv_head.is_multiple_of(*n))
}

fn constants(block: u32, head_dim: usize, heads: usize, out_step: u32) -> Constants {
    vec![
        ("D", head_dim as f64),
        ("HEADS", heads as f64),
        ("BLOCK", f64::from(block)),
        ("OUT_STEP", f64::from(out_step)),
    ]
}

/// Constants for the usual shapes.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    use crate::gpu::CacheFormat;
    let mut all = Vec::new();
    let narrow = [(16, 1), (16, 2), (64, 3), (64, 4), (64, 5), (64, 6), (64, 7), (256, 8)];
    for (d, heads) in narrow.into_iter().chain([1, 2, 3, 4].map(|heads| (512, heads))) {
        all.extend(CacheFormat::ALL.map(|cache| (WHOLE.of(cache), constants(WHOLE_BLOCK, d, heads, 0))));
        all.extend(CacheFormat::ALL.map(|cache| (PART.of(cache), constants(BLOCK, d, heads, 0))));
        all.extend([0, 1, 2, 4].map(|step| (&MERGE, constants(BLOCK, d, heads, step))));
    }
    all
}

impl Attention {
    /// Bytes that the parts need.
    pub(crate) fn grouped_scratch_bytes(&self, head_dim: usize) -> u64 {
        (self.heads * PARTS as usize * (head_dim + 4) * 4) as u64
    }

    /// One workgroup for each group of heads of each token; a single token gets one for each part of its positions.
    /// `codes` are made of the output where there is one token.
    pub(crate) fn grouped_dispatches(
        &self,
        group: usize,
        codes: Option<&Codes>,
        planner: &Planner<'_>,
    ) -> Result<Vec<Dispatch>> {
        let kv = planner.recording.kv[self.slot.0 as usize];
        planner.quads("attention", "a head", kv.head_dim)?;
        let tokens = planner.tokens(self.q);
        if planner.tokens(self.out) != tokens {
            return Err(Error::unsupported("attention", "its queries and its output have different numbers of rows"));
        }
        let params = params_bytes(Params {
            heads: self.heads as u32,
            groups: (self.heads / kv.heads / group) as u32,
            kv_quads: (kv.heads * kv.head_dim / 4) as u32,
            window: self.window.map_or(0, |w| w as u32),
            scale: self.scale,
            tokens: tokens.own(),
            ring: planner.ring(self.slot),
            parts: PARTS,
            out_scale: codes.map_or(Ok(u32::MAX), |c| Ok(c.scalars(planner)?[0]))?,
        });
        let window = self.window.map_or(u32::MAX, |w| w as u32);
        let groups = Count::Fixed((self.heads / group) as u32);
        let dispatch = |shader, block, out_step, resources, x, y, z| Dispatch {
            shader,
            constants: constants(block, kv.head_dim, group, out_step),
            params: params.clone(),
            resources,
            grid: Grid { x, y, z, when: When::Always },
        };
        let inputs = |out| vec![Resource::Buffer(self.q), Resource::Keys(self.slot), Resource::Values(self.slot), out];
        let (out, one) = (Resource::Buffer(self.out), Count::Fixed(1));
        if planner.mode == Mode::Prefill && tokens == Tokens::Step {
            let each = Count::Tokens { each: 1, per_group: 1 };
            let whole = WHOLE.of(planner.cache);
            return Ok(vec![dispatch(whole, WHOLE_BLOCK, 0, inputs(out), groups, one, each)]);
        }
        let parts = Count::Split { window, block: BLOCK, most: PARTS };
        let grid = codes.map_or(Resource::Unused, |c| Resource::Grid(c.grid));
        let step = codes.map_or(0, |c| c.step);
        let heads = Count::Fixed(self.heads as u32);
        let spans = Count::Fixed((kv.head_dim as u32 / 4).div_ceil(SPAN));
        Ok(vec![
            dispatch(PART.of(planner.cache), BLOCK, 0, inputs(Resource::Scratch), groups, parts, one),
            dispatch(&MERGE, BLOCK, step, vec![out, Resource::Scalars, Resource::Scratch, grid], heads, spans, one),
        ])
    }
}
