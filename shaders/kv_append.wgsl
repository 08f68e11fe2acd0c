// keys[(position + t) & ring, :] = k[t, :], the same for values. Needs lib/step.wgsl.

@group(0) @binding(3) var<storage, read_write> keys: array<f32>;       // [positions, K · d]
@group(0) @binding(4) var<storage, read_write> values: array<f32>;     // [positions, K · d]

struct Params {
    width: u32,       // K · d
    query_pairs: u32, // H · d/2
    half: u32,        // d/2
    adjacent: u32,    // pairs are (2i, 2i + 1), else (i, i + d/2)
    query: u32,       // where q[0, 0] is
    key: u32,         // where k[0, 0] is
    value: u32,       // where v[0, 0] is
    ring: u32,        // position j lies in row j & ring
}
@group(0) @binding(0) var<uniform> params: Params;

// ---- One invocation for each value.

@group(0) @binding(2) var<storage, read> k: array<f32>; // [T, K · d]
@group(0) @binding(5) var<storage, read> v: array<f32>; // [T, K · d]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i < now.tokens * params.width {
        let to = ((now.position + i / params.width) & params.ring) * params.width + i % params.width;
        keys[to] = k[i];
        values[to] = v[i];
    }
}

// ---- With the rotation of q (in place) and of k (on its way): one invocation for each pair of q, k and v.

@group(0) @binding(6) var<storage, read_write> qkv: array<f32>;      // q [T, H · d], k and v [T, K · d]
@group(0) @binding(7) var<storage, read> angles: array<vec2<f32>>;   // [T, d/2] of (cos, sin)

// Where pair p of a row's heads lies.
fn pair_at(p: u32) -> vec2<u32> {
    let i = p % params.half;
    let head = 2u * (p - i);
    if params.adjacent != 0u {
        return head + vec2<u32>(2u * i, 2u * i + 1u);
    }
    return head + vec2<u32>(i, i + params.half);
}

fn rotated(first: f32, second: f32, angle: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(first * angle.x - second * angle.y, second * angle.x + first * angle.y);
}

@compute @workgroup_size(64)
fn rotate_and_append(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = (group.x + group.y * groups.x) * 64u + lane;
    let all = params.query_pairs + params.width; // of a token: q's, then k's, then v's
    if p >= now.tokens * all {
        return;
    }
    let t = p / all;
    var pair = p % all;
    let angle = angles[t * params.half + pair % params.half];
    if pair < params.query_pairs {
        let at = params.query + t * 2u * params.query_pairs + pair_at(pair);
        let turned = rotated(qkv[at.x], qkv[at.y], angle);
        qkv[at.x] = turned.x;
        qkv[at.y] = turned.y;
        return;
    }
    pair -= params.query_pairs;
    let row = t * params.width;
    let to = ((now.position + t) & params.ring) * params.width;
    if pair < params.width / 2u {
        let at = pair_at(pair);
        let turned = rotated(qkv[params.key + row + at.x], qkv[params.key + row + at.y], angle);
        keys[to + at.x] = turned.x;
        keys[to + at.y] = turned.y;
        return;
    }
    let at = 2u * pair - params.width;
    values[to + at] = qkv[params.value + row + at];
    values[to + at + 1u] = qkv[params.value + row + at + 1u];
}
