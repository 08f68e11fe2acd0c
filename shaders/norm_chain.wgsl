// The end of a residual branch and the start of the next, for each token:
//   h = (h + x · w / sqrt(mean(x²) + eps)) · gain        if there is a branch
//   out = h · next_w / sqrt(mean(h²) + next_eps)          if there is a next norm
// and the codes of out, or of h where there is none, on the grids of static scales. Needs lib/grid.wgsl and lib/step.wgsl.
// One workgroup for each token. Sums in f32.
//
// A token has few values, so what it costs is waiting. Everything is asked for at the start, and is on its way at the same
// time: a load behind a barrier, or behind a store to the same buffer, would begin to wait only there.

struct Params {
    words: u32,        // of a row of codes, padded to whole units of the weights; 0: no codes
    arrays: u32,       // static scales
    step: u32,         // 8 / bits of the weights that meet the codes
    tokens: u32,       // T; 0: the step's
    has_branch: u32,
    has_next: u32,
    eps: f32,
    next_eps: f32,
    gain: f32,
    gain_scalar: u32,  // where the learned gain is, or NONE
    scales: vec4<u32>, // where each static scale is
}
override D: u32 = 64u; // a multiple of 4, at most 4 · MOST · LANES
const LANES = 256u;
const MOST = 3u;       // quads of a lane
const SUMS = 16u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;            // [T, D]
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;       // [D]
@group(0) @binding(4) var<storage, read_write> h: array<vec4<f32>>;      // [T, D]
@group(0) @binding(5) var<storage, read> next_weight: array<vec4<f32>>;  // [D]
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;    // [T, D]
@group(0) @binding(8) var<storage, read_write> grid: array<u32>;         // [T, arrays, words]

var<workgroup> row: array<vec4<f32>, D / 4u>;
var<workgroup> partial: array<f32, LANES>;
var<workgroup> sums: array<f32, SUMS>;

fn sum_of_all(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    if lane < SUMS {
        var sum = 0.0;
        for (var i = 0u; i < LANES / SUMS; i += 1u) {
            sum += partial[lane + i * SUMS];
        }
        sums[lane] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < SUMS; i += 1u) {
        total += sums[i];
    }
    return total;
}

// 1 / sqrt(mean(v²) + eps) of a row whose quads lie in lanes; those beyond it are 0.
fn norm_scale(lane: u32, quads: array<vec4<f32>, MOST>, eps: f32) -> f32 {
    let squares = dot(quads[0], quads[0]) + dot(quads[1], quads[1]) + dot(quads[2], quads[2]);
    return 1.0 / sqrt(sum_of_all(lane, squares) / f32(D) + eps);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = group.x + group.y * groups.x;
    if token >= token_count(params.tokens) {
        return;
    }
    let first = token * (D / 4u);
    var values = array<vec4<f32>, MOST>();
    var branch = array<vec4<f32>, MOST>();
    var weights = array<vec4<f32>, MOST>();
    var next_weights = array<vec4<f32>, MOST>();
    for (var n = 0u; n < MOST; n += 1u) {
        let q = lane + n * LANES;
        if q < D / 4u {
            values[n] = h[first + q];
            if params.has_branch != 0u {
                branch[n] = x[first + q];
                weights[n] = weight[q];
            }
            if params.has_next != 0u {
                next_weights[n] = next_weight[q];
            }
        }
    }
    var gain = params.gain;
    if params.gain_scalar != NONE {
        gain = scalars[params.gain_scalar];
    }
    let grids = vec4<f32>(
        scalar(params.scales.x),
        scalar(params.scales.y),
        scalar(params.scales.z),
        scalar(params.scales.w),
    );
    if params.has_branch != 0u {
        let scale = norm_scale(lane, branch, params.eps);
        for (var n = 0u; n < MOST; n += 1u) {
            let q = lane + n * LANES;
            values[n] = (values[n] + branch[n] * scale * weights[n]) * gain;
            if q < D / 4u {
                h[first + q] = values[n];
            }
        }
    }
    if params.has_next != 0u {
        let scale = norm_scale(lane, values, params.next_eps);
        for (var n = 0u; n < MOST; n += 1u) {
            let q = lane + n * LANES;
            values[n] = values[n] * scale * next_weights[n];
            if q < D / 4u {
                out[first + q] = values[n];
            }
        }
    }
    for (var n = 0u; n < MOST; n += 1u) {
        let q = lane + n * LANES;
        if q < D / 4u {
            row[q] = values[n];
        }
    }
    workgroupBarrier();
    for (var w = lane; w < params.words; w += LANES) {
        let column = first_column(w, params.step);
        var codes = vec4<f32>();
        for (var b = 0u; b < 4u; b += 1u) {
            let c = column + b * params.step;
            if c < D {
                codes[b] = row[c / 4u][c % 4u];
            }
        }
        for (var a = 0u; a < params.arrays; a += 1u) {
            if grids[a] != 0.0 {
                grid[(token * params.arrays + a) * params.words + w] = grid_word(codes, grids[a]);
            }
        }
    }
}
