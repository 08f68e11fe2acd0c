// grid[t, a, :] = codes of x[t, :] on the grid of scale a, with x [T, K] and up to four scales.
// Needs lib/grid.wgsl and lib/step.wgsl. One invocation for each word. A scale of 0 writes nothing.

struct Params {
    cols: u32,         // K
    words: u32,        // of a row of codes, padded to whole units of the weights
    arrays: u32,       // scales
    step: u32,         // 8 / bits of the weights
    tokens: u32,       // T; 0: the step's
    scales: vec4<u32>, // where each is
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;           // [T, K]
@group(0) @binding(3) var<storage, read_write> grid: array<u32>;  // [T, arrays, words]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    let row = i / params.words;
    if row >= token_count(params.tokens) * params.arrays {
        return;
    }
    let s = scalar(params.scales[row % params.arrays]);
    if s == 0.0 {
        return;
    }
    let column = first_column(i % params.words, params.step);
    var values = vec4<f32>();
    for (var b = 0u; b < 4u; b += 1u) {
        let c = column + b * params.step;
        if c < params.cols {
            values[b] = x[row / params.arrays * params.cols + c];
        }
    }
    grid[i] = grid_word(values, s);
}
