//! The orchestrator: admits requests, binds their routes, and sees that each of them ends exactly once.
//!
//! It carries control only. A request's entry lives from admission until every replica it was bound to has reported
//! that it is done, or is gone; then, and only then, the client gets the terminal event.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;

use crate::actors::messages::{
    Abort, AbortAll, AbortCause, Begin, Drain, ExitCause, GetHealth, GetHeld, GetStages, Health, Held, Job,
    OmniRequest, Rejection, RemoveCancelled, ReplicaDown, ReplicaError, ReplicaLife, ReplicaState, ReplicaUp,
    RequestError, RequestEvent, RequestSink, StageDone, StageOutcome, StageStarted, StageState, Submit,
    Unavailable,
};
use crate::actors::pool::{LiveReplica, Pool};
use crate::engine::FinishReason;
use crate::ids::{ReplicaId, ReplicaKey, RequestId, StageId};
use crate::metrics::{PipelineEvent, RequestAccount, StageAccount, StatEvent, StatsSender};
use crate::stages::{Cancellation, Modality, Pipeline, StageError, StageInput, StageRequest};

/// A replica that has not removed a cancelled request after this long is taken for stuck; the request ends without it.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(120);
/// A client that does not read its terminal event for this long does not get it.
const TERMINAL_DEADLINE: Duration = Duration::from_secs(60);

/// Admits, binds, aborts, ends.
pub struct Orchestrator {
    pipeline: Arc<Pipeline>,
    /// One per stage.
    pools: Vec<Pool>,
    requests: HashMap<RequestId, Request>,
    next_id: u64,
    /// Requests held at most.
    max_requests: usize,
    draining: bool,
    /// Stages of which a replica could not be built, and none came up since.
    not_built: BTreeMap<StageId, StageError>,
    /// The last thing that went wrong in each replica.
    last_errors: BTreeMap<(StageId, ReplicaId), ReplicaError>,
    statistics: StatsSender,
}

/// A request between admission and its terminal event.
struct Request {
    /// What the client calls it.
    external_id: String,
    arrived: Instant,
    events: RequestSink,
    cancelled: Cancellation,
    /// One per visited stage, in stage order. Never changed.
    route: Vec<Bound>,
    fate: Fate,
    /// When its fate was decided before its stages were done.
    ending_since: Option<Instant>,
    /// Whether the client is told what it took.
    measured: bool,
}

/// A replica that a request is bound to.
struct Bound {
    replica: LiveReplica,
    progress: Progress,
    /// What it took there, once it is done, if that was noted.
    account: Option<Box<StageAccount>>,
}

/// How far a replica is with a request.
#[derive(Debug, Clone, PartialEq)]
enum Progress {
    /// It was not told to begin yet.
    NotBegun,
    /// It has the request.
    Begun,
    /// It holds nothing of the request any more.
    Done(StageOutcome),
}

/// How a request will end.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    /// By itself, when all stages are done.
    Open,
    /// With an error.
    Failed(RequestError),
    /// Without an answer.
    Aborted(AbortCause),
}

impl Orchestrator {
    /// An orchestrator without replicas, which holds at most `max_requests` requests.
    pub fn new(pipeline: Arc<Pipeline>, max_requests: usize, statistics: StatsSender) -> Self {
        let pools = pipeline.stages.iter().map(|_| Pool::default()).collect();
        Self {
            pipeline,
            pools,
            requests: HashMap::new(),
            next_id: 0,
            max_requests,
            draining: false,
            not_built: BTreeMap::new(),
            last_errors: BTreeMap::new(),
            statistics,
        }
    }

    fn tell(&self, event: impl FnOnce() -> PipelineEvent) {
        self.statistics.send(|| StatEvent::Pipeline(event()));
    }

