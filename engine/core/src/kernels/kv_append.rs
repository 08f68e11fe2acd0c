//! Copies the step's keys and values to the cache: `K[position + t, :] = k[t, :]`, the same for V.

use crate::error::Result;
use crate::gpu::shader::{Access, Dispatch, Grid, Planner, Resource, Shader, Tokens, params_bytes};
use crate::recording::{BufferId, KvSlot};
use bytemuck::{Pod, Zeroable};

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

/// Uniform parameters of `kv_append.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Params {
    quads: u32,
}

/// `kv_append.wgsl`.
pub static SHADER: Shader = Shader {
    files: &["lib/step.wgsl", "kv_append.wgsl"],
    entry: "main",
    params: size_of::<Params>(),
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Write), (5, Access::Write)],
};

impl KvAppend {
    /// One invocation for each four values.
    pub fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        planner.per_token("kv_append", self.k)?;
        let quads = planner.quads("kv_append", "a position", planner.cols(self.k) as usize)?;
        Ok(vec![Dispatch {
            shader: &SHADER,
            constants: Vec::new(),
            params: params_bytes(Params { quads }),
            resources: vec![
                Resource::Buffer(self.k),
                Resource::Buffer(self.v),
                Resource::Keys(self.slot),
                Resource::Values(self.slot),
            ],
            grid: Grid::items(quads, Tokens::Step),
        }])
    }
}
