//! Runs a recording on the graphics device: one submit and one compute pass for each step, nothing created on the way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::quantize::Codes;
use crate::kernels::rope::angles;
use crate::kernels::sample::Wish;
use crate::kernels::{Embed, Op, argmax, sample};
use crate::outside::OutsideRows;
use crate::recording::{BufferId, Recording, Rows, Step};
use crate::weights::{Passed, WeightId, WeightSink, WeightSpec, WeightStream, WeightTable};

use super::cache::{CacheFormat, cache_rows, rings};
use super::device::{Gpu, Guarded};
use super::flight::Flight;
use super::pipelines::Pipelines;
use super::plan::{Plan, Planned, written_before};
use super::shader::{Access, Dispatch, Mode, Planner, Resource, params};
use super::upload::{Mapped, Upload};
use super::weights::GpuWeights;

/// How an executor divides its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of a step: the size of activation buffers.
    pub max_tokens: usize,
    /// Most positions of the context, if less than a binding holds.
    pub max_positions: usize,
    /// Positions the key/value caches start with; they double when needed.
    pub first_positions: usize,
    /// How the key/value caches are stored.
    pub cache: CacheFormat,
    /// Most bytes of a binding, if less than the device allows.
    pub binding_bytes: u64,
    /// Most bytes of all weights, if less than the device has: more is refused as the device would.
    pub weight_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            max_positions: usize::MAX,
            first_positions: 512,
            cache: CacheFormat::F32,
            binding_bytes: u64::MAX,
            weight_bytes: u64::MAX,
        }
    }
}

params! {
    /// The uniform that `shaders/lib/step.wgsl` declares.
    pub struct StepParams {
        position: u32,
        tokens: u32,
    }
}

/// Uniform slots and activations in a shared buffer begin at multiples of this: WebGPU's alignment of offsets.
const ALIGNMENT: u64 = 256;
/// Timestamps of a query set.
const MOST_QUERIES: usize = 4096;
/// What activations, caches and scratch are for.
const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// A dispatch with its pipeline and bind group.
pub(super) struct Bound {
    dispatch: Dispatch,
    ops_done: usize,
    slot: u64,
    pipeline: usize,
    group: wgpu::BindGroup,
}

/// An activation: a stretch of a buffer.
struct Activation {
    buffer: usize,
    offset: u64,
    bytes: u64,
}

/// Everything a bind group may name.
pub(super) struct Buffers {
    weights: GpuWeights,
    shared: Vec<wgpu::Buffer>,
    activations: Vec<Activation>,
    keys: Vec<wgpu::Buffer>,
    values: Vec<wgpu::Buffer>,
    angles: Vec<wgpu::Buffer>,
    pub(super) tokens: wgpu::Buffer,
    /// How the next token is drawn.
    pub(super) wish: wgpu::Buffer,
    step: wgpu::Buffer,
    params: wgpu::Buffer,
    scratch: wgpu::Buffer,
    grids: Vec<wgpu::Buffer>,
    /// For bindings that a dispatch does not read, and those that it does not write.
    unused: wgpu::Buffer,
    unwritten: wgpu::Buffer,
}

/// Tables that lie outside, and what is gathered from them.
struct Outside {
    rows: OutsideRows,
    gathers: Vec<Embed>,
    values: Vec<f32>,
}

/// A recording on the graphics device.
pub struct GpuExecutor {
    pub(super) gpu: Gpu,
    pub(super) recording: Arc<Recording>,
    options: Options,
    /// Rows of the smallest embedding table: ids are below.
    vocabulary: usize,
    pub(super) buffers: Buffers,
    outside: Option<Outside>,
    pipelines: Pipelines,
    /// For steps of one token, and of any number.
    decode: Vec<Bound>,
    prefill: Vec<Bound>,
    /// After `decode`: the likeliest token, or one that is drawn, becomes the next step's input.
    pub(super) argmax: Vec<Bound>,
    pub(super) sample: Vec<Bound>,
    /// Positions the caches hold now.
    capacity: usize,
    /// What positions are masked with to find their row, by cache.
    rings: Vec<u32>,
    /// The end of the positions that rings hold.
    ring_end: usize,
    /// Steps whose ids have not come back, and buffers for those of others.
    pub(super) flights: VecDeque<Flight>,
    pub(super) ids_staging: Vec<wgpu::Buffer>,
    /// Readback buffer of [`Self::run_for_logits`].
    logits_staging: Option<wgpu::Buffer>,
    /// Shaders that the device has not said yes to.
    compiling: Option<Guarded>,
    /// While weights stream in.
    upload: Option<Upload>,
}

