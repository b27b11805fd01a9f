//! Sound as files: what clients are sent instead of raw samples.
//!
//! Samples are 32-bit floats in [-1, 1] throughout the pipeline, channels interleaved. All formats here are made of
//! 16-bit samples, into which [`encode::quantise`] rounds them.

#![deny(clippy::indexing_slicing)]

pub mod encode;

pub use encode::{AudioFormat, EncodeError, encode};

/// What a row of samples means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleLayout {
    /// Samples per second and channel.
    pub sample_rate: u32,
    /// How many channels are interleaved.
    pub channels: u16,
}

impl SampleLayout {
    /// Samples per channel in `samples` interleaved ones.
    pub fn frames(&self, samples: usize) -> usize {
        samples / usize::from(self.channels.max(1))
    }
}
