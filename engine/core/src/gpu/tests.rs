//! Every kernel against its reference, on awkward sizes.

use std::sync::Arc;

use crate::cpu::{CpuExecutor, CpuPath};
use crate::error::Result;
use crate::kernels::attention::Attention;
use crate::kernels::embed::Embed;
use crate::kernels::gated_activation::{Activation, GatedActivation};
use crate::kernels::kv_append::KvAppend;
use crate::kernels::last_row::LastRow;
use crate::kernels::matmul::{MatMul, Store};
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope::{Pairing, Rope};
use crate::kernels::{argmax, attention, gated_activation, matmul, rms_norm, rope};
use crate::models::llama;
use crate::models::llama_config::{LlamaConfig, LlamaLayer, LlamaTensors};
use crate::quant::QuantType;
use crate::recording::{BufferId, KvInfo, Recording, RopeTable, Rows, Step};
use crate::weights::{Location, WeightId, WeightRole, WeightSink, WeightSpec, WeightTable};

use super::testing::{Random, assert_close, open, weights};
use super::{Gpu, GpuExecutor, Options};

/// A recording under construction with its weights and their bytes.
#[derive(Default)]
struct Bench {
    recording: Recording,
    table: WeightTable,
    bytes: Vec<Vec<u8>>,
    options: Options,
}

impl Bench {
    fn buffer(&mut self, name: &str, rows: Rows, cols: usize) -> BufferId {
        self.recording.buffer(name, rows, cols).unwrap()
    }

    fn weight(&mut self, quant: QuantType, rows: usize, cols: usize) -> (WeightId, Vec<f32>) {
        let seed = self.bytes.len() as u64 + 1;
        let (bytes, values) = weights(quant, rows, cols, seed);
        let role = if rows == 1 { WeightRole::Vector } else { WeightRole::Matrix };
        let location = Location { file: 0, offset: 0, len: bytes.len() as u64 };
        let name = format!("weight {seed}");
        let id = self
            .table
            .add(WeightSpec { name, rows, cols, quant, role, location, scales: None, adapter: None })
            .unwrap();
        self.bytes.push(bytes);
        (id, values)
    }

    fn try_executor(&self, gpu: &Gpu) -> Result<GpuExecutor> {
        let recording = Arc::new(self.recording.clone());
        pollster::block_on(GpuExecutor::new(gpu, &recording, &self.table, self.options.clone()))
    }

    fn executor(&self, gpu: &Gpu) -> GpuExecutor {
        let mut executor = self.try_executor(gpu).unwrap();
        for ((id, spec), bytes) in self.table.iter().zip(&self.bytes) {
            // In pieces of three rows: any number may come.
            for (i, piece) in bytes.chunks(3 * spec.row_bytes()).enumerate() {
                executor.rows(id, spec, 3 * i, piece).unwrap();
            }
        }
        executor
    }
}

fn step(executor: &mut GpuExecutor, position: usize, tokens: usize) {
    executor.run(Step { position, tokens }, &vec![0; tokens]).unwrap();
}

fn read(executor: &GpuExecutor, id: BufferId, tokens: usize) -> Vec<f32> {
    pollster::block_on(executor.read(id, tokens)).unwrap()
}

const TOKENS: [usize; 4] = [1, 3, 17, 64];

/// Quantized types whose decoder exists are tested together with the floats.
fn check_matmul(gpu: &Gpu, quant: QuantType, n: usize, k: usize, options: &Options) {
    for rows in [Rows::PerToken, Rows::One] {
        let mut bench = Bench { options: options.clone(), ..Bench::default() };
        let x = bench.buffer("x", rows, k);
        let out = bench.buffer("out", rows, n);
        let (weight, values) = bench.weight(quant, n, k);
        let (bias, bias_values) = bench.weight(QuantType::F32, 1, n);
        bench.recording.push(MatMul { weight, bias: Some(bias), x, out, store: Store::Add, range: None });
        let mut executor = bench.executor(gpu);
        for t in TOKENS {
            let rows = if rows == Rows::One { 1 } else { t };
            let mut random = Random::new((t * k) as u64);
            let (input, before) = (random.values(rows * k), random.values(rows * n));
            executor.write(x, &input).unwrap();
            executor.write(out, &before).unwrap();
            step(&mut executor, 0, t);
            let want: Vec<f32> = (0..rows * n)
                .map(|i| {
                    let (t, n_) = (i / n, i % n);
                    before[i]
                        + bias_values[n_]
                        + matmul::reference(&values[n_ * k..(n_ + 1) * k], &input[t * k..(t + 1) * k])
                })
                .collect();
            assert_close(&format!("{quant:?} T {t} N {n} K {k}"), &read(&executor, out, t), &want, 2e-6);
        }
    }
}

