//! A request that was admitted: the replicas that it is bound to, how far each of them is, and how it will end.

use std::time::Instant;

use crate::actors::messages::{
    AbortCause, Begin, Job, OmniRequest, RequestError, RequestEvent, RequestSink, StageOutcome,
};
use crate::actors::pool::LiveReplica;
use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, RequestId, StageId};
use crate::metrics::{RequestAccount, StageAccount};
use crate::stages::{Cancellation, Modality, Pipeline, StageError, StageInput, StageRequest};

/// A request between admission and its terminal event.
pub(super) struct Request {
    /// What the client calls it.
    pub(super) external_id: String,
    pub(super) arrived: Instant,
    pub(super) events: RequestSink,
    pub(super) cancelled: Cancellation,
    /// One per visited stage, in stage order. Never changed.
    pub(super) route: Vec<Bound>,
    pub(super) fate: Fate,
    /// When its fate was decided before its stages were done.
    pub(super) ending_since: Option<Instant>,
    /// Whether the client is told what it took.
    pub(super) measured: bool,
}

/// A replica that a request is bound to.
pub(super) struct Bound {
    pub(super) replica: LiveReplica,
    pub(super) progress: Progress,
    /// What it took there, once it is done, if that was noted.
    pub(super) account: Option<Box<StageAccount>>,
}

/// How far a replica is with a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Progress {
    /// It was not told to begin yet.
    NotBegun,
    /// It has the request.
    Begun,
    /// It holds nothing of the request any more.
    Done(StageOutcome),
}

/// How a request will end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fate {
    /// By itself, when all stages are done.
    Open,
    /// With an error.
    Failed(RequestError),
    /// Without an answer.
    Aborted(AbortCause),
}

impl Request {
    pub(super) fn bound_at(&self, stage: StageId) -> Option<ReplicaKey> {
        self.route.get(usize::from(stage.0)).map(|bound| bound.replica.key)
    }

    pub(super) fn bound_to(&mut self, replica: ReplicaKey) -> Option<&mut Bound> {
        self.route.iter_mut().find(|bound| bound.replica.key == replica)
    }

    /// The first reason other than `stop`, in stage order.
    pub(super) fn finish_reason(&self) -> FinishReason {
        let reasons = self.route.iter().filter_map(|bound| match &bound.progress {
            Progress::Done(StageOutcome::Finished(reason)) => Some(*reason),
            _ => None,
        });
        reasons.into_iter().find(|reason| *reason != FinishReason::Stop).unwrap_or(FinishReason::Stop)
    }

    /// The finished reason, for the metrics.
    pub(super) fn ended_as(&self) -> FinishReason {
        match self.fate {
            Fate::Open => self.finish_reason(),
            Fate::Failed(_) => FinishReason::Error,
            Fate::Aborted(_) => FinishReason::Abort,
        }
    }

    /// Why it was aborted or failed, in the word of the HTTP error.
    pub(super) fn detail(&self) -> Option<&'static str> {
        match &self.fate {
            Fate::Open => None,
            Fate::Failed(error) => Some(error.reason),
            Fate::Aborted(cause) => Some(cause.reason()),
        }
    }

    /// What it took, as far as its replicas said.
    pub(super) fn take_account(&mut self) -> RequestAccount {
        RequestAccount {
            reason: self.ended_as(),
            request_id: std::mem::take(&mut self.external_id),
            arrived: self.arrived,
            ended: Instant::now(),
            stages: self.route.iter_mut().filter_map(|bound| bound.account.take()).map(|it| *it).collect(),
        }
    }

    pub(super) fn terminal_event(&self) -> RequestEvent {
        match &self.fate {
            Fate::Open => RequestEvent::Finished(self.finish_reason()),
            Fate::Failed(error) => RequestEvent::Failed(error.clone()),
            Fate::Aborted(cause) => RequestEvent::Aborted(*cause),
        }
    }
}

impl Bound {
    pub(super) fn new(replica: LiveReplica) -> Self {
        Self { replica, progress: Progress::NotBegun, account: None }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.progress, Progress::Done(_))
    }

    pub(super) fn begin(
        &mut self,
        job: Job,
    ) -> actix::dev::Request<crate::actors::replica::ReplicaActor, Begin> {
        self.progress = Progress::Begun;
        self.replica.address.send(Begin(job))
    }
}

impl Pipeline {
    /// What each replica of a route is asked to do, in stage order.
    pub(super) fn jobs(&self, id: RequestId, request: &OmniRequest, entry: &Request) -> Vec<Job> {
        let wanted = |output: Option<Modality>| output.is_some_and(|kind| request.modalities.contains(&kind));
        let stages = self.stages.iter().zip(&entry.route).enumerate();
        stages
            .map(|(index, (spec, _))| {
                let next = entry.route.get(index + 1);
                let passes_output_on = self.passes_output_on(index);
                let prompt = request.prompt.clone();
                let sampling = request.sampling.get(index).unwrap_or(&spec.sampling).clone();
                Job {
                    request: StageRequest {
                        id,
                        input: if index == 0 {
                            StageInput::Prompt(prompt)
                        } else {
                            StageInput::Upstream(prompt)
                        },
                        sampling,
                        choices: request.choices,
                        priority: request.priority,
                        arrived: request.arrived,
                        to_client: wanted(self.gives(index)),
                        to_next: next.is_some() && !passes_output_on,
                        streamed: request.streamed,
                        cancelled: entry.cancelled.clone(),
                    },
                    events: entry.events.clone(),
                    next: next.map(|bound| bound.replica.worker.chunks.clone()),
                    passes_output_on,
                    async_chunk: self.stages.get(index + 1).is_none_or(|next| next.async_chunk),
                    measured: request.measured,
                }
            })
            .collect()
    }
}

impl RequestError {
    /// The failure of a request in a stage.
    pub(super) fn in_stage(stage: StageId, error: &StageError) -> Self {
        Self {
            reason: error.reason(),
            stage,
            message: error.to_string(),
            client_fault: matches!(error, StageError::InvalidInput(_)),
        }
    }
}