impl GpuExecutor {
    /// Allocates what a recording and its weights need, and compiles its shaders. The weights then stream in.
    pub async fn new(gpu: &Gpu, recording: &Arc<Recording>, table: &WeightTable, options: Options) -> Result<Self> {
        Self::with_outside(gpu, recording, table, options, None).await
    }

    /// The same, with tables that are left where they lie: they take no memory of the device and must not stream in. Every
    /// step then needs its tokens on the CPU, so [`Self::decode_greedy`] is refused.
    pub async fn with_outside(
        gpu: &Gpu,
        recording: &Arc<Recording>,
        table: &WeightTable,
        options: Options,
        outside: Option<OutsideRows>,
    ) -> Result<Self> {
        let mut executor = Self::allocate(gpu, recording, table, options, outside).await?;
        executor.ready().await?;
        Ok(executor)
    }

    /// The same, but its shaders still compile: the caller has something else to do, and then waits for [`Self::ready`].
    pub async fn allocate(
        gpu: &Gpu,
        recording: &Arc<Recording>,
        table: &WeightTable,
        mut options: Options,
        outside: Option<OutsideRows>,
    ) -> Result<Self> {
        let outside_weights = outside.as_ref().map(OutsideRows::weights).unwrap_or_default();
        let gathers = written_before(recording, &outside_weights)?;
        let outside = outside.map(|rows| Outside { rows, gathers, values: Vec::new() });
        let limits = gpu.device.limits();
        options.binding_bytes =
            options.binding_bytes.min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size);
        let rings = rings(recording, options.max_tokens);
        let grows = recording.kv.iter().zip(&rings).filter(|(_, ring)| **ring == u32::MAX);
        let row = grows.map(|(kv, _)| options.cache.bytes(kv, 1)).max().unwrap_or(4);
        options.max_positions = options.max_positions.min((options.binding_bytes / row) as usize);
        let capacity = options.first_positions.min(options.max_positions).max(1);

        let plan = Plan::new(recording, table, options.binding_bytes, &outside_weights);
        let weights = gpu
            .guarded("no room for the weights", || GpuWeights::allocate(gpu, &plan, recording, table, &options))
            .await?;
        let (activations, shared) = places(recording, &plan.shared, &options)?;
        let placed: Vec<_> = activations.iter().map(|a| (a.buffer, (a.offset / 4) as u32)).collect();
        let planner = |mode| Planner {
            recording,
            table,
            matrices: &weights,
            places: &placed,
            rings: &rings,
            cache: options.cache,
            mode,
        };
        let decode = plan.dispatches(&planner(Mode::Decode))?;
        let prefill = plan.dispatches(&planner(Mode::Prefill))?;
        let [argmax, sample] = plan.choices(&planner(Mode::Decode))?;

