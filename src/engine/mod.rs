//! What autoregressive stages share: the scheduler, KV-cache blocks, the sampler.

pub mod block_pool;
pub mod finish;
pub mod sampling;
pub mod scheduler;

pub use block_pool::BlockPool;
pub use finish::FinishReason;
pub use sampling::SamplingParams;
pub use scheduler::{ScheduledSpan, Scheduler, SchedulerConfig, SequenceKey};
