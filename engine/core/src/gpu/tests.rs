//! Every kernel against its reference, on awkward sizes.

use std::sync::Arc;

use crate::check;
use crate::check::fixture::{self, Ranges};
use crate::cpu::{CpuExecutor, CpuPath};
use crate::error::Result;
use crate::formats::disk::DiskModel;
use crate::generate::{Executor, Generator, Progress};
use crate::kernels::attention::Attention;
use crate::kernels::embed::Embed;
use crate::kernels::gated_activation::{Activation, GatedActivation};
use crate::kernels::kv_append::KvAppend;
use crate::kernels::last_row::LastRow;
use crate::kernels::matmul::{MatMul, StaticRange, Store};
use crate::kernels::rms_norm::{Gain, RmsNorm};
use crate::kernels::rope::{Pairing, Rope};
use crate::kernels::sample::{self, Wish};
use crate::kernels::soft_cap::SoftCap;
use crate::kernels::{argmax, attention, gated_activation, matmul, rms_norm, rope, soft_cap};
use crate::model::Network;
use crate::models::gemma4_config::{Gemma4Config, Gemma4Layer, Gemma4LayerTensors, Gemma4Tensors, OwnKv};
use crate::models::llama_config::{LlamaConfig, LlamaLayer, LlamaTensors};
use crate::models::{Linear, gemma4, llama};
use crate::quant::QuantType;
use crate::recording::{BufferId, KvInfo, Recording, RopeTable, Rows, Step};
use crate::sampler::{BANNED, Sampler, SamplerOptions};
use crate::weights::{Location, WeightId, WeightRole, WeightSink, WeightSpec, WeightTable, Zeroed};

use super::testing::{Random, assert_close, open, weights};
use super::{CacheFormat, Gpu, GpuExecutor, Options, all_caches_bytes};

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

    fn stored(&mut self, spec: WeightSpec, bytes: Vec<u8>) -> WeightId {
        let id = self.table.add(spec).unwrap();
        self.bytes.push(bytes);
        id
    }

    fn floats(&mut self, role: WeightRole, cols: usize, values: &[f32]) -> WeightId {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let spec = WeightSpec {
            name: format!("floats {}", self.bytes.len()),
            rows: values.len() / cols,
            cols,
            quant: QuantType::F32,
            role,
            location: Location { file: 0, offset: 0, len: bytes.len() as u64 },
            scales: None,
            adapter: None,
        };
        self.stored(spec, bytes)
    }

    fn scalar(&mut self, value: f32) -> WeightId {
        self.floats(WeightRole::Scalar, 1, &[value])
    }

    /// Random codes with `stretches` scales a row.
    fn packed(&mut self, quant: QuantType, rows: usize, cols: usize, stretches: usize) -> WeightId {
        let mut random = Random::new(self.bytes.len() as u64 + 91);
        let scales: Vec<f32> = (0..rows * stretches).map(|_| 0.02 + 0.01 * random.value()).collect();
        let scales = self.floats(WeightRole::Scales, stretches, &scales);
        let bytes: Vec<u8> = (0..rows * cols / quant.block_len()).map(|_| random.bits() as u8).collect();
        let spec = WeightSpec {
            name: format!("packed {}", self.bytes.len()),
            rows,
            cols,
            quant,
            role: WeightRole::Matrix,
            location: Location { file: 0, offset: 0, len: bytes.len() as u64 },
            scales: Some(scales),
            adapter: None,
        };
        self.stored(spec, bytes)
    }

    /// A buffer that each step fills with random values, a row for each token; they are f16 if caches are.
    fn input(&mut self, name: &str, rows: Rows, cols: usize) -> BufferId {
        let table = match self.options.cache {
            CacheFormat::F32 => self.weight(QuantType::F32, TWIN_VOCABULARY, cols).0,
            CacheFormat::F16 => {
                let values = halves(Random::new(self.bytes.len() as u64 + 1).values(TWIN_VOCABULARY * cols));
                self.floats(WeightRole::Matrix, cols, &values)
            }
        };
        let out = self.buffer(name, rows, cols);
        self.recording.push(Embed { table, first_column: 0, out, scale: 3.0 });
        out
    }

    /// Runs steps of the given lengths on both executors and compares buffers after each. Values on a grid may differ by
    /// one of its steps where rounding has no clear side, once in 200.
    fn twin(&self, gpu: &Gpu, what: &str, steps: &[usize], outs: &[BufferId], grid: f32) -> GpuExecutor {
        let mut device = self.executor(gpu);
        let mut cpu = CpuExecutor::new(Arc::new(self.recording.clone()), &self.table, CpuPath::Reference).unwrap();
        for ((id, spec), bytes) in self.table.iter().zip(&self.bytes) {
            cpu.rows(id, spec, 0, bytes).unwrap();
        }
        let mut position = 0;
        for &tokens in steps {
            let ids: Vec<u32> = (0..tokens).map(|i| ((i * 7 + position * 5) % TWIN_VOCABULARY) as u32).collect();
            let step = Step { position, tokens };
            cpu.run(step, &ids).unwrap();
            device.run(step, &ids).unwrap();
            for &id in outs {
                let (got, want) = (read(&device, id, tokens), cpu.read(id));
                let name = format!("{what}: {}, {tokens} tokens at {position}", self.recording.info(id).name);
                assert_eq!(got.len(), want.len(), "{name}");
                let flipped = |(g, w): (&f32, &f32)| grid > 0.0 && ((g - w).abs() / grid - 1.0).abs() < 1e-3;
                let mut forgiven = got.clone();
                let pairs = got.iter().zip(want).enumerate().filter(|(_, (g, w))| flipped((g, w)));
                let flips = pairs.map(|(i, (_, w))| forgiven[i] = *w).count();
                assert!(flips * 200 <= got.len(), "{name}: {flips} of {} on another step of the grid", got.len());
                // The reference adds up position after position in f32: its own error grows with them.
                assert_close(&name, &forgiven, want, 5e-6 + 1e-8 * position as f32);
            }
            position += tokens;
        }
        device
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

/// Values between −1 and 1 that are f16, three times as much too: how caches round is then no matter.
fn halves(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| (v * 128.0).round() / 128.0).collect()
}

