//! Stat events: everything that is ever told to the metrics actor.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, RequestId, StageId};
use crate::metrics::account::RequestAccount;
use crate::metrics::labelled::{LabelledStats, MetricFamily};

/// A message to the metrics actor.
#[derive(Debug, Clone)]
pub enum StatEvent {
    /// From the orchestrator and the HTTP layer: what happened to a request as a whole.
    Pipeline(PipelineEvent),
    /// From a replica: its totals so far and the samples since its last report.
    Replica(Box<ReplicaReport>),
    /// From the orchestrator: what a request took that has ended. Its tables are logged.
    Account(Arc<RequestAccount>),
    /// From the HTTP layer: a request was answered.
    Http(HttpExchange),
    /// From whoever wrote a page of metrics.
    Scraped {
        /// Seconds from asking for it to its last line.
        seconds: f64,
    },
    /// From the supervisor: a life of a replica began.
    ReplicaUp(ReplicaKey),
    /// From the supervisor: a life of a replica ended; its gauges go, its counters stay.
    ReplicaDown {
        /// Which life.
        key: ReplicaKey,
        /// A stable word for the cause.
        reason: &'static str,
    },
}

/// What happens to a request as a whole.
#[derive(Debug, Clone)]
pub enum PipelineEvent {
    /// It was admitted and bound to these replicas, one per stage that it visits.
    Accepted {
        /// Which request.
        request: RequestId,
        /// The replicas that its work and statistics belong to.
        route: Vec<ReplicaKey>,
    },
    /// It was turned away, with the word of the HTTP error.
    Rejected {
        /// A stable word.
        reason: &'static str,
    },
    /// The first stage left it waiting no longer.
    Started {
        /// Which request.
        request: RequestId,
        /// Seconds from HTTP arrival until then.
        waited_seconds: f64,
    },
    /// Its spoken answer was delivered. May come after [`Ended`](Self::Ended).
    AudioDelivered {
        /// Which request.
        request: RequestId,
        /// What was delivered.
        audio: DeliveredAudio,
    },
    /// It ended; the last event of this request from the orchestrator.
    Ended {
        /// Which request.
        request: RequestId,
        /// Its finished reason: the first one other than `stop`, in stage order.
        reason: FinishReason,
        /// For abort and error, the word of the HTTP error.
        detail: Option<&'static str>,
        /// Seconds from HTTP arrival to the end.
        e2e_seconds: f64,
    },
}

/// The speech that a request got, told by the HTTP layer when the answer is complete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeliveredAudio {
    /// The stage that made it.
    pub stage: StageId,
    /// Samples per channel; 0 if there was nothing to be spoken.
    pub frames: u64,
    /// Samples per second and channel; 0 if there was nothing to be spoken.
    pub sample_rate: u32,
    /// Seconds from HTTP arrival to the last packet, or to the end if there was none.
    pub e2e_seconds: f64,
    /// How it would have played; only for streamed answers.
    pub playback: Option<Playback>,
}

/// How a streamed answer would have played (reference, section 6.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Playback {
    /// Seconds from HTTP arrival to the first packet.
    pub first_packet_seconds: f64,
    /// The longest time that a player which never pauses would have run dry, in seconds.
    pub underrun_seconds: f64,
}

/// What a replica reports. Totals are cumulative within the epoch, so a lost report loses nothing of them.
#[derive(Debug, Clone)]
pub struct ReplicaReport {
    /// Who reports.
    pub key: ReplicaKey,
    /// Counts the reports of this epoch from 1.
    pub sequence: u64,
    /// When it was made.
    pub at: Instant,
    /// The replica has nothing left to do: its scheduler values are published at once.
    pub idle: bool,
    /// What is reported.
    pub stats: ReplicaStats,
}

