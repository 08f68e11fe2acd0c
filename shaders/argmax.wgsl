// ids[0] = the index of the largest logit, the lowest of equals. `main`: one workgroup takes all; of many logits each
// workgroup of `part` takes PART, and `join` takes what they found.
//
// ids is also where the next step's embedding reads its token: greedy decoding needs no trip to the CPU.

struct Params {
    cols: u32, // V
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>; // [1, V]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;    // [T]

const LANES = 256u;
const LOWEST = -3.4028234e38;
var<workgroup> best: array<f32, LANES>;
var<workgroup> best_index: array<u32, LANES>;

// A lane's best of quads first, first + LANES, .. below `end`; ones beyond the last logit do not count.
fn best_of(lane: u32, first: u32, end: u32) {
    var value = LOWEST;
    var index = 4u * first;
    for (var q = first + lane; q < end; q += LANES) {
        let quad = logits[q];
        for (var i = 0u; i < 4u; i += 1u) {
            if 4u * q + i < params.cols && quad[i] > value {
                value = quad[i];
                index = 4u * q + i;
            }
        }
    }
    best[lane] = value;
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

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    best_of(lane, 0u, (params.cols + 3u) / 4u);
    reduce(lane);
    if lane == 0u {
        ids[0] = best_index[0];
    }
}

const PART = 1024u; // quads
@group(0) @binding(4) var<storage, read_write> found: array<vec2<u32>>; // [parts]: the bits of a logit, and its index

@compute @workgroup_size(LANES)
fn part(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    best_of(lane, group.x * PART, min((group.x + 1u) * PART, (params.cols + 3u) / 4u));
    reduce(lane);
    if lane == 0u {
        found[group.x] = vec2<u32>(bitcast<u32>(best[0]), best_index[0]);
    }
}

@group(0) @binding(5) var<storage, read> candidates: array<vec2<u32>>; // what `part` found

@compute @workgroup_size(LANES)
fn join(@builtin(local_invocation_index) lane: u32) {
    let parts = (params.cols + 4u * PART - 1u) / (4u * PART);
    var value = LOWEST;
    var index = 0u;
    for (var i = lane; i < parts; i += LANES) {
        let candidate = candidates[i];
        if bitcast<f32>(candidate.x) > value || i == lane {
            value = bitcast<f32>(candidate.x);
            index = candidate.y;
        }
    }
    best[lane] = value;
    best_index[lane] = select(0xffffffffu, index, lane < parts);
    reduce(lane);
    if lane == 0u {
        ids[0] = best_index[0];
    }
}
