// out[0, :] = x[T − 1, :]. Needs lib/step.wgsl. One invocation for each value.

struct Params {
    cols: u32, // D
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;          // [T, D]
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // [1, D]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.cols {
        out[id.x] = x[(now.tokens - 1u) * params.cols + id.x];
    }
}