    fn admit(&mut self, submit: Submit) -> Result<RequestId, Rejection> {
        let Submit { request, events } = submit;
        let last = self.pipeline.last_stage(&request.modalities).map_err(Rejection::UnsupportedModality)?;
        if self.draining {
            return Err(Rejection::Draining);
        }
        if self.requests.len() >= self.max_requests {
            return Err(Rejection::Overloaded { limit: self.max_requests });
        }
        let stages = usize::from(last.0) + 1;
        if let Some(empty) = self.pools.iter().take(stages).position(Pool::is_empty) {
            return Err(Rejection::StageUnavailable { stage: StageId(empty as u16) });
        }
        let route: Vec<Bound> =
            self.pools.iter_mut().take(stages).filter_map(Pool::bind).map(Bound::new).collect();
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let entry = Request {
            external_id: request.external_id,
            arrived: request.arrived,
            events,
            cancelled: Cancellation::default(),
            route,
            fate: Fate::Open,
            ending_since: None,
            measured: request.measured,
        };
        self.tell(|| PipelineEvent::Accepted {
            request: id,
            route: entry.route.iter().map(|bound| bound.replica.key).collect(),
        });
        tracing::debug!(request = %id, external_id = entry.external_id, stages, "request accepted");
        self.requests.insert(id, entry);
        Ok(id)
    }