const TOKENS: [usize; 4] = [1, 3, 17, 64];
const TWIN_VOCABULARY: usize = 53;
const PACKED: [QuantType; 3] = [QuantType::Int2, QuantType::Int4, QuantType::Int8];

#[test]
fn embeddings_of_packed_codes_are_read_by_columns_and_for_the_last_token() {
    let Some(gpu) = open() else { return };
    for quant in PACKED {
        // Rows of 4 · 20 codes: no whole units; scales for 20 codes each.
        for (cols, stretches) in [(80, 4), (96, 6), (64, 1), (1024, 1)] {
            let mut bench = Bench::default();
            let table = bench.packed(quant, TWIN_VOCABULARY, cols, stretches);
            let (all, some) = (bench.buffer("all", Rows::PerToken, cols), bench.buffer("some", Rows::One, 16));
            bench.recording.push(Embed { table, first_column: 0, out: all, scale: 1.5 });
            bench.recording.push(Embed { table, first_column: 20, out: some, scale: 16.0 });
            bench.twin(&gpu, &format!("{quant:?} {cols}"), &[1, 17], &[all, some], 0.0);
        }
    }
    let mut bench = Bench::default();
    bench.options.binding_bytes = 999;
    let table = bench.packed(QuantType::Int2, TWIN_VOCABULARY, 80, 4);
    let out = bench.buffer("out", Rows::One, 80);
    bench.recording.push(Embed { table, first_column: 0, out, scale: 1.0 });
    let device = bench.twin(&gpu, "sharded", &[1, 3, 9, 1], &[out], 0.0);
    assert_eq!(device.dispatch_count(Step { position: 0, tokens: 1 }), 2);
}

/// Three products of one input, two of them with the same static scale.
fn check_packed(gpu: &Gpu, quant: QuantType, sizes: [usize; 3], k: usize, ranges: [f32; 3], options: &Options) {
    for rows in [Rows::PerToken, Rows::One] {
        let mut bench = Bench { options: options.clone(), ..Bench::default() };
        let x = bench.input("x", rows, k);
        let shared = bench.scalar(ranges[1]);
        let inputs = [bench.scalar(ranges[0]), shared, shared];
        let output = bench.scalar(ranges[2]);
        let mut outs = Vec::new();
        for (i, n) in sizes.into_iter().enumerate() {
            let weight = bench.packed(quant, n, k, 1);
            let out = bench.buffer(&format!("out {i}"), rows, n);
            let range = Some(StaticRange { input: inputs[i], output });
            bench.recording.push(MatMul { weight, bias: None, x, out, store: Store::Replace, range });
            outs.push(out);
        }
        bench.twin(gpu, &format!("{quant:?} {sizes:?} K {k} {ranges:?}"), &[1, 3, 17, 70], &outs, ranges[2]);
    }
}

#[test]
fn products_of_packed_codes_match_their_reference_with_and_without_static_ranges() {
    let Some(gpu) = open() else { return };
    let options = Options::default();
    for quant in PACKED {
        for ranges in [[0.02, 0.03, 0.05], [0.0, 0.03, 0.0], [0.02, 0.0, 0.04], [0.0; 3]] {
            check_packed(&gpu, quant, [49, 16, 3], 80, ranges, &options);
        }
        check_packed(&gpu, quant, [70, 5, 64], 1536, [0.02, 0.03, 0.05], &options);
        check_packed(&gpu, quant, [1, 1, 2], 4, [0.02, 0.03, 0.05], &options);
        check_packed(&gpu, quant, [16, 16, 16], 6144, [0.02, 0.0, 0.0], &options);
    }
    let small = Options { binding_bytes: 4096, max_tokens: 70, ..Options::default() };
    check_packed(&gpu, QuantType::Int2, [3, 2, 2], 12, [0.02, 0.03, 0.05], &small);
}

#[test]
fn packed_codes_may_have_a_scale_for_each_stretch_of_a_row() {
    let Some(gpu) = open() else { return };
    for (quant, stretches) in [(QuantType::Int4, 8), (QuantType::Int8, 16), (QuantType::Int2, 4)] {
        let mut bench = Bench::default();
        let x = bench.input("x", Rows::PerToken, 256);
        let weight = bench.packed(quant, 37, 256, stretches);
        let out = bench.buffer("out", Rows::PerToken, 37);
        bench.recording.push(MatMul { weight, bias: None, x, out, store: Store::Replace, range: None });
        bench.twin(&gpu, &format!("{quant:?}"), &[1, 17], &[out], 0.0);
    }
    let mut bench = Bench::default();
    let x = bench.input("x", Rows::PerToken, 80);
    let weight = bench.packed(QuantType::Int4, 37, 80, 4);
    let out = bench.buffer("out", Rows::PerToken, 37);
    bench.recording.push(MatMul { weight, bias: None, x, out, store: Store::Replace, range: None });
    let refused = bench.try_executor(&gpu).err().unwrap().to_string();
    assert!(refused.contains("packed") && refused.contains("scale"), "{refused}");
}

