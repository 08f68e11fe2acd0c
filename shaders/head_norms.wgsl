// Between the products and attention: each query head is normed and rotated, each key head normed, rotated and appended to
// the cache, each value head normed without a weight and appended. Needs lib/step.wgsl and one of lib/cache_f32.wgsl and
// lib/cache_f16.wgsl.
// One workgroup for each head of each token; pairs are (i, i + d/2), and a lane takes two at once. Sums in f32.

struct Params {
    heads: u32,      // H
    kv_heads: u32,   // K, or 0: no keys and values of its own
    eps: f32,
    tokens: u32,     // T; 0: the step's
    query: u32,      // where q[0, 0] is
    key: u32,        // where k[0, 0] is
    value: u32,      // where v[0, 0] is
    ring: u32,       // position j lies in row j & ring
}
override D: u32 = 64u; // head width, a multiple of 4
const LANES = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;             // q [T, H · d], k and v [T, K · d]
@group(0) @binding(3) var<storage, read_write> keys: array<CachePair>;    // [positions, K · d / 2]
@group(0) @binding(4) var<storage, read_write> values: array<CachePair>;  // [positions, K · d / 2]
@group(0) @binding(5) var<storage, read_write> queries: array<f32>;   // [T, H · d]
@group(0) @binding(6) var<storage, read> angles: array<vec2<f32>>;    // [step's T, d/2] of (cos, sin)
@group(0) @binding(7) var<storage, read> query_weight: array<f32>;    // [d]
@group(0) @binding(8) var<storage, read> key_weight: array<f32>;      // [d]

var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.z;
    let is_query = group.x < params.heads;
    let kv = group.x - params.heads; // keys, then values
    let is_key = !is_query && kv < params.kv_heads;
    let kv_head = select(kv - params.kv_heads, kv, is_key);
    var begin = params.query + (token * params.heads + group.x) * D;
    if !is_query {
        begin = select(params.value, params.key, is_key) + (token * params.kv_heads + kv_head) * D;
    }
    var squares = 0.0;
    for (var i = lane; i < D; i += LANES) {
        squares += qkv[begin + i] * qkv[begin + i];
    }
    partial[lane] = squares;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i += 1u) {
        sum += partial[i];
    }
    let scale = 1.0 / sqrt(sum / f32(D) + params.eps);
    let t = first_token(params.tokens) + token;
    let to = (((now.position + t) & params.ring) * params.kv_heads + kv_head) * D;
    let half = D / 2u;
    for (var i = 2u * lane; i < half; i += 2u * LANES) {
        let low = begin + i;
        let high = low + half;
        var a = vec2<f32>(qkv[low], qkv[low + 1u]) * scale;
        var b = vec2<f32>(qkv[high], qkv[high + 1u]) * scale;
        let first = angles[t * half + i];
        let second = angles[t * half + i + 1u];
        let cosines = vec2<f32>(first.x, second.x);
        let sines = vec2<f32>(first.y, second.y);
        if is_query {
            a *= vec2<f32>(query_weight[i], query_weight[i + 1u]);
            b *= vec2<f32>(query_weight[i + half], query_weight[i + half + 1u]);
            let at = (token * params.heads + group.x) * D + i;
            let turned_a = a * cosines - b * sines;
            let turned_b = b * cosines + a * sines;
            queries[at] = turned_a.x;
            queries[at + 1u] = turned_a.y;
            queries[at + half] = turned_b.x;
            queries[at + half + 1u] = turned_b.y;
        } else if is_key {
            a *= vec2<f32>(key_weight[i], key_weight[i + 1u]);
            b *= vec2<f32>(key_weight[i + half], key_weight[i + half + 1u]);
            keys[(to + i) / 2u] = to_cache(a * cosines - b * sines);
            keys[(to + i + half) / 2u] = to_cache(b * cosines + a * sines);
        } else {
            values[(to + i) / 2u] = to_cache(a);
            values[(to + i + half) / 2u] = to_cache(b);
        }
    }
}
