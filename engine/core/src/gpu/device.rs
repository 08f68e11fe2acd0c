//! Opening the graphics device, and waiting for it. The only place that knows native from web.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

use super::signal::{Receiver, signal};

/// An open device.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// Name and interface, for people: `NVIDIA H200 (Vulkan)`.
    pub name: String,
    /// True when the device computes on the CPU.
    pub software: bool,
    /// True when shaders may use subgroup operations.
    pub subgroups: bool,
    failure: Arc<Mutex<Failure>>,
}

/// What befell a device that a new one, or the same one later, may be spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It had no memory left.
    NoMemory,
    /// It was lost.
    Lost,
}

/// What a device said of itself, outside of the calls that wait for its answer.
#[derive(Debug, Default)]
struct Failure {
    first: Option<String>,
    fault: Option<Fault>,
}

impl Failure {
    fn add(slot: &Mutex<Self>, text: Option<String>, fault: Option<Fault>) {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.first = slot.first.take().or(text);
        slot.fault = slot.fault.max(fault);
    }
}

impl Gpu {
    async fn open(adapter: &wgpu::Adapter, software: bool, fallback: &str) -> Result<Self> {
        let info = adapter.get_info();
        let adapter_limits = adapter.limits();
        // WebGPU's defaults but for sizes of buffers: what passes natively then passes in every browser.
        let limits = wgpu::Limits {
            max_buffer_size: adapter_limits.max_buffer_size,
            max_storage_buffer_binding_size: adapter_limits.max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("sotto"),
                required_features: adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY),
                required_limits: limits,
                ..Default::default()
            })
            .await
            .map_err(|e| Error::Gpu(format!("{} could not be opened: {e}", info.name)))?;
        let failure = Arc::new(Mutex::new(Failure::default()));
        let (on_error, on_lost) = (failure.clone(), failure.clone());
        device
            .on_uncaptured_error(Arc::new(move |error| Failure::add(&on_error, Some(describe(&error)), fault(&error))));
        device.set_device_lost_callback(move |_, message| {
            let text = format!("it was lost ({message}); ask again to start it anew");
            Failure::add(&on_lost, Some(text), Some(Fault::Lost));
        });
        let subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        Ok(Self { device, queue, name: display_name(&info, fallback), software, subgroups, failure })
    }

    /// The first error that no call reported, if there was one.
    pub fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).first.clone() {
            None => Ok(()),
            Some(text) => Err(Error::Gpu(text)),
        }
    }

    /// What befell it so far that another try may be spared; a loss counts for more. [`Self::close`] is a loss too.
    pub fn fault(&self) -> Option<Fault> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).fault
    }

    /// Runs `make` and fails with words when the device refuses or has no memory left.
    pub(super) async fn guarded<T>(&self, what: &'static str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let (made, guarded) = self.guard(what, make);
        guarded.settled().await?;
        made
    }

    /// Runs `make`, and answers what the device will have said about it.
    pub(super) fn guard<T>(&self, what: &'static str, make: impl FnOnce() -> Result<T>) -> (Result<T>, Guarded) {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let (validation, memory) = (validation.pop(), memory.pop());
        let error = async move {
            match validation.await {
                None => memory.await,
                some => some,
            }
        };
        (made, Guarded { what, error: Box::pin(error), failure: Arc::clone(&self.failure) })
    }

    /// Sends off what was written or encoded so far, and marks this point of the queue.
    pub fn fence(&self) -> Fence {
        self.queue.submit([]);
        let (done, finished) = signal();
        self.queue.on_submitted_work_done(move || done.send(()));
        Fence { gpu: self.clone(), finished }
    }

    /// Waits until everything submitted so far has run.
    pub async fn settle(&self) -> Result<()> {
        self.fence().wait().await
    }

    /// Ends the device and frees its memory at once. Dropping it is not enough in a browser, where buffers live until
    /// JavaScript's garbage collector finds them.
    pub fn close(&self) {
        self.device.destroy();
    }

    /// Maps `bytes` of a staging buffer and copies them out, once `submission` has run.
    pub(super) async fn map(
        &self,
        staging: &wgpu::Buffer,
        bytes: u64,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<u8>> {
        Ok(self.end_map(self.begin_map(staging.clone(), bytes), submission).await?.0)
    }

    /// Asks for `bytes` of a staging buffer as soon as what was submitted so far has run.
    pub(super) fn begin_map(&self, staging: wgpu::Buffer, bytes: u64) -> Mapping {
        let (done, mapped) = signal();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| done.send(result));
        Mapping { staging, bytes, mapped }
    }

    /// Waits for what [`Self::begin_map`] asked for and copies it out; gives the buffer back.
    pub(super) async fn end_map(
        &self,
        mapping: Mapping,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<(Vec<u8>, wgpu::Buffer)> {
        let failed = |e: &dyn std::fmt::Display| Error::Gpu(format!("reading back: {e}"));
        let Mapping { staging, bytes, mapped } = mapping;
        self.pump(submission)?;
        self.check()?;
        mapped.await.map_err(|e| self.check().err().unwrap_or_else(|| failed(&e)))?;
        let copy = staging.get_mapped_range(0..bytes).map_err(|e| failed(&e))?.to_vec();
        staging.unmap();
        Ok((copy, staging))
    }

    /// Natively callbacks run while the device is polled; a browser runs them by itself.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn pump(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.device
            .poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })
            .map(|_| ())
            .map_err(|e| Error::Gpu(format!("waiting for it: {e}")))
    }

    #[cfg(target_arch = "wasm32")]
    pub(super) fn pump(&self, _: Option<wgpu::SubmissionIndex>) -> Result<()> {
        Ok(())
    }
}