#[test]
fn a_norm_adds_to_its_output_and_gains() {
    let Some(gpu) = open() else { return };
    for (n, width) in [(1, 64), (3, 52), (1, 1536)] {
        for gain in [0.0, 0.5, -1.0] {
            let mut bench = Bench::default();
            let x = bench.input("x", Rows::PerToken, n * width);
            let out = bench.input("out", Rows::PerToken, n * width);
            let gain = match gain {
                0.0 => Gain::One,
                g if g > 0.0 => Gain::Constant(g),
                _ => Gain::Learned(bench.scalar(0.44)),
            };
            let weight = (n == 1).then(|| bench.weight(QuantType::F32, 1, width).0);
            bench.recording.push(RmsNorm { x, weight, out, width, eps: 1e-6, store: Store::Add, gain });
            bench.twin(&gpu, &format!("{n} × {width} {gain:?}"), &[1, 17], &[out], 0.0);
        }
    }
}

#[test]
fn the_end_of_a_branch_and_the_norm_after_it_are_one_dispatch() {
    let Some(gpu) = open() else { return };
    // Whole rounds of lanes and not.
    for (width, dispatches) in [(64, 3), (1028, 3), (1536, 3), (2560, 3), (3072, 3)] {
        let mut bench = Bench::default();
        let (x, h) = (bench.input("x", Rows::PerToken, width), bench.input("h", Rows::PerToken, width));
        let next = bench.buffer("next", Rows::PerToken, width);
        let (weight, next_weight) =
            (bench.weight(QuantType::F32, 1, width).0, bench.weight(QuantType::F32, 1, width).0);
        let gain = Gain::Learned(bench.scalar(0.44));
        let branch = RmsNorm { x, weight: Some(weight), out: h, width, eps: 1e-6, store: Store::Add, gain };
        bench.recording.push(branch);
        bench.recording.push(RmsNorm::plain(h, Some(next_weight), next, width, 1e-5));
        let device = bench.twin(&gpu, &format!("width {width}"), &[1, 17, 1], &[h, next], 0.0);
        assert_eq!(device.dispatch_count(Step { position: 0, tokens: 1 }), dispatches, "{width}");
    }
}

#[test]
fn a_soft_cap_bounds_also_far_out() {
    let Some(gpu) = open() else { return };
    let mut bench = Bench::default();
    let x = bench.buffer("x", Rows::PerToken, 49);
    bench.recording.push(SoftCap { x, cap: 30.0 });
    let mut executor = bench.executor(&gpu);
    for reach in [1.0, 40.0, 1e6] {
        let mut values: Vec<f32> = Random::new(3).values(3 * 49).iter().map(|v| v * reach).collect();
        executor.write(x, &values).unwrap();
        step(&mut executor, 0, 3);
        soft_cap::reference(&mut values, 30.0);
        // The device's tanh is off by some 1e-7, before the cap multiplies it.
        assert_close(&format!("reach {reach}"), &read(&executor, x, 3), &values, 1e-5);
    }
}

/// Attention of every token and of the last one alone, over one cache.
fn check_grouped(gpu: &Gpu, heads: Heads, window: Option<usize>, steps: &[usize]) {
    for cache in CacheFormat::ALL {
        check_grouped_rows(gpu, cache, heads, window, steps, &[Rows::PerToken, Rows::One]);
    }
}

fn check_grouped_rows(
    gpu: &Gpu,
    cache: CacheFormat,
    Heads { q: heads, kv, d }: Heads,
    window: Option<usize>,
    steps: &[usize],
    kinds: &[Rows],
) {
    let mut bench = Bench::default();
    (bench.options.first_positions, bench.options.max_tokens, bench.options.cache) = (8, 64, cache);
    let (width, kv_width) = (heads * d, kv * d);
    let slot = bench.recording.kv_slot(KvInfo { heads: kv, head_dim: d });
    let (k, v) = (bench.input("k", Rows::PerToken, kv_width), bench.input("v", Rows::PerToken, kv_width));
    bench.recording.push(KvAppend { k, v, slot });
    bench.recording.rope.push((0..d / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / d as f64)).collect());
    let mut outs = Vec::new();
    for &rows in kinds {
        let q = bench.input(&format!("q {rows:?}"), rows, width);
        bench.recording.push(Rope { x: q, head_dim: d, pairing: Pairing::Halves, table: RopeTable(0) });
        let out = bench.buffer(&format!("out {rows:?}"), rows, width);
        bench.recording.push(Attention { q, slot, out, heads, scale: 0.3 / (d as f32).sqrt(), window });
        outs.extend([q, out]);
    }
    bench.twin(gpu, &format!("{cache:?} heads {heads}/{kv} d {d} window {window:?}"), steps, &outs, 0.0);
}

