//! Weights on their way to the device through memory that it shares with us: what is read straight into it is copied once less than by
//! the queue's own writes, and in a browser, which moves those through its graphics process, they come several times as fast.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::{Error, Result};

use super::device::Gpu;
use super::signal::{Receiver, signal};

/// Bytes of a buffer, and how many there are: what is on its way stays below their product.
const BUFFER_BYTES: u64 = 8 << 20;
const BUFFERS: usize = 8;

/// Mapped memory to be filled, every byte of it.
#[cfg(not(target_arch = "wasm32"))]
pub type Mapped = wgpu::BufferViewMut;
/// Mapped memory to be filled, every byte of it, by way of its `as_uint8array`: what is written through a mutable view would be kept in
/// WebAssembly's memory first.
#[cfg(target_arch = "wasm32")]
pub type Mapped = wgpu::BufferView;

/// Stretches of the device's buffers, in the order of the bytes that go there: buffer, offset, bytes. Offsets and lengths are multiples of 4.
pub(super) type Stretches = Vec<(wgpu::Buffer, u64, u64)>;

/// A buffer that is being mapped.
struct Mapping {
    buffer: wgpu::Buffer,
    done: Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl Mapping {
    fn begin(buffer: wgpu::Buffer) -> Self {
        let (sender, done) = signal();
        buffer.map_async(wgpu::MapMode::Write, .., move |result| sender.send(result));
        Self { buffer, done }
    }
}

/// A mapped buffer that is being filled.
struct Filling {
    buffer: wgpu::Buffer,
    used: u64,
    copies: Vec<(u64, wgpu::Buffer, u64, u64)>,
}

/// A ring of mapped buffers.
pub(super) struct Upload {
    gpu: Gpu,
    buffer_bytes: u64,
    mapping: VecDeque<Mapping>,
    filling: Option<Filling>,
}

impl Upload {
    /// Most bytes at once.
    pub(super) const MOST: u64 = BUFFER_BYTES;

    pub(super) fn new(gpu: &Gpu) -> Self {
        Self::of(gpu, BUFFER_BYTES, BUFFERS)
    }

