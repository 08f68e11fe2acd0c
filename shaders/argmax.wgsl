// ids[0] = the index of the largest logit, the lowest of equals. One workgroup; lanes stride over quads of logits.
//
// ids is also where the next step's embedding reads its token: greedy decoding needs no trip to the CPU.

struct Params {
    cols: u32, // V
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>; // [1, V]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;    // [T]

const LANES = 256u;
var<workgroup> best: array<f32, LANES>;
var<workgroup> best_index: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    // A lane with nothing to look at repeats logit 0.
    var value = logits[0].x;
    var index = 0u;
    for (var q = lane; 4u * q < params.cols; q += LANES) {
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
    if lane == 0u {
        ids[0] = best_index[0];
    }
}
