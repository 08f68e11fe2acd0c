//! The CPU kernels over the starter model's shapes with random weights, exported for a page that times them.

mod packed;

use core::cell::RefCell;

use sotto_core::cpu::fast::{self, Activations, FastKv, FastMatrix, Precision};
use sotto_core::kernels::matmul::Store;
use sotto_core::kernels::{Activation, Attention, Pairing, attention, gated_activation, rms_norm, rope};
use sotto_core::quant::QuantType;
use sotto_core::recording::{BufferId, KvInfo, KvSlot};

const LAYERS: usize = 30;
const D: usize = 576;
const KV: usize = 192;
const F: usize = 1536;
const V: usize = 49_152;
const HEAD_DIM: usize = 64;

struct Layer {
    q: FastMatrix,
    k: FastMatrix,
    v: FastMatrix,
    o: FastMatrix,
    gate: FastMatrix,
    up: FastMatrix,
    down: FastMatrix,
    kv: FastKv,
}

struct Model {
    layers: Vec<Layer>,
    head: FastMatrix,
    norm: Vec<f32>,
    angles: Vec<(f32, f32)>,
    op: Attention,
    input: Activations,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
    checksum: f32,
}

thread_local! {
    static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) };
}

fn random(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 8
}

fn values(n: usize, seed: &mut u32) -> Vec<f32> {
    (0..n).map(|_| random(seed) as f32 / 8_388_608.0 - 1.0).collect()
}

/// Rows of random codes with small scales, the same 64 rows over and over.
fn matrix(quant: QuantType, rows: usize, cols: usize, seed: &mut u32) -> FastMatrix {
    let mut bytes: Vec<u8> =
        (0..64 * cols / quant.block_len() * quant.block_bytes()).map(|_| random(seed) as u8).collect();
    for block in bytes.chunks_exact_mut(quant.block_bytes()) {
        block[1] = 0x18; // about 0.002
        if quant == QuantType::Q4_1 {
            block[3] = 0xa0; // about −0.01
        }
    }
    let Ok(mut matrix) = FastMatrix::new("bench", quant, rows, cols) else { std::process::abort() };
    for first in (0..rows).step_by(64) {
        matrix.write_rows(first, &bytes);
    }
    matrix
}

/// Makes the model and returns its bytes.
#[unsafe(no_mangle)]
pub extern "C" fn make() -> usize {
    let mut seed = 1;
    let seed = &mut seed;
    let mut bytes = 0;
    let mut weight = |quant, rows, cols| {
        let m = matrix(quant, rows, cols, seed);
        bytes += m.bytes();
        m
    };
    let mut layers = Vec::new();
    for _ in 0..LAYERS {
        let Ok(kv) = FastKv::new(KvInfo { heads: KV / HEAD_DIM, head_dim: HEAD_DIM }, Precision::Rounded) else {
            std::process::abort()
        };
        layers.push(Layer {
            q: weight(QuantType::Q4_1, D, D),
            k: weight(QuantType::Q4_1, KV, D),
            v: weight(QuantType::Q4_1, KV, D),
            o: weight(QuantType::Q4_1, D, D),
            gate: weight(QuantType::Q4_1, F, D),
            up: weight(QuantType::Q4_1, F, D),
            down: weight(QuantType::Q4_1, D, F),
            kv,
        });
    }
    let head = weight(QuantType::Q8_0, V, D);
    let frequencies: Vec<f64> = (0..HEAD_DIM / 2).map(|i| 1e5f64.powf(-2.0 * i as f64 / HEAD_DIM as f64)).collect();
    let model = Model {
        layers,
        head,
        norm: vec![1.0; D],
        angles: rope::angles(&frequencies, 17),
        op: Attention {
            q: BufferId(0),
            slot: KvSlot(0),
            out: BufferId(0),
            heads: D / HEAD_DIM,
            scale: 0.125,
            window: None,
        },
        input: Activations::default(),
        hidden: Vec::new(),
        normed: Vec::new(),
        q: Vec::new(),
        k: Vec::new(),
        v: Vec::new(),
        attended: Vec::new(),
        gate: Vec::new(),
        up: Vec::new(),
        logits: vec![0.0; V],
        checksum: 0.0,
    };
    MODEL.with_borrow_mut(|m| *m = Some(model));
    bytes
}

/// Fills the caches' first `positions` and makes room for steps of `tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn fill(positions: usize, tokens: usize) {
    with(|m| {
        let mut seed = 2;
        let (k, v) = (values(positions * KV, &mut seed), values(positions * KV, &mut seed));
        for layer in &mut m.layers {
            layer.kv.append(0, &k, &v);
        }
        m.hidden = values(tokens * D, &mut seed);
        m.normed = values(tokens * D, &mut seed);
        m.q = values(tokens * D, &mut seed);
        m.k = values(tokens * KV, &mut seed);
        m.v = values(tokens * KV, &mut seed);
        m.attended = values(tokens * D, &mut seed);
        m.gate = values(tokens * F, &mut seed);
        m.up = values(tokens * F, &mut seed);
    });
}

