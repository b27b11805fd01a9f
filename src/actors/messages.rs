//! Every message that passes between actors.
//!
//! Control goes by these messages. Data does not: chunks go from worker to worker over the edges of
//! [`crate::transport`], and outputs from a worker straight into the client's [`RequestStream`].

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use actix::prelude::*;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::actors::replica::ReplicaActor;
use crate::actors::worker::WorkerHandle;
use crate::actors::worker_state::WorkerState;
use crate::engine::{FinishReason, SamplingParams};
use crate::ids::{Epoch, ReplicaId, ReplicaKey, RequestId, StageId};
use crate::metrics::{Exposition, RequestAccount, StageAccount, StatEvent, StatsPort};
use crate::stages::{Modality, Output, Prompt, StageError, StageRequest};
use crate::transport::EdgeSender;

/// A request as the HTTP layer hands it over, checked and complete.
#[derive(Debug, Clone)]
pub struct OmniRequest {
    /// When it reached the HTTP layer.
    pub arrived: Instant,
    /// The client's name for it, for the log only.
    pub external_id: String,
    /// What is asked.
    pub prompt: Arc<Prompt>,
    /// Number of independent choices.
    pub choices: u32,
    /// One entry per stage of the pipeline.
    pub sampling: Vec<SamplingParams>,
    /// The kinds of output wanted; not empty. They decide which stages are visited.
    pub modalities: Vec<Modality>,
    /// More urgent requests have lower values.
    pub priority: i32,
    /// Whether the client gets the answer as it is made.
    pub streamed: bool,
    /// Whether [`RequestEvent::Measured`] comes before the end, also where no statistics are kept.
    pub measured: bool,
}

/// HTTP → orchestrator: admit this request, bind its route and start it.
///
/// Everything that follows comes through `events`, which ends with exactly one terminal event.
#[derive(Debug, Message)]
#[rtype(result = "Result<RequestId, Rejection>")]
pub struct Submit {
    /// What to do.
    pub request: OmniRequest,
    /// The sending side of the client's stream.
    pub events: RequestSink,
}

/// HTTP → orchestrator: the client went away or asked to stop.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Abort {
    /// Which request.
    pub request: RequestId,
    /// Why, a word for `requests_failed_total`.
    pub cause: AbortCause,
}

/// Server → orchestrator: abort all that is left.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AbortAll {
    /// Why.
    pub cause: AbortCause,
}

/// Worker → orchestrator: the stage left the request waiting no longer.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct StageStarted {
    /// Which request.
    pub request: RequestId,
    /// Who reports.
    pub replica: ReplicaKey,
    /// When the step began that works on it first.
    pub at: Instant,
}

/// Worker → orchestrator: a replica is done with a request and holds nothing of it any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct StageDone {
    /// Which request.
    pub request: RequestId,
    /// Who reports.
    pub replica: ReplicaKey,
    /// How it ended there.
    pub outcome: StageOutcome,
    /// What it took, if statistics are on or the client asked for it.
    pub account: Option<Box<StageAccount>>,
}

/// How a request ended in one replica.
#[derive(Debug, Clone, PartialEq)]
pub enum StageOutcome {
    /// By itself.
    Finished(FinishReason),
    /// The stage gave it up.
    Failed(StageError),
    /// It was removed because the request was aborted or failed elsewhere.
    Removed,
}

/// Orchestrator → replica: take part in this request. The answer comes when the worker has it in its queue, so that
/// the first stage can be begun when all later ones are ready for its chunks.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Unavailable>")]
pub struct Begin(pub Job);

/// A request, as one replica's worker holds it.
#[derive(Debug)]
pub struct Job {
    /// What the stage is asked to do.
    pub request: StageRequest,
    /// The client's stream.
    pub events: RequestSink,
    /// The edge to the replica of the next stage that the request is bound to.
    pub next: Option<EdgeSender>,
    /// Whether the stage's output goes there, too, and not to the client.
    pub passes_output_on: bool,
    /// Whether chunks go there as they are made. If not, all of them go when this stage is done.
    pub async_chunk: bool,
    /// Whether an account of it is kept also where no statistics are.
    pub measured: bool,
}

/// The replica cannot take the request: it is gone, or its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replica takes no requests")]
pub struct Unavailable;

impl Unavailable {
    /// A stable word, used in the HTTP error body and as the metric label.
    pub fn reason(self) -> &'static str {
        "replica_unavailable"
    }
}

/// Orchestrator → replica: some of your requests are cancelled; remove them before the next step.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct RemoveCancelled;

/// Supervisor → orchestrator: a life of a replica began; bind requests to it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ReplicaUp {
    /// Which life.
    pub key: ReplicaKey,
    /// Where control goes.
    pub address: Addr<ReplicaActor>,
    /// Where chunks for it go, and what it holds.
    pub worker: WorkerHandle,
}

/// Supervisor → orchestrator: a life of a replica ended, and with it all it held.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ReplicaDown {
    /// Which life.
    pub key: ReplicaKey,
    /// Why.
    pub cause: ExitCause,
}

/// Worker → supervisor: the stage is built, the replica can be bound.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct WorkerReady {
    /// Which life.
    pub key: ReplicaKey,
}

/// Worker → supervisor: the thread ends, and with it this life of the replica.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct WorkerExited {
    /// Which life.
    pub key: ReplicaKey,
    /// Why.
    pub cause: ExitCause,
}

/// Why a life of a replica ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExitCause {
    /// The stage panicked.
    #[error("the stage panicked: {0}")]
    Panicked(String),
    /// The stage reported that it is broken.
    #[error(transparent)]
    Broken(StageError),
    /// The stage could not be built.
    #[error("the stage could not be built: {0}")]
    NotBuilt(StageError),
    /// It was asked to stop.
    #[error("it was stopped")]
    Stopped,
}

