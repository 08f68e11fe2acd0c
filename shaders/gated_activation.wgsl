// gate[t, f] = activation(gate[t, f]) · up[t, first + f], in place on gate. One invocation for each value.
// Needs lib/activation.wgsl and lib/step.wgsl.

struct Params {
    cols: u32,       // F
    activation: u32,
    tokens: u32,     // T; 0: the step's
    gate: u32,       // where gate[0, 0] is
    up: u32,         // where up[0, first] is
    up_cols: u32,    // of a row of up
    is_shared: u32,  // 1: up lies in the same buffer as gate
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> values: array<f32>; // gate [T, F], up [T, n] when it is shared
@group(0) @binding(3) var<storage, read> other: array<f32>;        // up [T, n], else

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i < token_count(params.tokens) * params.cols {
        let gate = activation(params.activation, values[params.gate + i]);
        let up = params.up + i / params.cols * params.up_cols + i % params.cols;
        if params.is_shared != 0u {
            values[params.gate + i] = gate * values[up];
        } else {
            values[params.gate + i] = gate * other[up];
        }
    }
}
