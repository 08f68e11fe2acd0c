// out[t, h] = Σ_j softmax_j(scale · q[t, h] · K[j]) · V[j] over the positions j that token t sees: j ≤ position + t, and
// j > position + t − window when there is a window. Query head h reads key/value head h / (H/K). Softmax in f32.
// Needs lib/step.wgsl and one of lib/cache_f32.wgsl and lib/cache_f16.wgsl.
//
// A workgroup owns one query head of one token and walks its positions in blocks of LANES: first each lane scores one
// position, then lanes regroup as (position, quad of d) to gather V. `whole` takes all positions. For a long context
// `part` takes PART of them and leaves its maximum, sum and unnormalised output for `merge`.

struct Params {
    heads: u32,       // H
    per_kv_head: u32, // H/K
    kv_quads: u32,    // of a position: K · d / 4
    window: u32,      // or 0
    scale: f32,
    ring: u32,        // position j lies in row j & ring
}
override D: u32 = 64u;     // head width, a multiple of 4, at most 4 · LANES
override PART: u32 = 128u; // positions of a part
const LANES = 64u;
const LOWEST = -3.4028234e38;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;            // [T, H · d]
@group(0) @binding(3) var<storage, read> keys: array<CacheQuad>;         // [positions, K · d]
@group(0) @binding(4) var<storage, read> values: array<CacheQuad>;       // [positions, K · d]
// whole: out [T, H · d]; part: [H, parts, 1 + d/4] of (maximum, sum, 0, 0) and the output.
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> query: array<vec4<f32>, D / 4u>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> weights: array<f32, LANES>;
var<workgroup> gathered: array<vec4<f32>, LANES>;

// Positions begin .. end that token t sees.
fn visible(t: u32) -> vec2<u32> {
    let end = now.position + t + 1u;
    if params.window == 0u || end < params.window {
        return vec2<u32>(0u, end);
    }
    return vec2<u32>(end - params.window, end);
}

struct Attended {
    maximum: f32,
    sum: f32,
    quad: vec4<f32>, // of the output, unnormalised, for lanes below d/4
}

fn attend(lane: u32, t: u32, head: u32, begin: u32, end: u32) -> Attended {
    const_assert LANES == 64u;
    let quads = D / 4u;
    let kv_head = head / params.per_kv_head * quads;
    let lines = LANES / quads; // positions gathered at once
    let line = lane / quads;
    let quad = lane % quads;
    if lane < quads {
        query[lane] = params.scale * q[(t * params.heads + head) * quads + lane];
    }
    workgroupBarrier();
    var maximum = LOWEST;
    var sum = 0.0; // of this lane's weights
    var acc = vec4<f32>();
    for (var block = begin; block < end; block += LANES) {
        let j = block + lane;
        var score = LOWEST;
        if j < end {
            let key = (j & params.ring) * params.kv_quads + kv_head;
            score = 0.0;
            for (var i = 0u; i < quads; i += 1u) {
                score += dot(query[i], from_cache(keys[key + i]));
            }
        }
        scores[lane] = score;
        workgroupBarrier();
        var highest = maximum;
        for (var i = 0u; i < LANES; i += 1u) {
            highest = max(highest, scores[i]);
        }
        let shrink = exp(maximum - highest);
        let weight = select(0.0, exp(score - highest), j < end);
        maximum = highest;
        sum = sum * shrink + weight;
        weights[lane] = weight;
        workgroupBarrier();
        acc *= shrink;
        if line < lines {
            for (var i = line; i < min(LANES, end - block); i += lines) {
                let value = ((block + i) & params.ring) * params.kv_quads + kv_head + quad;
                acc += weights[i] * from_cache(values[value]);
            }
        }
    }
    workgroupBarrier();
    gathered[lane] = acc;
    weights[lane] = sum;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < LANES; i += 1u) {
        total += weights[i];
    }
    var output = vec4<f32>();
    for (var i = 0u; i < lines; i += 1u) {
        output += gathered[i * quads + quad];
    }
    return Attended(maximum, total, output);
}

@compute @workgroup_size(LANES)
fn whole(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let range = visible(group.z);
    let a = attend(lane, group.z, group.x, range.x, range.y);
    if lane < D / 4u {
        out[(group.z * params.heads + group.x) * (D / 4u) + lane] = a.quad / a.sum;
    }
}

@compute @workgroup_size(LANES)
fn part(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let range = visible(0u);
    let begin = range.x + group.y * PART;
    let a = attend(lane, 0u, group.x, begin, min(begin + PART, range.y));
    let first = (group.x * groups.y + group.y) * (1u + D / 4u);
    if lane == 0u {
        out[first] = vec4<f32>(a.maximum, a.sum, 0.0, 0.0);
    }
    if lane < D / 4u {
        out[first + 1u + lane] = a.quad;
    }
}

// ---- One workgroup for each head; each lane owns four values of it and walks the parts.

@group(0) @binding(6) var<storage, read> parts: array<vec4<f32>>; // what `part` left

@compute @workgroup_size(LANES)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = D / 4u;
    if lane >= quads {
        return;
    }
    let range = visible(0u);
    let count = (range.y - range.x + PART - 1u) / PART;
    var maximum = LOWEST;
    var sum = 0.0;
    var acc = vec4<f32>();
    for (var i = 0u; i < count; i += 1u) {
        let first = (group.x * count + i) * (1u + quads);
        let state = parts[first];
        let highest = max(maximum, state.x);
        let shrink = exp(maximum - highest);
        let grow = exp(state.x - highest);
        sum = sum * shrink + grow * state.y;
        acc = acc * shrink + grow * parts[first + 1u + lane];
        maximum = highest;
    }
    out[group.x * quads + lane] = acc / sum;
}
