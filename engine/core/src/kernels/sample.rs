//! Draws the next token by temperature, top-k, top-p and min-p on the device. The specification is [`Sampler`]: from the same
//! logits and random number both choose the same token, unless that number lies within rounding of the border of two.
//!
//! [`Sampler`]: crate::sampler::Sampler

use crate::error::Result;
use crate::gpu::shader::{Access, Count, Dispatch, Grid, Planner, Resource, Shader, params, params_bytes};
use crate::recording::BufferId;
use crate::sampler::SamplerOptions;

/// Draws a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// `[1, V]`.
    pub logits: BufferId,
}

/// The largest top-k: entries of a list.
pub const MOST: usize = 64;
/// Logits, or entries of lists, that a workgroup sorts.
const SLICE: usize = 1024;
/// Temperatures that leave f32 room.
const TEMPERATURES: std::ops::RangeInclusive<f32> = 1e-3..=1e3;
/// What stands for an id when a logit is NaN or infinite.
pub const NO_TOKEN: u32 = u32::MAX;

/// True when the device chooses with these options as the sampler does: greedily, or among few enough tokens.
pub fn serves(options: &SamplerOptions) -> bool {
    let draws = (1..=MOST).contains(&(options.top_k as usize)) && TEMPERATURES.contains(&options.temperature);
    options.repetition_penalty == 1.0 && (options.temperature == 0.0 || draws)
}

params! {
    /// What `sample.wgsl` reads for each token.
    pub struct Wish {
        random: f32,
        temperature: f32,
        top_p: f32,
        min_p: f32,
        top_k: u32,
        unused: [u32; 3],
    }
}

impl Wish {
    /// `random` is uniform in [0, 1).
    pub fn new(options: &SamplerOptions, random: f64) -> Self {
        let SamplerOptions { temperature, top_k, top_p, min_p, .. } = *options;
        Self { random: random as f32, temperature, top_p, min_p, top_k, unused: [0; 3] }
    }
}

params! {
    /// Uniform parameters of `sample.wgsl`.
    pub struct Params {
        cols: u32,
        lists: u32,
        begin: u32,
        out: u32,
    }
}

const FILES: &[&str] = &["lib/rank.wgsl", "sample.wgsl"];

/// `sample.wgsl`: the likeliest of some logits.
pub static PART: Shader =
    Shader { files: FILES, entry: "part", params: Params::LAYOUT, bindings: &[(2, Access::Read), (4, Access::Write)] };

/// `sample.wgsl`: the likeliest of some lists.
pub static JOIN: Shader =
    Shader { files: FILES, entry: "join", params: Params::LAYOUT, bindings: &[(4, Access::Write)] };

/// `sample.wgsl`: a token of the likeliest.
pub static DRAW: Shader = Shader {
    files: FILES,
    entry: "draw",
    params: Params::LAYOUT,
    bindings: &[(3, Access::Write), (4, Access::Write), (5, Access::Read)],
};

/// The numbers of lists, from the logits' on until a workgroup holds them all.
fn levels(cols: usize) -> Vec<usize> {
    const EACH: usize = SLICE / MOST;
    let mut levels = vec![cols.div_ceil(SLICE)];
    while let Some(last) = levels.last().copied().filter(|n| *n > EACH) {
        levels.push(last.div_ceil(EACH));
    }
    levels
}

/// Bytes that the lists of `cols` logits need.
pub(crate) fn scratch_bytes(cols: usize) -> u64 {
    (levels(cols).iter().sum::<usize>() * MOST * 8) as u64
}

impl Sample {
    /// Lists of the likeliest, then the draw. The id lands where the next step reads its token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let cols = planner.cols(self.logits);
        let dispatch = |shader, resources, params: Params, groups: usize| Dispatch {
            shader,
            constants: Vec::new(),
            params: params_bytes(params),
            resources,
            grid: Grid::line(Count::Fixed(groups as u32)),
        };
        let levels = levels(cols as usize);
        let mut params = Params { cols, lists: levels[0] as u32, begin: 0, out: 0 };
        let logits = Resource::Buffer(self.logits);
        let mut all = vec![dispatch(&PART, vec![logits, Resource::Scratch], params, levels[0])];
        for &groups in &levels[1..] {
            params.out = params.begin + params.lists;
            all.push(dispatch(&JOIN, vec![Resource::Scratch], params, groups));
            (params.begin, params.lists) = (params.out, groups as u32);
        }
        all.push(dispatch(&DRAW, vec![Resource::Tokens, Resource::Scratch, Resource::Wish], params, 1));
        Ok(all)
    }
}
