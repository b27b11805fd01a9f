//! A request on its way through the pipeline, as the connection that waits for it sees it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::Recipient;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::actors::messages::{Abort, AbortCause, OmniRequest, RequestEvent, RequestStream, Submit};
use crate::engine::FinishReason;
use crate::http::errors::ApiError;
use crate::http::speech_account::{Delivery, SpeechAccount};
use crate::http::state::{AppState, OrchestratorPort};
use crate::ids::RequestId;
use crate::metrics::RequestAccount;
use crate::stages::Output;

/// Room in a request's stream beside its tokens: the terminal event, and outputs that carry no token.
const SLACK: usize = 64;

/// Something that happened to a running request.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It gave output.
    Output(Output),
    /// What it took, before it is finished, if that was asked for.
    Measured(Arc<RequestAccount>),
    /// It ended by itself; nothing follows.
    Finished(FinishReason),
}

/// Aborts a request when it is dropped, unless the request ended before.
///
/// The future of a handler and the body of a response are dropped when the client closes the connection, so that
/// owning a guard is all that it takes to have the request aborted then.
struct AbortGuard {
    /// Where the abort goes.
    abort: Recipient<Abort>,
    /// Which request; `None` once it has ended.
    request: Option<RequestId>,
    /// What the orchestrator is told.
    cause: AbortCause,
}

impl AbortGuard {
    /// The request ended: there is nothing to abort any more.
    fn disarm(&mut self) {
        self.request = None;
    }
}

impl Drop for AbortGuard {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.abort.do_send(Abort { request, cause: self.cause });
        }
    }
}

/// One request that was admitted and has not ended.
pub struct RunningRequest {
    /// What comes back.
    events: RequestStream,
    /// Aborts the request if the connection is closed before it ends.
    guard: AbortGuard,
    /// Fires when the request may have been silent for too long.
    alarm: Pin<Box<Sleep>>,
    /// When the request gave its last event. The alarm is set anew only when it fires too early, so that no timer
    /// is touched for each token.
    last_event: Instant,
    /// How long the request may be silent.
    patience: Duration,
    /// What the request is called outside, for errors.
    external_id: String,
    /// What the metrics are told of its speech, if it speaks and they are kept.
    speech: Option<SpeechAccount>,
}

impl RunningRequest {
    /// Submits a request and waits until it is admitted.
    async fn submit(state: &AppState, request: OmniRequest, delivery: Delivery) -> Result<Self, ApiError> {
        let patience = state.limits.request_timeout;
        let external_id = request.external_id.clone();
        // The stream holds the whole answer, so that a client that reads slowly never makes a worker wait. The
        // channel allocates as it fills, so that the bound costs nothing until it is used. No stage gives more
        // outputs than it, or the stage before it, makes tokens.
        let tokens: usize = request.sampling.iter().map(|params| params.max_tokens as usize).sum();
        let speech = SpeechAccount::open(state, &request, delivery);
        let capacity = tokens.saturating_mul(request.choices as usize).saturating_add(SLACK);
        let (sink, events) = mpsc::channel(capacity.min(tokio::sync::Semaphore::MAX_PERMITS));
        let submission =
            submit_and_guard(state.orchestrator.clone(), Submit { request, events: sink }, patience);
        // As a task of its own the submission runs to its end even if the client goes away meanwhile. The guard in
        // its result is then dropped, and a request whose id nobody learnt is aborted all the same.
        let guard = match tokio::time::timeout(patience, actix_web::rt::spawn(submission)).await {
            Ok(Ok(result)) => result?,
            Ok(Err(error)) => return Err(ApiError::Internal(error.to_string())),
            Err(_) => return Err(ApiError::Timeout { seconds: patience.as_secs(), request_id: external_id }),
        };
        Ok(Self {
            events,
            guard,
            alarm: Box::pin(tokio::time::sleep(patience)),
            last_event: Instant::now(),
            patience,
            external_id,
            speech,
        })
    }

