// out[t, h] = Σ_j softmax_j(scale · q[t, h] · K[j]) · V[j] over the positions j that token t sees: j ≤ position + t, and
// j > position + t − window when there is a window. Query head h reads key/value head h / (H/K). Softmax in f32.
// Needs lib/grid.wgsl, lib/step.wgsl and one of lib/cache_f32.wgsl and lib/cache_f16.wgsl.
//
// A workgroup owns HEADS query heads of one token that share a key/value head, so that each key and value is read once
// for all of them. It walks its positions in blocks: COLUMNS lanes score a position for every head; then each lane owns one quad
// of V and gathers it for every head over some of the positions. A lane asks for GROUP quads at once, each held under a name of its
// own: in an array that a loop fills they would lie in the device's memory, and each would be waited for before the next is asked for.
// `whole` takes all positions; `part` takes an equal share of them and leaves maximum, sum and unnormalised output of each
// head for `merge`.

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
override BLOCK: u32 = 16u; // positions, a divisor of LANES; the same for `part` and `merge`
override COLUMNS: u32 = LANES / BLOCK;
override OUT_STEP: u32 = 0u; // codes are made of out, for a product whose weights have 8 / OUT_STEP bits
const LANES = 128u;
const LINES = 4u;          // most lanes that share a quad of V
const MOST = 8u;           // heads of a workgroup
const GROUP = 4u;          // quads of keys, or of values, that a lane asks for at once
const MOST_SCORES = 2u;    // of a block that a lane adds up: MOST · BLOCK / LANES is no more
const LOWEST = -3.4028234e38;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;            // [T, H · d]
@group(0) @binding(3) var<storage, read> keys: array<CacheQuad>;         // [positions, K · d]
@group(0) @binding(4) var<storage, read> values: array<CacheQuad>;       // [positions, K · d]
// whole, merge: out [T, H · d]; part: [H, parts, 1 + d/4] of (maximum, sum, 0, 0) and the output.
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> query: array<vec4<f32>, HEADS * D / 4u>; // in the end what a line gathered
var<workgroup> partial: array<f32, COLUMNS * (HEADS * BLOCK + 4u)>; // [column, head, position], see stride
var<workgroup> scores: array<f32, HEADS * BLOCK>;         // [head, position]
var<workgroup> weights: array<f32, HEADS * BLOCK>;        // [position, head]
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

// Line l gathers V of a block's positions l, l + lines(), ..
fn lines() -> u32 {
    return min(LANES / (D / 4u), LINES);
}

// Of a column in `partial`: what neighbouring lanes write then lies in different banks of memory.
fn stride() -> u32 {
    return HEADS * BLOCK + 4u;
}

// Quads of a block's keys that a lane multiplies.
fn key_quads() -> u32 {
    return (D / 4u + COLUMNS - 1u) / COLUMNS;
}

// Quad i of the key that begins at `key`; 0 beyond it.
fn key_quad(key: u32, i: u32) -> vec4<f32> {
    return select(vec4<f32>(), from_cache(keys[key + min(i, D / 4u - 1u)]), i < D / 4u);
}

// Quads of a block's values that a lane gathers.
fn value_quads() -> u32 {
    return (BLOCK + lines() - 1u) / lines();
}

// The quad at `value` of a position's values, of position i of a block; 0 beyond the block. Beyond the end the last position is read
// again, and weighs nothing.
fn value_quad(value: u32, block: u32, i: u32, end: u32) -> vec4<f32> {
    let row = min(block + i, end - 1u) & params.ring;
    return select(vec4<f32>(), from_cache(values[row * params.kv_quads + value]), i < BLOCK);
}

// Scores of a block that a lane adds up: those of position lane % BLOCK for the heads lane / BLOCK, + COLUMNS, ..
fn lane_scores() -> u32 {
    return (HEADS * BLOCK + LANES - 1u) / LANES;
}

