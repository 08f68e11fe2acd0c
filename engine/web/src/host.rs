//! A loaded model: chooses a device, streams the weights into it, and starts it anew after the device was lost.

use std::cell::OnceCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use sotto_core::cpu::CpuPath;
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{self, CacheFormat, Fault, Fence, Found, Gpu, GpuExecutor, Options};
use sotto_core::model::{Model, Network, Stages};
use sotto_core::outside::{self, OutsideRows};
use sotto_core::requantize::{Requantized, Target};
use sotto_core::text::guard::GuardTables;
use sotto_core::weights::{WeightId, WeightStream, WeightTable};
use sotto_core::{Error, Result};

use crate::browser::{Pause, forget_graphics_name, graphics_name, mark, now, sleep};
use crate::fit::{self, Sizes};
use crate::source::{Reach, Reader, Source};
use crate::tries::{Tables, Tries};

/// Which device a load may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    /// A hardware adapter if there is one, else the CPU, if it is fast enough for the model.
    Best,
    /// The CPU.
    Cpu(CpuPath),
    /// Any WebGPU adapter, a software one too: for tests.
    AnyGpu,
}

/// How long a browser that offers no adapter is asked again. After its graphics process ended, the first request is
/// answered with none; that of a machine without graphics always is, and must not cost the first answer seconds.
#[derive(Debug, Clone, Copy)]
struct Patience {
    ms: f64,
}

const ON_START: Patience = Patience { ms: 300.0 };
const AFTER_A_LOSS: Patience = Patience { ms: 6000.0 };
const ASK_AGAIN_MS: i32 = 250;

/// Bytes written to a graphics device between two points that are waited for, and how many such points may be ahead: what
/// is on its way in the browser's graphics process stays below their product.
const WINDOW_BYTES: u64 = 32 << 20;
const WINDOWS: usize = 2;

/// What a load may take; tests allow less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Most bytes of weights on a graphics device, if less than it has.
    pub(crate) weight_bytes: u64,
    /// Tables that are only gathered may stay in storage from this size on.
    pub(crate) table_bytes: u64,
    /// Most bytes of float matrices that a graphics device is given as they are.
    pub(crate) float_bytes: u64,
    /// Most bytes of keys and values that a graphics device keeps as f32.
    pub(crate) cache_bytes: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            weight_bytes: u64::MAX,
            table_bytes: outside::WORTH_BYTES,
            float_bytes: fit::FLOATS_KEPT,
            cache_bytes: fit::F32_CACHES,
        }
    }
}

/// Where a model runs, in words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceWords {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A model ready to answer. Dropping it frees the device's memory.
pub(crate) struct Host {
    pub(crate) model: Model,
    pub(crate) generator: Generator,
    pub(crate) device: DeviceWords,
    source: Source,
    context: usize,
    allowance: Allowance,
    guard_tables: OnceCell<Arc<GuardTables>>,
}

const CPU_NAME: &str = "CPU (WASM SIMD)";

impl Host {
    /// Loads a model. `context` is the number of positions it may use at most; `progress` hears bytes done.
    pub(crate) async fn load(
        source: Source,
        context: usize,
        preference: Preference,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let allowance = Allowance::default();
        Self::load_with(source, context, preference, Stages::Dropped, allowance, progress).await
    }

    /// The same, for a check that reads stages, or a test that allows less.
    pub(crate) async fn load_with(
        source: Source,
        context: usize,
        preference: Preference,
        stages: Stages,
        allowance: Allowance,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let (description, reader) = source.describe().await?;
        let network = Network::open(&description, stages)?;
        mark("headers");
        let (context, files) = (context.min(description.architecture.context()), description.files.len());
        let (mut description, mut model) = (Some(description), None);
        let mut meanwhile = || {
            // Taken, since the tokenizer's text alone can be 33 MB.
            if let Some(description) = description.take() {
                model = Some(Model::complete(&description, network.clone())?);
                mark("tokenizer");
            }
            Ok(())
        };
        let load = Load {
            network: &network,
            files,
            source: &source,
            context,
            allowance,
            patience: ON_START,
            tables: Tables::Inside,
        };
        let (generator, device) = load.run(Some(reader), preference, &mut meanwhile, progress).await?;
        let model = model.ok_or_else(|| Error::format("a model", "it was loaded without its tokenizer"))?;
        Ok(Self { model, generator, device, source, context, allowance, guard_tables: OnceCell::new() })
    }

