//! A request on its way, and when something came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use tokio::sync::mpsc;

use super::{BenchError, Workload};
use crate::actors::messages::{OmniRequest, RequestEvent, Submit};
use crate::actors::orchestrator::Orchestrator;
use crate::metrics::RequestAccount;
use crate::stages::Output;

/// Room in a request's stream beside its tokens.
const SLACK: usize = 64;
/// A request that gives nothing for longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// When something came of a request.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    /// When it was sent.
    pub(super) sent: Instant,
    /// When each token came.
    pub(super) tokens: Vec<Instant>,
    /// When the first sound came.
    pub(super) first_audio: Option<Instant>,
    /// Seconds of sound.
    pub(super) audio_seconds: f64,
    /// When it had ended.
    pub(super) ended: Instant,
    /// What it took in each stage, if that is logged.
    pub(super) account: Option<Arc<RequestAccount>>,
}

/// Sends a request and waits for all that comes of it.
pub(super) async fn answer(
    orchestrator: &Addr<Orchestrator>,
    request: OmniRequest,
) -> Result<Timeline, BenchError> {
    let sent = request.arrived;
    let mut timeline = Timeline {
        sent,
        tokens: Vec::new(),
        first_audio: None,
        audio_seconds: 0.0,
        ended: sent,
        account: None,
    };
    // The stream holds the whole answer, as that of the HTTP layer does.
    let tokens: usize = request.sampling.iter().map(|params| params.max_tokens as usize).sum();
    let (sink, mut events) = mpsc::channel(tokens.saturating_add(SLACK));
    let submitted = orchestrator.send(Submit { request, events: sink }).await;
    submitted.map_err(|_| BenchError::Lost)??;
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        let now = Instant::now();
        match event.map_err(|_| BenchError::Silent { seconds: PATIENCE.as_secs() })? {
            Some(RequestEvent::Output(Output::Text(delta))) => {
                timeline.tokens.extend(delta.token_ids.iter().map(|_| now));
            }
            Some(RequestEvent::Output(Output::Audio(packet))) => {
                timeline.first_audio.get_or_insert(now);
                timeline.audio_seconds += packet.seconds();
            }
            Some(RequestEvent::Measured(account)) => timeline.account = Some(account),
            Some(RequestEvent::Finished(_)) => {
                timeline.ended = now;
                return Ok(timeline);
            }
            Some(RequestEvent::Failed(error)) => return Err(BenchError::Failed(error)),
            Some(RequestEvent::Aborted(cause)) => return Err(BenchError::Aborted(cause)),
            None => return Err(BenchError::Lost),
        }
    }
}

impl Timeline {
    /// Checks that the answer is what was asked for, so that figures mean what they say.
    pub(super) fn check(&self, workload: &Workload) -> Result<(), BenchError> {
        let (made, asked) = (self.tokens.len(), workload.output_len);
        if made != asked as usize {
            return Err(BenchError::OtherLength { made, asked });
        }
        if workload.spoken && self.first_audio.is_none() {
            return Err(BenchError::NoSound);
        }
        Ok(())
    }

    /// Seconds until the first token.
    pub(super) fn to_first_token(&self) -> Option<f64> {
        self.tokens.first().map(|first| self.since_sent(*first))
    }

    /// Seconds until the first sound.
    pub(super) fn to_first_audio(&self) -> Option<f64> {
        self.first_audio.map(|first| self.since_sent(first))
    }

    /// Seconds until all of it was there.
    pub(super) fn end_to_end(&self) -> f64 {
        self.since_sent(self.ended)
    }

    /// Seconds from each token to the next.
    pub(super) fn between_tokens(&self) -> impl Iterator<Item = f64> {
        self.tokens.windows(2).filter_map(|pair| match pair {
            [one, next] => Some(next.duration_since(*one).as_secs_f64()),
            _ => None,
        })
    }

    /// From the first token to the last: while it decodes.
    pub(super) fn decoding(&self) -> Option<(Instant, Instant)> {
        Some((*self.tokens.first()?, *self.tokens.last()?))
    }

    fn since_sent(&self, then: Instant) -> f64 {
        then.duration_since(self.sent).as_secs_f64()
    }
}
