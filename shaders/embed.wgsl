// out[t, :] = scale · table[token[t], first ..], with table [V, K] and out [T, D], or [1, D] for the step's last token.
// Needs lib/matrix.wgsl and lib/step.wgsl. One invocation for each four values of out.
//
// A table larger than one binding comes as several dispatches; each writes the tokens whose rows it holds.

struct Params {
    rows: u32,        // of this dispatch
    quads: u32,       // K / 4
    first_row: u32,
    scale: f32,
    tokens: u32,      // T; 0: the step's
    stretch: u32,     // quads that share a scale of their own
    first_quad: u32,
    out_quads: u32,   // D / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> tokens: array<u32>;              // [T]
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;     // [T, D]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= token_count(params.tokens) * params.out_quads {
        return;
    }
    let row = tokens[first_token(params.tokens) + i / params.out_quads] - params.first_row;
    if row < params.rows {
        let q = params.first_quad + i % params.out_quads;
        out[i] = params.scale * weight_quad(row, q, params.quads, params.stretch);
    }
}
