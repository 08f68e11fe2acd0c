// out[i, :] = x[i, :] · w / sqrt(mean(x[i, :]²) + eps) over each stretch i of `width` values.
// One workgroup for each stretch; lanes stride over it. Sums in f32.
// Needs lib/step.wgsl.

struct Params {
    width: u32,
    stretches: u32, // of a token: n
    has_weight: u32,
    eps: f32,
    tokens: u32,    // T; 0: the step's
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;              // [T, n · width]
@group(0) @binding(3) var<storage, read> weight: array<f32>;         // [width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;      // [T, n · width]

const LANES = 128u;
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
        let v = x[first + i];
        sum += v * v;
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let scale = 1.0 / sqrt(partial[0] / f32(params.width) + params.eps);
    for (var i = lane; i < params.width; i += LANES) {
        var v = x[first + i] * scale;
        if params.has_weight != 0u {
            v *= weight[i];
        }
        out[first + i] = v;
    }
}