    /// Begins the later stages; when all of them have the request in their queues, the first one.
    fn begin(&mut self, id: RequestId, request: OmniRequest, ctx: &mut Context<Self>) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        let mut jobs = self.pipeline.jobs(id, &request, entry);
        if jobs.is_empty() {
            return;
        }
        let first = jobs.remove(0);
        let later: Vec<_> =
            entry.route.iter_mut().skip(1).zip(jobs).map(|(bound, job)| bound.begin(job)).collect();
        if later.is_empty() {
            self.begin_first(id, first, ctx);
            return;
        }
        let begun = join_all(later).into_actor(self).map(move |answers, act, ctx| {
            for (stage, answer) in (1..).map(StageId).zip(answers) {
                if !matches!(answer, Ok(Ok(()))) {
                    act.replica_unavailable(id, stage);
                }
            }
            act.begin_first(id, first, ctx);
        });
        ctx.spawn(begun);
    }

    fn begin_first(&mut self, id: RequestId, job: Job, ctx: &mut Context<Self>) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        if entry.fate != Fate::Open {
            return; // It ended before it began; nobody waits for the first stage.
        }
        let Some(bound) = entry.route.first_mut() else { return };
        let begun = bound.begin(job).into_actor(self).map(move |answer, act, _| {
            if !matches!(answer, Ok(Ok(()))) {
                act.replica_unavailable(id, StageId(0));
            }
        });
        ctx.spawn(begun);
    }

    /// A bound replica did not take the request.
    fn replica_unavailable(&mut self, id: RequestId, stage: StageId) {
        let error = RequestError {
            reason: Unavailable.reason(),
            stage,
            message: "the replica that the request was bound to takes no requests".into(),
            client_fault: false,
        };
        let key = self.requests.get(&id).and_then(|entry| entry.bound_at(stage));
        if let Some(key) = key {
            self.end(id, Fate::Failed(error));
            self.replica_done(id, key, StageOutcome::Removed);
        }
    }

    /// Decides how a request will end, unless that is decided, and has its replicas remove it.
    fn end(&mut self, id: RequestId, fate: Fate) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        if entry.fate != Fate::Open {
            return;
        }
        entry.fate = fate;
        entry.ending_since = Some(Instant::now());
        entry.cancelled.cancel();
        for bound in &mut entry.route {
            match bound.progress {
                Progress::NotBegun => bound.progress = Progress::Done(StageOutcome::Removed),
                Progress::Begun => bound.replica.address.do_send(RemoveCancelled),
                Progress::Done(_) => {}
            }
        }
    }

    /// Ends cancelled requests whose replicas did not remove them in time.
    fn give_up_on_stuck_replicas(&mut self) {
        let overdue = |entry: &Request| entry.ending_since.is_some_and(|at| at.elapsed() > REMOVAL_DEADLINE);
        let ids: Vec<_> =
            self.requests.iter().filter(|(_, entry)| overdue(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(entry) = self.requests.get_mut(&id) else { continue };
            for bound in entry.route.iter_mut().filter(|bound| !bound.is_done()) {
                tracing::error!(request = %id, replica = %bound.replica.key, "the replica does not remove the request");
                bound.progress = Progress::Done(StageOutcome::Removed);
            }
            self.settle(id);
        }
    }

    /// A bound replica is gone, and with it all it held of the request.
    fn replica_gone(&mut self, id: RequestId, key: ReplicaKey, error: RequestError) {
        let Some(entry) = self.requests.get(&id) else { return };
        if entry.route.iter().any(|bound| bound.replica.key == key && !bound.is_done()) {
            self.end(id, Fate::Failed(error));
            self.replica_done(id, key, StageOutcome::Removed);
        }
    }

    /// Notes what went wrong in a replica.
    fn note_error(&mut self, key: ReplicaKey, reason: &'static str, message: String) {
        let error = ReplicaError { reason, message, at: SystemTime::now() };
        self.last_errors.insert((key.stage, key.replica), error);
    }

    /// Notes that a replica is done with a request.
    fn replica_done(&mut self, id: RequestId, key: ReplicaKey, outcome: StageOutcome) {
        if let StageOutcome::Failed(error) = &outcome {
            let failure = RequestError::in_stage(key.stage, error);
            if !failure.client_fault {
                self.note_error(key, failure.reason, failure.message.clone());
            }
            self.end(id, Fate::Failed(failure));
        }
        let Some(entry) = self.requests.get_mut(&id) else { return };
        if let Some(bound) = entry.bound_to(key) {
            bound.progress = Progress::Done(outcome);
        }
        self.settle(id);
    }

    /// If all replicas are done with a request: releases its bindings, forgets it, and sends the terminal event.
    fn settle(&mut self, id: RequestId) {
        let Some(entry) = self.requests.get(&id) else { return };
        if !entry.route.iter().all(Bound::is_done) {
            return;
        }
        let Some(mut entry) = self.requests.remove(&id) else { return };
        for bound in &entry.route {
            if let Some(pool) = self.pools.get_mut(usize::from(bound.replica.key.stage.0)) {
                pool.release(bound.replica.key);
            }
        }
        let account = (entry.measured || self.statistics.is_on()).then(|| Arc::new(entry.take_account()));
        let terminal = entry.terminal_event();
        self.tell(|| PipelineEvent::Ended {
            request: id,
            reason: entry.ended_as(),
            detail: entry.detail(),
            e2e_seconds: entry.arrived.elapsed().as_secs_f64(),
        });
        if let Some(account) = &account {
            self.statistics.send(|| StatEvent::Account(account.clone()));
        }
        tracing::debug!(request = %id, event = ?terminal, ms = entry.arrived.elapsed().as_millis() as u64, "request ended");
        let measured = account.filter(|_| entry.measured).map(RequestEvent::Measured);
        let mut last = measured.into_iter().chain([terminal]);
        while let Some(event) = last.next() {
            if let Err(TrySendError::Full(event)) = entry.events.try_send(event) {
                actix::spawn(async move {
                    for event in [event].into_iter().chain(last) {
                        let _ = tokio::time::timeout(TERMINAL_DEADLINE, entry.events.send(event)).await;
                    }
                });
                return;
            }
        }
    }
}

impl Request {
    fn bound_at(&self, stage: StageId) -> Option<ReplicaKey> {
        self.route.get(usize::from(stage.0)).map(|bound| bound.replica.key)
    }

    fn bound_to(&mut self, replica: ReplicaKey) -> Option<&mut Bound> {
        self.route.iter_mut().find(|bound| bound.replica.key == replica)
    }

