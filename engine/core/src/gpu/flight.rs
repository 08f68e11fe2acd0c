//! Steps that the device chains by itself: each chooses the token that the next one reads, and only ids come back. Several
//! are in flight, so that neither side waits for a round trip.

use crate::error::{Error, Result};
use crate::kernels::sample::{NO_TOKEN, Wish};
use crate::recording::Step;
use crate::sampler;

use super::GpuExecutor;
use super::device::Mapping;
use super::executor::no_logits;

/// A step whose id has not come back.
pub(super) struct Flight {
    id: Mapping,
    submission: wgpu::SubmissionIndex,
}

impl GpuExecutor {
    /// Runs one step of one token and lets the device choose the next: the likeliest, or one drawn as `wish` says. Without
    /// `token` the step reads what the one before chose. [`Self::land`] brings the id.
    pub fn launch(&mut self, position: usize, token: Option<u32>, wish: Option<&Wish>) -> Result<()> {
        let step = Step { position, tokens: 1 };
        self.begin(step, token.as_ref().map(std::slice::from_ref))?;
        if let Some(wish) = wish {
            self.gpu.queue.write_buffer(&self.buffers.wish, 0, bytemuck::bytes_of(wish));
        }
        let choice = if wish.is_some() { &self.sample } else { &self.argmax };
        if choice.is_empty() {
            return Err(no_logits());
        }
        let mut encoder = self.encoder();
        self.encode(&mut encoder, step, 0..self.recording.ops.len(), choice)?;
        let staging = self.ids_staging.pop().unwrap_or_else(|| self.staging_buffer(4));
        encoder.copy_buffer_to_buffer(&self.buffers.tokens, 0, &staging, 0, 4);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        self.flights.push_back(Flight { id: self.gpu.begin_map(staging, 4), submission });
        Ok(())
    }

    /// Steps whose ids have not come back.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Waits for the id that the earliest step in flight chose.
    pub async fn land(&mut self) -> Result<u32> {
        let flight = self.flights.pop_front().ok_or_else(|| Error::Gpu("no step is in flight".into()))?;
        let (bytes, staging) = self.gpu.end_map(flight.id, Some(flight.submission)).await?;
        self.ids_staging.push(staging);
        match bytemuck::pod_read_unaligned(&bytes) {
            NO_TOKEN => Err(sampler::damaged("one of the values is not a finite number")),
            id => Ok(id),
        }
    }

    /// Lets the steps in flight run out unseen.
    pub fn abandon(&mut self) {
        self.flights.clear();
    }
}
