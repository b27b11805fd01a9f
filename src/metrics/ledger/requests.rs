//! What becomes of requests, from acceptance to end.
//!
//! Running and waiting are counted from the requests that are known, so accepted = running + waiting + ended holds
//! after every event.

use std::collections::HashMap;

use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, RequestId, StageId};
use crate::metrics::families::PipelineFamilies;
use crate::metrics::{MetricsError, PipelineEvent};

/// The requests that were accepted and have not ended.
#[derive(Debug)]
pub struct RequestLedger {
    /// Where the account is shown.
    families: PipelineFamilies,
    /// The requests by id.
    live: HashMap<RequestId, LiveRequest>,
    /// How many of them are worked on.
    running: usize,
    /// Events that contradicted what was known and changed nothing.
    contradictions: u64,
}

/// A request that was accepted and has not ended.
#[derive(Debug)]
struct LiveRequest {
    /// The replicas that its work and statistics belong to.
    route: Vec<ReplicaKey>,
    /// Whether a stage has begun to work on it.
    started: bool,
}

/// The reason shown for a request that was aborted or failed when nobody said why.
const UNKNOWN_REASON: &str = "unknown";

impl RequestLedger {
    /// A ledger without requests.
    pub fn new(families: PipelineFamilies) -> Self {
        Self { families, live: HashMap::new(), running: 0, contradictions: 0 }
    }

    /// Applies an event. One that contradicts what is known, such as a second end, changes nothing but
    /// [`contradictions`](Self::contradictions).
    pub fn apply(&mut self, event: &PipelineEvent) -> Result<(), MetricsError> {
        match event {
            PipelineEvent::Accepted { request, route } => self.accept(*request, route),
            PipelineEvent::Rejected { reason } => self.families.rejected.series(&[reason])?.inc(),
            PipelineEvent::AudioDelivered { .. } => {}
            PipelineEvent::Started { request } => self.start(*request),
            PipelineEvent::Ended { request, reason, detail, e2e_seconds } => {
                self.end(*request, *reason, *detail, *e2e_seconds)?;
            }
        }
        self.families.running.set(self.running as f64);
        self.families.waiting.set(self.live.len().saturating_sub(self.running) as f64);
        Ok(())
    }

    /// Which life of which replica of `stage` works on a request.
    pub fn resolve(&self, request: RequestId, stage: StageId) -> Option<ReplicaKey> {
        self.live.get(&request)?.route.iter().find(|key| key.stage == stage).copied()
    }

    /// Events that contradicted what was known of their request and changed nothing.
    pub fn contradictions(&self) -> u64 {
        self.contradictions
    }

    fn accept(&mut self, request: RequestId, route: &[ReplicaKey]) {
        if self.live.contains_key(&request) {
            return self.contradiction(request, "accepted twice");
        }
        self.live.insert(request, LiveRequest { route: route.to_vec(), started: false });
        self.families.accepted.inc();
    }

    fn start(&mut self, request: RequestId) {
        match self.live.get_mut(&request) {
            Some(live) if !live.started => {
                live.started = true;
                self.running += 1;
            }
            Some(_) => self.contradiction(request, "started twice"),
            None => self.contradiction(request, "started while not accepted"),
        }
    }

    fn end(
        &mut self,
        request: RequestId,
        reason: FinishReason,
        detail: Option<&'static str>,
        e2e_seconds: f64,
    ) -> Result<(), MetricsError> {
        let Some(live) = self.live.remove(&request) else {
            self.contradiction(request, "ended while not accepted, or twice");
            return Ok(());
        };
        self.running -= usize::from(live.started);
        self.families.success.series(&[reason.as_str()])?.inc();
        match reason {
            FinishReason::Stop | FinishReason::Length => self.families.observe_e2e(e2e_seconds),
            FinishReason::Abort | FinishReason::Error => {
                self.families.failed.series(&[detail.unwrap_or(UNKNOWN_REASON)])?.inc();
            }
        }
        Ok(())
    }

    /// Counts and logs an event that cannot be true.
    fn contradiction(&mut self, request: RequestId, what: &'static str) {
        self.contradictions += 1;
        tracing::warn!(%request, what, "ignored a stat event");
    }
}