// Leaves maxima and totals of every head, and in the first line's `acc` its quads of the outputs, unnormalised.
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
    let column = lane % COLUMNS;
    let line = lane / quads;
    for (var i = lane; i < HEADS * quads; i += LANES) {
        query[i] = params.scale * q[(t * params.heads + first_head) * quads + i];
    }
    var highest = array<f32, MOST_SCORES>(LOWEST, LOWEST); // of each of the lane's heads
    var sum = array<f32, MOST_SCORES>();                   // of its weights at positions lane % BLOCK, + BLOCK, ..
    workgroupBarrier();
    for (var block = begin; block < end; block += BLOCK) {
        let key = (min(block + lane / COLUMNS, end - 1u) & params.ring) * params.kv_quads + kv_quad;
        var dots = array<f32, MOST>();
        for (var n = 0u; n < key_quads(); n += GROUP) {
            let i = column + n * COLUMNS;
            let a = key_quad(key, i);
            let b = key_quad(key, i + COLUMNS);
            let c = key_quad(key, i + 2u * COLUMNS);
            let d = key_quad(key, i + 3u * COLUMNS);
            for (var h = 0u; h < HEADS; h += 1u) {
                let at = h * quads;
                dots[h] += dot(query[at + min(i, quads - 1u)], a);
                dots[h] += dot(query[at + min(i + COLUMNS, quads - 1u)], b);
                dots[h] += dot(query[at + min(i + 2u * COLUMNS, quads - 1u)], c);
                dots[h] += dot(query[at + min(i + 3u * COLUMNS, quads - 1u)], d);
            }
        }
        for (var h = 0u; h < HEADS; h += 1u) {
            partial[column * stride() + h * BLOCK + lane / COLUMNS] = dots[h];
        }
        workgroupBarrier();
        var score = array<f32, MOST_SCORES>(LOWEST, LOWEST);
        for (var n = 0u; n < lane_scores(); n += 1u) {
            let i = lane + n * LANES;
            if i < HEADS * BLOCK {
                if block + lane % BLOCK < end {
                    score[n] = 0.0;
                    for (var c = 0u; c < COLUMNS; c += 1u) {
                        score[n] += partial[c * stride() + i];
                    }
                }
                scores[i] = score[n];
            }
        }
        workgroupBarrier();
        for (var n = 0u; n < lane_scores(); n += 1u) {
            let head = lane / BLOCK + n * COLUMNS;
            if head < HEADS {
                let before = highest[n];
                for (var i = 0u; i < BLOCK; i += 1u) {
                    highest[n] = max(highest[n], scores[head * BLOCK + i]);
                }
                let weight = select(0.0, exp(score[n] - highest[n]), block + lane % BLOCK < end);
                let shrink = exp(before - highest[n]);
                sum[n] = sum[n] * shrink + weight;
                weights[lane % BLOCK * HEADS + head] = weight;
                if lane % BLOCK == 0u {
                    shrinks[head] = shrink;
                }
            }
        }
        workgroupBarrier();
        for (var h = 0u; h < HEADS; h += 1u) {
            (*acc)[h] *= shrinks[h];
        }
        let value = kv_quad + lane % quads;
        for (var n = 0u; n < value_quads(); n += GROUP) {
            let i = line + n * lines();
            let a = value_quad(value, block, i, end);
            let b = value_quad(value, block, i + lines(), end);
            let c = value_quad(value, block, i + 2u * lines(), end);
            let d = value_quad(value, block, i + 3u * lines(), end);
            for (var h = 0u; h < HEADS; h += 1u) {
                (*acc)[h] += weights[min(i, BLOCK - 1u) * HEADS + h] * a;
                (*acc)[h] += weights[min(i + lines(), BLOCK - 1u) * HEADS + h] * b;
                (*acc)[h] += weights[min(i + 2u * lines(), BLOCK - 1u) * HEADS + h] * c;
                (*acc)[h] += weights[min(i + 3u * lines(), BLOCK - 1u) * HEADS + h] * d;
            }
        }
    }
    for (var n = 0u; n < lane_scores(); n += 1u) {
        let head = lane / BLOCK + n * COLUMNS;
        if head < HEADS {
            scores[lane + n * LANES] = sum[n];
            if lane % BLOCK == 0u {
                maxima[head] = highest[n];
            }
        }
    }
    workgroupBarrier();
    if lane < HEADS {
        var total = 0.0;
        for (var i = 0u; i < BLOCK; i += 1u) {
            total += scores[lane * BLOCK + i];
        }
        totals[lane] = total;
    }
    for (var other = 1u; other < lines(); other += 1u) {
        if line == other {
            for (var h = 0u; h < HEADS; h += 1u) {
                query[h * quads + lane % quads] = (*acc)[h];
            }
        }
        workgroupBarrier();
        if line == 0u {
            for (var h = 0u; h < HEADS; h += 1u) {
                (*acc)[h] += query[h * quads + lane];
            }
        }
        workgroupBarrier();
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
    if lane < quads {
        for (var h = 0u; h < HEADS; h += 1u) {
            out[(row * params.heads + group.x * HEADS + h) * quads + lane] = acc[h] / totals[h];
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
    if lane < quads {
        for (var h = 0u; h < HEADS; h += 1u) {
            out[((group.x * HEADS + h) * groups.y + group.y) * (1u + quads) + 1u + lane] = acc[h];
        }
    }
}

// ---- One workgroup for SPAN quads of each head; LANES / SPAN lanes walk the parts for each of them.

const SPAN = 32u;
const AHEAD = 8u; // quads that a lane asks for at once

@group(0) @binding(7) var<storage, read> parts: array<vec4<f32>>; // what `part` left, of at most LANES parts
@group(0) @binding(8) var<storage, read_write> out_grid: array<u32>;

var<workgroup> part_maxima: array<f32, LANES>;
var<workgroup> part_weights: array<f32, LANES>;
var<workgroup> part_totals: array<f32, LANES>; // weighed
var<workgroup> gathered: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = D / 4u;
    let range = visible(first_token(params.tokens));
    let count = min((range.y - range.x + BLOCK - 1u) / BLOCK, params.parts);
    let first = group.x * count * (1u + quads);
    var state = vec4<f32>(LOWEST, 0.0, 0.0, 0.0);
    if lane < count {
        state = parts[first + lane * (1u + quads)];
    }
    part_maxima[lane] = state.x;
    workgroupBarrier();
    var maximum = LOWEST;
    for (var i = 0u; i < count; i += 1u) {
        maximum = max(maximum, part_maxima[i]);
    }
    let weight = exp(state.x - maximum);
    part_weights[lane] = weight;
    part_totals[lane] = weight * state.y;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < count; i += 1u) {
        total += part_totals[i];
    }
    let quad = group.y * SPAN + lane % SPAN;
    var acc = vec4<f32>();
    for (var begin = lane / SPAN; begin < count; begin += AHEAD * (LANES / SPAN)) {
        for (var n = 0u; n < AHEAD; n += 1u) {
            let i = begin + n * (LANES / SPAN);
            let piece = parts[first + min(i, count - 1u) * (1u + quads) + 1u + min(quad, quads - 1u)];
            acc += select(0.0, part_weights[min(i, LANES - 1u)], i < count) * piece;
        }
    }
    gathered[lane] = acc;
    workgroupBarrier();
    if lane < SPAN {
        for (var line = 1u; line < LANES / SPAN; line += 1u) {
            acc += gathered[line * SPAN + lane];
        }
        gathered[lane] = acc / total;
        if quad < quads {
            out[group.x * quads + quad] = acc / total;
        }
    }
    if OUT_STEP != 0u {
        workgroupBarrier();
        let s = scalar(params.out_scale);
        if lane < SPAN && quad < quads && s != 0.0 {
            let column = first_column(lane, OUT_STEP);
            var codes = vec4<f32>();
            for (var b = 0u; b < 4u; b += 1u) {
                let c = column + b * OUT_STEP;
                codes[b] = gathered[c / 4u][c % 4u];
            }
            out_grid[group.x * quads + quad] = grid_word(codes, s);
        }
    }
}
