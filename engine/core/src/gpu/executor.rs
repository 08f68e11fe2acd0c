//! Runs a recording on the graphics device: one submit and one compute pass for each step, nothing created on the way.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::ControlFlow;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::kernels::rope::angles;
use crate::kernels::{Argmax, Op};
use crate::recording::{BufferId, Recording, Rows, Step};
use crate::weights::{WeightId, WeightSink, WeightSpec, WeightTable};

use super::device::Gpu;
use super::shader::{Access, Constants, Dispatch, Mode, Planner, Resource, Shader};
use super::weights::GpuWeights;

/// How an executor divides its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of a step: the size of activation buffers.
    pub max_tokens: usize,
    /// The context's length.
    pub max_positions: usize,
    /// Positions the key/value caches start with; they double when needed.
    pub first_positions: usize,
    /// Most bytes of a binding, if less than the device allows.
    pub binding_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_tokens: 256, max_positions: 8192, first_positions: 512, binding_bytes: u64::MAX }
    }
}

/// The uniform that `shaders/lib/step.wgsl` declares.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct StepParams {
    position: u32,
    tokens: u32,
}

/// Uniform slots are this far apart: WebGPU's alignment of uniform offsets.
const SLOT: u64 = 256;

struct Bound {
    dispatch: Dispatch,
    /// Operations of the recording that are done once this has run.
    op: usize,
    slot: u64,
    pipeline: usize,
    group: wgpu::BindGroup,
}

struct Pipelines {
    list: Vec<(wgpu::ComputePipeline, wgpu::BindGroupLayout)>,
    index: HashMap<(&'static Shader, Vec<(&'static str, u64)>), usize>,
    modules: HashMap<Vec<&'static str>, wgpu::ShaderModule>,
}

/// Everything a bind group may name.
struct Buffers {
    weights: GpuWeights,
    activations: Vec<wgpu::Buffer>,
    keys: Vec<wgpu::Buffer>,
    values: Vec<wgpu::Buffer>,
    angles: Vec<wgpu::Buffer>,
    tokens: wgpu::Buffer,
    step: wgpu::Buffer,
    params: wgpu::Buffer,
    scratch: wgpu::Buffer,
    low_rank: wgpu::Buffer,
    unused: wgpu::Buffer,
}

/// A recording on the graphics device.
pub struct GpuExecutor {
    gpu: Gpu,
    recording: Recording,
    options: Options,
    buffers: Buffers,
    pipelines: Pipelines,
    decode: Vec<Bound>,
    prefill: Vec<Bound>,
    /// After `decode`: the most likely token becomes the next step's input.
    argmax: Option<Bound>,
    /// Positions the caches hold now.
    capacity: usize,
    /// Readback buffers of [`Self::decode_greedy`].
    staging: Vec<wgpu::Buffer>,
}

