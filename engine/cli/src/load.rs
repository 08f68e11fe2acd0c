//! Opening a model on this machine and streaming its weights into an executor.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use sotto_core::check::fixture::Ranges;
use sotto_core::cpu::CpuExecutor;
use sotto_core::formats::disk::DiskModel;
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{self, GpuExecutor, Options};
use sotto_core::model::{Model, Network, Stages};
use sotto_core::outside::{self, OutsideRows};
use sotto_core::requantize::{Requantized, Target};
use sotto_core::weights::{WeightId, WeightSink, WeightTable, Zeroed};
use sotto_core::{Error, Result};

use crate::arguments::{DeviceChoice, Tables};

/// Positions that checks and benchmarks may use at most, whatever the model was made for.
const CONTEXT: usize = 8192;

/// A model and where its files are.
pub(crate) struct Opened {
    pub(crate) model: Model,
    disk: Disk,
}

/// A model's files, and what of them stays where it is.
struct Disk {
    model: DiskModel,
    outside: BTreeSet<WeightId>,
}

/// A model without its tokenizer, for checks with ids.
pub(crate) struct Weights {
    disk: Disk,
}

/// All bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::format(path.display().to_string(), e.to_string()))
}

/// Opens a GGUF file or a Hugging Face folder.
pub(crate) fn open(path: &Path, tables: Tables) -> Result<Opened> {
    let disk = Disk::open(path, tables)?;
    Ok(Opened { model: Model::open(&disk.model.description)?, disk })
}

impl Disk {
    fn open(path: &Path, tables: Tables) -> Result<Self> {
        let model = DiskModel::open(path)?;
        let outside = match tables {
            Tables::Inside => BTreeSet::new(),
            // Those of a small checkpoint too, which are here to be tested.
            Tables::Outside => outside::tables(&model.description.weights, 0),
        };
        Ok(Self { model, outside })
    }

    fn stream(&self, sink: &mut dyn WeightSink) -> Result<()> {
        self.model.stream_without(&self.outside, sink)
    }

    /// An executor made with `weights`; this model's own unless they were changed.
    fn executor(
        &self,
        network: &Network,
        weights: &WeightTable,
        device: DeviceChoice,
        context: usize,
    ) -> Result<Executor> {
        let rows = match self.outside.is_empty() {
            true => None,
            false => Some(OutsideRows::new(&network.weights, &self.outside, Box::new(self.model.files()?))?),
        };
        let recording = &network.recording;
        Ok(match device {
            DeviceChoice::Cpu(path) => {
                Executor::Cpu(Box::new(CpuExecutor::new(Arc::clone(recording), weights, path)?.with_outside(rows)))
            }
            DeviceChoice::Gpu(cache) => {
                let options = Options { max_positions: context.min(CONTEXT), cache, ..Options::default() };
                let gpu = pollster::block_on(gpu::open_native())?;
                let opened = GpuExecutor::with_outside(&gpu, recording, weights, options, rows);
                Executor::Gpu(Box::new(pollster::block_on(opened)?))
            }
        })
    }
}

impl Weights {
    /// Reads the headers of a GGUF file or a Hugging Face folder.
    pub(crate) fn open(path: &Path, tables: Tables) -> Result<Self> {
        Ok(Self { disk: Disk::open(path, tables)? })
    }

    /// Whether activations have static ranges.
    pub(crate) fn has_ranges(&self) -> Result<bool> {
        Ok(!Network::open(&self.disk.model.description, Stages::Dropped)?.ranges().is_empty())
    }

    /// Streams the weights into an executor for `device`.
    pub(crate) fn generator(&self, device: DeviceChoice, stages: Stages, ranges: Ranges) -> Result<Generator> {
        let description = &self.disk.model.description;
        let network = Network::open(description, stages)?;
        let context = description.architecture.context();
        let mut executor = self.disk.executor(&network, &network.weights, device, context)?;
        match ranges {
            Ranges::Kept => self.disk.stream(&mut executor)?,
            Ranges::Ignored => self.disk.stream(&mut Zeroed { sink: &mut executor, weights: network.ranges() })?,
        }
        Ok(Generator::new(executor, network.recording, context.min(CONTEXT)))
    }
}

/// Streams a model's weights into an executor for `device`.
pub(crate) fn generator(
    opened: &Opened,
    device: DeviceChoice,
    stages: Stages,
    quantize: Option<Target>,
) -> Result<Generator> {
    let network = Network::open(&opened.disk.model.description, stages)?;
    let executor = match quantize {
        None => {
            let mut executor = opened.disk.executor(&network, &network.weights, device, opened.model.context)?;
            opened.disk.stream(&mut executor)?;
            executor
        }
        Some(target) => {
            let requantized = Requantized::new(&network.weights, target)?;
            let mut executor = opened.disk.executor(&network, &requantized.table, device, opened.model.context)?;
            opened.disk.stream(&mut requantized.sink(&mut executor))?;
            executor
        }
    };
    Ok(Generator::new(executor, network.recording, opened.model.context.min(CONTEXT)))
}