impl ExitCause {
    /// A stable word, used in the HTTP error body and as the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Panicked(_) => "replica_panic",
            Self::Broken(error) | Self::NotBuilt(error) => error.reason(),
            Self::Stopped => "replica_stopped",
        }
    }
}

/// Server → supervisor: end all workers.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct StopWorkers;

/// Anyone → orchestrator: how is the pipeline?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Health")]
pub struct GetHealth;

/// The state of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
pub struct Health {
    /// Stages without a live replica; the server is healthy when there are none.
    pub stages_down: Vec<StageId>,
    /// Those of them of which a replica could not be built the last time that was tried, and why.
    pub not_built: Vec<(StageId, StageError)>,
    /// The server takes no new requests because it is shutting down.
    pub draining: bool,
}

/// Anyone → orchestrator: what do you still hold? Used by tests and by the drain at shutdown.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Held")]
pub struct GetHeld;

/// What the actors hold of requests.
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
pub struct Held {
    /// Requests the orchestrator knows.
    pub requests: usize,
    /// Bindings that are not released.
    pub bindings: usize,
    /// Requests that workers hold, over all live replicas.
    pub jobs: usize,
}

/// Anyone → orchestrator: how is each replica?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<StageState>")]
pub struct GetStages;

/// The replicas of a stage at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StageState {
    /// Which stage.
    pub stage: StageId,
    /// What it is called.
    pub name: String,
    /// All that it should have, in order.
    pub replicas: Vec<ReplicaState>,
}

/// A replica at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaState {
    /// Which one.
    pub replica: ReplicaId,
    /// Its present life; `None` while there is none.
    pub life: Option<ReplicaLife>,
    /// The last thing that went wrong there and was not the client's fault, in whatever life.
    pub last_error: Option<ReplicaError>,
}

/// The present life of a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaLife {
    /// Lives before it.
    pub epoch: Epoch,
    /// Requests that its worker holds or has queued.
    pub jobs: usize,
    /// How far its worker was after its last step.
    pub worker: WorkerState,
}

/// Something that went wrong in a replica.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaError {
    /// A stable word: the one in the HTTP error body and on `/metrics`.
    pub reason: &'static str,
    /// What happened, for people.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// Server → orchestrator: take no new requests from now on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Anyone → metrics actor: a stat event. Sent with `do_send`; never waited for.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Record(pub StatEvent);

/// Supervisor → metrics actor: how this life of a replica is asked to report before a scrape. Sent before the life
/// begins; forgotten with [`StatEvent::ReplicaDown`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RegisterReplica {
    /// Which life.
    pub key: ReplicaKey,
    /// The port that its worker answers.
    pub port: Arc<StatsPort>,
}

/// HTTP → metrics actor: gather all families. Whoever asks writes the page.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Exposition")]
pub struct Scrape;

/// The terminal and non-terminal events of a request, as the HTTP layer sees them.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestEvent {
    /// Output of a stage.
    Output(Output),
    /// What it took, before it is finished, if that was asked for.
    Measured(Arc<RequestAccount>),
    /// Terminal: all stages are done.
    Finished(FinishReason),
    /// Terminal: a stage failed, or the replica died.
    Failed(RequestError),
    /// Terminal: it was aborted.
    Aborted(AbortCause),
}

/// Why a request that had been admitted failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("stage {stage}: {message}")]
pub struct RequestError {
    /// A stable word: the one in the HTTP error body and on `/metrics`.
    pub reason: &'static str,
    /// Where it failed.
    pub stage: StageId,
    /// What happened, for people.
    pub message: String,
    /// Whether the client's input caused it; decides between the statuses 400 and 500.
    pub client_fault: bool,
}

/// Why a request was not admitted. Nothing of it is held anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// Too many requests are in the server: status 429 with `Retry-After`.
    #[error("the server holds {limit} requests, as many as it may; try again later")]
    Overloaded {
        /// The bound.
        limit: usize,
    },
    /// A stage that the request needs has no live replica: status 503 with `Retry-After`.
    #[error("stage {stage} has no live replica; try again later")]
    StageUnavailable {
        /// The stage.
        stage: StageId,
    },
    /// The server is shutting down: status 503.
    #[error("the server is shutting down")]
    Draining,
    /// The pipeline does not make what was asked for: status 400.
    #[error("this pipeline does not make {0:?} output")]
    UnsupportedModality(Modality),
}

impl Rejection {
    /// A stable word, used in the HTTP error body and as the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overloaded",
            Self::StageUnavailable { .. } => "stage_unavailable",
            Self::Draining => "shutting_down",
            Self::UnsupportedModality(_) => "unsupported_modality",
        }
    }
}

/// Why a request was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortCause {
    /// The connection was closed before the answer was complete.
    ClientDisconnect,
    /// The request took longer than the server allows.
    Timeout,
    /// The server stopped before the request ended.
    Shutdown,
    /// Another prompt of the same call was turned away or failed, so nobody waits for this one any more.
    SiblingFailed,
}

impl AbortCause {
    /// A stable word, used as the metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ClientDisconnect => "client_disconnect",
            Self::Timeout => "timeout",
            Self::Shutdown => "shutting_down",
            Self::SiblingFailed => "sibling_failed",
        }
    }
}

/// The sending side of a client's stream.
pub type RequestSink = mpsc::Sender<RequestEvent>;
/// The receiving side of a client's stream.
pub type RequestStream = mpsc::Receiver<RequestEvent>;
