// out[t, n] (+)= Σ_k W[n, k] · x[t, k] (+ bias[n]), with W [N, K], x [T, K], out [T, N]. Sums in f32.
// Needs lib/activation.wgsl, lib/matrix.wgsl and lib/step.wgsl.
//
// W may hold the rows of up to four matrices that share x, one after the other; each has an out of its own. A W larger
// than one binding comes as several dispatches, each with the rows from first_row on.

struct Params {
    rows: u32,           // of this dispatch
    cols: u32,           // K
    first_row: u32,      // in W
    accumulate: u32,     // 1: add to out
    has_bias: u32,
    tokens: u32,         // T; 0: the step's
    up_rows: u32,        // GATED: row n is multiplied by row n + up_rows
    activation: u32,     // GATED
    eps: f32,            // NORMED
    starts: vec4<u32>,   // each matrix's first row in W, or 2³² − 1
    offsets: vec4<u32>,  // where its out[0, 0] is
    widths: vec4<u32>,   // its N
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;        // [T, K]
@group(0) @binding(5) var<storage, read_write> out: array<f32>;      // [T, N] for each matrix
@group(0) @binding(6) var<storage, read> bias: array<f32>;           // [rows of W]

fn store(token: u32, row: u32, sum: f32) {
    let matrix = u32(row >= params.starts.y) + u32(row >= params.starts.z) + u32(row >= params.starts.w);
    let i = params.offsets[matrix] + token * params.widths[matrix] + row - params.starts[matrix];
    if params.accumulate != 0u {
        out[i] += sum;
    } else {
        out[i] = sum;
    }
}

fn bias_of(row: u32) -> f32 {
    if params.has_bias == 0u {
        return 0.0;
    }
    return bias[row];
}

// ---- One token: a workgroup owns ROWS rows, LANES invocations a row, which stride over its units.
//
// NORMED: x is first normed, x · w / sqrt(mean(x²) + eps), by each workgroup for itself.
// GATED: out = activation(row n) · row (n + up_rows), the rows of a feed-forward block's gate and up matrices.

override LANES: u32 = 16u;
override ROWS: u32 = 4u;
override NORMED: bool = false;
override GATED: bool = false;

@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>; // [K]

var<workgroup> squares: array<f32, LANES * ROWS>;
var<workgroup> partial: array<vec2<f32>, LANES * ROWS>;

// Unit i of W times the quads of x from q on.
fn unit_dot(i: u32, q: u32) -> f32 {
    let unit = codes[i];
    var s = vec2<f32>(1.0, 0.0);
    if BITS < 16u {
        s = scale_and_min(i * (128u / BITS) / GROUP);
    }
    var sum = 0.0;
    for (var j = 0u; j < 32u / BITS; j += 1u) {
        var input = x[q + j];
        if NORMED {
            input *= norm[q + j];
        }
        sum += dot(s.x * stored_quad(unit, j) + s.y, input);
    }
    return sum;
}

@compute @workgroup_size(LANES, ROWS)
fn decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let row = (group.x + group.y * groups.x) * ROWS + local.y;
    let quads = params.cols / 4u;
    let units = params.cols * BITS / 128u;
    if NORMED {
        var sum = 0.0;
        for (var q = index; q < quads; q += LANES * ROWS) {
            sum += dot(x[q], x[q]);
        }
        squares[index] = sum;
    }
    var sums = vec2<f32>();
    if row < params.rows {
        for (var u = local.x; u < units; u += LANES) {
            sums.x += unit_dot(row * units + u, u * (32u / BITS));
            if GATED {
                sums.y += unit_dot((row + params.up_rows) * units + u, u * (32u / BITS));
            }
        }
    }
    partial[index] = sums;
    workgroupBarrier();
    if local.x != 0u || row >= params.rows {
        return;
    }
    var total = vec2<f32>();
    for (var i = 0u; i < LANES; i += 1u) {
        total += partial[index + i];
    }
    if NORMED {
        var square = 0.0;
        for (var i = 0u; i < LANES * ROWS; i += 1u) {
            square += squares[i];
        }
        total /= sqrt(square / f32(params.cols) + params.eps);
    }
    let n = params.first_row + row;
    if GATED {
        let up = total.y + bias_of(n + params.up_rows);
        store(0u, n, activation(params.activation, total.x + bias_of(n)) * up);
    } else {
        store(0u, n, total.x + bias_of(n));
    }
}

// ---- Many tokens: a workgroup owns a tile of 32 tokens by 32 rows, 64 invocations with 4 by 4 sums each. Both
// operands pass through workgroup memory, 32 values of k at a time.

const TILE = 32u;
const QUADS = 8u;   // of k in a pass
const STRIDE = 9u;  // QUADS and one to spread the banks
const SIDE = 8u;    // invocations along each side of the tile

var<workgroup> x_tile: array<vec4<f32>, 288>; // [TILE, STRIDE]
var<workgroup> w_tile: array<vec4<f32>, 288>; // [TILE, STRIDE]

@compute @workgroup_size(64)
fn prefill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tokens = token_count(params.tokens);
    let first_row = (group.x + group.y * groups.x) * TILE;
    let first_token = group.z * TILE;
    let quads = params.cols / 4u;
    let column = lane % SIDE;
    let line = lane / SIDE;
    var sums = array<vec4<f32>, 4>(); // [token, row]
    for (var k = 0u; k < quads; k += QUADS) {
        for (var i = lane; i < TILE * QUADS; i += 64u) {
            let r = i / QUADS;
            let q = k + i % QUADS;
            var a = vec4<f32>();
            if q < quads && first_token + r < tokens {
                a = x[(first_token + r) * quads + q];
            }
            x_tile[r * STRIDE + i % QUADS] = a;
            var b = vec4<f32>();
            if q < quads && first_row + r < params.rows {
                b = weight_quad(first_row + r, q, quads, quads);
            }
            w_tile[r * STRIDE + i % QUADS] = b;
        }
        workgroupBarrier();
        for (var q = 0u; q < QUADS; q += 1u) {
            let b0 = w_tile[column * STRIDE + q];
            let b1 = w_tile[(column + SIDE) * STRIDE + q];
            let b2 = w_tile[(column + 2u * SIDE) * STRIDE + q];
            let b3 = w_tile[(column + 3u * SIDE) * STRIDE + q];
            for (var t = 0u; t < 4u; t += 1u) {
                let a = x_tile[(line + t * SIDE) * STRIDE + q];
                sums[t] += vec4<f32>(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
            }
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < 4u; t += 1u) {
        let token = first_token + line + t * SIDE;
        for (var n = 0u; n < 4u; n += 1u) {
            let row = first_row + column + n * SIDE;
            if token < tokens && row < params.rows {
                store(token, params.first_row + row, sums[t][n] + bias_of(params.first_row + row));
            }
        }
    }
}