#[test]
fn matmul_matches_its_reference_for_every_type() {
    let Some(gpu) = open() else { return };
    for quant in QuantType::SELF_CONTAINED {
        for (n, k) in [(3, 256), (49, 768)] {
            check_matmul(&gpu, quant, n, k, &Options::default());
        }
    }
}

#[test]
fn matmul_matches_its_reference_on_awkward_shapes() {
    let Some(gpu) = open() else { return };
    for quant in [QuantType::Q4_1, QuantType::Q8_0] {
        for (n, k) in [(1, 32), (3, 64), (49, 576), (65, 1536), (192, 96)] {
            check_matmul(&gpu, quant, n, k, &Options::default());
        }
    }
    for (n, k) in [(5, 4), (33, 36), (2, 60), (7, 100)] {
        check_matmul(&gpu, QuantType::F32, n, k, &Options::default());
        check_matmul(&gpu, QuantType::BF16, n, k, &Options::default());
    }
}

#[test]
fn a_matrix_beyond_one_binding_is_split_by_rows() {
    let Some(gpu) = open() else { return };
    // 49 rows of 288 bytes of codes: ten in a binding. The largest activation needs less.
    let options = Options { binding_bytes: 2999, max_tokens: 1, ..Options::default() };
    let mut bench = Bench { options, ..Bench::default() };
    let (table, values) = bench.weight(QuantType::Q4_1, 49, 576);
    let x = bench.buffer("x", Rows::PerToken, 576);
    let out = bench.buffer("out", Rows::PerToken, 49);
    bench.recording.push(Embed { table, first_column: 0, out: x, scale: 2.0 });
    bench.recording.push(MatMul { weight: table, bias: None, x, out, store: Store::Replace, range: None });
    let mut executor = bench.executor(&gpu);
    assert_eq!(executor.dispatch_count(Step { position: 0, tokens: 1 }), 10);
    for token in [0, 9, 10, 48] {
        executor.run(Step { position: 0, tokens: 1 }, &[token]).unwrap();
        let row: Vec<f32> = values[token as usize * 576..][..576].iter().map(|v| 2.0 * v).collect();
        assert_close("embed", &read(&executor, x, 1), &row, 1e-7);
        let want: Vec<f32> = values.chunks(576).map(|w| matmul::reference(w, &row)).collect();
        assert_close("matmul", &read(&executor, out, 1), &want, 2e-6);
    }
}

#[test]
fn embed_matches_its_reference() {
    let Some(gpu) = open() else { return };
    for quant in QuantType::SELF_CONTAINED {
        let (v, d) = (49, 256);
        let mut bench = Bench::default();
        let (table, values) = bench.weight(quant, v, d);
        let out = bench.buffer("out", Rows::PerToken, d);
        bench.recording.push(Embed { table, first_column: 0, out, scale: 1.5 });
        let mut executor = bench.executor(&gpu);
        for t in TOKENS {
            let tokens: Vec<u32> = (0..t).map(|i| (i * 31 % v) as u32).collect();
            executor.run(Step { position: 0, tokens: t }, &tokens).unwrap();
            let want: Vec<f32> =
                tokens.iter().flat_map(|&i| values[i as usize * d..][..d].iter().map(|v| 1.5 * v)).collect();
            assert_close(&format!("{quant:?} T {t}"), &read(&executor, out, t), &want, 1e-7);
        }
    }
}

#[test]
fn rms_norm_matches_its_reference() {
    let Some(gpu) = open() else { return };
    for (n, width) in [(1, 4), (1, 576), (3, 49), (9, 64), (1, 1536)] {
        for weighted in [true, false] {
            let mut bench = Bench::default();
            let cols = n * width;
            let (x, out) = (bench.buffer("x", Rows::PerToken, cols), bench.buffer("out", Rows::PerToken, cols));
            let (id, values) = bench.weight(QuantType::F32, 1, width);
            bench.recording.push(RmsNorm::plain(x, weighted.then_some(id), out, width, 1e-5));
            let mut executor = bench.executor(&gpu);
            for t in TOKENS {
                let input = Random::new(t as u64).values(t * cols);
                executor.write(x, &input).unwrap();
                step(&mut executor, 0, t);
                let mut want = vec![0.0; t * cols];
                rms_norm::reference(&input, weighted.then_some(&values), width, 1e-5, &mut want);
                assert_close(&format!("T {t} n {n} width {width}"), &read(&executor, out, t), &want, 1e-6);
            }
        }
    }
}