/// The content of a report, filled in by a stage.
#[derive(Debug, Clone, Default)]
pub struct ReplicaStats {
    /// The scheduler now; `None` for stages without one.
    pub scheduler: Option<SchedulerSnapshot>,
    /// Totals since the replica's epoch began; `None` for stages that are no engine.
    pub totals: Option<EngineTotals>,
    /// Samples since the last report, in order.
    pub samples: Vec<TokenSample>,
    /// Requests that ended in this replica since the last report.
    pub finished: Vec<FinishedRequest>,
    /// Chunks that came over its edge since the last report.
    pub transfers: Vec<TransferSample>,
    /// The requests that it holds now; `None` if its worker does not say.
    pub load: Option<ReplicaLoad>,
    /// Requests that the stage was done with by itself since the last report.
    pub stage_times: Vec<StageTimes>,
    /// When the first chunks of requests came how far, of those that are known in full since the last report.
    pub first_events: Vec<FirstEvents>,
    /// Requests for images that ended in this replica since the last report.
    pub diffusion: Vec<DiffusedRequest>,
    /// How its KV cache is set up; `None` for stages that have none.
    pub cache: Option<CacheConfiguration>,
    /// Sampled blocks of its KV cache whose content was given up since the last report.
    pub residencies: Vec<BlockResidency>,
    /// Totals and latest values of declared families since the replica's epoch began.
    pub labelled: LabelledStats,
}

/// A chunk that came over an edge, measured on both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransferSample {
    /// The request it belongs to; its route says which replicas.
    pub request: RequestId,
    /// The stage that sent it.
    pub from: StageId,
    /// The stage that received it.
    pub to: StageId,
    /// Bytes handed over: of content where chunks are passed as they are, of the encoding where they are encoded.
    pub size_bytes: u64,
    /// Seconds that the sender spent on handing it over.
    pub send_seconds: f64,
    /// Seconds between the two.
    pub in_flight_seconds: f64,
    /// Seconds that the receiver spent on taking it.
    pub receive_seconds: f64,
}

/// What a replica holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Requests that it holds or has queued.
    pub in_flight: u64,
    /// Those of them that its stage has not begun to work on.
    pub waiting: u64,
}

/// How long a stage took for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageTimes {
    /// Seconds from being queued at the replica to the first step that worked on it.
    pub queue_seconds: f64,
    /// Seconds from there to the end.
    pub work_seconds: f64,
    /// Seconds that its audio plays; 0 if it made none.
    pub audio_seconds: f64,
}

/// When the first chunk of a request came how far on its way over an edge, in seconds from HTTP arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FirstEvents {
    /// The request; its route says which replicas.
    pub request: RequestId,
    /// The stage that sent the chunk.
    pub from: StageId,
    /// The stage that received it.
    pub to: StageId,
    /// The sender made it.
    pub emit_seconds: f64,
    /// The sender handed it over.
    pub send_seconds: f64,
    /// The receiver took it.
    pub receive_seconds: f64,
    /// The receiver gave its first output; `None` if it gave none.
    pub output_seconds: Option<f64>,
}

/// A request for images that a diffusion stage is done with (reference, section 6.4).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DiffusedRequest {
    /// Denoising steps.
    pub steps: u64,
    /// Images made.
    pub images: u64,
    /// Pixels of each.
    pub pixels: u64,
    /// Seconds from admission to the diffusion engine to the raw images.
    pub execution_seconds: f64,
    /// Seconds spent on preparing it.
    pub preprocess_seconds: f64,
    /// Seconds spent on making image files.
    pub postprocess_seconds: f64,
    /// Seconds of the image decoder, where parts are measured.
    pub vae_decode_seconds: Option<f64>,
    /// Seconds of all denoising steps, where parts are measured.
    pub forward_seconds: Option<f64>,
    /// Seconds of receiving keys and values, if it did.
    pub kv_load_seconds: Option<f64>,
    /// Seconds from being handed to the stage to the first image, if there was one.
    pub first_image_seconds: Option<f64>,
    /// The most bytes of device memory that it needed, where that is known.
    pub peak_memory_bytes: Option<u64>,
}

/// How the KV cache of an engine replica is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfiguration {
    /// Tokens of a block.
    pub block_size: u64,
    /// Blocks.
    pub blocks: u64,
    /// Whether requests share what is cached of their common prefixes.
    pub prefix_caching: bool,
}

