// out[t, h] = Σ_j softmax_j(scale · q[t, h] · K[j]) · V[j] over the positions j that token t sees: j ≤ position + t, and
// j > position + t − window when there is a window. Query head h reads key/value head h / (H/K). Softmax in f32.
// Needs lib/grid.wgsl and lib/step.wgsl.
//
// A workgroup owns HEADS query heads of one token that share a key/value head, so that each key and value is read once
// for all of them. It walks its positions in blocks: 4 lanes score a position for every head; then each lane owns one
// quad of V and gathers it for some of the heads. `whole` takes all positions; `part` takes an equal share of them and
// leaves maximum, sum and unnormalised output of each head for `merge`.

struct Params {
    heads: u32,       // H
    groups: u32,      // workgroups that share a key/value head
    kv_quads: u32,    // of a position: K · d / 4
    window: u32,      // or 0
    scale: f32,
    tokens: u32,      // T; 0: the step's
    ring: u32,        // position j lies in row j & ring
    parts: u32,       // most parts
    out_scale: u32,   // OUT_STEP: where the scale of the codes made of out is
}
override D: u32 = 64u;     // head width, a multiple of 4, at most 4 · LANES
override HEADS: u32 = 4u;
override OUT_STEP: u32 = 0u; // codes are made of out, for a product whose weights have 8 / OUT_STEP bits
const LANES = 128u;
const BLOCK = 32u;         // positions: LANES / 4
const MOST = 8u;           // heads of a workgroup
const LOWEST = -3.4028234e38;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;            // [T, H · d]
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;         // [positions, K · d]
@group(0) @binding(4) var<storage, read> values: array<vec4<f32>>;       // [positions, K · d]
// whole, merge: out [T, H · d]; part: [H, parts, 1 + d/4] of (maximum, sum, 0, 0) and the output.
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> query: array<vec4<f32>, HEADS * D / 4u>;
var<workgroup> partial: array<f32, HEADS * LANES>; // [head, position, lane of 4]
var<workgroup> weights: array<f32, HEADS * BLOCK>; // scores, then weights
var<workgroup> maxima: array<f32, HEADS>;
var<workgroup> shrinks: array<f32, HEADS>;
var<workgroup> totals: array<f32, HEADS>;

// Positions begin .. end that token t sees.
fn visible(t: u32) -> vec2<u32> {
    let end = now.position + t + 1u;
    if params.window == 0u || end < params.window {
        return vec2<u32>(0u, end);
    }
    return vec2<u32>(end - params.window, end);
}

// A lane gathers V for the heads line + a · lines with a below `shares`: a count known when the pipeline is made, so that
// its sums stay in registers.
fn lines() -> u32 {
    return LANES / (D / 4u);
}

fn shares() -> u32 {
    return (HEADS + lines() - 1u) / lines();
}

// The last share may be no head; its sum is then that of the last one again, and is dropped.
fn head_of(line: u32, a: u32) -> u32 {
    return min(line + a * lines(), HEADS - 1u);
}