/// What the device will have said about something; see [`Gpu::guard`].
pub(super) struct Guarded {
    what: &'static str,
    error: Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>,
    failure: Arc<Mutex<Failure>>,
}

impl Guarded {
    /// Waits for it, and fails if it is a refusal.
    pub(super) async fn settled(self) -> Result<()> {
        match self.error.await {
            None => Ok(()),
            Some(error) => {
                Failure::add(&self.failure, None, fault(&error));
                Err(Error::Gpu(format!("{}: {}", self.what, describe(&error))))
            }
        }
    }
}

/// Bytes on their way back; see [`Gpu::begin_map`].
pub(super) struct Mapping {
    staging: wgpu::Buffer,
    bytes: u64,
    mapped: Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

/// A point of a device's queue; see [`Gpu::fence`].
pub struct Fence {
    gpu: Gpu,
    finished: Receiver<()>,
}

impl Fence {
    /// Waits until everything before it has run.
    pub async fn wait(self) -> Result<()> {
        self.gpu.pump(None)?;
        self.finished.await;
        self.gpu.check()
    }
}

fn describe(error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => {
            "it has no memory left; close other tabs that use it, or choose a smaller model".into()
        }
        other => other.to_string(),
    }
}

fn fault(error: &wgpu::Error) -> Option<Fault> {
    matches!(error, wgpu::Error::OutOfMemory { .. }).then_some(Fault::NoMemory)
}

/// What to call a card without a name: browsers may keep it to themselves.
const NAMELESS: &str = "Graphics card";

fn display_name(info: &wgpu::AdapterInfo, fallback: &str) -> String {
    let known = [info.name.as_str(), info.driver.as_str(), fallback];
    let name = known.into_iter().find(|name| !name.is_empty()).unwrap_or(NAMELESS);
    let interface = match info.backend {
        wgpu::Backend::BrowserWebGpu => "WebGPU".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{name} ({interface})")
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let text = format!("{} {} {}", info.name, info.driver, info.driver_info).to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu || text.contains("swiftshader") || text.contains("llvmpipe")
}

/// Opens a device natively, by Vulkan: the first that is not a CPU, else a CPU one.
///
/// `WGPU_ADAPTER_NAME` picks by a part of the name, `VK_ICD_FILENAMES` by driver.
#[cfg(not(target_arch = "wasm32"))]
pub async fn open_native() -> Result<Gpu> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default().to_lowercase();
    let adapters = instance.enumerate_adapters(wgpu::Backends::VULKAN).await;
    let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
    let adapter = adapters
        .into_iter()
        .filter(|a| a.get_info().name.to_lowercase().contains(&wanted))
        .min_by_key(|a| is_software(&a.get_info()))
        .ok_or_else(|| {
            Error::Gpu(if names.is_empty() {
                "no Vulkan driver was found; install one (mesa-vulkan-drivers computes on the CPU)".into()
            } else {
                format!("none of {names:?} has {wanted:?} in its name (WGPU_ADAPTER_NAME)")
            })
        })?;
    Gpu::open(&adapter, is_software(&adapter.get_info()), NAMELESS).await
}

/// What a graphics adapter says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Name and interface, for people.
    pub name: String,
    /// True when it computes on the CPU.
    pub software: bool,
    /// `maxStorageBufferBindingSize`.
    pub binding_bytes: u64,
    /// `maxBufferSize`.
    pub buffer_bytes: u64,
}

/// The browser's adapter, not opened yet.
#[cfg(target_arch = "wasm32")]
pub struct Found {
    adapter: wgpu::Adapter,
    fallback: String,
    about: Adapter,
}

#[cfg(target_arch = "wasm32")]
impl Found {
    /// Asks the browser for its adapter; `None` when it offers none, as it does for the first request after its graphics
    /// process ended. `fallback` is what to call it if it has no name.
    pub async fn in_browser(fallback: &str) -> Option<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::BROWSER_WEBGPU,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let power_preference = wgpu::PowerPreference::HighPerformance;
        let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
        let adapter = instance.request_adapter(&options).await.ok()?;
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let about = Adapter {
            name: display_name(&info, fallback),
            software: is_software(&info),
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
        };
        Some(Self { adapter, fallback: fallback.to_owned(), about })
    }

    /// What it says about itself.
    pub fn about(&self) -> &Adapter {
        &self.about
    }

    /// Opens its device.
    pub async fn open(&self) -> Result<Gpu> {
        Gpu::open(&self.adapter, self.about.software, &self.fallback).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::open;
    use super::*;

    #[test]
    fn a_device_that_is_gone_says_so_and_one_that_refused_does_not() {
        let Some(gpu) = open() else { return };
        let refused = gpu.guarded("a buffer", || {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE;
            let wish = wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
            Ok(gpu.device.create_buffer(&wish))
        });
        assert!(pollster::block_on(refused).is_err_and(|error| error.to_string().contains("a buffer")));
        assert_eq!((gpu.fault(), gpu.check()), (None, Ok(())));
        gpu.close();
        assert!(pollster::block_on(gpu.settle()).is_err());
        assert_eq!(gpu.fault(), Some(Fault::Lost));
    }

    #[test]
    fn a_loss_counts_for_more_than_memory_and_the_first_words_stay() {
        let slot = Mutex::new(Failure::default());
        Failure::add(&slot, None, Some(Fault::NoMemory));
        Failure::add(&slot, Some("first".to_owned()), None);
        Failure::add(&slot, Some("second".to_owned()), Some(Fault::Lost));
        Failure::add(&slot, None, Some(Fault::NoMemory));
        let slot = slot.into_inner().unwrap();
        assert_eq!((slot.first.as_deref(), slot.fault), (Some("first"), Some(Fault::Lost)));
    }
}