/// How long a block of a KV cache kept its content, and who took it up.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockResidency {
    /// Seconds from being handed out to giving the content up.
    pub lifetime_seconds: f64,
    /// Seconds from the release by the last holder to giving the content up.
    pub idle_seconds: f64,
    /// Seconds between two requests taking the content up, of the last four that did.
    pub reuse_gap_seconds: Vec<f64>,
}

/// A request to the HTTP server, and its response.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpExchange {
    /// A method that HTTP defines, or `OTHER`.
    pub method: &'static str,
    /// The pattern of the route that answered; `None` where there is no such route.
    pub route: Option<String>,
    /// The status of the response.
    pub status: u16,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body that were written.
    pub response_bytes: u64,
    /// Seconds from the request's head to the response's last byte.
    pub seconds: f64,
}

/// Scheduler values at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SchedulerSnapshot {
    /// Sequences being worked on.
    pub running: u64,
    /// Sequences that wait for capacity.
    pub waiting_for_capacity: u64,
    /// Sequences that wait for something else, such as input.
    pub waiting_deferred: u64,
    /// KV-cache blocks in use over all blocks, in [0, 1].
    pub kv_cache_usage: f64,
}

/// Totals of an engine since its epoch began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineTotals {
    /// Prompt tokens of requests that gave their first output.
    pub prompt_tokens: u64,
    /// Those of them that were computed here.
    pub prompt_tokens_computed: u64,
    /// Those of them that were found in the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Tokens found there.
    pub prefix_cache_hits: u64,
    /// Sequences put back to be computed again.
    pub preemptions: u64,
    /// Steps that gave output.
    pub steps: u64,
    /// Requests that failed because the model gave no finite logit.
    pub corrupted_requests: u64,
    /// Media looked up in the cache of what was made of them.
    pub media_cache_queries: u64,
    /// Media found there.
    pub media_cache_hits: u64,
    /// What its steps were in terms of work; nothing where that is not estimated.
    pub work: StepWork,
}

/// What steps are in terms of work. Too much for integers of 64 bits, so that small amounts get lost beside large ones.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepWork {
    /// Floating-point operations.
    pub operations: f64,
    /// Bytes read.
    pub read_bytes: f64,
    /// Bytes written.
    pub write_bytes: f64,
}

/// A sample for a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenSample {
    /// Tokens of one step with output: generated ones, and the computed prompts of requests whose first it gave.
    IterationTokens(u64),
    /// Seconds from arrival to the first token of a request.
    TimeToFirstToken(f64),
    /// Seconds between two outputs of a request.
    InterTokenLatency(f64),
}

/// A request that ended in a replica by itself (reference, section 3.4).
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedRequest {
    /// Which request.
    pub request: RequestId,
    /// Why.
    pub reason: FinishReason,
    /// Seconds from arrival to the last output.
    pub e2e_seconds: f64,
    /// Seconds from being queued to being scheduled for the first time.
    pub queue_seconds: f64,
    /// Seconds from being scheduled to the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first to the last token.
    pub decode_seconds: f64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Those found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated, over all choices.
    pub generation_tokens: u64,
    /// Tokens generated by the longest choice.
    pub max_generation_tokens: u64,
    /// `n` of the request.
    pub choices: u64,
    /// `max_tokens` of the request.
    pub max_tokens: u64,
    /// Times it was preempted.
    pub preemptions: u64,
}

/// What must be known of a stage to set up its families.
#[derive(Debug, Clone)]
pub struct StageDescription {
    /// Which stage.
    pub stage: StageId,
    /// Its replicas, 0 to this minus one.
    pub replicas: u16,
    /// Set for stages that are engines: the longest sequence they take, which bounds token histograms.
    pub max_model_len: Option<u64>,
    /// Whether clients get audio from it.
    pub makes_audio: bool,
    /// Whether it makes images by diffusion.
    pub diffusion: bool,
    /// The families that it declares, if it is a custom stage.
    pub families: Vec<MetricFamily>,
}