    /// Starts the model anew after its device failed. Its tokens have to be read again. Memory may have been what was missing: a
    /// graphics device now gets no table that can stay in storage.
    pub(crate) async fn restart(&mut self, preference: Preference, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.close();
        forget_graphics_name();
        let load = Load {
            network: &self.model.network(),
            files: self.model.files.len(),
            source: &self.source,
            context: self.context,
            allowance: self.allowance,
            patience: AFTER_A_LOSS,
            tables: Tables::Outside,
        };
        (self.generator, self.device) = load.run(None, preference, &mut || Ok(()), progress).await?;
        Ok(())
    }

    /// What the guard knows of the vocabulary, computed once.
    pub(crate) fn guard_tables(&self) -> Arc<GuardTables> {
        Arc::clone(self.guard_tables.get_or_init(|| Arc::new(GuardTables::new(&self.model.tokenizer))))
    }

    /// Bytes that a load reads.
    pub(crate) fn bytes(&self) -> u64 {
        self.source.bytes()
    }

    /// Whether the CPU may serve this model; if not, why, in a sentence.
    pub(crate) fn fits_cpu(&self) -> Result<(), String> {
        let network = self.model.network();
        let outside = tables_outside(&network.weights, &self.source, self.allowance);
        fit::on_cpu(&Sizes::of(&network, &outside)).map(|_| ())
    }

    fn close(&mut self) {
        if let Executor::Gpu(gpu) = self.generator.executor() {
            gpu.gpu().close();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.close();
    }
}

/// The weights that can stay in storage.
fn tables_outside(weights: &WeightTable, source: &Source, allowance: Allowance) -> BTreeSet<WeightId> {
    match source.stays_readable() {
        true => outside::tables(weights, allowance.table_bytes),
        false => BTreeSet::new(),
    }
}

/// One way of the weights into a device.
struct Load<'a> {
    network: &'a Network,
    /// Of the model.
    files: usize,
    source: &'a Source,
    context: usize,
    allowance: Allowance,
    patience: Patience,
    tables: Tables,
}

