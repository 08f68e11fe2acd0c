// keys[(position + t) & ring, :] = k[t, :], the same for values. Needs lib/step.wgsl and one of lib/cache_f32.wgsl and
// lib/cache_f16.wgsl.

@group(0) @binding(3) var<storage, read_write> keys: array<CachePair>;       // [positions, K · d / 2]
@group(0) @binding(4) var<storage, read_write> values: array<CachePair>;     // [positions, K · d / 2]

struct Params {
    width: u32,       // K · d, a multiple of 4
    query_pairs: u32, // H · d/2
    half: u32,        // d/2, even
    adjacent: u32,    // pairs are (2i, 2i + 1), else (i, i + d/2)
    query: u32,       // where q[0, 0] is
    key: u32,         // where k[0, 0] is
    value: u32,       // where v[0, 0] is
    ring: u32,        // position j lies in row j & ring
}
@group(0) @binding(0) var<uniform> params: Params;

// ---- One invocation for two values.

@group(0) @binding(2) var<storage, read> k: array<vec2<f32>>; // [T, K · d / 2]
@group(0) @binding(5) var<storage, read> v: array<vec2<f32>>; // [T, K · d / 2]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    let pairs = params.width / 2u;
    if i < now.tokens * pairs {
        let to = ((now.position + i / pairs) & params.ring) * pairs + i % pairs;
        keys[to] = to_cache(k[i]);
        values[to] = to_cache(v[i]);
    }
}

// ---- With the rotation of q (in place) and of k (on its way): one invocation for two pairs, of q, k or v.

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
    let p = 2u * ((group.x + group.y * groups.x) * 64u + lane);
    let all = params.query_pairs + params.width; // of a token: q's, then k's, then v's
    if p >= now.tokens * all {
        return;
    }
    let t = p / all;
    var pair = p % all;
    let angle = t * params.half + pair % params.half;
    if pair < params.query_pairs {
        for (var n = 0u; n < 2u; n += 1u) {
            let at = params.query + t * 2u * params.query_pairs + pair_at(pair + n);
            let turned = rotated(qkv[at.x], qkv[at.y], angles[angle + n]);
            qkv[at.x] = turned.x;
            qkv[at.y] = turned.y;
        }
        return;
    }
    pair -= params.query_pairs;
    let row = t * params.width;
    let to = ((now.position + t) & params.ring) * params.width;
    if pair < params.width / 2u {
        let key = params.key + row;
        let first = pair_at(pair);
        let second = pair_at(pair + 1u);
        let a = rotated(qkv[key + first.x], qkv[key + first.y], angles[angle]);
        let b = rotated(qkv[key + second.x], qkv[key + second.y], angles[angle + 1u]);
        if params.adjacent != 0u {
            keys[(to + first.x) / 2u] = to_cache(a);
            keys[(to + second.x) / 2u] = to_cache(b);
        } else {
            keys[(to + first.x) / 2u] = to_cache(vec2<f32>(a.x, b.x));
            keys[(to + first.y) / 2u] = to_cache(vec2<f32>(a.y, b.y));
        }
        return;
    }
    let at = 2u * pair - params.width;
    let value = params.value + row + at;
    values[(to + at) / 2u] = to_cache(vec2<f32>(qkv[value], qkv[value + 1u]));
    values[(to + at) / 2u + 1u] = to_cache(vec2<f32>(qkv[value + 2u], qkv[value + 3u]));
}
