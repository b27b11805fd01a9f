//! What autoregressive stages share: the scheduler, KV-cache blocks, the sampler.

pub mod block_hash;
pub mod block_pool;
mod device_choice;
pub mod finish;
pub mod history;
pub mod limits;
pub mod logprobs;
mod nucleus;
mod penalties;
pub mod philox;
pub mod range;
pub mod residency;
pub mod sampler;
pub mod sampling;
pub mod scheduler;
mod selection;

pub use block_hash::{BlockHash, BlockHasher, MediaSpan};
pub use block_pool::BlockPool;
pub use finish::FinishReason;
pub use history::TokenHistory;
pub use limits::{MAX_LOGPROBS, SamplingError};
pub use logprobs::SampledLogprobs;
pub use nucleus::Candidate;
pub use philox::Draw;
pub use residency::Residency;
pub use sampler::{SampleError, Sampled, Sampler};
pub use sampling::SamplingParams;
pub use scheduler::{ScheduledSpan, Scheduler, SchedulerConfig, SequenceKey};
