// out[t, :] = scale · table[token[t], :], with table [V, D] and out [T, D].
// Needs lib/matrix.wgsl and lib/step.wgsl. One invocation for each four values of out.
//
// A table larger than one binding comes as several dispatches; each writes the tokens whose rows it holds.

struct Params {
    rows: u32,      // of this dispatch
    cols: u32,      // D
    first_row: u32,
    scale: f32,
    tokens: u32,    // T; 0: the step's
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
    let quads = params.cols / 4u;
    if i >= token_count(params.tokens) * quads {
        return;
    }
    let row = tokens[i / quads] - params.first_row;
    if row < params.rows {
        out[i] = params.scale * weight_quad(row, i % quads, quads);
    }
}