#[test]
fn rope_matches_its_reference() {
    let Some(gpu) = open() else { return };
    for (heads, d) in [(9, 64), (3, 80), (1, 128)] {
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            let mut bench = Bench::default();
            let x = bench.buffer("x", Rows::PerToken, heads * d);
            bench.recording.rope.push((0..d / 2).map(|i| 1e5f64.powf(-2.0 * i as f64 / d as f64)).collect());
            bench.recording.push(Rope { x, head_dim: d, pairing, table: RopeTable(0) });
            let mut executor = bench.executor(&gpu);
            for (position, t) in [(0, 3), (8000, 1), (4321, 64)] {
                let mut row = Random::new(t as u64).values(t * heads * d);
                executor.write(x, &row).unwrap();
                step(&mut executor, position, t);
                for (i, row) in row.chunks_mut(heads * d).enumerate() {
                    rope::reference(row, d, pairing, &rope::angles(&bench.recording.rope[0], position + i));
                }
                assert_close(&format!("{pairing:?} d {d} T {t}"), &read(&executor, x, t), &row, 1e-6);
            }
        }
    }
}

#[test]
fn gated_activation_matches_its_reference_also_far_out() {
    let Some(gpu) = open() else { return };
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let f = 49;
        let mut bench = Bench::default();
        let (gate, up) = (bench.buffer("gate", Rows::PerToken, f), bench.buffer("up", Rows::PerToken, f));
        bench.recording.push(GatedActivation { gate, up, first_column: 0, activation });
        let mut executor = bench.executor(&gpu);
        for t in TOKENS {
            let mut random = Random::new(t as u64);
            for reach in [4.0, 300.0] {
                let mut values: Vec<f32> = random.values(t * f).iter().map(|v| v * reach).collect();
                let other = random.values(t * f);
                executor.write(gate, &values).unwrap();
                executor.write(up, &other).unwrap();
                step(&mut executor, 0, t);
                gated_activation::reference(&mut values, &other, activation);
                assert_close(&format!("{activation:?} T {t}"), &read(&executor, gate, t), &values, 2e-6);
            }
        }
    }
}

#[test]
fn last_row_copies_the_last_token() {
    let Some(gpu) = open() else { return };
    let mut bench = Bench::default();
    let (x, out) = (bench.buffer("x", Rows::PerToken, 49), bench.buffer("out", Rows::One, 49));
    bench.recording.push(LastRow { x, out });
    let mut executor = bench.executor(&gpu);
    for t in TOKENS {
        let input = Random::new(t as u64).values(t * 49);
        executor.write(x, &input).unwrap();
        step(&mut executor, 0, t);
        assert_eq!(read(&executor, out, t), input[(t - 1) * 49..]);
    }
}

struct Heads {
    q: usize,
    kv: usize,
    d: usize,
}

/// Appends steps of the given lengths and checks attention after each.
fn check_attention(gpu: &Gpu, Heads { q: heads, kv, d }: Heads, window: Option<usize>, steps: &[usize]) {
    let mut bench = Bench::default();
    // Small, so that the caches grow on the way.
    bench.options.first_positions = 8;
    let (width, kv_width) = (heads * d, kv * d);
    let q = bench.buffer("q", Rows::PerToken, width);
    let k = bench.buffer("k", Rows::PerToken, kv_width);
    let v = bench.buffer("v", Rows::PerToken, kv_width);
    let out = bench.buffer("out", Rows::PerToken, width);
    let slot = bench.recording.kv_slot(KvInfo { heads: kv, head_dim: d });
    let op = Attention { q, slot, out, heads, scale: 1.0 / (d as f32).sqrt(), window };
    bench.recording.push(KvAppend { k, v, slot });
    bench.recording.push(op.clone());
    let mut executor = bench.executor(gpu);
    let (mut keys, mut values, mut position) = (Vec::new(), Vec::new(), 0);
    for &t in steps {
        let mut random = Random::new(position as u64 + 1);
        let queries: Vec<f32> = random.values(t * width).iter().map(|v| 4.0 * v).collect();
        let (new_keys, new_values) = (random.values(t * kv_width), random.values(t * kv_width));
        executor.write(q, &queries).unwrap();
        executor.write(k, &new_keys).unwrap();
        executor.write(v, &new_values).unwrap();
        step(&mut executor, position, t);
        keys.extend(new_keys);
        values.extend(new_values);
        let mut want = vec![0.0; t * width];
        for i in 0..t {
            let seen = op.visible(position + i);
            for h in 0..heads {
                let at = seen.start * kv_width + h / (heads / kv) * d;
                let head = i * width + h * d..i * width + (h + 1) * d;
                let (q, out) = (&queries[head.clone()], &mut want[head]);
                attention::reference(q, &keys[at..], &values[at..], kv_width, seen.len(), op.scale, out);
            }
        }
        let what = format!("heads {heads}/{kv} d {d} window {window:?} position {position} T {t}");
        assert_close(&what, &read(&executor, out, t), &want, 5e-6);
        position += t;
    }
}

