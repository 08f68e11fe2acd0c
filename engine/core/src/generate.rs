//! From prompt ids to new ids: prefill in chunks, then one step per token, keeping the cache across turns.

use std::sync::Arc;

use crate::cpu::CpuExecutor;
use crate::error::{Error, Result};
use crate::gpu::GpuExecutor;
use crate::kernels::sample::{self, Wish};
use crate::recording::{BufferId, Recording, Step};
use crate::sampler::{Random, Sampler, SamplerOptions};
use crate::weights::{WeightId, WeightSink, WeightSpec};

/// Steps that a graphics device is given ahead of the ids read back.
const STEPS_IN_FLIGHT: usize = 4;

/// Where a recording runs.
pub enum Executor {
    /// On the CPU.
    Cpu(Box<CpuExecutor>),
    /// On a graphics device.
    Gpu(Box<GpuExecutor>),
}

impl Executor {
    /// Runs of a step at least what later steps read of it: nobody wants its logits.
    pub fn run_for_cache(&mut self, step: Step, tokens: &[u32]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.run_for_cache(step, tokens),
            Self::Gpu(gpu) => gpu.run_for_cache(step, tokens),
        }
    }

    /// Runs the recording for a step and returns its stages: name and values.
    pub async fn run_stages(&mut self, step: Step, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>> {
        match self {
            Self::Cpu(cpu) => cpu.run_stages(step, tokens),
            Self::Gpu(gpu) => gpu.run_stages(step, tokens).await,
        }
    }

    /// Runs the recording for a step and returns the last token's logits, `[V]`.
    pub async fn run_for_logits(&mut self, step: Step, tokens: &[u32], logits: BufferId) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(cpu) => {
                cpu.run(step, tokens)?;
                Ok(cpu.read(logits).to_vec())
            }
            Self::Gpu(gpu) => gpu.run_for_logits(step, tokens).await,
        }
    }

    /// Reads a buffer of one row.
    pub async fn read(&mut self, buffer: BufferId) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.read(buffer).to_vec()),
            Self::Gpu(gpu) => gpu.read(buffer, 1).await,
        }
    }

    /// Makes room for `positions` tokens, or says why there is none.
    pub async fn reserve(&mut self, positions: usize) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.reserve(positions).await,
        }
    }

    /// True when what is cached before `position` is enough to go on from there.
    pub fn can_resume(&self, position: usize) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(gpu) => gpu.can_resume(position),
        }
    }

    /// Tokens that one step reads at most: small enough that Stop and progress are felt.
    pub fn chunk(&self) -> usize {
        match self {
            Self::Cpu(_) => 32,
            Self::Gpu(gpu) => gpu.max_tokens(),
        }
    }
}

impl WeightSink for Executor {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.rows(id, spec, first_row, bytes),
            Self::Gpu(gpu) => gpu.rows(id, spec, first_row, bytes),
        }
    }
}

/// A model ready to generate: its executor, and the tokens whose keys and values are cached.
pub struct Generator {
    executor: Executor,
    recording: Arc<Recording>,
    context: usize,
    cached: Vec<u32>,
    /// Tokens to read before the next logits: the prompt's rest, or the token just chosen.
    pending: Vec<u32>,
    decoding: Option<Decoding>,
}

/// Tokens that the device chooses by itself.
struct Decoding {
    options: SamplerOptions,
    /// Runs ahead of the sampler's by the steps in flight.
    random: Random,
    /// What the first step reads, and the last token that came back: its keys and values are there.
    first: Option<u32>,
    last: u32,
    /// Of the next step, and where the last one ends.
    position: usize,
    end: usize,
}

impl Decoding {
    /// How the next step's token is drawn, unless greedily.
    fn wish(&mut self) -> Option<Wish> {
        (self.options.temperature != 0.0).then(|| Wish::new(&self.options, self.random.next_f64()))
    }
}

/// What [`Generator::advance`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Read part of the prompt; this many of its tokens are left.
    Read {
        /// Tokens still to read.
        left: usize,
    },
    /// Logits of the next token: `[V]`.
    Logits(Vec<f32>),
}

impl Generator {
    /// Wraps an executor whose weights have streamed in. `context` is the number of positions it may use.
    pub fn new(executor: Executor, recording: Arc<Recording>, context: usize) -> Self {
        Self { executor, recording, context, cached: Vec::new(), pending: Vec::new(), decoding: None }
    }

    /// Positions in use.
    pub fn used(&self) -> usize {
        self.cached.len()
    }