#[test]
fn attention_of_many_heads_on_one_cache_matches_its_reference() {
    let Some(gpu) = open() else { return };
    check_grouped(&gpu, Heads { q: 4, kv: 1, d: 16 }, Some(8), &[7, 1, 1, 40, 1, 7, 1]);
    check_grouped(&gpu, Heads { q: 4, kv: 1, d: 32 }, None, &[40, 1, 33, 1]);
    check_grouped(&gpu, Heads { q: 8, kv: 2, d: 64 }, Some(50), &[3, 64, 64, 64, 64, 1, 1]);
    check_grouped(&gpu, Heads { q: 8, kv: 1, d: 256 }, Some(70), &[33, 50, 1]);
    check_grouped(&gpu, Heads { q: 8, kv: 2, d: 512 }, None, &[33, 1]);
    check_grouped(&gpu, Heads { q: 5, kv: 1, d: 80 }, None, &[33, 1]);
    // A head's quads for which the lanes have no whole number of lines, or fewer lines than they could.
    check_grouped(&gpu, Heads { q: 4, kv: 1, d: 160 }, Some(40), &[33, 17, 1]);
    // Prompts in blocks of 32 positions and, of wider heads, 16: ends of blocks, and beyond them.
    check_grouped(&gpu, Heads { q: 7, kv: 1, d: 256 }, None, &[31, 1, 64, 2]);
    check_grouped(&gpu, Heads { q: 3, kv: 1, d: 260 }, Some(16), &[15, 1, 40, 2]);
    // More positions than 128 parts of 16 hold.
    let long = [vec![64; 34], vec![1, 3]].concat();
    for cache in CacheFormat::ALL {
        check_grouped_rows(&gpu, cache, Heads { q: 4, kv: 1, d: 4 }, None, &long, &[Rows::One]);
    }
}

#[test]
fn a_ring_forgets_and_says_so() {
    let Some(gpu) = open() else { return };
    let mut bench = Bench::default();
    bench.options.max_tokens = 4;
    let slot = bench.recording.kv_slot(KvInfo { heads: 1, head_dim: 4 });
    let (k, v) = (bench.input("k", Rows::PerToken, 4), bench.input("v", Rows::PerToken, 4));
    bench.recording.push(KvAppend { k, v, slot });
    let (q, out) = (bench.input("q", Rows::PerToken, 16), bench.buffer("out", Rows::PerToken, 16));
    bench.recording.push(Attention { q, slot, out, heads: 4, scale: 1.0, window: Some(8) });
    // 3 windows and a step: 32 rows.
    let mut device = bench.executor(&gpu);
    for position in (0..40).step_by(4) {
        assert!(device.can_resume(position));
        step(&mut device, position, 4);
    }
    // Positions 8 to 39 are held: a token at 15 sees 8 to 15.
    assert!(device.can_resume(40) && device.can_resume(15) && !device.can_resume(14) && device.can_resume(0));
    step(&mut device, 15, 1);
    let resumed = read(&device, out, 1);
    let mut fresh = bench.executor(&gpu);
    for position in (0..12).step_by(4) {
        step(&mut fresh, position, 4);
    }
    step(&mut fresh, 12, 3);
    step(&mut fresh, 15, 1);
    assert_close("resumed", &resumed, &read(&fresh, out, 1), 1e-6);
    step(&mut device, 0, 4);
    assert!(device.can_resume(4) && device.can_resume(1));
}

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

#[derive(Clone, Copy)]
struct Heads {
    q: usize,
    kv: usize,
    d: usize,
}

/// Appends steps of the given lengths and checks attention after each.
fn check_attention(gpu: &Gpu, heads: Heads, window: Option<usize>, steps: &[usize]) {
    CacheFormat::ALL.into_iter().for_each(|cache| check_attention_on(gpu, cache, heads, window, steps));
}

fn check_attention_on(
    gpu: &Gpu,
    cache: CacheFormat,
    Heads { q: heads, kv, d }: Heads,
    window: Option<usize>,
    steps: &[usize],
) {
    let mut bench = Bench::default();
    bench.options.cache = cache;
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
        let mut new = || match cache {
            CacheFormat::F32 => random.values(t * kv_width),
            CacheFormat::F16 => halves(random.values(t * kv_width)),
        };
        let (new_keys, new_values) = (new(), new());
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
        let what = format!("{cache:?} heads {heads}/{kv} d {d} window {window:?} position {position} T {t}");
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
fn caches_of_f16_round_to_a_neighbour_saturate_and_hide_no_damage() {
    let Some(gpu) = open() else { return };
    // By both kernels.
    for heads in [2, 4] {
        let mut bench = Bench::default();
        bench.options.cache = CacheFormat::F16;
        let slot = bench.recording.kv_slot(KvInfo { heads: 1, head_dim: 4 });
        let (k, v) = (bench.buffer("k", Rows::PerToken, 4), bench.buffer("v", Rows::PerToken, 4));
        let (q, out) = (bench.buffer("q", Rows::PerToken, heads * 4), bench.buffer("out", Rows::PerToken, heads * 4));
        bench.recording.push(KvAppend { k, v, slot });
        bench.recording.push(Attention { q, slot, out, heads, scale: 1.0, window: Some(1) });
        let mut executor = bench.executor(&gpu);
        // Each token sees its own value alone.
        let values =
            [1e6, -1e6, 65504.0, -65504.0, 1.0 / 3.0, -2.0 / 3.0, 1000.3, 6.2e-5, 65519.0, f32::MAX, 0.0, -0.125];
        for tokens in [1, 3] {
            executor.write(q, &vec![0.5; tokens * heads * 4]).unwrap();
            executor.write(k, &vec![1e9; tokens * 4]).unwrap();
            executor.write(v, &values).unwrap();
            step(&mut executor, 0, tokens);
            let got = read(&executor, out, tokens);
            for (i, got) in got.into_iter().enumerate() {
                let value = values[i / (heads * 4) * 4 + i % 4].clamp(-65504.0, 65504.0);
                let bits = half::f16::from_f32(value).to_bits();
                let near = [bits.saturating_sub(1), bits, bits + 1].map(|b| half::f16::from_bits(b).to_f32());
                let is_near = near.contains(&got) && (got - value).abs() <= value.abs() / 1024.0;
                assert!(is_near, "{heads} heads: value {i} is {got}, expected {value}");
            }
        }
        executor.write(v, &[f32::NAN, 1.0, 2.0, f32::NAN]).unwrap();
        step(&mut executor, 3, 1);
        let damaged: Vec<bool> = read(&executor, out, 1).iter().map(|v| v.is_nan()).collect();
        assert_eq!(damaged, [true, false, false, true].repeat(heads));
    }
}

#[test]
fn caches_of_f16_hold_twice_the_positions() {
    let Some(gpu) = open() else { return };
    let positions = CacheFormat::ALL.map(|cache| {
        let mut bench = Bench::default();
        (bench.options.cache, bench.options.binding_bytes) = (cache, 4096);
        (bench.options.max_tokens, bench.options.first_positions) = (4, 4);
        let slot = bench.recording.kv_slot(KvInfo { heads: 1, head_dim: 16 });
        let (k, v) = (bench.input("k", Rows::PerToken, 16), bench.input("v", Rows::PerToken, 16));
        let out = bench.buffer("out", Rows::PerToken, 16);
        bench.recording.push(KvAppend { k, v, slot });
        bench.recording.push(Attention { q: k, slot, out, heads: 1, scale: 1.0, window: None });
        let mut executor = bench.executor(&gpu);
        let most = executor.max_positions();
        assert_eq!(all_caches_bytes(&bench.recording, 4, most, cache), 2 * 4096);
        step(&mut executor, most - 4, 4);
        let full = executor.run(Step { position: most, tokens: 1 }, &[0]).unwrap_err();
        assert!(full.to_string().contains(&most.to_string()), "{full}");
        most
    });
    assert_eq!(positions, [64, 128]);
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
        for i in 0..20 {
            executor.launch(i, (i == 0).then_some(7), None).unwrap();
            while executor.in_flight() == in_flight || i == 19 && executor.in_flight() > 0 {
                got.push(pollster::block_on(executor.land()).unwrap());
            }
        }
        assert_eq!(got, want);
        // Steps that nobody waits for any more do not disturb the next ones.
        executor.launch(0, Some(3), None).unwrap();
        executor.launch(1, None, None).unwrap();
        executor.abandon();
        assert_eq!(executor.in_flight(), 0);
    }
    assert!(pollster::block_on(executor.land()).is_err());
}