#[test]
fn attention_matches_its_reference() {
    let Some(gpu) = open() else { return };
    check_attention(&gpu, Heads { q: 9, kv: 3, d: 64 }, None, &[1, 3, 17, 64, 1, 42, 1, 1, 200, 1, 1]);
    check_attention(&gpu, Heads { q: 4, kv: 1, d: 80 }, None, &[17, 1, 130, 1]);
    check_attention(&gpu, Heads { q: 2, kv: 2, d: 128 }, None, &[64, 1, 100, 1]);
    check_attention(&gpu, Heads { q: 2, kv: 1, d: 256 }, None, &[3, 1]);
    check_attention(&gpu, Heads { q: 2, kv: 1, d: 4 }, None, &[3, 1]);
}

#[test]
fn attention_sees_no_further_than_its_window() {
    let Some(gpu) = open() else { return };
    check_attention(&gpu, Heads { q: 9, kv: 3, d: 64 }, Some(20), &[1, 17, 1, 1, 1, 64, 1]);
    check_attention(&gpu, Heads { q: 2, kv: 1, d: 32 }, Some(150), &[140, 1, 64, 1]);
    check_attention(&gpu, Heads { q: 2, kv: 1, d: 32 }, Some(1), &[1, 1, 3, 1]);
}

#[test]
fn greedy_decoding_feeds_tokens_back_on_the_device() {
    let Some(gpu) = open() else { return };
    let (v, d) = (301, 64);
    let mut bench = Bench::default();
    let (table, values) = bench.weight(QuantType::Q8_0, v, d);
    let (head, head_values) = bench.weight(QuantType::Q4_1, v, d);
    let x = bench.buffer("x", Rows::PerToken, d);
    let last = bench.buffer("last", Rows::One, d);
    let logits = bench.buffer("logits", Rows::One, v);
    bench.recording.push(Embed { table, first_column: 0, out: x, scale: 1.0 });
    bench.recording.push(LastRow { x, out: last });
    bench.recording.push(MatMul { weight: head, bias: None, x: last, out: logits, store: Store::Replace, range: None });
    bench.recording.logits = Some(logits);
    let mut executor = bench.executor(&gpu);
    let mut want = vec![7u32];
    for i in 0..20 {
        let row = &values[want[i] as usize * d..][..d];
        let logits: Vec<f32> = head_values.chunks(d).map(|w| matmul::reference(w, row)).collect();
        want.push(argmax::reference(&logits));
    }
    for in_flight in [1, 2, 4] {
        let mut got = vec![7];
        let take = |id| {
            got.push(id);
            std::ops::ControlFlow::Continue(())
        };
        assert_eq!(pollster::block_on(executor.decode_greedy(7, 0, 20, in_flight, take)).unwrap(), 20);
        assert_eq!(got, want);
        let mut seen = 0;
        let stop = |_| {
            seen += 1;
            if seen == 5 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        };
        assert_eq!(pollster::block_on(executor.decode_greedy(7, 0, 20, in_flight, stop)).unwrap(), 5);
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    let Some(gpu) = open() else { return };
    for v in [1, 3, 255, 256, 257, 1000] {
        let mut bench = Bench::default();
        let logits = bench.buffer("logits", Rows::One, v);
        bench.recording.logits = Some(logits);
        let mut executor = bench.executor(&gpu);
        for top in [0, v / 2, v - 1] {
            let mut values: Vec<f32> = Random::new(v as u64).values(v).iter().map(|x| x - 5.0).collect();
            values[top] = -1.0;
            values[(top + v / 3).min(v - 1)] = -1.0;
            executor.write(logits, &values).unwrap();
            let mut got = None;
            let take = |id| {
                got = Some(id);
                std::ops::ControlFlow::Break(())
            };
            pollster::block_on(executor.decode_greedy(0, 0, 1, 1, take)).unwrap();
            assert_eq!(got, Some(argmax::reference(&values)));
        }
    }
}

#[test]
fn errors_are_words() {
    let Some(gpu) = open() else { return };
    let mut bench = Bench::default();
    let x = bench.buffer("x", Rows::PerToken, 6);
    let out = bench.buffer("out", Rows::PerToken, 3);
    let (weight, _) = bench.weight(QuantType::F32, 3, 6);
    bench.recording.push(MatMul { weight, bias: None, x, out, store: Store::Replace, range: None });
    let refused = bench.try_executor(&gpu);
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("weight 1") && text.contains("CPU"), "{text}");

    let mut bench =
        Bench { options: Options { max_tokens: 4, max_positions: 10, ..Options::default() }, ..Bench::default() };
    bench.buffer("x", Rows::PerToken, 4);
    let mut executor = bench.executor(&gpu);
    assert!(executor.run(Step { position: 0, tokens: 5 }, &[0; 5]).is_err());
    assert!(executor.run(Step { position: 0, tokens: 2 }, &[0; 3]).is_err());
    assert!(executor.run(Step { position: 0, tokens: 0 }, &[]).is_err());
    let full = executor.run(Step { position: 8, tokens: 4 }, &[0; 4]).unwrap_err();
    assert!(full.to_string().contains("10"), "{full}");
    executor.run(Step { position: 6, tokens: 4 }, &[0; 4]).unwrap();
}