    /// Positions there are.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The executor, for checks.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// The recording, for checks.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Starts on a prompt. The longest prefix that is cached already is not read again; returns how many tokens are left
    /// to read. The last token is always read, since its logits are wanted.
    pub fn start(&mut self, prompt: &[u32]) -> Result<usize> {
        if prompt.is_empty() {
            return Err(Error::format("prompt", "it is empty"));
        }
        if prompt.len() > self.context {
            return Err(Error::ContextFull { tokens: prompt.len(), limit: self.context });
        }
        self.stop_decoding();
        let shared = prompt.iter().zip(&self.cached).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        let shared = if self.executor.can_resume(shared) { shared } else { 0 };
        self.cached.truncate(shared);
        self.pending = prompt[shared..].to_vec();
        Ok(self.pending.len())
    }

    /// Appends the token that was chosen. False when the context is full.
    pub fn accept(&mut self, token: u32) -> bool {
        self.pending.push(token);
        self.cached.len() + self.pending.len() <= self.context
    }

    /// Reads at most one chunk of what is pending, and gives the logits when nothing is left.
    pub async fn advance(&mut self) -> Result<Progress> {
        let tokens = self.pending.len().min(self.executor.chunk());
        let step = Step { position: self.cached.len(), tokens };
        let chunk: Vec<u32> = self.pending.drain(..tokens).collect();
        self.executor.reserve(step.position + tokens).await?;
        if !self.pending.is_empty() {
            self.executor.run_for_cache(step, &chunk)?;
            self.cached.extend_from_slice(&chunk);
            return Ok(Progress::Read { left: self.pending.len() });
        }
        let logits = self.recording.logits.ok_or_else(|| Error::format("model", "its recording has no logits"))?;
        let values = self.executor.run_for_logits(step, &chunk, logits).await?;
        self.cached.extend_from_slice(&chunk);
        Ok(Progress::Logits(values))
    }

    /// True when the device chooses tokens with these options by itself: see [`Self::start_decoding`]. With tables outside of
    /// the device ([`crate::outside`]) it does not, since the CPU has to know each id before its step.
    pub fn can_choose(&self, options: &SamplerOptions) -> bool {
        matches!(&self.executor, Executor::Gpu(gpu) if !gpu.has_outside()) && sample::serves(options)
    }

    /// Leaves the choice of at most `count` tokens to the graphics device, with several steps in flight; [`Self::next_token`]
    /// brings them. They follow `first`, which was chosen before. Whoever takes one counts it in the sampler that chose:
    /// [`Sampler::skip`].
    pub fn start_decoding(&mut self, sampler: &Sampler, first: u32, count: usize) {
        self.stop_decoding();
        let position = self.cached.len();
        let end = position.saturating_add(count).min(self.context);
        let (options, random) = (sampler.options().clone(), sampler.random());
        self.decoding = Some(Decoding { options, random, first: Some(first), last: first, position, end });
    }

    /// True from [`Self::start_decoding`] until the end of what it started.
    pub fn is_decoding(&self) -> bool {
        self.decoding.is_some()
    }

    /// The next token that the device chose; `None` when there are as many as were wanted, or the context is full.
    pub async fn next_token(&mut self) -> Result<Option<u32>> {
        let (Executor::Gpu(gpu), Some(decoding)) = (&mut self.executor, &mut self.decoding) else { return Ok(None) };
        while decoding.position < decoding.end && gpu.in_flight() < STEPS_IN_FLIGHT {
            gpu.reserve(decoding.position + 1).await?;
            let wish = decoding.wish();
            gpu.launch(decoding.position, decoding.first.take(), wish.as_ref())?;
            decoding.position += 1;
        }
        if gpu.in_flight() == 0 {
            return Ok(None);
        }
        let id = gpu.land().await?;
        self.cached.push(std::mem::replace(&mut decoding.last, id));
        Ok(Some(id))
    }

    /// Lets steps in flight run out unseen: what is cached is what was taken, but for the last token.
    pub fn stop_decoding(&mut self) {
        self.decoding = None;
        if let Executor::Gpu(gpu) = &mut self.executor {
            gpu.abandon();
        }
    }

    /// Writes at most `count` tokens after `first` and returns them, without showing logits where the device can choose.
    pub async fn write(&mut self, sampler: &mut Sampler, first: u32, count: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if self.can_choose(sampler.options()) {
            self.start_decoding(sampler, first, count);
            while let Some(id) = self.next_token().await? {
                sampler.skip();
                ids.push(id);
            }
            return Ok(ids);
        }
        let mut next = first;
        while ids.len() < count && self.accept(next) {
            let mut logits = loop {
                if let Progress::Logits(logits) = self.advance().await? {
                    break logits;
                }
            };
            next = sampler.sample(&mut logits, &ids)?;
            ids.push(next);
        }
        Ok(ids)
    }

    /// Forgets every cached token.
    pub fn forget(&mut self) {
        self.stop_decoding();
        self.cached.clear();
        self.pending.clear();
    }
}