/// A recording of logits alone, which the test writes.
fn bare_logits(gpu: &Gpu, v: usize) -> (GpuExecutor, BufferId) {
    let mut bench = Bench::default();
    let logits = bench.buffer("logits", Rows::One, v);
    bench.recording.logits = Some(logits);
    (bench.executor(gpu), logits)
}

/// What the device chooses of logits.
fn choose(executor: &mut GpuExecutor, logits: BufferId, values: &[f32], wish: Option<&Wish>) -> Result<u32> {
    executor.write(logits, values).unwrap();
    executor.launch(0, Some(0), wish).unwrap();
    pollster::block_on(executor.land())
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    let Some(gpu) = open() else { return };
    for v in [1, 3, 255, 256, 257, 1000, 4097, 12_290] {
        let (mut executor, logits) = bare_logits(&gpu, v);
        for top in [0, v / 2, v - 1] {
            let mut values: Vec<f32> = Random::new(v as u64).values(v).iter().map(|x| x - 5.0).collect();
            values[top] = -1.0;
            values[(top + v / 3).min(v - 1)] = -1.0;
            let got = choose(&mut executor, logits, &values, None).unwrap();
            assert_eq!(got, argmax::reference(&values));
        }
        let least = vec![f32::NEG_INFINITY; v];
        assert_eq!(choose(&mut executor, logits, &least, None).unwrap(), 0);
        let mut zeros = vec![-0.0; v];
        zeros[v - 1] = 0.0;
        assert_eq!(choose(&mut executor, logits, &zeros, None).unwrap(), 0, "both zeros are equal");
    }
}

#[test]
fn damaged_logits_are_an_error_on_the_device_too() {
    let Some(gpu) = open() else { return };
    let wish = Wish::new(&SamplerOptions::usual(0), 0.5);
    for v in [7, 5000] {
        let (mut executor, logits) = bare_logits(&gpu, v);
        for (at, bad) in [(0, f32::NAN), (v - 1, -f32::NAN), (v / 2, f32::INFINITY)] {
            let mut values = Random::new(5).values(v);
            values[at] = bad;
            for wish in [None, Some(&wish)] {
                let text = choose(&mut executor, logits, &values, wish).unwrap_err().to_string();
                assert!(text.contains("logits") && text.contains("damaged"), "{text}");
            }
        }
    }
}

/// How far a random number is from one where the choice changes, by the specification's own arithmetic: of `values`, with
/// both cuts' borders.
fn margin(values: &[f32], options: &SamplerOptions, random: f64) -> f64 {
    let mut ranked: Vec<f32> = values.to_vec();
    ranked.sort_unstable_by(|a, b| b.total_cmp(a));
    ranked.truncate(options.top_k as usize);
    let weight = |v: f32| ((f64::from(v) - f64::from(ranked[0])) / f64::from(options.temperature)).exp();
    let weights: Vec<f64> = ranked.iter().map(|v| weight(*v)).collect();
    let total: f64 = weights.iter().sum();
    let (mut held, mut kept, mut nearest) = (0.0, 0, f64::MAX);
    for w in &weights {
        if options.top_p < 1.0 {
            nearest = nearest.min((held / total - f64::from(options.top_p)).abs());
        }
        if options.min_p > 0.0 {
            nearest = nearest.min((w - f64::from(options.min_p)).abs());
        }
        if kept > 0
            && (options.top_p < 1.0 && held >= f64::from(options.top_p) * total || *w < f64::from(options.min_p))
        {
            break;
        }
        held += w;
        kept += 1;
    }
    let mut sum = 0.0;
    for w in &weights[..kept] {
        sum += w;
        nearest = nearest.min((sum / held - random).abs());
    }
    nearest
}