/// A small llama with everything that differs between models.
struct Shape {
    pairing: Pairing,
    window: Option<usize>,
    quants: [QuantType; 3],
    has_biases: bool,
    has_adapter: bool,
    is_tied: bool,
}

const LAYERS: usize = 2;

fn llama(shape: &Shape) -> Bench {
    let (hidden, heads, kv_heads, head_dim, ffn, vocab) = (256, 4, 2, 64, 512, 301);
    let mut bench = Bench::default();
    bench.options.first_positions = 8;
    let [attention, feed_forward, embedding_type] = shape.quants;
    let mut matrix = |quant, rows, cols| bench.weight(quant, rows, cols).0;
    let embedding = matrix(embedding_type, vocab, hidden);
    let layers = (0..LAYERS)
        .map(|_| {
            let bias = |width| shape.has_biases.then_some(width);
            LlamaLayer {
                attn_norm: matrix(QuantType::F32, 1, hidden),
                q: matrix(attention, heads * head_dim, hidden),
                k: matrix(attention, kv_heads * head_dim, hidden),
                v: matrix(attention, kv_heads * head_dim, hidden),
                o: matrix(attention, hidden, heads * head_dim),
                q_bias: bias(heads * head_dim).map(|n| matrix(QuantType::F32, 1, n)),
                k_bias: None,
                v_bias: bias(kv_heads * head_dim).map(|n| matrix(QuantType::F32, 1, n)),
                o_bias: bias(hidden).map(|n| matrix(QuantType::F32, 1, n)),
                ffn_norm: matrix(QuantType::F32, 1, hidden),
                gate: matrix(feed_forward, ffn, hidden),
                up: matrix(feed_forward, ffn, hidden),
                down: matrix(feed_forward, hidden, ffn),
                gate_bias: None,
                up_bias: bias(ffn).map(|n| matrix(QuantType::F32, 1, n)),
                down_bias: None,
            }
        })
        .collect();
    let output_norm = matrix(QuantType::F32, 1, hidden);
    let head = if shape.is_tied { embedding } else { matrix(QuantType::Q6_K, vocab, hidden) };
    let tensors = LlamaTensors { embedding, layers, output_norm, head };
    if shape.has_adapter {
        let (a, b) = (bench.weight(QuantType::F32, 8, hidden).0, bench.weight(QuantType::F32, ffn, 8).0);
        let mut table = WeightTable::default();
        for (id, spec) in bench.table.iter() {
            let adapter = (id == tensors.layers[1].gate).then_some((a, b));
            table.add(WeightSpec { adapter, ..spec.clone() }).unwrap();
        }
        bench.table = table;
    }
    let config = LlamaConfig {
        layers: LAYERS,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocab,
        context: 512,
        norm_eps: 1e-5,
        activation: Activation::Silu,
        rope: (0..head_dim / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / head_dim as f64)).collect(),
        pairing: shape.pairing,
        window: shape.window,
        tied: shape.is_tied,
    };
    bench.recording = llama::forward(&config, &tensors, &bench.table).unwrap();
    bench
}

