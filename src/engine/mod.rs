//! What autoregressive stages share: sequences, the scheduler, KV-cache blocks, the sampler.

pub mod finish;
pub mod sampling;

pub use finish::FinishReason;
pub use sampling::SamplingParams;
