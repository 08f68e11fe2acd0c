// Rotates each pair (a, b) of a head in place: (a·cos − b·sin, b·cos + a·sin).
// Needs lib/step.wgsl. One invocation for each pair.

struct Params {
    pairs: u32,    // of a token: heads · d/2
    half: u32,     // d/2
    adjacent: u32, // 1: (2i, 2i + 1); 0: (i, i + d/2)
    tokens: u32,   // T; 0: the step's
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;   // [step's T, d/2] of (cos, sin)
@group(0) @binding(3) var<storage, read_write> x: array<f32>;        // [T, heads · d]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = (group.x + group.y * groups.x) * 64u + lane;
    if p >= token_count(params.tokens) * params.pairs {
        return;
    }
    let i = p % params.half;
    let head = 2u * (p - i); // first value of the pair's head, over all tokens
    let first = head + select(i, 2u * i, params.adjacent != 0u);
    let second = first + select(params.half, 1u, params.adjacent != 0u);
    let angle = angles[(first_token(params.tokens) + p / params.pairs) * params.half + i];
    let a = x[first];
    let b = x[second];
    x[first] = a * angle.x - b * angle.y;
    x[second] = b * angle.x + a * angle.y;
}