fn with<R>(f: impl FnOnce(&mut Model) -> R) -> Option<R> {
    MODEL.with_borrow_mut(|m| m.as_mut().map(f))
}

/// Parts of a step, as bits of `parts`.
const QKV: u32 = 1;
const OUT: u32 = 2;
const GATE_UP: u32 = 4;
const DOWN: u32 = 8;
const HEAD: u32 = 16;
const ATTENTION: u32 = 32;
const APPEND: u32 = 64;
const NORM: u32 = 128;
const ROPE: u32 = 256;
const GATE: u32 = 512;
const QUANTIZE: u32 = 1024;

/// Runs the chosen parts of one step of `tokens` at `position`, over the first `layers` layers.
#[unsafe(no_mangle)]
pub extern "C" fn step(parts: u32, position: usize, tokens: usize, layers: usize) {
    with(|m| {
        let on = |part: u32| parts & part != 0;
        let t = tokens;
        let (hidden, normed) = (&mut m.hidden[..t * D], &mut m.normed[..t * D]);
        let (q, k, v) = (&mut m.q[..t * D], &mut m.k[..t * KV], &mut m.v[..t * KV]);
        let (attended, gate, up) = (&mut m.attended[..t * D], &mut m.gate[..t * F], &mut m.up[..t * F]);
        let only = |part: u32| parts & QUANTIZE == 0 && parts & part != 0;
        if only(QKV | OUT | GATE_UP) {
            m.input.quantize(normed, t, D);
        } else if only(DOWN) {
            m.input.quantize(gate, t, F);
        }
        for layer in m.layers.iter_mut().take(layers) {
            if on(NORM) {
                fast::rms_norm(hidden, Some(&m.norm), D, 1e-5, normed);
            }
            if on(QUANTIZE) {
                m.input.quantize(normed, t, D);
            }
            if on(QKV) {
                layer.q.matmul(&m.input, t, Store::Replace, q);
                layer.k.matmul(&m.input, t, Store::Replace, k);
                layer.v.matmul(&m.input, t, Store::Replace, v);
            }
            if on(ROPE) {
                for row in q.chunks_exact_mut(D).chain(k.chunks_exact_mut(KV)) {
                    fast::rope(row, HEAD_DIM, Pairing::Adjacent, &m.angles);
                }
            }
            if on(APPEND) {
                layer.kv.append(position, k, v);
            }
            if on(ATTENTION) {
                layer.kv.attention(&m.op, position, q, attended);
            }
            if on(QUANTIZE) {
                m.input.quantize(attended, t, D);
            }
            if on(OUT) {
                layer.o.matmul(&m.input, t, Store::Add, hidden);
            }
            if on(NORM) {
                fast::rms_norm(hidden, Some(&m.norm), D, 1e-5, normed);
            }
            if on(QUANTIZE) {
                m.input.quantize(normed, t, D);
            }
            if on(GATE_UP) {
                layer.gate.matmul(&m.input, t, Store::Replace, gate);
                layer.up.matmul(&m.input, t, Store::Replace, up);
            }
            if on(GATE) {
                fast::gated_activation(gate, up, Activation::Silu);
            }
            if on(QUANTIZE) {
                m.input.quantize(gate, t, F);
            }
            if on(DOWN) {
                layer.down.matmul(&m.input, t, Store::Add, hidden);
            }
        }
        if on(NORM) {
            fast::rms_norm(&hidden[(t - 1) * D..], Some(&m.norm), D, 1e-5, &mut normed[..D]);
        }
        if on(HEAD) {
            m.input.quantize(&normed[..D], 1, D);
            m.head.matmul(&m.input, 1, Store::Replace, &mut m.logits);
        }
        m.checksum += m.hidden[0] + m.logits[0] + m.attended[0];
        // Keeps random residuals from growing without end.
        m.hidden[..t * D].iter_mut().for_each(|v| *v = v.clamp(-4.0, 4.0));
    });
}

/// Reads so much memory once, for the floor.
#[unsafe(no_mangle)]
pub extern "C" fn read(bytes: usize) -> u32 {
    thread_local! {
        static MEMORY: RefCell<Vec<[u32; 4]>> = const { RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        memory.resize(bytes / 16, [1; 4]);
        let mut sums = [[0u32; 4]; 4];
        for quads in memory.as_chunks::<4>().0 {
            for (sum, quad) in sums.iter_mut().zip(quads) {
                for (sum, v) in sum.iter_mut().zip(quad) {
                    *sum = sum.wrapping_add(*v);
                }
            }
        }
        sums.as_flattened().iter().fold(0u32, |a, b| a.wrapping_add(*b))
    })
}

/// A number that depends on every step, so that none is optimized away.
#[unsafe(no_mangle)]
pub extern "C" fn checksum() -> f32 {
    with(|m| m.checksum).unwrap_or(f32::NAN)
}