    /// A ring of `buffers` of `buffer_bytes`, a multiple of 8. They are mapped by asking: a browser throws where it has no memory for one
    /// that is to be mapped from the start.
    fn of(gpu: &Gpu, buffer_bytes: u64, buffers: usize) -> Self {
        let make = || {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("upload"),
                size: buffer_bytes,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let mapping = (0..buffers).map(|_| Mapping::begin(make())).collect();
        Self { gpu: gpu.clone(), buffer_bytes, mapping, filling: None }
    }

    /// Room for the bytes of `to`, no more than a buffer's; what is written there is copied when the buffer is full, or by
    /// [`Self::flush`]. Waits for the device while all buffers are on their way.
    pub(super) async fn room(&mut self, to: Stretches) -> Result<Mapped> {
        let bytes: u64 = to.iter().map(|(_, _, bytes)| bytes).sum();
        if bytes == 0 || bytes > self.buffer_bytes {
            return Err(Error::Gpu(format!("{bytes} bytes cannot be uploaded at once")));
        }
        if self.filling.as_ref().is_some_and(|filling| filling.used + bytes > self.buffer_bytes) {
            self.flush()?;
        }
        let filling = match &mut self.filling {
            Some(filling) => filling,
            none => {
                let buffer = freed(&self.gpu, self.mapping.pop_front()).await?;
                none.insert(Filling { buffer, used: 0, copies: Vec::new() })
            }
        };
        let begin = filling.used;
        let view = view(&filling.buffer, begin..begin + bytes).map_err(unmapped)?;
        for (buffer, offset, bytes) in to {
            filling.copies.push((filling.used, buffer, offset, bytes));
            filling.used += bytes;
        }
        // WebGPU's alignment of mapped ranges.
        filling.used = filling.used.next_multiple_of(wgpu::MAP_ALIGNMENT);
        Ok(view)
    }

    /// Sends off what lies in the buffer that is being filled.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Some(Filling { buffer, copies, .. }) = self.filling.take() else { return Ok(()) };
        buffer.unmap();
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (from, target, offset, bytes) in &copies {
            encoder.copy_buffer_to_buffer(&buffer, *from, target, *offset, *bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.mapping.push_back(Mapping::begin(buffer));
        self.gpu.check()
    }
}

/// The buffer that was sent off first, mapped again.
async fn freed(gpu: &Gpu, first: Option<Mapping>) -> Result<wgpu::Buffer> {
    let Some(Mapping { buffer, done }) = first else {
        return Err(Error::Gpu("no buffer is free for an upload".to_owned()));
    };
    gpu.pump(None)?;
    done.await.map_err(|e| gpu.check().err().unwrap_or_else(|| unmapped(e)))?;
    Ok(buffer)
}

impl Drop for Upload {
    /// Frees the buffers at once: in a browser a dropped one lives until garbage is collected.
    fn drop(&mut self) {
        for buffer in self.mapping.iter().map(|m| &m.buffer).chain(self.filling.iter().map(|f| &f.buffer)) {
            buffer.destroy();
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn view(buffer: &wgpu::Buffer, bytes: Range<u64>) -> std::result::Result<Mapped, wgpu::MapRangeError> {
    buffer.get_mapped_range_mut(bytes)
}

#[cfg(target_arch = "wasm32")]
fn view(buffer: &wgpu::Buffer, bytes: Range<u64>) -> std::result::Result<Mapped, wgpu::MapRangeError> {
    buffer.get_mapped_range(bytes)
}

fn unmapped(error: impl std::fmt::Display) -> Error {
    Error::Gpu(format!("memory for an upload: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::open;

    #[test]
    fn what_goes_through_a_short_ring_arrives_in_its_places() {
        let Some(gpu) = open() else { return };
        let size = 1 << 12;
        let target = |label| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let targets = [target("a"), target("b")];
        let mut wanted = [vec![0u8; size as usize], vec![0u8; size as usize]];
        let mut upload = Upload::of(&gpu, 256, 3);
        pollster::block_on(async {
            // Up to a whole buffer at once, in one or two stretches: more than the ring holds, many times over.
            for (n, bytes) in (0..40u64).map(|n| (n, 4 + n * 12 % 253 / 4 * 4)) {
                let first = bytes / 8 * 4;
                let to: Vec<_> = [(0usize, n * 96, first), (1, n * 100, bytes - first)]
                    .into_iter()
                    .filter(|(_, at, len)| *len > 0 && at + len <= size)
                    .collect();
                let data: Vec<u8> = (0..to.iter().map(|t| t.2).sum::<u64>()).map(|i| (n * 7 + i * 3) as u8).collect();
                if data.is_empty() {
                    continue;
                }
                let stretches = to.iter().map(|&(which, at, len)| (targets[which].clone(), at, len)).collect();
                upload.room(stretches).await.unwrap().copy_from_slice(&data);
                let mut rest = &data[..];
                for (which, at, len) in to {
                    let (now, later) = rest.split_at(len as usize);
                    wanted[which][at as usize..][..now.len()].copy_from_slice(now);
                    rest = later;
                }
            }
            assert!(upload.room(vec![(targets[0].clone(), 0, 260)]).await.is_err(), "more than a buffer");
            upload.flush().unwrap();
            for (target, wanted) in targets.iter().zip(&wanted) {
                let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                    mapped_at_creation: false,
                });
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                encoder.copy_buffer_to_buffer(target, 0, &staging, 0, size);
                let submission = gpu.queue.submit([encoder.finish()]);
                assert_eq!(&gpu.map(&staging, size, Some(submission)).await.unwrap(), wanted);
            }
        });
    }
}
