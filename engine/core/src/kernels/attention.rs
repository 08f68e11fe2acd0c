//! Causal attention over a cache: for query head h of token t at position p,
//! `out = Σ_j softmax_j(scale · q·K[j]) · V[j]` over positions `j ≤ p`, and `j > p − window` when there is a window. Query
//! head h reads key/value head `h / (H/K)`. Softmax in f32.

use crate::error::{Error, Result};
use crate::gpu::shader::{
    Access, ByCache, Count, Dispatch, Grid, Mode, Planner, Resource, Shader, When, params, params_bytes,
};
use crate::kernels::grouped_attention;
use crate::kernels::quantize::Codes;
use crate::recording::{BufferId, KvSlot, Recording};

/// Attention of the step's queries over the cached and appended keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// `[T, H·d]`, rotated already; if it has one row, the last token's.
    pub q: BufferId,
    /// The cache, the step's own keys and values included.
    pub slot: KvSlot,
    /// As many rows as `q`.
    pub out: BufferId,
    /// Query heads H.
    pub heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Positions a token sees, its own included.
    pub window: Option<usize>,
}

impl Attention {
    /// The positions that a token at `position` sees.
    pub fn visible(&self, position: usize) -> core::ops::Range<usize> {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1
    }
}

/// The specification, for one head: `k` and `v` are that head's `[n, d]` rows, `n·d` values apart by `stride`.
pub fn reference(q: &[f32], k: &[f32], v: &[f32], stride: usize, n: usize, scale: f32, out: &mut [f32]) {
    let d = q.len();
    let mut scores: Vec<f32> =
        (0..n).map(|j| scale * q.iter().zip(&k[j * stride..j * stride + d]).map(|(a, b)| a * b).sum::<f32>()).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for s in &mut scores {
        *s = (*s - max).exp();
        sum += *s;
    }
    out.fill(0.0);
    for (j, s) in scores.iter().enumerate() {
        for i in 0..d {
            out[i] += s / sum * v[j * stride + i];
        }
    }
}

params! {
    /// Uniform parameters of `attention.wgsl`.
    pub struct Params {
        heads: u32,
        per_kv_head: u32,
        kv_quads: u32,
        window: u32,
        scale: f32,
        ring: u32,
    }
}

const FILES: [&[&str]; 2] = [
    &["lib/step.wgsl", "lib/cache_f32.wgsl", "attention.wgsl"],
    &["lib/step.wgsl", "lib/cache_f16.wgsl", "attention.wgsl"],
];
const READERS: &[(u32, Access)] = &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (5, Access::Write)];

/// `attention.wgsl`: all positions by one workgroup.
pub static WHOLE: ByCache = ByCache::new(FILES, "whole", Params::LAYOUT, READERS);

/// `attention.wgsl`: some positions of a single token.
pub static PART: ByCache = ByCache::new(FILES, "part", Params::LAYOUT, READERS);

/// `attention.wgsl`: joins the parts, and sees no cache.
pub static MERGE: Shader = Shader {
    files: FILES[0],
    entry: "merge",
    params: Params::LAYOUT,
    bindings: &[(5, Access::Write), (6, Access::Read)],
};

/// Positions of a part.
pub const PART_POSITIONS: u32 = 128;

/// Head widths that the shader's lanes can hold.
const MAX_HEAD_DIM: usize = 256;

/// Constants for the usual head widths.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    use crate::gpu::CacheFormat;
    let readers = CacheFormat::ALL.into_iter().flat_map(|cache| [WHOLE.of(cache), PART.of(cache)]);
    let widths = |shader| [32.0, 64.0, 80.0, 96.0, 128.0, 256.0].map(|d| (shader, vec![("D", d)]));
    readers.chain([&MERGE]).flat_map(widths).collect()
}

impl Attention {
    /// Bytes that the parts of a context of `positions` need.
    pub fn scratch_bytes(&self, recording: &Recording, positions: usize) -> u64 {
        let kv = &recording.kv[self.slot.0 as usize];
        let head_dim = kv.head_dim;
        if grouped_attention::heads_of_group(self.heads, kv, recording.info(self.q).rows).is_some() {
            return self.grouped_scratch_bytes(head_dim);
        }
        let parts = positions.div_ceil(PART_POSITIONS as usize);
        (self.heads * parts * (head_dim + 4) * 4) as u64
    }

    /// One workgroup for each head of each token; a single token with a long context gets one for each part of it.
    /// Where [`grouped_attention`] runs and there is one token, also makes `codes` of the output.
    pub fn dispatches(&self, codes: Option<&Codes>, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let kv = planner.recording.kv[self.slot.0 as usize];
        if let Some(group) = grouped_attention::heads_of_group(self.heads, &kv, planner.recording.info(self.q).rows) {
            return self.grouped_dispatches(group, codes, planner);
        }
        planner.per_token("attention", self.q)?;
        planner.quads("attention", "a head", kv.head_dim)?;
        if kv.head_dim > MAX_HEAD_DIM {
            return Err(Error::unsupported(
                format!("attention with heads of {}", kv.head_dim),
                format!("the graphics device takes heads of at most {MAX_HEAD_DIM}; run this model on the CPU"),
            ));
        }
        let params = params_bytes(Params {
            heads: self.heads as u32,
            per_kv_head: (self.heads / kv.heads) as u32,
            kv_quads: (kv.heads * kv.head_dim / 4) as u32,
            window: self.window.map_or(0, |w| w as u32),
            scale: self.scale,
            ring: planner.ring(self.slot),
        });
        let window = self.window.map_or(u32::MAX, |w| w as u32);
        let constants = vec![("D", kv.head_dim as f64)];
        let heads = Count::Fixed(self.heads as u32);
        let inputs = |out| vec![Resource::Buffer(self.q), Resource::Keys(self.slot), Resource::Values(self.slot), out];
        let dispatch = |shader, resources, y, z, when| Dispatch {
            shader,
            constants: constants.clone(),
            params: params.clone(),
            resources,
            grid: Grid { x: heads, y, z, when },
        };
        let (out, one) = (Resource::Buffer(self.out), Count::Fixed(1));
        if planner.mode == Mode::Prefill {
            let tokens = Count::Tokens { each: 1, per_group: 1 };
            return Ok(vec![dispatch(WHOLE.of(planner.cache), inputs(out), one, tokens, When::Always)]);
        }
        let parts = Count::Parts { window, part: PART_POSITIONS };
        let short = When::Sees { window, range: 0..PART_POSITIONS + 1 };
        let long = When::Sees { window, range: PART_POSITIONS + 1..u32::MAX };
        Ok(vec![
            dispatch(WHOLE.of(planner.cache), inputs(out), one, one, short),
            dispatch(PART.of(planner.cache), inputs(Resource::Scratch), parts, one, long.clone()),
            dispatch(&MERGE, vec![out, Resource::Scratch], one, one, long),
        ])
    }
}