#[test]
fn drawing_on_the_device_chooses_what_the_sampler_does() {
    let Some(gpu) = open() else { return };
    let draws =
        |temperature, top_k, top_p, min_p| SamplerOptions { temperature, top_k, top_p, min_p, ..Default::default() };
    let kinds = [
        draws(1.0, 64, 0.95, 0.0),
        draws(0.6, 40, 0.9, 0.0),
        draws(1.5, 64, 1.0, 0.0),
        draws(1.0, 1, 1.0, 0.0),
        draws(0.001, 64, 0.95, 0.0),
        draws(1000.0, 63, 1.0, 0.1),
        draws(1.0, 20, 0.99, 0.05),
        draws(1.0, 64, 0.001, 0.0),
    ];
    let (mut tried, mut forgiven) = (0, 0);
    // One list; a list that is not full; several; two levels of lists, as of Gemma's vocabulary.
    for v in [1, 3, 63, 64, 65, 1024, 1025, 5000, 16_385, 262_144] {
        let (mut executor, logits) = bare_logits(&gpu, v);
        for (kind, options) in kinds.iter().enumerate() {
            assert!(sample::serves(options));
            let mut values: Vec<f32> = Random::new((v + kind) as u64).values(v).iter().map(|x| 6.0 * x).collect();
            match kind {
                // Equals across every slice, in groups of four.
                1 => values.iter_mut().enumerate().for_each(|(i, v)| *v = ((i * 7919) % 97) as f32 * 0.25),
                2 => values.iter_mut().skip(2).for_each(|v| *v = BANNED),
                3 => values.fill(-0.0),
                6 => values.iter_mut().skip(1).for_each(|v| *v = f32::NEG_INFINITY),
                _ => {}
            }
            let mut sampler = Sampler::new(SamplerOptions { seed: v as u64, ..options.clone() }).unwrap();
            for _ in 0..12 {
                let random = sampler.random().next_f64();
                let want = sampler.sample(&mut values.clone(), &[]).unwrap();
                let got = choose(&mut executor, logits, &values, Some(&Wish::new(options, random))).unwrap();
                tried += 1;
                if got != want {
                    forgiven += 1;
                    let near = margin(&values, options, random);
                    assert!(near < 2e-5, "{got}, not {want}, of {v} by {options:?}, {near} from a border");
                }
            }
        }
    }
    assert!(forgiven * 100 <= tried, "{forgiven} of {tried} lie on a border");
}

