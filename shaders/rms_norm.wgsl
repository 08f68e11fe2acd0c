// n = x[i, :] · w / sqrt(mean(x[i, :]²) + eps) over each stretch i of `width` values; out[i, :] = n · gain, or
// (out[i, :] + n) · gain. Needs lib/step.wgsl. One workgroup for each stretch; lanes stride over it. Sums in f32.

struct Params {
    width: u32,
    stretches: u32, // of a token: n
    has_weight: u32,
    eps: f32,
    tokens: u32,    // T; 0: the step's
    accumulate: u32, // 1: add to out
    gain: f32,
    scalar: u32,    // where the learned gain is, or NONE
}
const NONE = 0xffffffffu;
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;              // [T, n · width]
@group(0) @binding(3) var<storage, read> weight: array<f32>;         // [width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;      // [T, n · width]
@group(0) @binding(5) var<storage, read> scalars: array<f32>;

override LANES: u32 = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let stretch = group.x + group.y * groups.x;
    if stretch >= token_count(params.tokens) * params.stretches {
        return;
    }
    let first = stretch * params.width;
    var sum = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        sum += x[first + i] * x[first + i];
    }
    partial[lane] = sum;
    workgroupBarrier();
    // Every lane adds up all partial sums: cheaper than the barriers of a tree.
    var squares = 0.0;
    for (var i = 0u; i < LANES; i += 1u) {
        squares += partial[i];
    }
    var gain = params.gain;
    if params.scalar != NONE {
        gain = scalars[params.scalar];
    }
    let scale = 1.0 / sqrt(squares / f32(params.width) + params.eps);
    for (var i = lane; i < params.width; i += LANES) {
        var v = x[first + i] * scale;
        if params.has_weight != 0u {
            v *= weight[i];
        }
        if params.accumulate != 0u {
            v += out[first + i];
        }
        out[first + i] = v * gain;
    }
}