/// Checks the kernels against their specifications on awkward sizes, in the module as it is built: the largest difference
/// as a part of what is allowed, so that 1 or less is right.
#[unsafe(no_mangle)]
pub extern "C" fn verify() -> f32 {
    let mut seed = 7;
    let mut worst = 0.0f32;
    let mut note = |difference: f32| worst = if difference.is_nan() { f32::INFINITY } else { worst.max(difference) };
    for quant in [QuantType::Q4_1, QuantType::Q8_0] {
        for (rows, cols) in [(1, 32), (7, 96), (8, 576), (13, 1536), (64, 576)] {
            let matrix = matrix(quant, rows, cols, &mut seed);
            for tokens in [1, 2, 3, 4, 5, 7, 33] {
                check_product(&matrix, tokens, &mut seed, &mut note);
            }
        }
    }
    check_attention(&mut seed, &mut note);
    check_small(&mut seed, &mut note);
    worst
}

/// Inputs are whole numbers of which one is 127, so that int8 holds them exactly.
fn check_product(matrix: &FastMatrix, tokens: usize, seed: &mut u32, note: &mut impl FnMut(f32)) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let x: Vec<f32> =
        (0..tokens * cols).map(|i| if i % 32 == 5 { 127.0 } else { (random(seed) % 255) as f32 - 127.0 }).collect();
    let mut input = Activations::default();
    input.quantize(&x, tokens, cols);
    let mut y = vec![0.0; tokens * rows];
    matrix.matmul(&input, tokens, Store::Replace, &mut y);
    let mut w = vec![0.0; cols];
    for n in 0..rows {
        matrix.row(n, &mut w);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let difference = (f64::from(y[t * rows + n]) - products().sum::<f64>()).abs();
            note((difference / products().map(f64::abs).sum::<f64>()) as f32 / 2e-6);
        }
    }
}

/// Keys and values are eighths, which bf16 holds exactly.
fn check_attention(seed: &mut u32, note: &mut impl FnMut(f32)) {
    for (heads, kv_heads, d, window) in [(9, 3, 64, None), (4, 2, 20, Some(130)), (5, 1, 128, None)] {
        let op = Attention { q: BufferId(0), slot: KvSlot(0), out: BufferId(0), heads, scale: 0.1, window };
        for (position, tokens) in [(0, 5), (126, 4), (300, 1)] {
            let mut eighths =
                || (0..(position + tokens) * kv_heads * d).map(|_| (random(seed) % 17) as f32 / 8.0 - 1.0).collect();
            let (k, v): (Vec<f32>, Vec<f32>) = (eighths(), eighths());
            let Ok(mut kv) = FastKv::new(KvInfo { heads: kv_heads, head_dim: d }, Precision::Rounded) else {
                std::process::abort()
            };
            kv.append(0, &k, &v);
            let q = values(tokens * heads * d, seed);
            let (mut out, mut want) = (vec![0.0; q.len()], vec![0.0; d]);
            kv.attention(&op, position, &q, &mut out);
            for (i, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact(d)).enumerate() {
                let (token, head) = (i / heads, i % heads);
                let seen = op.visible(position + token);
                let first = (seen.start * kv_heads + head / (heads / kv_heads)) * d;
                attention::reference(q, &k[first..], &v[first..], kv_heads * d, seen.len(), op.scale, &mut want);
                for (a, b) in out.iter().zip(&want) {
                    note((a - b).abs() / 1e-5);
                }
            }
        }
    }
}

fn check_small(seed: &mut u32, note: &mut impl FnMut(f32)) {
    for n in [7, 64, 576] {
        let x: Vec<f32> = values(n, seed).iter().map(|v| v * 20.0).collect();
        let (w, mut a, mut b) = (values(n, seed), vec![0.0; n], vec![0.0; n]);
        fast::rms_norm(&x, Some(&w), n, 1e-5, &mut a);
        rms_norm::reference(&x, Some(&w), n, 1e-5, &mut b);
        for (a, b) in a.iter().zip(&b) {
            note((a - b).abs() / (1e-6 * b.abs() + 1e-9));
        }
        let (mut a, mut b) = (x.clone(), x.clone());
        fast::gated_activation(&mut a, &w, Activation::Silu);
        gated_activation::reference(&mut b, &w, Activation::Silu);
        for ((a, b), (x, w)) in a.iter().zip(&b).zip(x.iter().zip(&w)) {
            note((a - b).abs() / (1e-6 * (x * w).abs() + 1e-9));
        }
    }
    for pairing in [Pairing::Adjacent, Pairing::Halves] {
        let angles = rope::angles(&[1.0, 0.3, 0.1, 0.01], 4097);
        let mut a = values(24, seed);
        let mut b = a.clone();
        fast::rope(&mut a, 8, pairing, &angles);
        rope::reference(&mut b, 8, pairing, &angles);
        for (a, b) in a.iter().zip(&b) {
            note((a - b).abs() / 1.5e-6);
        }
    }
}
