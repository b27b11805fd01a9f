//! How fast a model is served, measured without HTTP: requests with random prompts go to the orchestrator as the HTTP
//! layer would send them, through the same actors and stages, and what comes back is timed.
//!
//! A [`Workload`] says what a request asks for, a [`Schedule`] when requests are sent, and a [`Report`] what came out.

mod error;
mod figures;
mod report;
mod request;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};

pub use self::error::BenchError;
pub use self::figures::Summary;
pub use self::report::{DecodeReport, Report, StageReport};
use self::request::{Timeline, answer};
use self::workload::Prompts;
pub use self::workload::Workload;
use crate::actors::messages::OmniRequest;
use crate::actors::runtime::{Runtime, RuntimeOptions};
use crate::cli::ServeArgs;
use crate::metrics::{Inference, Summary as RequestSummary, tables};
use crate::selftest::bandwidth;
use crate::server::{self, ModelDevice, StartedPipeline};
use crate::stages::{Pipeline, Registry};
use crate::tensor::cuda::{Cuda, Stored};
use crate::tensor::{Backend, DeviceError};

/// Bytes that are read to measure the memory of a CPU; more than caches hold.
const CPU_READ_BYTES: usize = 1 << 30;
/// f32 values that a GPU copies for that: beside its caches there is room for two buffers of 256 MiB.
const GPU_COPIED: usize = 1 << 26;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// So many at once, and again when all of them have ended.
    Batches {
        /// Requests of a batch.
        size: usize,
        /// Batches that are measured.
        iterations: usize,
        /// Batches before those.
        warmup: usize,
    },
    /// A new one whenever one has ended.
    Stream {
        /// All requests.
        prompts: usize,
        /// As many at a time.
        concurrency: usize,
    },
}

/// As many requests there may be at the same time.
pub fn most_concurrent() -> usize {
    RuntimeOptions::default().max_requests
}

/// What was measured, before it is summed up.
struct Measured {
    /// Every request.
    requests: Vec<Timeline>,
    /// Seconds of each batch; of all of it where there are none.
    iterations: Vec<f64>,
}

impl Measured {
    /// What all requests took together, if that was noted.
    fn summary(&self) -> Option<RequestSummary> {
        RequestSummary::of(self.requests.iter().filter_map(|request| request.account.as_deref()))
    }
}

impl Schedule {
    /// All requests, those that warm up included.
    pub fn requests(self) -> usize {
        match self {
            Self::Batches { size, iterations, warmup } => size.saturating_mul(iterations + warmup),
            Self::Stream { prompts, .. } => prompts,
        }
    }

    /// Requests at a time, with the option that says so.
    fn concurrency(self) -> (&'static str, usize) {
        match self {
            Self::Batches { size, .. } => ("--batch-size", size),
            Self::Stream { concurrency, .. } => ("--max-concurrency", concurrency),
        }
    }
}

/// Starts what `serve` with the same arguments would serve, sends it requests, and says how fast it was. `ended` is called
/// whenever a request has ended.
///
/// # Errors
///
/// What cannot be served, what the model cannot be asked for, and requests that fail.
pub fn run(
    args: &ServeArgs,
    registry: Registry,
    workload: &Workload,
    schedule: Schedule,
    ended: &dyn Fn(),
) -> Result<Report, BenchError> {
    let (option, asked) = schedule.concurrency();
    let limit = most_concurrent();
    if asked > limit {
        return Err(BenchError::TooMany { option, asked, limit });
    }
    // Much can be wrong that need not wait for weights.
    let (deploy, _) = server::effective_deploy(args, &registry)?;
    workload.check(&deploy)?;
    actix_rt::System::new().block_on(async {
        let StartedPipeline { model, pipeline, names, runtime } =
            StartedPipeline::start(args, registry, Inference::Offline).await?;
        let (Some(text), Some(language_model)) = (&model.text, &model.language_model) else {
            return Err(BenchError::NoLanguageModel { pipeline: deploy.pipeline });
        };
        let prompts = Prompts::new(workload, text, args.seed)?;
        let bench = Bench {
            pipeline: &pipeline,
            runtime: &runtime,
            workload,
            prompts: &prompts,
            log_stats: args.log_stats,
            ended,
        };
        let measured = bench.run(schedule).await?;
        runtime.drain(Duration::ZERO).await;
        if let Some(summary) = measured.summary() {
            tracing::info!("\n{}", tables::of_batch(&summary));
        }
        let report = Report::new(&names, &pipeline, (args, workload, schedule), &measured);
        let traffic = &language_model.decode;
        Ok(match read_bandwidth(&language_model.device) {
            Ok(bandwidth) => report.with_decode(&measured.requests, traffic, bandwidth),
            Err(error) => {
                tracing::warn!(%error, "the bandwidth of the memory could not be measured");
                report
            }
        })
    })
}

/// A started pipeline under measurement.
struct Bench<'a> {
    pipeline: &'a Arc<Pipeline>,
    runtime: &'a Runtime,
    workload: &'a Workload,
    prompts: &'a Prompts,
    /// Whether what requests took is summed up.
    log_stats: bool,
    ended: &'a dyn Fn(),
}

impl Bench<'_> {
    async fn run(&self, schedule: Schedule) -> Result<Measured, BenchError> {
        let mut measured = Measured { requests: Vec::new(), iterations: Vec::new() };
        let (size, batches, warmup) = match schedule {
            Schedule::Batches { size, iterations, warmup } => (size, warmup + iterations, warmup),
            Schedule::Stream { prompts, concurrency } => {
                let (requests, seconds) = self.requests(0..prompts, concurrency).await?;
                return Ok(Measured { requests, iterations: vec![seconds] });
            }
        };
        for batch in 0..batches {
            let (requests, seconds) = self.requests(batch * size..(batch + 1) * size, size).await?;
            if batch >= warmup {
                measured.requests.extend(requests);
                measured.iterations.push(seconds);
            }
        }
        Ok(measured)
    }

    /// Sends requests, `concurrency` at a time, and gives the seconds that all of them took.
    async fn requests(
        &self,
        indices: std::ops::Range<usize>,
        concurrency: usize,
    ) -> Result<(Vec<Timeline>, f64), BenchError> {
        let began = Instant::now();
        let one = async |index: usize| {
            let request = self.workload.request(index, self.prompts.prompt(index), self.pipeline);
            let request = OmniRequest { measured: self.log_stats, ..request };
            let timeline = answer(&self.runtime.orchestrator, request).await?;
            timeline.check(self.workload)?;
            (self.ended)();
            Ok::<_, BenchError>(timeline)
        };
        let running = stream::iter(indices.map(one)).buffer_unordered(concurrency);
        let requests = running.try_collect::<Vec<_>>().await?;
        Ok((requests, began.elapsed().as_secs_f64()))
    }
}

/// Bytes that a device reads of its memory per second. Of a GPU it is what copies read and write.
fn read_bandwidth(device: &ModelDevice) -> Result<f64, DeviceError> {
    match device {
        ModelDevice::Cpu(cpu) => Ok(bandwidth::measure_reads(cpu, CPU_READ_BYTES)),
        ModelDevice::Gpu(gpu) => {
            let cuda = Cuda::new(gpu.clone(), Stored::F32);
            cuda.scope(|| bandwidth::measure(&cuda, GPU_COPIED))
        }
    }
}