    /// The first reason other than `stop`, in stage order.
    fn finish_reason(&self) -> FinishReason {
        let reasons = self.route.iter().filter_map(|bound| match &bound.progress {
            Progress::Done(StageOutcome::Finished(reason)) => Some(*reason),
            _ => None,
        });
        reasons.into_iter().find(|reason| *reason != FinishReason::Stop).unwrap_or(FinishReason::Stop)
    }

    /// The finished reason, for the metrics.
    fn ended_as(&self) -> FinishReason {
        match self.fate {
            Fate::Open => self.finish_reason(),
            Fate::Failed(_) => FinishReason::Error,
            Fate::Aborted(_) => FinishReason::Abort,
        }
    }

    /// Why it was aborted or failed, in the word of the HTTP error.
    fn detail(&self) -> Option<&'static str> {
        match &self.fate {
            Fate::Open => None,
            Fate::Failed(error) => Some(error.reason),
            Fate::Aborted(cause) => Some(cause.reason()),
        }
    }

    /// What it took, as far as its replicas said.
    fn take_account(&mut self) -> RequestAccount {
        RequestAccount {
            reason: self.ended_as(),
            request_id: std::mem::take(&mut self.external_id),
            arrived: self.arrived,
            ended: Instant::now(),
            stages: self.route.iter_mut().filter_map(|bound| bound.account.take()).map(|it| *it).collect(),
        }
    }

    fn terminal_event(&self) -> RequestEvent {
        match &self.fate {
            Fate::Open => RequestEvent::Finished(self.finish_reason()),
            Fate::Failed(error) => RequestEvent::Failed(error.clone()),
            Fate::Aborted(cause) => RequestEvent::Aborted(*cause),
        }
    }
}

impl Bound {
    fn new(replica: LiveReplica) -> Self {
        Self { replica, progress: Progress::NotBegun, account: None }
    }

    fn is_done(&self) -> bool {
        matches!(self.progress, Progress::Done(_))
    }

    fn begin(&mut self, job: Job) -> actix::dev::Request<crate::actors::replica::ReplicaActor, Begin> {
        self.progress = Progress::Begun;
        self.replica.address.send(Begin(job))
    }
}

impl Pipeline {
    /// What each replica of a route is asked to do, in stage order.
    fn jobs(&self, id: RequestId, request: &OmniRequest, entry: &Request) -> Vec<Job> {
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
    fn in_stage(stage: StageId, error: &StageError) -> Self {
        Self {
            reason: error.reason(),
            stage,
            message: error.to_string(),
            client_fault: matches!(error, StageError::InvalidInput(_)),
        }
    }
}

impl Actor for Orchestrator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(Duration::from_secs(1), |act, _| act.give_up_on_stuck_replicas());
    }
}

impl Handler<Submit> for Orchestrator {
    type Result = Result<RequestId, Rejection>;

    fn handle(&mut self, submit: Submit, ctx: &mut Self::Context) -> Self::Result {
        let request = submit.request.clone();
        let id = self.admit(submit).inspect_err(|rejection| {
            self.tell(|| PipelineEvent::Rejected { reason: rejection.reason() });
        })?;
        self.begin(id, request, ctx);
        Ok(id)
    }
}

impl Handler<Abort> for Orchestrator {
    type Result = ();

    fn handle(&mut self, Abort { request, cause }: Abort, _: &mut Self::Context) {
        self.end(request, Fate::Aborted(cause));
        self.settle(request);
    }
}

impl Handler<AbortAll> for Orchestrator {
    type Result = ();

    fn handle(&mut self, AbortAll { cause }: AbortAll, _: &mut Self::Context) {
        let ids: Vec<_> = self.requests.keys().copied().collect();
        for id in ids {
            self.end(id, Fate::Aborted(cause));
            self.settle(id);
        }
    }
}

impl Handler<StageStarted> for Orchestrator {
    type Result = ();

    fn handle(&mut self, StageStarted { request, at, .. }: StageStarted, _: &mut Self::Context) {
        if let Some(entry) = self.requests.get(&request) {
            let waited_seconds = at.saturating_duration_since(entry.arrived).as_secs_f64();
            self.tell(|| PipelineEvent::Started { request, waited_seconds });
        }
    }
}