        let slots = (decode.len() + prefill.len() + argmax.len() + sample.len()).max(1) as u64;
        let buffer = |label: &str, size: u64, usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: size.next_multiple_of(16).max(16),
                usage,
                mapped_at_creation: false,
            })
        };
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let caches = || {
            let sized = recording.kv.iter().zip(&rings);
            sized
                .map(|(kv, ring)| buffer("cache", options.cache.bytes(kv, cache_rows(*ring, capacity)), STORAGE))
                .collect::<Vec<_>>()
        };
        let grid_bytes = |codes: &Codes| {
            let rows = if recording.info(codes.x).rows == Rows::One { 1 } else { options.max_tokens };
            (rows * codes.scales.len()) as u64 * u64::from(codes.words) * 4
        };
        let angle_bytes = |pairs: usize| (options.max_tokens * pairs * 8) as u64;
        let buffers = gpu
            .guarded("no room for activations", || {
                Ok(Buffers {
                    shared: shared.iter().map(|bytes| buffer("activations", *bytes, STORAGE)).collect(),
                    activations,
                    keys: caches(),
                    values: caches(),
                    angles: recording.rope.iter().map(|f| buffer("angles", angle_bytes(f.len()), STORAGE)).collect(),
                    tokens: buffer("tokens", (options.max_tokens * 4) as u64, STORAGE),
                    wish: buffer("wish", size_of::<Wish>() as u64, STORAGE),
                    step: buffer("step", 16, uniform),
                    params: buffer("params", slots * ALIGNMENT, uniform),
                    scratch: buffer("scratch", scratch_bytes(recording, capacity), STORAGE),
                    grids: plan.grids.iter().map(|codes| buffer("codes", grid_bytes(codes), STORAGE)).collect(),
                    unused: buffer("unused", 16, STORAGE),
                    unwritten: buffer("unwritten", 16, STORAGE),
                    weights,
                })
            })
            .await?;

        let embeddings = recording.ops.iter().filter_map(|op| match op {
            Op::Embed(op) => Some(table.get(op.table).rows),
            _ => None,
        });
        let mut executor = Self {
            vocabulary: embeddings.min().unwrap_or(usize::MAX),
            gpu: gpu.clone(),
            recording: Arc::clone(recording),
            options,
            buffers,
            outside,
            pipelines: Pipelines::default(),
            decode: Vec::new(),
            prefill: Vec::new(),
            argmax: Vec::new(),
            sample: Vec::new(),
            capacity,
            rings,
            ring_end: 0,
            flights: VecDeque::new(),
            ids_staging: Vec::new(),
            logits_staging: None,
            compiling: None,
            upload: None,
        };
        let (compiled, compiling) = gpu.guard("a shader was refused", || {
            let mut slot = 0;
            executor.decode = executor.bind(decode, &mut slot)?;
            executor.prefill = executor.bind(prefill, &mut slot)?;
            executor.argmax = executor.bind(argmax, &mut slot)?;
            executor.sample = executor.bind(sample, &mut slot)?;
            Ok(())
        });
        compiled?;
        executor.compiling = Some(compiling);
        Ok(executor)
    }

    /// Waits until the device has compiled the shaders, and fails if it refuses one.
    pub async fn ready(&mut self) -> Result<()> {
        match self.compiling.take() {
            Some(compiling) => compiling.settled().await,
            None => Ok(()),
        }
    }

    /// Takes the next rows of `stream`, at most `most` bytes, straight into memory that the device shares: `read` fills it, every byte, with
    /// what the file holds there. Answers how many bytes; 0 if those rows have to be looked at or repacked first, and go the usual way.
    pub async fn take_rows(
        &mut self,
        table: &WeightTable,
        stream: &mut WeightStream<'_>,
        most: u64,
        read: impl FnOnce(u64, &mut Mapped) -> Result<()>,
    ) -> Result<u64> {
        let weights = &self.buffers.weights;
        let as_stored = |id: WeightId| weights.stretches(id, table.get(id), 0, 1).is_some();
        if !stream.next_weight().is_some_and(as_stored) {
            return Ok(0);
        }
        let Some(Passed { weight, first_row, rows, bytes }) = stream.pass_rows(most.min(Upload::MOST)) else {
            return Ok(0);
        };
        let to = weights.stretches(weight, table.get(weight), first_row, rows).ok_or_else(|| {
            Error::format(&table.get(weight).name, format!("it has no rows {first_row} to {}", first_row + rows))
        })?;
        let mut room = self.upload.get_or_insert_with(|| Upload::new(&self.gpu)).room(to).await?;
        read(bytes.start, &mut room)?;
        Ok(bytes.end - bytes.start)
    }

    /// Sends off what [`Self::take_rows`] took and waits until all weights are on the device.
    pub async fn settle(&mut self) -> Result<()> {
        if let Some(mut upload) = self.upload.take() {
            upload.flush()?;
        }
        self.gpu.settle().await
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Most tokens of a step.
    pub fn max_tokens(&self) -> usize {
        self.options.max_tokens
    }

    /// The longest context that the device can hold.
    pub fn max_positions(&self) -> usize {
        self.options.max_positions
    }

    /// How the key/value caches are stored.
    pub fn cache(&self) -> CacheFormat {
        self.options.cache
    }

    /// True when tables lie outside, so that every step needs its tokens on the CPU.
    pub fn has_outside(&self) -> bool {
        self.outside.is_some()
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.buffers.weights.bytes()
    }

    /// Dispatches of a step.
    pub fn dispatch_count(&self, step: Step) -> usize {
        self.plan(step).iter().filter(|b| matches!(b.dispatch.grid.of(step), Ok(Some(_)))).count()
    }

    /// Runs one step, and does not wait for it.
    pub fn run(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        self.encode(&mut encoder, step, 0..self.recording.ops.len(), &[])?;
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// Runs of one step what later steps read, its keys and values, and does not wait for it: for all of a prompt but its end.
    pub fn run_for_cache(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        let last = self.recording.ops.iter().rposition(|op| matches!(op, Op::KvAppend(_)));
        self.encode(&mut encoder, step, 0..last.map_or(0, |op| op + 1), &[])?;
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// Runs one step and returns the values of the recording's stages, with their names.
    pub async fn run_stages(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>> {
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        let mut done = 0;
        let mut copies = Vec::new();
        for (name, id, ops) in &self.recording.stages {
            self.encode(&mut encoder, step, done..*ops, &[])?;
            done = *ops;
            copies.push((name.clone(), self.copy_out(&mut encoder, *id, step.tokens)?));
        }
        self.encode(&mut encoder, step, done..self.recording.ops.len(), &[])?;
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let mut stages = Vec::with_capacity(copies.len());
        for (name, staging) in copies {
            let bytes = self.gpu.map(&staging, staging.size(), Some(submission.clone())).await?;
            stages.push((name, bytemuck::pod_collect_to_vec(&bytes)));
        }
        Ok(stages)
    }

    /// Runs one step with each dispatch timed by itself: kernel, its constants, and microseconds, in order. Slower than a
    /// step as it is, since nothing overlaps.
    pub async fn profile(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<(String, f64)>> {
        if !self.gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::unsupported("profiling", "this graphics device has no timestamps"));
        }
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        let dispatches = self.plan(step).iter().map(|bound| Ok((bound, bound.dispatch.grid.of(step)?)));
        let running: Vec<_> =
            dispatches.collect::<Result<Vec<_>>>()?.into_iter().filter(|(_, g)| g.is_some()).collect();
        let mut times = Vec::with_capacity(running.len());
        // A query set holds 4096 timestamps at most.
        for some in running.chunks(MOST_QUERIES / 2) {
            let count = 2 * some.len() as u32;
            let queries = self.gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            for (i, (bound, groups)) in some.iter().enumerate() {
                let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                });
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                let mut pass = encoder.begin_compute_pass(&descriptor);
                let [x, y, z] = groups.unwrap_or([0; 3]);
                pass.set_pipeline(&self.pipelines.get(bound.pipeline).pipeline);
                pass.set_bind_group(0, &bound.group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
            let bytes = u64::from(count) * 8;
            let resolved = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: bytes,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            let staging = self.staging_buffer(bytes);
            encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
            let submission = self.gpu.queue.submit([encoder.finish()]);
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.gpu.map(&staging, bytes, Some(submission)).await?);
            let micros = f64::from(self.gpu.queue.get_timestamp_period()) / 1000.0;
            for ((bound, groups), pair) in some.iter().zip(ticks.chunks_exact(2)) {
                let constants: Vec<String> =
                    bound.dispatch.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let [x, y, z] = groups.unwrap_or([0; 3]);
                let name = format!("{} {x}x{y}x{z} {}", bound.dispatch.shader.name(), constants.join(" "));
                times.push((name, pair[1].saturating_sub(pair[0]) as f64 * micros));
            }
            encoder = self.encoder();
        }
        Ok(times)
    }

    /// The logits of the last step: `[V]`.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        self.read(self.recording.logits.ok_or_else(no_logits)?, 1).await
    }

    /// Runs one step and waits for its logits, `[V]`: one submit, and one round trip.
    pub async fn run_for_logits(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<f32>> {
        let id = self.recording.logits.ok_or_else(no_logits)?;
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        self.encode(&mut encoder, step, 0..self.recording.ops.len(), &[])?;
        let bytes = self.recording.info(id).cols as u64 * 4;
        let staging = match self.logits_staging.take() {
            Some(staging) => staging,
            None => self.staging_buffer(bytes),
        };
        let place = self.activation(id)?;
        encoder.copy_buffer_to_buffer(&self.buffers.shared[place.buffer], place.offset, &staging, 0, bytes);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let values = self.gpu.map(&staging, bytes, Some(submission)).await?;
        self.logits_staging = Some(staging);
        Ok(bytemuck::pod_collect_to_vec(&values))
    }

    /// The first `tokens` rows of a buffer, or its one row.
    pub async fn read(&self, id: BufferId, tokens: usize) -> Result<Vec<f32>> {
        let mut encoder = self.encoder();
        let staging = self.copy_out(&mut encoder, id, tokens)?;
        let submission = self.gpu.queue.submit([encoder.finish()]);
        Ok(bytemuck::pod_collect_to_vec(&self.gpu.map(&staging, staging.size(), Some(submission)).await?))
    }

    /// Overwrites the head of a buffer: to start in the middle of a recording.
    pub fn write(&self, id: BufferId, values: &[f32]) -> Result<()> {
        let place = self.activation(id)?;
        if values.len() as u64 * 4 > place.bytes {
            return Err(Error::Shape {
                op: "write",
                what: self.recording.info(id).name.clone(),
                got: vec![values.len()],
                expected: vec![place.bytes as usize / 4],
            });
        }
        let buffer = &self.buffers.shared[place.buffer];
        self.gpu.queue.write_buffer(buffer, place.offset, bytemuck::cast_slice(values));
        Ok(())
    }

    /// Makes room for `positions` in the caches, and says so in words when there is none.
    pub async fn reserve(&mut self, positions: usize) -> Result<()> {
        if positions <= self.capacity {
            // An error scope is a round trip to the browser's graphics process: not once a token.
            return Ok(());
        }
        let gpu = self.gpu.clone();
        gpu.guarded("no room for a longer context", || self.grow(positions)).await
    }

    /// True when the caches still hold what a token at `position` sees, given that the tokens before it are unchanged.
    /// Caches of sliding windows are rings, and forget: after a False the sequence has to be read again from its start.
    pub fn can_resume(&self, position: usize) -> bool {
        let slots = self.rings.iter().enumerate();
        position == 0
            || slots.filter(|(_, ring)| **ring != u32::MAX).all(|(slot, ring)| {
                let windows = self.recording.ops.iter().filter_map(|op| match op {
                    Op::Attention(op) if op.slot.0 as usize == slot => op.window,
                    _ => None,
                });
                let seen = windows.max().unwrap_or(1).saturating_sub(1);
                self.ring_end.saturating_sub(*ring as usize + 1) <= position.saturating_sub(seen)
            })
    }

    fn grow(&mut self, positions: usize) -> Result<()> {
        if positions <= self.capacity {
            return Ok(());
        }
        if positions > self.options.max_positions {
            return Err(Error::ContextFull { tokens: positions, limit: self.options.max_positions });
        }
        let capacity = positions.next_power_of_two().min(self.options.max_positions);
        let device = self.gpu.device.clone();
        let buffer = |label: &str, size: u64| {
            let label = Some(label);
            device.create_buffer(&wgpu::BufferDescriptor { label, size, usage: STORAGE, mapped_at_creation: false })
        };
        let mut encoder = self.encoder();
        let caches = self.buffers.keys.iter_mut().zip(&mut self.buffers.values);
        let format = self.options.cache;
        for (((keys, values), kv), ring) in caches.zip(&self.recording.kv).zip(&self.rings) {
            let (rows, before) = (cache_rows(*ring, capacity), cache_rows(*ring, self.capacity));
            if rows == before {
                continue;
            }
            for cache in [keys, values] {
                let bigger = buffer("cache", format.bytes(kv, rows));
                encoder.copy_buffer_to_buffer(cache, 0, &bigger, 0, format.bytes(kv, before));
                *cache = bigger;
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.buffers.scratch = buffer("scratch", scratch_bytes(&self.recording, capacity));
        self.capacity = capacity;
        let steps = self.decode.iter_mut().chain(&mut self.prefill);
        for bound in steps.chain(&mut self.argmax).chain(&mut self.sample) {
            let grown = |r: &Resource| matches!(r, Resource::Keys(_) | Resource::Values(_) | Resource::Scratch);
            if bound.dispatch.resources.iter().any(grown) {
                let layout = &self.pipelines.get(bound.pipeline).layout;
                bound.group = self.buffers.bind_group(&self.gpu, layout, &bound.dispatch, bound.slot)?;
            }
        }
        Ok(())
    }

    /// Checks a step, makes room for it and writes what it needs. Without `tokens` they are on the device already.
    pub(super) fn begin(&mut self, step: Step, tokens: Option<&[u32]>) -> Result<()> {
        let given = tokens.map_or(step.tokens, <[u32]>::len);
        if given != step.tokens || given == 0 || given > self.options.max_tokens {
            return Err(Error::Shape {
                op: "step",
                what: "its number of tokens".into(),
                got: vec![given],
                expected: vec![step.tokens.clamp(1, self.options.max_tokens)],
            });
        }
        if let Some(id) = tokens.unwrap_or_default().iter().find(|id| **id as usize >= self.vocabulary) {
            let reason = format!("{id} is beyond the vocabulary of {}", self.vocabulary);
            return Err(Error::format("token id", reason));
        }
        self.gather_outside(step, tokens)?;
        self.grow(step.position + step.tokens)?;
        // A step from the start, or one that resumes, makes what was beyond it stale.
        self.ring_end = if step.position == 0 { step.tokens } else { self.ring_end.max(step.position + step.tokens) };
        let queue = &self.gpu.queue;
        let params = StepParams { position: step.position as u32, tokens: step.tokens as u32 };
        queue.write_buffer(&self.buffers.step, 0, bytemuck::bytes_of(&params));
        if let Some(tokens) = tokens {
            queue.write_buffer(&self.buffers.tokens, 0, bytemuck::cast_slice(tokens));
        }
        for (frequencies, buffer) in self.recording.rope.iter().zip(&self.buffers.angles) {
            let pairs: Vec<[f32; 2]> = (step.position..step.position + step.tokens)
                .flat_map(|p| angles(frequencies, p))
                .map(|(cos, sin)| [cos, sin])
                .collect();
            queue.write_buffer(buffer, 0, bytemuck::cast_slice(&pairs));
        }
        Ok(())
    }

    /// Writes what a step gathers from tables outside to where the operations that gather would leave it.
    fn gather_outside(&mut self, step: Step, tokens: Option<&[u32]>) -> Result<()> {
        let Some(mut outside) = self.outside.take() else { return Ok(()) };
        let written = outside.gathers.iter().try_for_each(|op| {
            let tokens = tokens.ok_or_else(chosen_too_late)?;
            let info = self.recording.info(op.out);
            let rows = if info.rows == Rows::One { 1 } else { step.tokens };
            outside.values.resize(rows * info.cols, 0.0);
            outside.rows.gather(op, info.cols, tokens, &mut outside.values)?;
            self.write(op.out, &outside.values)
        });
        self.outside = Some(outside);
        written
    }

    fn plan(&self, step: Step) -> &[Bound] {
        if step.tokens == 1 { &self.decode } else { &self.prefill }
    }

    /// Encodes the dispatches of `ops`, and `last` after them, as one pass.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: Step,
        ops: Range<usize>,
        last: &[Bound],
    ) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let mut pipeline = usize::MAX;
        let wanted = self.plan(step).iter().filter(|b| b.ops_done > ops.start && b.ops_done <= ops.end);
        for bound in wanted.chain(last) {
            let Some([x, y, z]) = bound.dispatch.grid.of(step)? else { continue };
            if pipeline != bound.pipeline {
                pipeline = bound.pipeline;
                pass.set_pipeline(&self.pipelines.get(pipeline).pipeline);
            }
            pass.set_bind_group(0, &bound.group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        Ok(())
    }

    fn bind(&mut self, plan: Vec<Planned>, slot: &mut u64) -> Result<Vec<Bound>> {
        let mut bound = Vec::with_capacity(plan.len());
        for Planned { dispatch, ops_done } in plan {
            let pipeline = self.pipelines.compile(&self.gpu, dispatch.shader, &dispatch.constants);
            self.gpu.queue.write_buffer(&self.buffers.params, *slot, &dispatch.params);
            let layout = &self.pipelines.get(pipeline).layout;
            let group = self.buffers.bind_group(&self.gpu, layout, &dispatch, *slot)?;
            bound.push(Bound { dispatch, ops_done, slot: *slot, pipeline, group });
            *slot += ALIGNMENT;
        }
        Ok(bound)
    }

    fn activation(&self, id: BufferId) -> Result<&Activation> {
        let found = self.buffers.activations.get(id.0 as usize);
        found.ok_or_else(|| Error::Gpu(format!("this recording has no buffer {}", id.0)))
    }

    /// Encodes the copy of a buffer's rows to one that the CPU can read.
    fn copy_out(&self, encoder: &mut wgpu::CommandEncoder, id: BufferId, tokens: usize) -> Result<wgpu::Buffer> {
        let place = self.activation(id)?;
        let info = self.recording.info(id);
        let rows = if info.rows == Rows::One { 1 } else { tokens };
        let bytes = (rows * info.cols * 4) as u64;
        if bytes == 0 || bytes > place.bytes {
            return Err(Error::Shape {
                op: "read",
                what: info.name.clone(),
                got: vec![rows],
                expected: vec![place.bytes as usize / 4 / info.cols.max(1)],
            });
        }
        let staging = self.staging_buffer(bytes);
        encoder.copy_buffer_to_buffer(&self.buffers.shared[place.buffer], place.offset, &staging, 0, bytes);
        Ok(staging)
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(super) fn staging_buffer(&self, size: u64) -> wgpu::Buffer {
        self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }
}

impl WeightSink for GpuExecutor {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.buffers.weights.rows(&self.gpu, id, spec, first_row, bytes)
    }
}

impl Buffers {
    fn bind_group(
        &self,
        gpu: &Gpu,
        layout: &wgpu::BindGroupLayout,
        dispatch: &Dispatch,
        slot: u64,
    ) -> Result<wgpu::BindGroup> {
        let name = dispatch.shader.name();
        let part = |buffer, offset, bytes: u64| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
        };
        let params = part(&self.params, slot, (dispatch.shader.params.size as u64).next_multiple_of(16));
        let mut entries = vec![
            wgpu::BindGroupEntry { binding: 0, resource: params },
            wgpu::BindGroupEntry { binding: 1, resource: self.step.as_entire_binding() },
        ];
        for ((binding, access), resource) in dispatch.shader.bindings.iter().zip(&dispatch.resources) {
            let activation = |id: BufferId| self.activations.get(id.0 as usize);
            let found = match *resource {
                Resource::Buffer(id) => {
                    activation(id).map(|a| part(&self.shared[a.buffer], a.offset, a.bytes.next_multiple_of(16)))
                }
                ref other => {
                    let buffer = match *other {
                        Resource::Shared(id) => activation(id).and_then(|a| self.shared.get(a.buffer)),
                        Resource::Codes(id, shard) => self.weights.codes(id, shard),
                        Resource::Scales(id, shard) => Some(self.weights.scales(id, shard).unwrap_or(&self.unused)),
                        Resource::Vector(id) => self.weights.norm(id),
                        Resource::Grid(id) => self.grids.get(id.0 as usize),
                        Resource::Scalars => Some(self.weights.scalars().unwrap_or(&self.unused)),
                        Resource::Bias(id) => self.weights.biases(id),
                        Resource::Keys(slot) => self.keys.get(slot.0 as usize),
                        Resource::Values(slot) => self.values.get(slot.0 as usize),
                        Resource::Angles(table) => self.angles.get(table.0 as usize),
                        Resource::Tokens => Some(&self.tokens),
                        Resource::Wish => Some(&self.wish),
                        Resource::Scratch => Some(&self.scratch),
                        Resource::Unused if *access == Access::Write => Some(&self.unwritten),
                        Resource::Unused => Some(&self.unused),
                        Resource::Buffer(_) => None,
                    };
                    buffer.map(wgpu::Buffer::as_entire_binding)
                }
            };
            let resource =
                found.ok_or_else(|| Error::Gpu(format!("{name} binds {resource:?}, which does not exist")))?;
            entries.push(wgpu::BindGroupEntry { binding: *binding, resource });
        }
        Ok(gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(&name), layout, entries: &entries }))
    }
}

