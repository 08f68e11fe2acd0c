// The end of a residual branch and the start of the next, for each token:
//   h = (h + x · w / sqrt(mean(x²) + eps)) · gain        if there is a branch
//   out = h · next_w / sqrt(mean(h²) + next_eps)          if there is a next norm
// and the codes of out, or of h where there is none, on the grids of static scales. Needs lib/grid.wgsl and lib/step.wgsl.
// One workgroup for each token, which keeps its row in workgroup memory. Sums in f32.

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
override D: u32 = 64u;
const LANES = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;            // [T, D]
@group(0) @binding(3) var<storage, read> weight: array<f32>;       // [D]
@group(0) @binding(4) var<storage, read_write> h: array<f32>;      // [T, D]
@group(0) @binding(5) var<storage, read> next_weight: array<f32>;  // [D]
@group(0) @binding(7) var<storage, read_write> out: array<f32>;    // [T, D]
@group(0) @binding(8) var<storage, read_write> grid: array<u32>;   // [T, arrays, words]

var<workgroup> row: array<f32, D>;
var<workgroup> partial: array<f32, LANES>;
var<workgroup> sums: array<f32, 16>;

fn sum_of_all(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    if lane < 16u {
        var sum = 0.0;
        for (var i = lane; i < LANES; i += 16u) {
            sum += partial[i];
        }
        sums[lane] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 16u; i += 1u) {
        total += sums[i];
    }
    return total;
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
    let first = token * D;
    if params.has_branch != 0u {
        var squares = 0.0;
        for (var i = lane; i < D; i += LANES) {
            let v = x[first + i];
            row[i] = v;
            squares += v * v;
        }
        let scale = 1.0 / sqrt(sum_of_all(lane, squares) / f32(D) + params.eps);
        var gain = params.gain;
        if params.gain_scalar != NONE {
            gain = scalars[params.gain_scalar];
        }
        for (var i = lane; i < D; i += LANES) {
            let v = (h[first + i] + row[i] * scale * weight[i]) * gain;
            row[i] = v;
            h[first + i] = v;
        }
    } else {
        for (var i = lane; i < D; i += LANES) {
            row[i] = h[first + i];
        }
    }
    if params.has_next != 0u {
        var squares = 0.0;
        for (var i = lane; i < D; i += LANES) {
            squares += row[i] * row[i];
        }
        let scale = 1.0 / sqrt(sum_of_all(lane, squares) / f32(D) + params.next_eps);
        for (var i = lane; i < D; i += LANES) {
            let v = row[i] * scale * next_weight[i];
            row[i] = v;
            out[first + i] = v;
        }
    }
    workgroupBarrier();
    for (var i = lane; i < params.words * params.arrays; i += LANES) {
        let s = scalar(params.scales[i / params.words]);
        if s != 0.0 {
            let column = first_column(i % params.words, params.step);
            var values = vec4<f32>();
            for (var b = 0u; b < 4u; b += 1u) {
                let c = column + b * params.step;
                if c < D {
                    values[b] = row[c];
                }
            }
            grid[token * params.arrays * params.words + i] = grid_word(values, s);
        }
    }
}
