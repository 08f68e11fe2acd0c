// gate[t, f] = activation(gate[t, f]) · up[t, f], in place on gate. Needs lib/step.wgsl. One invocation for each value.

struct Params {
    cols: u32,      // F
    gelu_tanh: u32, // 1: GELU by tanh; 0: SiLU
    tokens: u32,    // T; 0: the step's
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> gate: array<f32>; // [T, F]
@group(0) @binding(3) var<storage, read> up: array<f32>;         // [T, F]

fn activation(v: f32) -> f32 {
    if params.gelu_tanh != 0u {
        // Beyond 10 tanh is 1 in f32, and some drivers compute it from exponentials that overflow.
        let inner = 0.7978846 * (v + 0.044715 * v * v * v);
        return 0.5 * v * (1.0 + tanh(clamp(inner, -10.0, 10.0)));
    }
    return v / (1.0 + exp(min(-v, 80.0)));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i < token_count(params.tokens) * params.cols {
        gate[i] = activation(gate[i]) * up[i];
    }
}