#[test]
fn a_generator_writes_the_same_on_both_devices() {
    let Some(gpu) = open() else { return };
    let bench = gemma(0.0, 0.0);
    let options = |top_k, repetition_penalty| SamplerOptions { top_k, repetition_penalty, ..SamplerOptions::usual(4) };
    let greedy = SamplerOptions::default();
    for (options, alone) in
        [(greedy, true), (options(64, 1.0), true), (options(65, 1.0), false), (options(9, 1.5), false)]
    {
        let recording = Arc::new(bench.recording.clone());
        let mut cpu = CpuExecutor::new(recording.clone(), &bench.table, CpuPath::Reference).unwrap();
        for ((id, spec), bytes) in bench.table.iter().zip(&bench.bytes) {
            cpu.rows(id, spec, 0, bytes).unwrap();
        }
        let device = Executor::Gpu(Box::new(bench.executor(&gpu)));
        let written = [Executor::Cpu(Box::new(cpu)), device].map(|executor| {
            let is_gpu = matches!(executor, Executor::Gpu(_));
            let mut generator = Generator::new(executor, recording.clone(), 60);
            assert_eq!(generator.can_choose(&options), is_gpu && alone);
            let mut sampler = Sampler::new(options.clone()).unwrap();
            generator.start(&[5, 6, 7]).unwrap();
            while !matches!(pollster::block_on(generator.advance()).unwrap(), Progress::Logits(_)) {}
            let mut all = pollster::block_on(generator.write(&mut sampler, 9, 20)).unwrap();
            // Stopped after three, with more in flight: what is cached is what was taken.
            let last = all[all.len() - 1];
            if generator.can_choose(&options) {
                generator.start_decoding(&sampler, last, 20);
                for _ in 0..3 {
                    all.push(pollster::block_on(generator.next_token()).unwrap().unwrap());
                    sampler.skip();
                }
                generator.stop_decoding();
            } else {
                all.extend(pollster::block_on(generator.write(&mut sampler, last, 3)).unwrap());
            }
            assert_eq!(generator.used(), 26);
            let prompt = [&[5, 6, 7, 9], all.as_slice()].concat();
            assert_eq!(generator.start(&prompt).unwrap(), 1);
            while !matches!(pollster::block_on(generator.advance()).unwrap(), Progress::Logits(_)) {}
            // To the end of the context.
            let last = all[0];
            all.extend(pollster::block_on(generator.write(&mut sampler, last, 100)).unwrap());
            assert_eq!(generator.used(), 60);
            all
        });
        assert_eq!(written[0], written[1], "{options:?}");
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
fn check_llama(gpu: &Gpu, what: &str, shape: &Shape, cache: CacheFormat) -> usize {
    let mut bench = llama(shape);
    bench.options.cache = cache;
    let tolerance = match cache {
        CacheFormat::F32 => 2e-5,
        // Random weights make scores of hundreds, whose rounding shows; what is in a wrong place moves all.
        CacheFormat::F16 => 1e-2,
    };
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
            assert_close(&format!("{what}: {name}, {tokens} tokens at {position}"), got, want, tolerance);
        }
        // Run as one, without the cuts that reading stages makes.
        device.run(step, &ids).unwrap();
        let logits = bench.recording.logits.unwrap();
        let got = pollster::block_on(device.logits()).unwrap();
        assert_close(&format!("{what}: logits, {tokens} tokens at {position}"), &got, cpu.read(logits), tolerance);
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
    assert_eq!(check_llama(&gpu, "plain", &plain, CacheFormat::F32), 1 + LAYERS * 6 + 3);
    check_llama(&gpu, "plain, f16", &plain, CacheFormat::F16);
    let shape = Shape { pairing: Pairing::Halves, window: Some(40), quants: [BF16, F16, BF16], ..plain };
    check_llama(&gpu, "halves", &shape, CacheFormat::F32);
    check_llama(&gpu, "halves, f16", &shape, CacheFormat::F16);
    let shape = Shape { has_biases: true, is_tied: false, quants: [Q4_0, Q5_1, Q4_K], ..shape };
    check_llama(&gpu, "biases", &shape, CacheFormat::F32);
    let shape = Shape { has_adapter: true, quants: [Q4_K, Q6_K, Q6_K], ..shape };
    check_llama(&gpu, "adapter", &shape, CacheFormat::F32);
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

/// Gemma 4 with two layers that own keys and values, sliding and full, and a sliding one that does not; head widths as in
/// the published models, all else small.
fn gemma(input: f32, output: f32) -> Bench {
    let (hidden, heads, ple, vocab) = (320, 8, 64, TWIN_VOCABULARY);
    let mut bench =
        Bench { options: Options { first_positions: 8, max_tokens: 48, ..Options::default() }, ..Bench::default() };
    let shape = |i: usize| (if i == 1 { 512 } else { 256 }, if i == 0 { 256 } else { 512 });
    let layers = (0..3).map(|i| {
        let (head_dim, ffn) = shape(i);
        let window = (i != 1).then_some(20);
        Gemma4Layer {
            head_dim,
            kv_heads: 1,
            window,
            rope: usize::from(i == 1),
            ffn,
            kv_source: if i == 2 { 0 } else { i },
        }
    });
    let rope =
        |d: usize| (0..d / 2).map(|i| if i < 64 { 1e4f64.powf(-2.0 * i as f64 / d as f64) } else { 0.0 }).collect();
    let config = Gemma4Config {
        layers: layers.collect(),
        hidden,
        heads,
        ple,
        vocab,
        context: 512,
        norm_eps: 1e-6,
        soft_cap: Some(30.0),
        rope: vec![rope(256), rope(512)],
        tied: false,
    };
    let linear = |bench: &mut Bench, quant, rows, cols, input: WeightId| {
        let range = Some(StaticRange { input, output: bench.scalar(output) });
        Linear { weight: bench.packed(quant, rows, cols, 1), range }
    };
    let mut tensors = Vec::new();
    for i in 0..3 {
        let (d, f) = shape(i);
        let mlp = if i == 0 { QuantType::Int4 } else { QuantType::Int2 };
        let b = &mut bench;
        let [x_q, x_kv, x_o, x_ffn, x_down, x_gate, x_ple] =
            [0.9, 1.0, 1.1, 1.2, 0.8, 1.5, 1.0].map(|f| b.scalar(input * f));
        let q = linear(b, QuantType::Int4, heads * d, hidden, x_q);
        let kv = (i < 2).then(|| OwnKv {
            k: linear(b, QuantType::Int4, d, hidden, x_kv),
            v: linear(b, QuantType::Int4, d, hidden, x_kv),
            k_norm: b.weight(QuantType::F32, 1, d).0,
        });
        tensors.push(Gemma4LayerTensors {
            q,
            kv,
            input_norm: b.weight(QuantType::F32, 1, hidden).0,
            q_norm: b.weight(QuantType::F32, 1, d).0,
            o: linear(b, QuantType::Int4, hidden, heads * d, x_o),
            post_attention_norm: b.weight(QuantType::F32, 1, hidden).0,
            pre_feed_forward_norm: b.weight(QuantType::F32, 1, hidden).0,
            gate: linear(b, mlp, f, hidden, x_ffn),
            up: linear(b, mlp, f, hidden, x_ffn),
            down: linear(b, mlp, hidden, f, x_down),
            post_feed_forward_norm: b.weight(QuantType::F32, 1, hidden).0,
            ple_gate: linear(b, QuantType::Int8, ple, hidden, x_gate),
            ple_projection: linear(b, QuantType::Int8, hidden, ple, x_ple),
            post_ple_norm: b.weight(QuantType::F32, 1, hidden).0,
            scalar: b.scalar(0.44),
        });
    }
    let tensors = Gemma4Tensors {
        embedding: bench.packed(QuantType::Int2, vocab, hidden, 1),
        ple_table: bench.packed(QuantType::Int4, vocab, 3 * ple, 3),
        ple_projection: bench.weight(QuantType::BF16, 2 * ple, hidden).0.into(),
        ple_projection_shared: Some(bench.weight(QuantType::BF16, ple, hidden).0.into()),
        ple_norm: bench.weight(QuantType::F32, 1, ple).0,
        layers: tensors,
        output_norm: bench.weight(QuantType::F32, 1, hidden).0,
        head: bench.packed(QuantType::Int2, vocab, hidden, 1).into(),
    };
    bench.recording = gemma4::forward(&config, &tensors).unwrap();
    bench
}

/// Stages keep the residual stream readable; without them all that can be joined is.
fn check_gemma(
    gpu: &Gpu,
    (input, output): (f32, f32),
    keeps_stages: bool,
    cache: CacheFormat,
    most_energy: f64,
) -> usize {
    let mut bench = gemma(input, output);
    bench.options.cache = cache;
    if !keeps_stages {
        bench.recording.stages.clear();
    }
    let mut device = bench.executor(gpu);
    let mut cpu = CpuExecutor::new(Arc::new(bench.recording.clone()), &bench.table, CpuPath::Reference).unwrap();
    for ((id, spec), bytes) in bench.table.iter().zip(&bench.bytes) {
        cpu.rows(id, spec, 0, bytes).unwrap();
    }
    let mut position = 0;
    let energy = |got: &[f32], want: &[f32]| {
        let square = |v: f32| f64::from(v) * f64::from(v);
        got.iter().zip(want).map(|(g, w)| square(g - w)).sum::<f64>() / want.iter().map(|w| square(*w)).sum::<f64>()
    };
    for tokens in [1, 40, 1, 1, 7, 1] {
        let ids: Vec<u32> = (0..tokens).map(|i| ((i * 7 + position * 5) % TWIN_VOCABULARY) as u32).collect();
        let step = Step { position, tokens };
        let want = cpu.run_stages(step, &ids).unwrap();
        let got = pollster::block_on(device.run_stages(step, &ids)).unwrap();
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            let moved = energy(got, want);
            assert!(moved <= most_energy, "{name}, {tokens} tokens at {position}: moved {moved:.1e} of its energy");
        }
        let logits = pollster::block_on(device.logits()).unwrap();
        let moved = energy(&logits, cpu.read(bench.recording.logits.unwrap()));
        assert!(moved <= most_energy, "logits, {tokens} tokens at {position}: moved {moved:.1e} of their energy");
        position += tokens;
    }
    device.dispatch_count(Step { position: 0, tokens: 1 })
}

#[test]
fn a_gemma_gives_the_same_numbers_as_on_the_cpu() {
    let Some(gpu) = open() else { return };
    // Embedding; inputs of the layers, twice 3; two last rows; first norms, twice; head. And twelve a layer.
    let dispatches = 1 + 6 + 2 + 2 + 1 + 3 * 12;
    // A scale of 0 leaves values as they are: no grid, no ties.
    for keeps_stages in [true, false] {
        assert_eq!(check_gemma(&gpu, (0.0, 0.0), keeps_stages, CacheFormat::F32, 1e-9), dispatches);
        assert_eq!(check_gemma(&gpu, (0.0, 0.0), keeps_stages, CacheFormat::F16, 1e-4), dispatches);
        // A value between two steps of a grid may fall either way and moves what follows; a mistake moves all of it.
        assert_eq!(check_gemma(&gpu, (0.02, 0.03), keeps_stages, CacheFormat::F32, 0.03), dispatches);
    }
}

#[test]
fn a_prompt_s_beginning_runs_for_its_keys_and_values_only() {
    let Some(gpu) = open() else { return };
    let bench = gemma(0.02, 0.03);
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % TWIN_VOCABULARY as u32).collect();
    let logits = |for_cache: bool| {
        let mut device = bench.executor(&gpu);
        for (i, ids) in ids.chunks(16).enumerate() {
            let step = Step { position: 16 * i, tokens: ids.len() };
            if for_cache && ids.len() == 16 {
                device.run_for_cache(step, ids).unwrap();
                // Nothing has reached the head.
                assert!(pollster::block_on(device.logits()).unwrap().iter().all(|v| *v == 0.0));
            } else {
                device.run(step, ids).unwrap();
            }
        }
        pollster::block_on(device.logits()).unwrap()
    };
    assert_eq!(logits(true), logits(false));
}

