//! What becomes of requests, from acceptance to end.
//!
//! Running and waiting are counted from the requests that are known, so accepted = running + waiting + ended holds
//! after every event.

use std::collections::HashMap;

use super::audio::AudioLedger;
use super::route::{EndedRoutes, RequestTokens, Route};
use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, RequestId, StageId};
use crate::metrics::families::PipelineFamilies;
use crate::metrics::{DeliveredAudio, FinishedRequest, MetricsError, PipelineEvent, StageTimes};

/// The requests that were accepted and have not ended, and the routes of those that ended of late.
#[derive(Debug)]
pub struct RequestLedger {
    /// Where the account is shown.
    families: PipelineFamilies,
    /// The requests by id.
    live: HashMap<RequestId, LiveRequest>,
    /// How many of them are worked on.
    running: usize,
    /// Where requests went that ended of late.
    ended: EndedRoutes,
    /// What audio was delivered; `None` for a pipeline that makes none.
    audio: Option<AudioLedger>,
    /// Events that contradicted what was known and changed nothing.
    contradictions: u64,
}

/// A request that was accepted and has not ended.
#[derive(Debug)]
struct LiveRequest {
    /// The replicas that its work and statistics belong to.
    route: Route,
    /// Whether a stage has begun to work on it.
    started: bool,
}

impl PipelineFamilies {
    /// Counts the tokens of a request that ended by itself.
    fn show(&self, tokens: RequestTokens) {
        self.prompt_tokens.inc_by(tokens.prompt as f64);
        self.generation_tokens.inc_by(tokens.generation as f64);
    }
}

/// The reason shown for a request that was aborted or failed when nobody said why.
const UNKNOWN_REASON: &str = "unknown";

impl RequestLedger {
    /// A ledger without requests. `audio`: for a pipeline that makes audio.
    pub fn new(families: PipelineFamilies, audio: Option<AudioLedger>) -> Self {
        let (live, ended) = (HashMap::new(), EndedRoutes::default());
        Self { families, live, running: 0, ended, audio, contradictions: 0 }
    }

    /// Applies an event. One that contradicts what is known, such as a second end, changes nothing but
    /// [`contradictions`](Self::contradictions).
    pub fn apply(&mut self, event: &PipelineEvent) -> Result<(), MetricsError> {
        match event {
            PipelineEvent::Accepted { request, route } => self.accept(*request, route),
            PipelineEvent::Rejected { reason } => self.families.rejected.series(&[reason])?.inc(),
            PipelineEvent::Started { request, waited_seconds } => self.start(*request, *waited_seconds),
            PipelineEvent::AudioDelivered { request, audio } => self.deliver(*request, audio)?,
            PipelineEvent::Ended { request, reason, detail, e2e_seconds } => {
                self.end(*request, *reason, *detail, *e2e_seconds)?;
            }
        }
        self.families.running.set(self.running as f64);
        self.families.waiting.set(self.live.len().saturating_sub(self.running) as f64);
        Ok(())
    }

    /// Which life of which replica of `stage` works on a request, or did so.
    pub fn resolve(&self, request: RequestId, stage: StageId) -> Option<ReplicaKey> {
        self.route(request)?.replica(stage)
    }

    /// The sending and the receiving replica of a chunk, as the route of its request has them; `None`, and a
    /// contradiction, if there is no such route or the chunk was not received by the replica of the route.
    pub fn edge(
        &mut self,
        request: RequestId,
        [from, to]: [StageId; 2],
        receiver: ReplicaKey,
    ) -> Option<[ReplicaKey; 2]> {
        let route = self.route(request);
        let edge = route.and_then(|route| Some([route.replica(from)?, route.replica(to)?]));
        match edge {
            Some([_, to]) if (to.stage, to.replica) == (receiver.stage, receiver.replica) => edge,
            Some(_) => {
                self.contradiction(request, "a chunk was received by a replica that it is not bound to");
                None
            }
            None => {
                self.contradiction(request, "a chunk came over an edge that it is not known to use");
                None
            }
        }
    }