impl Handler<StageDone> for Orchestrator {
    type Result = ();

    fn handle(&mut self, done: StageDone, _: &mut Self::Context) {
        let StageDone { request, replica, outcome, account } = done;
        let bound = self.requests.get_mut(&request).and_then(|entry| entry.bound_to(replica));
        if let Some(bound) = bound {
            bound.account = account;
        }
        self.replica_done(request, replica, outcome);
    }
}

impl Handler<ReplicaUp> for Orchestrator {
    type Result = ();

    fn handle(&mut self, ReplicaUp { key, address, worker }: ReplicaUp, _: &mut Self::Context) {
        self.not_built.remove(&key.stage);
        if let Some(pool) = self.pools.get_mut(usize::from(key.stage.0)) {
            pool.add(LiveReplica { key, address, worker, bound: 0 });
            tracing::info!(%key, "replica up");
        }
    }
}

impl Handler<ReplicaDown> for Orchestrator {
    type Result = ();

    fn handle(&mut self, ReplicaDown { key, cause }: ReplicaDown, _: &mut Self::Context) {
        if let Some(pool) = self.pools.get_mut(usize::from(key.stage.0)) {
            pool.remove(key);
            if let (ExitCause::NotBuilt(error), true) = (&cause, pool.is_empty()) {
                self.not_built.insert(key.stage, error.clone());
            }
        }
        if cause != ExitCause::Stopped {
            self.note_error(key, cause.reason(), cause.to_string());
        }
        let bound = |entry: &Request| entry.bound_at(key.stage) == Some(key);
        let affected: Vec<_> =
            self.requests.iter().filter(|(_, entry)| bound(entry)).map(|(id, _)| *id).collect();
        for id in affected {
            let error = RequestError {
                reason: cause.reason(),
                stage: key.stage,
                message: format!("the replica that worked on the request ended: {cause}"),
                client_fault: false,
            };
            self.replica_gone(id, key, error);
        }
    }
}

impl Handler<Drain> for Orchestrator {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
    }
}

impl Handler<GetHealth> for Orchestrator {
    type Result = Health;

    fn handle(&mut self, _: GetHealth, _: &mut Self::Context) -> Health {
        let down = (0..).map(StageId).zip(&self.pools).filter(|(_, pool)| pool.is_empty());
        Health {
            stages_down: down.map(|(stage, _)| stage).collect(),
            not_built: self.not_built.iter().map(|(stage, error)| (*stage, error.clone())).collect(),
            draining: self.draining,
        }
    }
}

impl Handler<GetStages> for Orchestrator {
    type Result = MessageResult<GetStages>;

    fn handle(&mut self, _: GetStages, _: &mut Self::Context) -> Self::Result {
        let replica = |stage: StageId, pool: &Pool, replica: ReplicaId| ReplicaState {
            replica,
            life: pool.get(replica).map(|live| ReplicaLife {
                epoch: live.key.epoch,
                jobs: live.worker.jobs(),
                worker: live.worker.state(),
            }),
            last_error: self.last_errors.get(&(stage, replica)).cloned(),
        };
        let stages = (0..).map(StageId).zip(&self.pipeline.stages).zip(&self.pools);
        let states = stages.map(|((stage, spec), pool)| StageState {
            stage,
            name: spec.name.clone(),
            replicas: (0..spec.replicas).map(|id| replica(stage, pool, ReplicaId(id))).collect(),
        });
        MessageResult(states.collect())
    }
}

impl Handler<GetHeld> for Orchestrator {
    type Result = Held;

    fn handle(&mut self, _: GetHeld, _: &mut Self::Context) -> Held {
        Held {
            requests: self.requests.len(),
            bindings: self.pools.iter().map(Pool::bindings).sum(),
            jobs: self.pools.iter().map(Pool::jobs).sum(),
        }
    }
}
