//! Copies the step's keys and values to the cache: `K[position + t, :] = k[t, :]`, the same for V.

use crate::error::Result;
use crate::gpu::shader::{Access, ByCache, Dispatch, Grid, Planner, Resource, Tokens, params, params_bytes};
use crate::kernels::{Pairing, Rope};
use crate::recording::{BufferId, KvSlot};
use bytemuck::Zeroable;

/// Appends to a key/value cache.
#[derive(Debug, Clone, PartialEq)]
pub struct KvAppend {
    /// `[T, K·d]`, rotated already.
    pub k: BufferId,
    /// `[T, K·d]`.
    pub v: BufferId,
    /// The cache.
    pub slot: KvSlot,
}

params! {
    /// Uniform parameters of `kv_append.wgsl`.
    pub struct Params {
        width: u32,
        query_pairs: u32,
        half: u32,
        adjacent: u32,
        query: u32,
        key: u32,
        value: u32,
        ring: u32,
    }
}

const FILES: [&[&str]; 2] = [
    &["lib/step.wgsl", "lib/cache_f32.wgsl", "kv_append.wgsl"],
    &["lib/step.wgsl", "lib/cache_f16.wgsl", "kv_append.wgsl"],
];

/// `kv_append.wgsl`: the copy alone.
pub static SHADER: ByCache = ByCache::new(
    FILES,
    "main",
    Params::LAYOUT,
    &[(2, Access::Read), (3, Access::Write), (4, Access::Write), (5, Access::Read)],
);

/// `kv_append.wgsl` with the rotation of queries and keys.
pub static ROTATE_AND_APPEND: ByCache = ByCache::new(
    FILES,
    "rotate_and_append",
    Params::LAYOUT,
    &[(3, Access::Write), (4, Access::Write), (6, Access::Write), (7, Access::Read)],
);

impl KvAppend {
    /// One invocation for two values.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        planner.per_token("kv_append", self.k)?;
        let width = planner.cols(self.k);
        planner.quads("kv_append", "a position", width as usize)?;
        Ok(vec![Dispatch {
            shader: SHADER.of(planner.cache),
            constants: Vec::new(),
            params: params_bytes(Params { width, ring: planner.ring(self.slot), ..Params::zeroed() }),
            resources: vec![
                Resource::Buffer(self.k),
                Resource::Keys(self.slot),
                Resource::Values(self.slot),
                Resource::Buffer(self.v),
            ],
            grid: Grid::items(width / 2, Tokens::Step),
        }])
    }

    /// The same after `query` and `key` have rotated q and k, in one: q, k and v share a buffer.
    pub fn dispatches_rotated(&self, query: &Rope, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        planner.per_token("kv_append", self.k)?;
        planner.quads("kv_append", "a head", query.head_dim)?;
        let (width, query_pairs) = (planner.cols(self.k), planner.cols(query.x) / 2);
        Ok(vec![Dispatch {
            shader: ROTATE_AND_APPEND.of(planner.cache),
            constants: Vec::new(),
            params: params_bytes(Params {
                width,
                query_pairs,
                half: (query.head_dim / 2) as u32,
                adjacent: u32::from(query.pairing == Pairing::Adjacent),
                query: planner.offset(query.x),
                key: planner.offset(self.k),
                value: planner.offset(self.v),
                ring: planner.ring(self.slot),
            }),
            resources: vec![
                Resource::Keys(self.slot),
                Resource::Values(self.slot),
                Resource::Shared(query.x),
                Resource::Angles(query.table),
            ],
            grid: Grid::items((query_pairs + width) / 2, Tokens::Step),
        }])
    }
}
