//! Opening a model on this machine and streaming its weights into an executor.

use std::path::Path;
use std::sync::Arc;

use sotto_core::formats::disk::DiskModel;
use sotto_core::generate::{Executor, Generator};
use sotto_core::gpu::{self, GpuExecutor, Options};
use sotto_core::model::Model;
use sotto_core::{Error, Result};

use crate::arguments::DeviceChoice;

/// Positions that checks and benchmarks may use at most, whatever the model was made for.
const CONTEXT: usize = 8192;

/// A model and where its files are.
pub(crate) struct Opened {
    pub(crate) model: Model,
    disk: DiskModel,
}

/// All bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::format(path.display().to_string(), e.to_string()))
}

/// Opens a GGUF file or a Hugging Face folder.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let disk = DiskModel::open(path)?;
    Ok(Opened { model: Model::open(&disk.description)?, disk })
}

/// Streams a model's weights into an executor for `device`.
pub(crate) fn generator(opened: &Opened, device: DeviceChoice) -> Result<Generator> {
    let model = &opened.model;
    let context = model.context.min(CONTEXT);
    let mut executor = match device {
        DeviceChoice::Cpu(path) => Executor::Cpu(Box::new(model.cpu(path)?)),
        DeviceChoice::Gpu => {
            let options = Options { max_positions: context, ..Options::default() };
            let opened =
                async { GpuExecutor::new(&gpu::open_native().await?, &model.recording, &model.weights, options).await };
            Executor::Gpu(Box::new(pollster::block_on(opened)?))
        }
    };
    opened.disk.stream(&mut executor)?;
    Ok(Generator::new(executor, Arc::clone(&model.recording), context))
}