/// Runs prefill, decode and prefill again on both executors and compares every stage and the logits.
fn check_llama(gpu: &Gpu, what: &str, shape: &Shape) -> usize {
    let bench = llama(shape);
    let mut device = bench.executor(gpu);
    let mut cpu = CpuExecutor::new(Arc::new(bench.recording.clone()), &bench.table, CpuPath::Reference).unwrap();
    for ((id, spec), bytes) in bench.table.iter().zip(&bench.bytes) {
        cpu.rows(id, spec, 0, bytes).unwrap();
    }
    let mut position = 0;
    for tokens in [1, 5, 1, 1, 140, 1, 1, 33, 1] {
        let ids: Vec<u32> = (0..tokens as u32).map(|i| (i * 77 + position as u32 * 13) % 301).collect();
        let step = Step { position, tokens };
        let want = cpu.run_stages(step, &ids).unwrap();
        let got = pollster::block_on(device.run_stages(step, &ids)).unwrap();
        assert_eq!(got.len(), want.len());
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            assert_close(&format!("{what}: {name}, {tokens} tokens at {position}"), got, want, 2e-5);
        }
        // Run as one, without the cuts that reading stages makes.
        device.run(step, &ids).unwrap();
        let logits = bench.recording.logits.unwrap();
        let got = pollster::block_on(device.logits()).unwrap();
        assert_close(&format!("{what}: logits, {tokens} tokens at {position}"), &got, cpu.read(logits), 2e-5);
        position += tokens;
    }
    device.dispatch_count(Step { position: 0, tokens: 1 })
}

#[test]
fn a_llama_gives_the_same_numbers_as_on_the_cpu() {
    use QuantType::{BF16, F16, Q4_0, Q4_1, Q4_K, Q5_1, Q6_K, Q8_0};
    let Some(gpu) = open() else { return };
    let plain = Shape {
        pairing: Pairing::Adjacent,
        window: None,
        quants: [Q4_1, Q4_1, Q8_0],
        has_biases: false,
        has_adapter: false,
        is_tied: true,
    };
    // Six for each layer: norm, q, k and v; rotations and append; attention; o; norm, gate, up and activation; down.
    assert_eq!(check_llama(&gpu, "plain", &plain), 1 + LAYERS * 6 + 3);
    let shape = Shape { pairing: Pairing::Halves, window: Some(40), quants: [BF16, F16, BF16], ..plain };
    check_llama(&gpu, "halves", &shape);
    let shape = Shape { has_biases: true, is_tied: false, quants: [Q4_0, Q5_1, Q4_K], ..shape };
    check_llama(&gpu, "biases", &shape);
    let shape = Shape { has_adapter: true, quants: [Q4_K, Q6_K, Q6_K], ..shape };
    check_llama(&gpu, "adapter", &shape);
}

#[test]
fn a_small_binding_limit_changes_nothing_but_the_number_of_dispatches() {
    let Some(gpu) = open() else { return };
    let shape = Shape {
        pairing: Pairing::Adjacent,
        window: None,
        quants: [QuantType::Q4_1, QuantType::Q8_0, QuantType::Q8_0],
        has_biases: true,
        has_adapter: false,
        is_tied: true,
    };
    let mut bench = llama(&shape);
    bench.options.max_tokens = 8;
    let run = |bench: &Bench| {
        let mut executor = bench.executor(&gpu);
        for (position, ids) in [(0, vec![1, 2, 3, 4, 5, 6, 7, 8]), (8, vec![9])] {
            executor.run(Step { position, tokens: ids.len() }, &ids).unwrap();
        }
        (executor.dispatch_count(Step { position: 0, tokens: 1 }), pollster::block_on(executor.logits()).unwrap())
    };
    let (few, want) = run(&bench);
    bench.options.binding_bytes = 40_000;
    let (many, got) = run(&bench);
    assert!(many > few, "{many} dispatches, {few} without the limit");
    assert_close("logits", &got, &want, 2e-6);
}