/// Where activations lie, and the sizes of the buffers they share.
fn places(recording: &Recording, shared: &[Vec<BufferId>], options: &Options) -> Result<(Vec<Activation>, Vec<u64>)> {
    let mut places: Vec<Option<Activation>> = recording.buffers.iter().map(|_| None).collect();
    let mut sizes = Vec::new();
    for (buffer, ids) in shared.iter().enumerate() {
        let mut size = 0;
        for id in ids {
            let info = recording.info(*id);
            let rows = match info.rows {
                Rows::PerToken => options.max_tokens,
                Rows::One => 1,
            };
            let bytes = (rows * info.cols * 4) as u64;
            places[id.0 as usize] = Some(Activation { buffer, offset: size, bytes });
            size += bytes.next_multiple_of(ALIGNMENT);
            if size > options.binding_bytes {
                return Err(Error::unsupported(
                    &info.name,
                    format!("it needs {bytes} bytes, and the graphics device binds at most {}", options.binding_bytes),
                ));
            }
        }
        sizes.push(size);
    }
    let missing = || Error::Gpu("a buffer of the recording has no place".into());
    Ok((places.into_iter().map(|p| p.ok_or_else(missing)).collect::<Result<_>>()?, sizes))
}

/// What the parts of a long context's attention, or of many logits, need.
fn scratch_bytes(recording: &Recording, positions: usize) -> u64 {
    let needs = recording.ops.iter().map(|op| match op {
        Op::Attention(op) => op.scratch_bytes(recording, positions),
        _ => 0,
    });
    let cols = recording.logits.map_or(1, |id| recording.info(id).cols);
    let logits = argmax::scratch_bytes(cols).max(sample::scratch_bytes(cols));
    needs.max().unwrap_or(0).max(logits).max(16)
}

fn chosen_too_late() -> Error {
    Error::unsupported(
        "a choice left on the graphics device",
        "rows of this model are read by the CPU, which has to know it",
    )
}

pub(super) fn no_logits() -> Error {
    Error::Gpu("this recording has no logits".into())
}