impl GpuExecutor {
    /// Allocates what `recording` and its weights need, and compiles its shaders.
    pub async fn new(gpu: &Gpu, recording: &Recording, table: &WeightTable, options: Options) -> Result<Self> {
        let limits = gpu.device.limits();
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(options.binding_bytes);
        let kv_row = recording.kv.iter().map(|kv| kv.heads * kv.head_dim * 4).max().unwrap_or(4);
        let mut options = options;
        options.max_positions = options.max_positions.min((binding / kv_row as u64) as usize);
        let capacity = options.first_positions.clamp(1, options.max_positions.max(1));

        let weights =
            gpu.guarded("no room for the weights", || GpuWeights::allocate(gpu, recording, table, binding)).await?;
        let shards = |id: WeightId| weights.shards(id);
        let plan = |mode: Mode| -> Result<Vec<(usize, Dispatch)>> {
            let planner = Planner { recording, table, shards: &shards, mode };
            let mut all = Vec::new();
            for (i, op) in recording.ops.iter().enumerate() {
                let dispatches = match op {
                    Op::Embed(op) => op.dispatches(&planner),
                    Op::RmsNorm(op) => op.dispatches(&planner),
                    Op::MatMul(op) => op.dispatches(&planner),
                    Op::Rope(op) => op.dispatches(&planner),
                    Op::KvAppend(op) => op.dispatches(&planner),
                    Op::Attention(op) => op.dispatches(&planner),
                    Op::GatedActivation(op) => op.dispatches(&planner),
                    Op::LastRow(op) => op.dispatches(&planner),
                }?;
                all.extend(dispatches.into_iter().map(|d| (i + 1, d)));
            }
            Ok(all)
        };
        let (decode, prefill) = (plan(Mode::Decode)?, plan(Mode::Prefill)?);
        let planner = Planner { recording, table, shards: &shards, mode: Mode::Decode };
        let argmax = match recording.logits {
            Some(logits) => Argmax { logits }.dispatches(&planner)?,
            None => Vec::new(),
        };
        let argmax: Vec<_> = argmax.into_iter().map(|d| (recording.ops.len(), d)).collect();

        let buffer = |label: &str, size: u64, usage: wgpu::BufferUsages| -> Result<wgpu::Buffer> {
            if size > binding {
                return Err(Error::Gpu(format!("{label} needs {size} bytes, and it binds at most {binding}")));
            }
            Ok(gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: size.next_multiple_of(16).max(16),
                usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }))
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let dispatches = decode.len() + prefill.len() + argmax.len();
        let rank = table.iter().filter_map(|(_, s)| s.adapter).map(|(a, _)| table.get(a).rows).max().unwrap_or(0);
        let buffers = gpu
            .guarded("no room for activations", || {
                let activations = recording.buffers.iter().map(|info| {
                    let rows = match info.rows {
                        Rows::PerToken => options.max_tokens,
                        Rows::One => 1,
                    };
                    buffer(&info.name, (rows * info.cols * 4) as u64, storage)
                });
                let angles =
                    recording.rope.iter().map(|f| buffer("angles", (options.max_tokens * f.len() * 8) as u64, storage));
                let caches = || recording.kv.iter().map(|kv| buffer("cache", cache_bytes(kv, capacity), storage));
                Ok(Buffers {
                    activations: activations.collect::<Result<_>>()?,
                    keys: caches().collect::<Result<_>>()?,
                    values: caches().collect::<Result<_>>()?,
                    angles: angles.collect::<Result<_>>()?,
                    tokens: buffer("tokens", (options.max_tokens * 4) as u64, storage)?,
                    step: buffer("step", 16, wgpu::BufferUsages::UNIFORM)?,
                    params: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("params"),
                        size: dispatches as u64 * SLOT,
                        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                        mapped_at_creation: false,
                    }),
                    scratch: buffer("scratch", scratch_bytes(recording, capacity), storage)?,
                    low_rank: buffer("low rank", (options.max_tokens * rank * 4) as u64, storage)?,
                    unused: buffer("unused", 16, storage)?,
                    weights,
                })
            })
            .await?;

        let pipelines = Pipelines { list: Vec::new(), index: HashMap::new(), modules: HashMap::new() };
        let mut executor = Self {
            gpu: gpu.clone(),
            recording: recording.clone(),
            options,
            buffers,
            pipelines,
            decode: Vec::new(),
            prefill: Vec::new(),
            argmax: None,
            capacity,
            staging: Vec::new(),
        };
        let gpu = gpu.clone();
        gpu.guarded("a shader was refused", || {
            let mut slot = 0;
            executor.decode = executor.bind(decode, &mut slot)?;
            executor.prefill = executor.bind(prefill, &mut slot)?;
            executor.argmax = executor.bind(argmax, &mut slot)?.pop();
            Ok(())
        })
        .await?;
        Ok(executor)
    }

    /// Most tokens of a step.
    pub fn max_tokens(&self) -> usize {
        self.options.max_tokens
    }

    /// The longest context that the device can hold.
    pub fn max_positions(&self) -> usize {
        self.options.max_positions
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.buffers.weights.bytes
    }

    /// Dispatches of a decode step at `position`.
    pub fn dispatch_count(&self, position: usize) -> usize {
        let step = Step { position, tokens: 1 };
        self.decode.iter().filter(|b| matches!(b.dispatch.grid.of(step), Ok(Some(_)))).count()
    }

    /// Runs one step and does not wait for it.
    pub fn run(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        self.encode(&mut encoder, step, 0, usize::MAX, false)?;
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// Runs one step and returns the recording's stages: name and values, [`Rows::PerToken`] rows for each token.
    pub async fn run_stages(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>> {
        self.begin(step, Some(tokens))?;
        let mut encoder = self.encoder();
        let mut done = 0;
        let mut copies = Vec::new();
        for (name, id, ops) in &self.recording.stages {
            self.encode(&mut encoder, step, done, *ops, false)?;
            done = *ops;
            let bytes = self.bytes(*id, step.tokens)?;
            let staging = self.staging_buffer(bytes);
            encoder.copy_buffer_to_buffer(self.activation(*id)?, 0, &staging, 0, bytes);
            copies.push((name.clone(), staging, bytes));
        }
        self.encode(&mut encoder, step, done, usize::MAX, false)?;
        self.gpu.queue.submit([encoder.finish()]);
        let mut stages = Vec::new();
        for (name, staging, bytes) in copies {
            let raw = self.gpu.map(&staging, bytes, None).await?;
            stages.push((name, bytemuck::pod_collect_to_vec(&raw)));
        }
        Ok(stages)
    }

    /// The logits of the last step.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        let logits = self.recording.logits.ok_or_else(|| Error::Gpu("this recording has no logits".into()))?;
        self.read(logits, 1).await
    }

    /// `tokens` rows of a buffer (one, for a buffer of one row).
    pub async fn read(&self, id: BufferId, tokens: usize) -> Result<Vec<f32>> {
        let bytes = self.bytes(id, tokens)?;
        let staging = self.staging_buffer(bytes);
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(self.activation(id)?, 0, &staging, 0, bytes);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        Ok(bytemuck::pod_collect_to_vec(&self.gpu.map(&staging, bytes, Some(submission)).await?))
    }

    /// Overwrites the head of a buffer: to start a recording from given values.
    pub fn write(&self, id: BufferId, values: &[f32]) -> Result<()> {
        let buffer = self.activation(id)?;
        if values.len() as u64 * 4 > buffer.size() {
            let info = self.recording.info(id);
            return Err(Error::Gpu(format!("{} values do not fit {}", values.len(), info.name)));
        }
        self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(values));
        Ok(())
    }

    /// Decodes greedily from token `first` at `position`, at most `count` tokens, up to `in_flight` steps ahead of the
    /// CPU. Each id goes to `take`, which may stop; steps already in flight then run out unseen. Returns the number of ids
    /// taken. The caches hold `position + taken` tokens that the caller knows.
    pub async fn decode_greedy(
        &mut self,
        first: u32,
        position: usize,
        count: usize,
        in_flight: usize,
        mut take: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<usize> {
        if self.argmax.is_none() {
            return Err(Error::Gpu("this recording has no logits".into()));
        }
        let in_flight = in_flight.clamp(1, 8);
        while self.staging.len() < in_flight {
            let staging = self.staging_buffer(4);
            self.staging.push(staging);
        }
        let mut free: Vec<usize> = (0..in_flight).collect();
        let mut flying: VecDeque<(usize, wgpu::SubmissionIndex)> = VecDeque::new();
        let (mut started, mut taken) = (0, 0);
        let mut stopped = false;
        while !flying.is_empty() || (started < count && !stopped) {
            while started < count && !stopped {
                let Some(staging) = free.pop() else { break };
                let step = Step { position: position + started, tokens: 1 };
                self.begin(step, (started == 0).then_some(&[first][..]))?;
                let mut encoder = self.encoder();
                self.encode(&mut encoder, step, 0, usize::MAX, true)?;
                encoder.copy_buffer_to_buffer(&self.buffers.tokens, 0, &self.staging[staging], 0, 4);
                flying.push_back((staging, self.gpu.queue.submit([encoder.finish()])));
                started += 1;
            }
            let Some((staging, submission)) = flying.pop_front() else { break };
            let id = self.gpu.map(&self.staging[staging], 4, Some(submission)).await?;
            free.push(staging);
            if !stopped {
                taken += 1;
                stopped = take(bytemuck::pod_read_unaligned(&id)).is_break();
            }
        }
        Ok(taken)
    }

    /// Makes room for `positions` in the caches, and says so in words when there is none.
    pub async fn reserve(&mut self, positions: usize) -> Result<()> {
        let gpu = self.gpu.clone();
        gpu.guarded("no room for a longer context", || self.grow(positions)).await
    }

    fn grow(&mut self, positions: usize) -> Result<()> {
        if positions <= self.capacity {
            return Ok(());
        }
        if positions > self.options.max_positions {
            return Err(Error::ContextFull { tokens: positions, limit: self.options.max_positions });
        }
        let capacity = positions.next_power_of_two().min(self.options.max_positions);
        let device = &self.gpu.device;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let buffer = |label: &str, size: u64| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        };
        let mut encoder = self.encoder();
        let caches = self.buffers.keys.iter_mut().zip(&mut self.buffers.values).zip(&self.recording.kv);
        for ((keys, values), kv) in caches {
            for cache in [keys, values] {
                let bigger = buffer("cache", cache_bytes(kv, capacity));
                encoder.copy_buffer_to_buffer(cache, 0, &bigger, 0, cache.size());
                *cache = bigger;
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.buffers.scratch = buffer("scratch", scratch_bytes(&self.recording, capacity));
        self.capacity = capacity;
        for list in [&mut self.decode, &mut self.prefill] {
            for bound in list {
                let grown = |r: &Resource| matches!(r, Resource::Keys(_) | Resource::Values(_) | Resource::Scratch);
                if bound.dispatch.resources.iter().any(grown) {
                    let layout = &self.pipelines.list[bound.pipeline].1;
                    bound.group = bind_group(&self.gpu, &self.buffers, layout, &bound.dispatch, bound.slot)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a step, makes room for it and writes what it needs.
    fn begin(&mut self, step: Step, tokens: Option<&[u32]>) -> Result<()> {
        if step.tokens == 0 || step.tokens > self.options.max_tokens || tokens.is_some_and(|t| t.len() != step.tokens) {
            return Err(Error::Shape {
                op: "step",
                what: "tokens".into(),
                got: vec![tokens.map_or(step.tokens, <[u32]>::len)],
                expected: vec![step.tokens.min(self.options.max_tokens)],
            });
        }
        self.grow(step.position + step.tokens)?;
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

    /// Encodes the operations after the first `from` up to the first `to`.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: Step,
        from: usize,
        to: usize,
        with_argmax: bool,
    ) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let plan = if step.tokens == 1 { &self.decode } else { &self.prefill };
        let argmax = if with_argmax { self.argmax.as_ref() } else { None };
        let mut pipeline = usize::MAX;
        for bound in plan.iter().filter(|b| b.op > from && b.op <= to).chain(argmax) {
            let Some([x, y, z]) = bound.dispatch.grid.of(step)? else { continue };
            if pipeline != bound.pipeline {
                pipeline = bound.pipeline;
                pass.set_pipeline(&self.pipelines.list[pipeline].0);
            }
            pass.set_bind_group(0, &bound.group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        Ok(())
    }

    fn bind(&mut self, plan: Vec<(usize, Dispatch)>, slot: &mut u64) -> Result<Vec<Bound>> {
        let mut bound = Vec::with_capacity(plan.len());
        for (op, dispatch) in plan {
            let pipeline = self.pipelines.get(&self.gpu, dispatch.shader, &dispatch.constants);
            self.gpu.queue.write_buffer(&self.buffers.params, *slot, &dispatch.params);
            let layout = &self.pipelines.list[pipeline].1;
            let group = bind_group(&self.gpu, &self.buffers, layout, &dispatch, *slot)?;
            bound.push(Bound { dispatch, op, slot: *slot, pipeline, group });
            *slot += SLOT;
        }
        Ok(bound)
    }

    fn activation(&self, id: BufferId) -> Result<&wgpu::Buffer> {
        self.buffers.activations.get(id.0 as usize).ok_or_else(|| Error::Gpu(format!("there is no buffer {}", id.0)))
    }

    fn bytes(&self, id: BufferId, tokens: usize) -> Result<u64> {
        let info = self.recording.info(id);
        let rows = if info.rows == Rows::One { 1 } else { tokens };
        let bytes = (rows * info.cols * 4) as u64;
        if bytes > self.activation(id)?.size() {
            return Err(Error::Gpu(format!("{} has no {rows} rows", info.name)));
        }
        Ok(bytes)
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    fn staging_buffer(&self, size: u64) -> wgpu::Buffer {
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

fn cache_bytes(kv: &crate::recording::KvInfo, positions: usize) -> u64 {
    (kv.heads * kv.head_dim * positions * 4) as u64
}

fn scratch_bytes(recording: &Recording, positions: usize) -> u64 {
    let needs = recording.ops.iter().map(|op| match op {
        Op::Attention(op) => op.scratch_bytes(recording.kv[op.slot.0 as usize].head_dim, positions),
        _ => 0,
    });
    needs.max().unwrap_or(0).max(16)
}

impl Pipelines {
    fn get(&mut self, gpu: &Gpu, shader: &'static Shader, constants: &Constants) -> usize {
        let key = (shader, constants.iter().map(|(name, v)| (*name, v.to_bits())).collect());
        if let Some(&i) = self.index.get(&key) {
            return i;
        }
        let module = self.modules.entry(shader.files.to_vec()).or_insert_with(|| {
            gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: shader.files.last().copied(),
                source: wgpu::ShaderSource::Wgsl(shader.source().into()),
            })
        });
        let uniform = wgpu::BufferBindingType::Uniform;
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, uniform), entry(1, uniform)];
        entries.extend(shader.bindings.iter().map(|(binding, access)| {
            entry(*binding, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read })
        }));
        let name = shader.name();
        let layout = gpu
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&name), entries: &entries });
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(shader.entry),
            // Every shader writes its workgroup memory before it reads it.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.list.push((pipeline, layout));
        self.index.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }
}

fn bind_group(
    gpu: &Gpu,
    buffers: &Buffers,
    layout: &wgpu::BindGroupLayout,
    dispatch: &Dispatch,
    slot: u64,
) -> Result<wgpu::BindGroup> {
    let missing = || Error::Gpu(format!("{} binds a buffer that does not exist", dispatch.shader.name()));
    let params = wgpu::BufferBinding {
        buffer: &buffers.params,
        offset: slot,
        size: wgpu::BufferSize::new((dispatch.shader.params as u64).next_multiple_of(16)),
    };
    let mut entries = vec![
        wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) },
        wgpu::BindGroupEntry { binding: 1, resource: buffers.step.as_entire_binding() },
    ];
    for ((binding, _), resource) in dispatch.shader.bindings.iter().zip(&dispatch.resources) {
        let buffer = match *resource {
            Resource::Buffer(id) => buffers.activations.get(id.0 as usize),
            Resource::Codes(id, shard) => buffers.weights.codes(id, shard),
            Resource::Scales(id, shard) => Some(buffers.weights.scales(id, shard).unwrap_or(&buffers.unused)),
            Resource::Vector(id) => buffers.weights.codes(id, 0),
            Resource::Keys(slot) => buffers.keys.get(slot.0 as usize),
            Resource::Values(slot) => buffers.values.get(slot.0 as usize),
            Resource::Angles(table) => buffers.angles.get(table.0 as usize),
            Resource::Tokens => Some(&buffers.tokens),
            Resource::Scratch => Some(&buffers.scratch),
            Resource::LowRank => Some(&buffers.low_rank),
            Resource::Unused => Some(&buffers.unused),
        };
        let buffer = buffer.ok_or_else(missing)?;
        entries.push(wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() });
    }
    let name = dispatch.shader.name();
    Ok(gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(&name), layout, entries: &entries }))
}
