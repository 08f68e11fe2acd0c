// Draws the next token: ids[0] is one of the top_k most likely, or NO_TOKEN. The order of what is cut away, and of equals,
// is that of engine/core/src/sampler.rs. Needs lib/rank.wgsl.
//
// `part` sorts SLICE logits and keeps their first MOST. `join` does the same with the lists of SLICE / MOST workgroups,
// until one is enough for what is left; `draw` sorts those and draws. As in argmax.wgsl, ids is where the next step reads.

struct Params {
    cols: u32,   // V
    lists: u32,  // that `join` or `draw` reads
    begin: u32,  // the first of them
    out: u32,    // the first list that `part` or `join` writes
}
struct Wish {
    random: f32, // in [0, 1]
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,  // 1 .. MOST
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<vec4<u32>>;       // [1, V], their bits
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read_write> lists: array<vec2<u32>>;  // [lists, MOST]: rank and id, falling
@group(0) @binding(5) var<storage, read> wish: Wish;

const LANES = 256u;
const SLICE = 1024u; // 4 · LANES
const MOST = 64u;
const LEAST = -87.0; // exp of less is no normal f32

var<workgroup> ranks: array<u32, SLICE>;
var<workgroup> tokens: array<u32, SLICE>;
var<workgroup> weights: array<f32, MOST>;

// True when entry a is the likelier one, or the same and of a lower id.
fn leads(a: u32, b: u32) -> bool {
    return ranks[a] > ranks[b] || (ranks[a] == ranks[b] && tokens[a] < tokens[b]);
}

// Sorts all entries, the likeliest first: a bitonic network.
fn sort(lane: u32) {
    workgroupBarrier();
    for (var run = 2u; run <= SLICE; run <<= 1u) {
        for (var stride = run >> 1u; stride > 0u; stride >>= 1u) {
            for (var i = lane; i < SLICE / 2u; i += LANES) {
                let a = 2u * i - (i & (stride - 1u));
                let b = a + stride;
                let falls = (a & run) == 0u;
                if leads(b, a) == falls {
                    let rank = ranks[a];
                    let token = tokens[a];
                    ranks[a] = ranks[b];
                    tokens[a] = tokens[b];
                    ranks[b] = rank;
                    tokens[b] = token;
                }
            }
            workgroupBarrier();
        }
    }
}

// Fills the entries from lists `first` .. of params.begin, and what is beyond the last with none.
fn take_lists(lane: u32, first: u32) {
    for (var i = lane; i < SLICE; i += LANES) {
        let entry = first * MOST + i;
        let exists = entry < params.lists * MOST;
        let found = lists[params.begin * MOST + select(0u, entry, exists)];
        ranks[i] = select(0u, found.x, exists);
        tokens[i] = select(NO_TOKEN, found.y, exists);
    }
}

fn keep_list(lane: u32, number: u32) {
    if lane < MOST {
        lists[(params.out + number) * MOST + lane] = vec2<u32>(ranks[lane], tokens[lane]);
    }
}

@compute @workgroup_size(LANES)
fn part(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let q = group.x * LANES + lane;
    var quad = vec4<u32>();
    if 4u * q < params.cols {
        quad = logits[q];
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let exists = 4u * q + i < params.cols;
        ranks[4u * lane + i] = select(0u, rank_of(quad[i]), exists);
        tokens[4u * lane + i] = select(NO_TOKEN, 4u * q + i, exists);
    }
    sort(lane);
    keep_list(lane, group.x);
}

@compute @workgroup_size(LANES)
fn join(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    take_lists(lane, group.x * (SLICE / MOST));
    sort(lane);
    keep_list(lane, group.x);
}

// How likely entry i is relative to the first one; 0 beyond the top k.
fn weight_of(i: u32) -> f32 {
    let below = logit_of(ranks[i]) - logit_of(ranks[0]);
    let is_possible = i < wish.top_k && ranks[i] > IMPOSSIBLE && below >= LEAST * wish.temperature;
    return select(0.0, exp(below / wish.temperature), is_possible);
}

fn chosen() -> u32 {
    if ranks[0] >= DAMAGED {
        return NO_TOKEN;
    }
    var total = 0.0;
    for (var i = 0u; i < MOST; i += 1u) {
        total += weights[i];
    }
    var held = weights[0];
    var kept = 1u;
    while kept < MOST {
        let weight = weights[kept];
        let is_enough = wish.top_p < 1.0 && held >= wish.top_p * total;
        if is_enough || weight < wish.min_p || weight == 0.0 {
            break;
        }
        held += weight;
        kept += 1u;
    }
    var left = wish.random * held;
    for (var i = 0u; i < kept; i += 1u) {
        left -= weights[i];
        if left < 0.0 {
            return tokens[i];
        }
    }
    return tokens[kept - 1u];
}

@compute @workgroup_size(LANES)
fn draw(@builtin(local_invocation_index) lane: u32) {
    take_lists(lane, 0u);
    sort(lane);
    if lane < MOST {
        weights[lane] = weight_of(lane);
    }
    workgroupBarrier();
    if lane == 0u {
        ids[0] = chosen();
    }
}