    /// A replica is done with a request by itself. Its tokens are shown when the request as a whole has ended by itself,
    /// which may be told before or after this.
    pub fn finished(&mut self, replica: ReplicaKey, finished: &FinishedRequest) {
        let request = finished.request;
        let live = self.live.get_mut(&request).map(|live| &mut live.route);
        let Some(route) = live.or_else(|| self.ended.get_mut(request)) else {
            return self
                .contradiction(request, "a replica finished it, but it is not known, or ended long ago");
        };
        if route.begins_with(replica.stage) {
            route.tokens.prompt += finished.prompt_tokens;
        }
        route.tokens.generation += finished.generation_tokens;
        if route.ended_by_itself {
            self.families.show(std::mem::take(&mut route.tokens));
        }
    }

    /// A stage is done with a request by itself.
    pub fn stage_done(&mut self, replica: ReplicaKey, times: &StageTimes) -> Result<(), MetricsError> {
        match self.audio.as_mut().filter(|audio| audio.is_made_by(replica.stage)) {
            Some(audio) => audio.stage_done(replica, times),
            None => Ok(()),
        }
    }

    /// Events that contradicted what was known of their request and changed nothing.
    pub fn contradictions(&self) -> u64 {
        self.contradictions
    }

    fn accept(&mut self, request: RequestId, route: &[ReplicaKey]) {
        if self.route(request).is_some() {
            return self.contradiction(request, "accepted twice");
        }
        self.live.insert(request, LiveRequest { route: Route::new(route), started: false });
        self.families.accepted.inc();
    }

    fn start(&mut self, request: RequestId, waited_seconds: f64) {
        match self.live.get_mut(&request) {
            Some(live) if !live.started => {
                live.started = true;
                self.running += 1;
                self.families.observe_queue_wait(waited_seconds);
            }
            Some(_) => self.contradiction(request, "started twice"),
            None => self.contradiction(request, "started while not accepted"),
        }
    }

    fn deliver(&mut self, request: RequestId, delivered: &DeliveredAudio) -> Result<(), MetricsError> {
        match self.maker(request, delivered) {
            Ok((audio, replica)) => audio.deliver(replica, delivered)?,
            Err(what) => self.contradiction(request, what),
        }
        Ok(())
    }

    /// The replica that made what was delivered, and the ledger to note it in; or what is wrong with the event.
    fn maker(
        &mut self,
        request: RequestId,
        delivered: &DeliveredAudio,
    ) -> Result<(&mut AudioLedger, ReplicaKey), &'static str> {
        let audio = self.audio.as_mut().filter(|audio| audio.is_made_by(delivered.stage));
        let audio = audio.ok_or("audio from a stage that makes none")?;
        let route = match self.live.get_mut(&request) {
            Some(live) => Some(&mut live.route),
            None => self.ended.get_mut(request),
        };
        let route = route.ok_or("audio for a request that is not known, or ended long ago")?;
        let replica = route.replica(delivered.stage).ok_or("audio from a stage that it does not visit")?;
        if delivered.frames > 0 && delivered.sample_rate == 0 {
            return Err("audio without a sample rate");
        }
        if std::mem::replace(&mut route.audio_delivered, true) {
            return Err("audio delivered twice");
        }
        Ok((audio, replica))
    }

    fn end(
        &mut self,
        request: RequestId,
        reason: FinishReason,
        detail: Option<&'static str>,
        e2e_seconds: f64,
    ) -> Result<(), MetricsError> {
        let Some(LiveRequest { mut route, started }) = self.live.remove(&request) else {
            self.contradiction(request, "ended while not accepted, or twice");
            return Ok(());
        };
        self.running -= usize::from(started);
        route.ended_by_itself = matches!(reason, FinishReason::Stop | FinishReason::Length);
        if route.ended_by_itself {
            self.families.show(std::mem::take(&mut route.tokens));
        }
        self.ended.remember(request, route);
        self.families.success.series(&[reason.as_str()])?.inc();
        match reason {
            FinishReason::Stop | FinishReason::Length => self.families.observe_e2e(e2e_seconds),
            FinishReason::Abort | FinishReason::Error => {
                self.families.failed.series(&[detail.unwrap_or(UNKNOWN_REASON)])?.inc();
            }
        }
        Ok(())
    }

    /// The route of a request that has not ended, or ended of late.
    fn route(&self, request: RequestId) -> Option<&Route> {
        self.live.get(&request).map(|live| &live.route).or_else(|| self.ended.get(request))
    }

    /// Counts and logs an event that cannot be true.
    fn contradiction(&mut self, request: RequestId, what: &'static str) {
        self.contradictions += 1;
        tracing::warn!(%request, what, "ignored a stat event");
    }
}
