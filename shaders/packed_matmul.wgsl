// out[t, n] (+)= on_grid(Σ_k W[n, k] · on_grid(x[t, k])), with W [N, K] of packed codes that have scales of their own.
// Needs lib/activation.wgsl, lib/grid.wgsl, lib/matrix.wgsl and lib/step.wgsl.
//
// With a static scale of its input a product is a sum of integers, exact, over codes that another dispatch made of x;
// without one (or with 0) it is a sum of f32 over x itself. Either way the row's scale comes last.
//
// W may hold the rows of up to four matrices that share x, one after the other; each has its own out and static scales.
// A W larger than one binding comes as several dispatches, each with the rows from first_row on.

struct Params {
    rows: u32,           // of this dispatch
    cols: u32,           // K
    first_row: u32,      // in W
    accumulate: u32,     // 1: add to out
    tokens: u32,         // T; 0: the step's
    stretches: u32,      // scales of a row
    grid_quads: u32,     // vec4s of a row of codes
    grid_arrays: u32,    // rows of codes of a token, one for each static scale
    up_rows: u32,        // GATE 1: row n is multiplied by row n + up_rows
    up: u32,             // GATE 2: row n is multiplied by partner[up + n]
    activation: u32,     // GATE 1, 2
    cap: f32,            // of a soft cap, or 0
    out_scale: u32,      // OUT_STEP: where the scale of the codes made of out is
    first: u32,          // first row of W that a tile takes
    starts: vec4<u32>,   // each matrix's first row in W, or 2³² − 1
    offsets: vec4<u32>,  // where its out[0, 0] is
    widths: vec4<u32>,   // its N
    inputs: vec4<u32>,   // where its input's static scale is, or NONE
    arrays: vec4<u32>,   // which row of codes its input is
    outputs: vec4<u32>,  // where its output's static scale is, or NONE
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;        // [T, K]
@group(0) @binding(5) var<storage, read_write> out: array<f32>;      // [T, N] for each matrix
@group(0) @binding(7) var<storage, read> grid: array<vec4<u32>>;     // [T, grid_arrays, grid_quads]

// The code that means 0: 2, 8, and 0 for signed ones.
fn zero() -> u32 {
    return (1u << (BITS - 1u)) & 15u;
}

fn matrix_of(row: u32) -> u32 {
    return u32(row >= params.starts.y) + u32(row >= params.starts.z) + u32(row >= params.starts.w);
}

fn store(token: u32, row: u32, matrix: u32, sum: f32) {
    let i = params.offsets[matrix] + token * params.widths[matrix] + row - params.starts[matrix];
    if params.accumulate != 0u {
        out[i] += sum;
    } else {
        out[i] = sum;
    }
}

fn capped(v: f32) -> f32 {
    if params.cap == 0.0 {
        return v;
    }
    return params.cap * tanh(clamp(v / params.cap, -10.0, 10.0));
}

// Words of codes, four in each, that belong to vec4 k of a unit's activations.
fn code_words(unit: vec4<u32>, k: u32) -> vec4<u32> {
    if BITS == 2u {
        return (vec4<u32>(unit[k]) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u);
    }
    if BITS == 4u {
        let words = vec2<u32>(unit[2u * k], unit[2u * k + 1u]);
        return (words.xxyy >> vec4<u32>(0u, 4u, 0u, 4u)) & vec4<u32>(0x0f0f0f0fu);
    }
    return unit;
}

fn dot_words(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

// ---- One token: a workgroup owns ROWS rows, LANES invocations a row, which stride over its units.
//
// GATE: out = activation(row n) · partner: 1, a row of the same W; 2, a value of another buffer.
// OUT_STEP: out also becomes codes for the product that reads it, whose weights have 8 / OUT_STEP bits.

override LANES: u32 = 16u;
override ROWS: u32 = 4u;
override GATE: u32 = 0u;
override OUT_STEP: u32 = 0u;

@group(0) @binding(8) var<storage, read> partner: array<f32>;
@group(0) @binding(9) var<storage, read_write> out_grid: array<u32>;

var<workgroup> partial: array<vec2<u32>, LANES * ROWS>;
var<workgroup> finished: array<f32, ROWS>;

// This lane's part of a row's sum: the bits of an i32 with a static scale, else of an f32.
fn lane_sum(row: u32, matrix: u32, is_ranged: bool, lane: u32) -> u32 {
    let quads = params.cols / 4u;
    let units = units_of(quads);
    if is_ranged {
        var sum = 0;
        var total = 0;
        let at = params.arrays[matrix] * params.grid_quads;
        for (var u = lane; u < units; u += LANES) {
            let unit = codes[row * units + u];
            for (var k = 0u; k < 8u / BITS; k += 1u) {
                let input = grid[at + u * (8u / BITS) + k];
                sum += dot_words(input, code_words(unit, k));
                if BITS < 8u {
                    total += dot_words(input, vec4<u32>(0x01010101u));
                }
            }
        }
        return bitcast<u32>(sum - i32(zero()) * total);
    }
    var sum = 0.0;
    let stretch = quads / params.stretches;
    for (var u = lane; u < units; u += LANES) {
        let unit = codes[row * units + u];
        var part = 0.0;
        for (var j = 0u; j < 32u / BITS; j += 1u) {
            let q = u * (32u / BITS) + j;
            if q < quads {
                part += dot(stored_quad(unit, j), x[q]);
            }
        }
        let of_row = min(u * (32u / BITS) / stretch, params.stretches - 1u);
        sum += bitcast<f32>(scales[row * params.stretches + of_row]) * part;
    }
    return bitcast<u32>(sum);
}

fn row_sum(first: u32, which: u32, row: u32, matrix: u32, input: f32) -> f32 {
    var value = 0.0;
    if input != 0.0 {
        var sum = 0;
        for (var i = 0u; i < LANES; i += 1u) {
            sum += bitcast<i32>(partial[first + i][which]);
        }
        value = input * bitcast<f32>(scales[row * params.stretches]) * f32(sum);
    } else {
        for (var i = 0u; i < LANES; i += 1u) {
            value += bitcast<f32>(partial[first + i][which]);
        }
    }
    return on_grid(value, scalar(params.outputs[matrix]));
}

@compute @workgroup_size(LANES, ROWS)
fn decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let first = (group.x + group.y * groups.x) * ROWS;
    let row = first + local.y;
    let n = params.first_row + row;
    let matrix = matrix_of(n);
    let up_matrix = matrix_of(n + params.up_rows);
    let input = scalar(params.inputs[matrix]);
    let up_input = scalar(params.inputs[up_matrix]);
    var sums = vec2<u32>();
    if row < params.rows {
        sums.x = lane_sum(row, matrix, input != 0.0, local.x);
        if GATE == 1u {
            sums.y = lane_sum(row + params.up_rows, up_matrix, up_input != 0.0, local.x);
        }
    }
    partial[index] = sums;
    workgroupBarrier();
    if local.x == 0u {
        var value = 0.0;
        if row < params.rows {
            value = row_sum(index, 0u, row, matrix, input);
            if GATE == 1u {
                let up = row_sum(index, 1u, row + params.up_rows, up_matrix, up_input);
                value = activation(params.activation, value) * up;
            }
            if GATE == 2u {
                value = activation(params.activation, value) * partner[params.up + n];
            }
            store(0u, n, matrix, capped(value));
        }
        finished[local.y] = value;
    }
    if OUT_STEP != 0u {
        workgroupBarrier();
        let s = scalar(params.out_scale);
        if 4u * index < ROWS && s != 0.0 {
            let column = first_column(index, OUT_STEP);
            var values = vec4<f32>();
            for (var b = 0u; b < 4u; b += 1u) {
                values[b] = finished[column + b * OUT_STEP];
            }
            out_grid[(params.first_row + first) / 4u + index] = grid_word(values, s);
        }
    }
}

// ---- Many tokens: a workgroup owns a tile of 64 tokens by 64 rows of matrices that share their input's static scale,
// 256 invocations with 4 by 4 sums each. Both operands pass through workgroup memory, four vec4s of each row at a time:
// 64 codes, or the bits of 16 floats.

const TILE = 64u;
const PASS = 4u;    // vec4s of a row in a pass
const STRIDE = 5u;  // PASS and one to spread the banks
const SIDE = 16u;   // invocations along each side of the tile

var<workgroup> x_tile: array<vec4<u32>, 320>; // [TILE, STRIDE]
var<workgroup> w_tile: array<vec4<u32>, 320>; // [TILE, STRIDE]

// Unsigned codes less their zero, as signed bytes.
fn signed_words(words: vec4<u32>) -> vec4<u32> {
    if BITS == 8u {
        return words;
    }
    return ((words | vec4<u32>(0x80808080u)) - vec4<u32>(zero() * 0x01010101u)) ^ vec4<u32>(0x80808080u);
}

@compute @workgroup_size(256)
fn prefill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tokens = token_count(params.tokens);
    let first_row = params.first + (group.x + group.y * groups.x) * TILE;
    let first_of_tile = group.z * TILE;
    let quads = params.cols / 4u;
    let units = units_of(quads);
    let column = lane % SIDE;
    let line = lane / SIDE;
    // Each lane brings in one vec4 of either side in a pass.
    let r = lane / PASS;
    let p = lane % PASS;
    let w_row = first_row + r;
    let x_row = first_of_tile + r;
    let slot = r * STRIDE + p;
    let matrix = matrix_of(params.first_row + first_row);
    let input = scalar(params.inputs[matrix]);
    var sums = array<vec4<f32>, 4>(); // [token, row]
    if input != 0.0 {
        var totals = array<vec4<i32>, 4>();
        let array_at = (x_row * params.grid_arrays + params.arrays[matrix]) * params.grid_quads;
        for (var k = 0u; k < params.grid_quads; k += PASS) {
            let q = k + p;
            var a = vec4<u32>();
            if q < params.grid_quads && x_row < tokens {
                a = grid[array_at + q];
            }
            x_tile[slot] = a;
            var b = vec4<u32>();
            if q < params.grid_quads && w_row < params.rows {
                b = signed_words(code_words(codes[w_row * units + q * BITS / 8u], q % (8u / BITS)));
            }
            w_tile[slot] = b;
            workgroupBarrier();
            for (var i = 0u; i < PASS; i += 1u) {
                let b0 = w_tile[column * STRIDE + i];
                let b1 = w_tile[(column + SIDE) * STRIDE + i];
                let b2 = w_tile[(column + 2u * SIDE) * STRIDE + i];
                let b3 = w_tile[(column + 3u * SIDE) * STRIDE + i];
                for (var t = 0u; t < 4u; t += 1u) {
                    let a = x_tile[(line + t * SIDE) * STRIDE + i];
                    totals[t] += vec4<i32>(dot_words(a, b0), dot_words(a, b1), dot_words(a, b2), dot_words(a, b3));
                }
            }
            workgroupBarrier();
        }
        for (var t = 0u; t < 4u; t += 1u) {
            sums[t] = vec4<f32>(totals[t]);
        }
    } else {
        for (var k = 0u; k < quads; k += PASS) {
            let q = k + p;
            var a = vec4<f32>();
            if q < quads && x_row < tokens {
                a = x[x_row * quads + q];
            }
            x_tile[slot] = bitcast<vec4<u32>>(a);
            var b = vec4<f32>();
            if q < quads && w_row < params.rows {
                b = weight_quad(w_row, q, quads, quads / params.stretches);
            }
            w_tile[slot] = bitcast<vec4<u32>>(b);
            workgroupBarrier();
            for (var i = 0u; i < PASS; i += 1u) {
                let b0 = bitcast<vec4<f32>>(w_tile[column * STRIDE + i]);
                let b1 = bitcast<vec4<f32>>(w_tile[(column + SIDE) * STRIDE + i]);
                let b2 = bitcast<vec4<f32>>(w_tile[(column + 2u * SIDE) * STRIDE + i]);
                let b3 = bitcast<vec4<f32>>(w_tile[(column + 3u * SIDE) * STRIDE + i]);
                for (var t = 0u; t < 4u; t += 1u) {
                    let a = bitcast<vec4<f32>>(x_tile[(line + t * SIDE) * STRIDE + i]);
                    sums[t] += vec4<f32>(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
                }
            }
            workgroupBarrier();
        }
    }
    for (var n = 0u; n < 4u; n += 1u) {
        let row = first_row + column + n * SIDE;
        if row >= params.rows {
            continue;
        }
        let of_row = matrix_of(params.first_row + row);
        let output = scalar(params.outputs[of_row]);
        var scale = 1.0;
        if input != 0.0 {
            scale = input * bitcast<f32>(scales[row * params.stretches]);
        }
        for (var t = 0u; t < 4u; t += 1u) {
            let token = first_of_tile + line + t * SIDE;
            if token < tokens {
                store(token, params.first_row + row, of_row, capped(on_grid(scale * sums[t][n], output)));
            }
        }
    }
}