impl Load<'_> {
    /// Loads the weights into the best device there is, and says why it is that one. Before they stream in, `meanwhile` is called, at least
    /// once: on a graphics device while it compiles its shaders.
    async fn run(
        &self,
        mut reader: Option<Reader>,
        preference: Preference,
        meanwhile: &mut dyn FnMut() -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Generator, DeviceWords)> {
        let outside = tables_outside(&self.network.weights, self.source, self.allowance);
        let (path, reason) = match preference {
            Preference::Cpu(path) => (path, "The CPU was asked for.".to_owned()),
            Preference::Best | Preference::AnyGpu => {
                match self.graphics(preference, &outside, &mut reader, meanwhile, progress).await {
                    Ok(loaded) => return Ok(loaded),
                    Err(Error::Gpu(why)) if preference == Preference::Best => {
                        (CpuPath::Fast, format!("No graphics adapter can be used: {why}."))
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if preference == Preference::Best {
            fit::on_cpu(&Sizes::of(self.network, &outside))
                .map_err(|slow| Error::unsupported("the CPU", format!("{reason} {}", slow.trim_end_matches('.'))))?;
        }
        meanwhile()?;
        let rows = self.rows(&outside).await?;
        let mut executor = Executor::Cpu(Box::new(self.network.cpu(path)?.with_outside(rows)));
        self.stream(reader, &outside, None, &mut executor, progress).await?;
        let device = DeviceWords { name: CPU_NAME.to_owned(), reason: with_tables(reason, &outside) };
        Ok((Generator::new(executor, Arc::clone(&self.network.recording), self.context), device))
    }

    /// Loads onto a graphics device, with the tables in `outside` left in storage if it does not take all weights. Free memory
    /// cannot be asked for: only trying tells. A device that is lost meanwhile is replaced.
    async fn graphics(
        &self,
        preference: Preference,
        outside: &BTreeSet<WeightId>,
        reader: &mut Option<Reader>,
        meanwhile: &mut dyn FnMut() -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Generator, DeviceWords)> {
        let (nothing, mut tries, mut patience) = (BTreeSet::new(), Tries::new(self.tables), self.patience);
        loop {
            let gpu = match open(preference == Preference::AnyGpu, patience).await {
                Ok(gpu) => gpu,
                Err(Error::Gpu(why)) => return Err(Error::Gpu(tries.words(Some(why)))),
                Err(error) => return Err(error),
            };
            mark("device");
            let left = if tries.tables() == Tables::Inside { &nothing } else { outside };
            let why = match self.onto(&gpu, left, reader, meanwhile, progress).await {
                Ok((generator, rounding)) => {
                    let lost = if tries.was_lost() {
                        " It was lost while the model was loading, and opened anew."
                    } else {
                        ""
                    };
                    let reason = with_tables(format!("WebGPU found a graphics adapter.{lost}{rounding}"), left);
                    return Ok((generator, DeviceWords { name: gpu.name.clone(), reason }));
                }
                Err(Error::Gpu(why)) => why,
                Err(error) => {
                    gpu.close();
                    return Err(error);
                }
            };
            let fault = gpu.fault();
            gpu.close();
            if !tries.again(&why, fault, !outside.is_empty()) {
                return Err(Error::Gpu(tries.words(None)));
            }
            match fault {
                Some(Fault::Lost) => {
                    forget_graphics_name();
                    patience = AFTER_A_LOSS;
                }
                // What went before may not have given back all of its own.
                Some(Fault::NoMemory) => sleep(ASK_AGAIN_MS).await,
                None => {}
            }
        }
    }

    /// A reader of the rows that stay in storage.
    async fn rows(&self, outside: &BTreeSet<WeightId>) -> Result<Option<OutsideRows>> {
        match outside.is_empty() {
            true => Ok(None),
            false => OutsideRows::new(&self.network.weights, outside, self.source.files().await?).map(Some),
        }
    }

    async fn onto(
        &self,
        gpu: &Gpu,
        outside: &BTreeSet<WeightId>,
        reader: &mut Option<Reader>,
        meanwhile: &mut dyn FnMut() -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Generator, &'static str)> {
        let limits = gpu.device.limits();
        let room = fit::Limits { binding: limits.max_storage_buffer_binding_size, buffer: limits.max_buffer_size };
        let weight_bytes = self.allowance.weight_bytes;
        let options = Options { weight_bytes, ..Options::default() };
        let caches =
            |positions| gpu::all_caches_bytes(&self.network.recording, options.max_tokens, positions, CacheFormat::F32);
        // Tables are left out where memory was short.
        let most = if outside.is_empty() { self.allowance.cache_bytes } else { 0 };
        let room =
            fit::on_gpu(&Sizes::of(self.network, outside), room, self.context, caches, most).map_err(Error::Gpu)?;
        let options = Options { max_positions: room.context, cache: room.cache, ..options };
        let target = fit::rounded(&self.network.weights, self.allowance.float_bytes);
        let rounded = target.map(|target| Requantized::new(&self.network.weights, target)).transpose()?;
        let weights = rounded.as_ref().map_or(&self.network.weights, |rounded| &rounded.table);
        let (recording, rows) = (&self.network.recording, self.rows(outside).await?);
        let mut executor = GpuExecutor::allocate(gpu, recording, weights, options, rows).await?;
        mark("allocated");
        meanwhile()?;
        executor.ready().await?;
        mark("shaders");
        let mut executor = Executor::Gpu(Box::new(executor));
        self.stream(reader.take(), outside, rounded.as_ref(), &mut executor, progress).await?;
        let rounding = match target {
            None => "",
            Some(Target::Int8) => " The model's weights were rounded to 8 bits.",
            Some(Target::Int4) => " The model's weights were rounded to 4 bits.",
        };
        Ok((Generator::new(executor, Arc::clone(&self.network.recording), room.context), rounding))
    }

    /// Reads the weights once through, but for those that stay `outside`, and hands them to the executor, no faster than it takes
    /// them. Progress begins where it would be if the others had been read.
    async fn stream(
        &self,
        reader: Option<Reader>,
        outside: &BTreeSet<WeightId>,
        rounded: Option<&Requantized>,
        executor: &mut Executor,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut reader = match reader {
            Some(reader) => reader,
            None => self.source.reader().await?,
        };
        let pause = Pause::new();
        let mut pressure = BackPressure::default();
        let mut done = outside.iter().map(|id| self.network.weights.get(*id).location.len).sum();
        for file in 0..self.files {
            let mut stream = WeightStream::new(&self.network.weights, file, 0).without(outside);
            while !stream.is_done() {
                let taken = match (&mut *executor, rounded) {
                    (Executor::Gpu(gpu), None) => {
                        reader.feed_device(file, &self.network.weights, &mut stream, gpu).await?
                    }
                    _ => 0,
                };
                let more = match (&*executor, rounded) {
                    _ if taken > 0 => taken,
                    (Executor::Gpu(_), None) => reader.feed(file, &mut stream, Reach::Weight, executor).await?,
                    (_, None) => reader.feed(file, &mut stream, Reach::Far, executor).await?,
                    (_, Some(rounded)) => {
                        reader.feed(file, &mut stream, Reach::Far, &mut rounded.sink(executor)).await?
                    }
                };
                if more == 0 {
                    break;
                }
                done += more;
                progress(done);
                if pressure.add(more, executor).await? {
                    // Messages wait: a Stop, another client.
                    pause.wait().await;
                }
            }
            stream.finish()?;
        }
        if let Executor::Gpu(gpu) = executor {
            gpu.settle().await?;
        }
        mark("weights");
        Ok(())
    }
}

/// Opens the browser's device. A software one fails unless `accept_software`: Sotto's own CPU path is faster.
async fn open(accept_software: bool, patience: Patience) -> Result<Gpu> {
    let until = now() + patience.ms;
    loop {
        let missing = match Found::in_browser(&graphics_name().await).await {
            None => Error::Gpu("this browser offers no WebGPU adapter on this machine".to_owned()),
            Some(found) if found.about().software && !accept_software => {
                let name = &found.about().name;
                return Err(Error::Gpu(format!("{name} computes on the CPU, slower than Sotto's own CPU path")));
            }
            // A graphics process that ends offers adapters that cannot be opened.
            Some(found) => match found.open().await {
                Ok(gpu) => return Ok(gpu),
                Err(error) => error,
            },
        };
        if now() >= until {
            return Err(missing);
        }
        sleep(ASK_AGAIN_MS).await;
    }
}

fn with_tables(reason: String, outside: &BTreeSet<WeightId>) -> String {
    match outside.is_empty() {
        true => reason,
        false => format!("{reason} Part of the model stays on the disk and is read as it is needed."),
    }
}

/// Holds a load back so that what was read does not pile up on its way to the device.
#[derive(Default)]
struct BackPressure {
    bytes: u64,
    ahead: VecDeque<Fence>,
}

impl BackPressure {
    /// Counts bytes written. True when a window was full.
    async fn add(&mut self, bytes: u64, executor: &mut Executor) -> Result<bool> {
        self.bytes += bytes;
        if self.bytes < WINDOW_BYTES {
            return Ok(false);
        }
        self.bytes = 0;
        if let Executor::Gpu(gpu) = executor {
            self.ahead.push_back(gpu.gpu().fence());
            if self.ahead.len() > WINDOWS
                && let Some(fence) = self.ahead.pop_front()
            {
                fence.wait().await?;
            }
        }
        Ok(true)
    }
}