// Leaves maxima and totals of every head, and in `acc` the lane's quads of the outputs, unnormalised.
fn attend(
    lane: u32,
    t: u32,
    first_head: u32,
    kv_quad: u32,
    begin: u32,
    end: u32,
    acc: ptr<function, array<vec4<f32>, MOST>>,
) {
    let quads = D / 4u;
    let line = lane / quads;
    for (var i = lane; i < HEADS * quads; i += LANES) {
        query[i] = params.scale * q[(t * params.heads + first_head) * quads + i];
    }
    if lane < HEADS {
        maxima[lane] = LOWEST;
    }
    var sum = 0.0; // of head `lane`
    workgroupBarrier();
    for (var block = begin; block < end; block += BLOCK) {
        let j = block + lane / 4u;
        var dots = array<f32, MOST>();
        if j < end {
            let key = (j & params.ring) * params.kv_quads + kv_quad;
            for (var i = lane % 4u; i < quads; i += 4u) {
                let k = keys[key + i];
                for (var h = 0u; h < HEADS; h += 1u) {
                    dots[h] += dot(query[h * quads + i], k);
                }
            }
        }
        for (var h = 0u; h < HEADS; h += 1u) {
            partial[h * LANES + lane] = dots[h];
        }
        workgroupBarrier();
        for (var i = lane; i < HEADS * BLOCK; i += LANES) {
            let score = partial[4u * i] + partial[4u * i + 1u] + partial[4u * i + 2u] + partial[4u * i + 3u];
            weights[i] = select(LOWEST, score, block + i % BLOCK < end);
        }
        workgroupBarrier();
        if lane < HEADS {
            var highest = maxima[lane];
            let before = highest;
            for (var i = 0u; i < BLOCK; i += 1u) {
                highest = max(highest, weights[lane * BLOCK + i]);
            }
            maxima[lane] = highest;
            shrinks[lane] = exp(before - highest);
        }
        workgroupBarrier();
        for (var i = lane; i < HEADS * BLOCK; i += LANES) {
            weights[i] = select(0.0, exp(weights[i] - maxima[i / BLOCK]), block + i % BLOCK < end);
        }
        workgroupBarrier();
        if lane < HEADS {
            sum *= shrinks[lane];
            for (var i = 0u; i < BLOCK; i += 1u) {
                sum += weights[lane * BLOCK + i];
            }
        }
        if line < lines() {
            for (var a = 0u; a < shares(); a += 1u) {
                (*acc)[a] *= shrinks[head_of(line, a)];
            }
            for (var i = 0u; i < min(BLOCK, end - block); i += 1u) {
                let v = values[((block + i) & params.ring) * params.kv_quads + kv_quad + lane % quads];
                for (var a = 0u; a < shares(); a += 1u) {
                    (*acc)[a] += weights[head_of(line, a) * BLOCK + i] * v;
                }
            }
        }
    }
    if lane < HEADS {
        totals[lane] = sum;
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES)
fn whole(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = D / 4u;
    let row = group.z;
    let t = first_token(params.tokens) + row;
    let range = visible(t);
    var acc = array<vec4<f32>, MOST>();
    attend(lane, row, group.x * HEADS, group.x / params.groups * quads, range.x, range.y, &acc);
    let line = lane / quads;
    if line < lines() {
        for (var a = 0u; a < shares(); a += 1u) {
            let h = line + a * lines();
            if h < HEADS {
                out[(row * params.heads + group.x * HEADS + h) * quads + lane % quads] = acc[a] / totals[h];
            }
        }
    }
}

// Blocks of a part.
fn blocks_each(range: vec2<u32>, parts: u32) -> u32 {
    let blocks = (range.y - range.x + BLOCK - 1u) / BLOCK;
    return (blocks + parts - 1u) / parts;
}

@compute @workgroup_size(LANES)
fn part(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = D / 4u;
    let range = visible(first_token(params.tokens));
    let share = blocks_each(range, groups.y) * BLOCK;
    let begin = min(range.x + group.y * share, range.y);
    var acc = array<vec4<f32>, MOST>();
    attend(lane, 0u, group.x * HEADS, group.x / params.groups * quads, begin, min(begin + share, range.y), &acc);
    if lane < HEADS {
        out[((group.x * HEADS + lane) * groups.y + group.y) * (1u + quads)] =
            vec4<f32>(maxima[lane], totals[lane], 0.0, 0.0);
    }
    let line = lane / quads;
    if line < lines() {
        for (var a = 0u; a < shares(); a += 1u) {
            let h = line + a * lines();
            if h < HEADS {
                out[((group.x * HEADS + h) * groups.y + group.y) * (1u + quads) + 1u + lane % quads] = acc[a];
            }
        }
    }
}

// ---- One workgroup for each head; each lane owns four values of it and walks the parts.

@group(0) @binding(7) var<storage, read> parts: array<vec4<f32>>; // what `part` left
@group(0) @binding(8) var<storage, read_write> out_grid: array<u32>;

var<workgroup> finished: array<vec4<f32>, D / 4u>;

@compute @workgroup_size(LANES)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = D / 4u;
    let range = visible(first_token(params.tokens));
    let count = min((range.y - range.x + BLOCK - 1u) / BLOCK, params.parts);
    if lane < quads {
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
        finished[lane] = acc / sum;
        out[group.x * quads + lane] = acc / sum;
    }
    if OUT_STEP != 0u {
        workgroupBarrier();
        let s = scalar(params.out_scale);
        if lane < quads && s != 0.0 {
            let column = first_column(lane, OUT_STEP);
            var codes = vec4<f32>();
            for (var b = 0u; b < 4u; b += 1u) {
                let c = column + b * OUT_STEP;
                codes[b] = finished[c / 4u][c % 4u];
            }
            out_grid[group.x * quads + lane] = grid_word(codes, s);
        }
    }
}
