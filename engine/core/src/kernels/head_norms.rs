//! What lies between the products and attention as one dispatch: norms of each query, key and value head, rotations, and the
//! append to the cache. The executor joins the operations; [`super::rms_norm`], [`super::rope`] and [`super::kv_append`] are
//! the specification.

use crate::error::Result;
use crate::gpu::shader::{
    Access, ByCache, Count, Dispatch, Grid, Planner, Resource, Tokens, When, params, params_bytes,
};
use crate::kernels::{KvAppend, RmsNorm, Rope};
use crate::recording::KvSlot;

/// Joined operations.
#[derive(Debug, Clone)]
pub struct HeadNorms<'a> {
    /// Of the query heads.
    pub query: &'a RmsNorm,
    /// Of the queries, and with the same table of the keys.
    pub rotation: &'a Rope,
    /// Norms of keys and values and their append, where the layer has its own.
    pub own: Option<(&'a RmsNorm, &'a RmsNorm, &'a KvAppend)>,
    /// The cache that attention then reads.
    pub slot: KvSlot,
}

params! {
    /// Uniform parameters of `head_norms.wgsl`.
    pub struct Params {
        heads: u32,
        kv_heads: u32,
        eps: f32,
        tokens: u32,
        query: u32,
        key: u32,
        value: u32,
        ring: u32,
    }
}

/// `head_norms.wgsl`.
pub static SHADER: ByCache = ByCache::new(
    [
        &["lib/step.wgsl", "lib/cache_f32.wgsl", "head_norms.wgsl"],
        &["lib/step.wgsl", "lib/cache_f16.wgsl", "head_norms.wgsl"],
    ],
    "main",
    Params::LAYOUT,
    &[
        (2, Access::Read),
        (3, Access::Write),
        (4, Access::Write),
        (5, Access::Write),
        (6, Access::Read),
        (7, Access::Read),
        (8, Access::Read),
    ],
);

/// Constants for the usual widths.
#[cfg(test)]
pub(crate) fn variants() -> Vec<crate::gpu::shader::Variant> {
    use crate::gpu::CacheFormat;
    let widths = |cache| [16.0, 256.0, 512.0].map(|d| (SHADER.of(cache), vec![("D", d)]));
    CacheFormat::ALL.into_iter().flat_map(widths).collect()
}

impl HeadNorms<'_> {
    /// One workgroup for each head of each token.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let d = self.query.width;
        planner.quads("head_norms", "a head", d)?;
        let heads = planner.cols(self.query.x) / d as u32;
        let kv_heads = self.own.map_or(0, |(key, ..)| planner.cols(key.x) / d as u32);
        let tokens = planner.tokens(self.query.x);
        let weight = |norm: &RmsNorm| norm.weight.map_or(Resource::Unused, Resource::Vector);
        Ok(vec![Dispatch {
            shader: SHADER.of(planner.cache),
            constants: vec![("D", d as f64)],
            params: params_bytes(Params {
                heads,
                kv_heads,
                eps: self.query.eps,
                tokens: tokens.own(),
                query: planner.offset(self.query.x),
                key: self.own.map_or(0, |(key, ..)| planner.offset(key.x)),
                value: self.own.map_or(0, |(_, value, _)| planner.offset(value.x)),
                ring: planner.ring(self.slot),
            }),
            resources: vec![
                Resource::Shared(self.query.x),
                Resource::Keys(self.slot),
                Resource::Values(self.slot),
                Resource::Buffer(self.query.out),
                Resource::Angles(self.rotation.table),
                weight(self.query),
                self.own.map_or(Resource::Unused, |(key, ..)| weight(key)),
            ],
            grid: Grid {
                x: Count::Fixed(heads + 2 * kv_heads),
                y: Count::Fixed(1),
                z: match tokens {
                    Tokens::Step => Count::Tokens { each: 1, per_group: 1 },
                    Tokens::One => Count::Fixed(1),
                },
                when: When::Always,
            },
        }])
    }
}
