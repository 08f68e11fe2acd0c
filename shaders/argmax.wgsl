// ids[0] = the index of the largest logit, the lowest of equals, or NO_TOKEN. `main`: one workgroup takes all; of many
// logits each workgroup of `part` takes PART, and `join` takes what they found. Needs lib/rank.wgsl.
//
// ids is also where the next step's embedding reads its token: greedy decoding needs no trip to the CPU.

struct Params {
    cols: u32, // V
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<vec4<u32>>; // [1, V], their bits
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;    // [T]

const LANES = 256u;
var<workgroup> best: array<u32, LANES>; // ranks
var<workgroup> best_index: array<u32, LANES>;

// A lane's best of quads first, first + LANES, .. below `end`; ones beyond the last logit do not count.
fn best_of(lane: u32, first: u32, end: u32) {
    var rank = 0u;
    var index = NO_TOKEN;
    for (var q = first + lane; q < end; q += LANES) {
        let quad = logits[q];
        for (var i = 0u; i < 4u; i += 1u) {
            let other = rank_of(quad[i]);
            if 4u * q + i < params.cols && other > rank {
                rank = other;
                index = 4u * q + i;
            }
        }
    }
    best[lane] = rank;
    best_index[lane] = index;
}

// Leaves the best of all lanes at 0.
fn reduce(lane: u32) {
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if lane < half {
            let other = best[lane + half];
            let other_index = best_index[lane + half];
            if other > best[lane] || (other == best[lane] && other_index < best_index[lane]) {
                best[lane] = other;
                best_index[lane] = other_index;
            }
        }
        workgroupBarrier();
    }
}

fn choose() {
    ids[0] = select(best_index[0], NO_TOKEN, best[0] >= DAMAGED);
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    best_of(lane, 0u, (params.cols + 3u) / 4u);
    reduce(lane);
    if lane == 0u {
        choose();
    }
}

const PART = 1024u; // quads
@group(0) @binding(4) var<storage, read_write> found: array<vec2<u32>>; // [parts]: the rank of a logit, and its index

@compute @workgroup_size(LANES)
fn part(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    best_of(lane, group.x * PART, min((group.x + 1u) * PART, (params.cols + 3u) / 4u));
    reduce(lane);
    if lane == 0u {
        found[group.x] = vec2<u32>(best[0], best_index[0]);
    }
}

@group(0) @binding(5) var<storage, read> candidates: array<vec2<u32>>; // what `part` found

@compute @workgroup_size(LANES)
fn join(@builtin(local_invocation_index) lane: u32) {
    let parts = (params.cols + 4u * PART - 1u) / (4u * PART);
    var rank = 0u;
    var index = NO_TOKEN;
    for (var i = lane; i < parts; i += LANES) {
        let candidate = candidates[i];
        if candidate.x > rank {
            rank = candidate.x;
            index = candidate.y;
        }
    }
    best[lane] = rank;
    best_index[lane] = index;
    reduce(lane);
    if lane == 0u {
        choose();
    }
}