    /// The next thing that happens. After `Finished` or an error nothing follows.
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Result<Progress, ApiError>> {
        let Poll::Ready(event) = self.events.poll_recv(context) else {
            return self.poll_alarm(context).map(Err);
        };
        self.last_event = Instant::now();
        let request_id = || self.external_id.clone();
        let terminal = match event {
            Some(RequestEvent::Output(output)) => {
                if let (Output::Audio(packet), Some(speech)) = (&output, &mut self.speech) {
                    speech.packet(packet);
                }
                return Poll::Ready(Ok(Progress::Output(output)));
            }
            Some(RequestEvent::Measured(account)) => return Poll::Ready(Ok(Progress::Measured(account))),
            Some(RequestEvent::Finished(reason)) => {
                if let (Some(speech), Some(request)) = (self.speech.take(), self.guard.request) {
                    speech.close(request);
                }
                Ok(Progress::Finished(reason))
            }
            Some(RequestEvent::Failed(error)) => Err(ApiError::Failed { error, request_id: request_id() }),
            Some(RequestEvent::Aborted(cause)) => Err(ApiError::Aborted { cause, request_id: request_id() }),
            // Every sender is gone: nobody works on the request, and nobody will say how it ended.
            None => Err(ApiError::Lost { request_id: request_id() }),
        };
        self.guard.disarm();
        Poll::Ready(terminal)
    }

    /// Ready when the request has been silent for too long.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<ApiError> {
        while self.alarm.as_mut().poll(context).is_ready() {
            let due = self.last_event + self.patience;
            if due <= Instant::now() {
                self.guard.cause = AbortCause::Timeout;
                return Poll::Ready(ApiError::Timeout {
                    seconds: self.patience.as_secs(),
                    request_id: self.external_id.clone(),
                });
            }
            self.alarm.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// Submits a request; what comes back aborts it when dropped.
async fn submit_and_guard(
    orchestrator: OrchestratorPort,
    submit: Submit,
    patience: Duration,
) -> Result<AbortGuard, ApiError> {
    let sent = Instant::now();
    let request = orchestrator
        .submit
        .send(submit)
        .await
        .map_err(|_| ApiError::Unavailable)?
        .map_err(ApiError::Rejected)?;
    let cause = if sent.elapsed() >= patience { AbortCause::Timeout } else { AbortCause::ClientDisconnect };
    Ok(AbortGuard { abort: orchestrator.abort, request: Some(request), cause })
}

/// The requests that one call made: one for chat, one per prompt for completions.
pub struct RunningRequests {
    /// Those that have not ended, each with the index of its prompt.
    members: Vec<(usize, RunningRequest)>,
    /// Which member is asked first the next time, so that none is passed over.
    turn: usize,
}

impl RunningRequests {
    /// Submits all requests. If one is turned away, those admitted before it are aborted.
    pub async fn submit(
        state: &AppState,
        requests: Vec<OmniRequest>,
        delivery: Delivery,
    ) -> Result<Self, ApiError> {
        let mut running = Self { members: Vec::with_capacity(requests.len()), turn: 0 };
        for (prompt, request) in requests.into_iter().enumerate() {
            match RunningRequest::submit(state, request, delivery).await {
                Ok(member) => running.members.push((prompt, member)),
                Err(error) => {
                    running.abandon();
                    return Err(error);
                }
            }
        }
        Ok(running)
    }

    /// The next thing that happens in any of the requests, with the index of its prompt; `None` when all have
    /// ended. An error ends all of them.
    pub async fn next(&mut self) -> Option<Result<(usize, Progress), ApiError>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for a stream.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<(usize, Progress), ApiError>>> {
        let count = self.members.len();
        if count == 0 {
            return Poll::Ready(None);
        }
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some((prompt, member)) = self.members.get_mut(index) else { continue };
            let prompt = *prompt;
            match member.poll_progress(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(progress)) => {
                    self.turn = index + 1;
                    if matches!(progress, Progress::Finished(_)) {
                        self.members.remove(index);
                        self.turn = index;
                    }
                    return Poll::Ready(Some(Ok((prompt, progress))));
                }
                Poll::Ready(Err(error)) => {
                    self.members.remove(index);
                    self.abandon();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Pending
    }

    /// Aborts what still runs because a part of the answer failed, and the rest is of no use without it.
    pub fn abandon(&mut self) {
        for (_, member) in &mut self.members {
            member.guard.cause = AbortCause::SiblingFailed;
        }
        self.members.clear();
    }
}