#[test]
fn the_stored_packed_gemmas_match_their_references() {
    let Some(gpu) = open() else { return };
    let mut failures = Vec::new();
    // `sotto-cli check` runs the others: their kernels are few.
    for name in ["mobile-e2b", "mobile-e4b"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma4").join(name);
        let json = std::fs::read(folder.join("reference.json")).unwrap();
        let fixture = fixture::parse(&json).unwrap();
        let tensors = check::parse_tensors(&std::fs::read(folder.join("reference.safetensors")).unwrap()).unwrap();
        let disk = DiskModel::open(&folder).unwrap();
        let open = async |stages, ranges| {
            let network = Network::open(&disk.description, stages)?;
            let options = Options { max_positions: 512, ..Options::default() };
            let executor = GpuExecutor::new(&gpu, &network.recording, &network.weights, options).await?;
            let mut executor = Executor::Gpu(Box::new(executor));
            match ranges {
                Ranges::Kept => disk.stream(&mut executor)?,
                Ranges::Ignored => disk.stream(&mut Zeroed { sink: &mut executor, weights: network.ranges() })?,
            }
            Ok(Generator::new(executor, network.recording.clone(), 512))
        };
        let mut report = |line: check::Line| {
            if !line.pass {
                failures.push(format!("{}: {line}", folder.display()));
            }
        };
        if let Err(error) = pollster::block_on(fixture::check(open, &fixture, &tensors, &mut report)) {
            failures.push(format!("{}: {error}", folder.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
