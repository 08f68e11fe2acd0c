// x = cap · tanh(x / cap), in place. Needs lib/step.wgsl. One invocation for each value.

struct Params {
    cols: u32,   // n
    cap: f32,
    tokens: u32, // T; 0: the step's
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> x: array<f32>; // [T, n]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i < token_count(params.tokens) * params.cols {
        // Beyond 10 tanh is 1 in f32, and some drivers compute it from exponentials that overflow.
        x[i] = params.cap * tanh(clamp(x[i] / params.cap, -10.0, 10.0));
    }
}
