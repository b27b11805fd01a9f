//! Server-sent events: a stream of outputs as the body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use serde::Serialize;

use crate::engine::FinishReason;
use crate::http::errors::ApiError;
use crate::http::running::{Progress, RunningRequests};
use crate::metrics::RequestAccount;
use crate::stages::{AudioPacket, Output, TextDelta};

/// Outputs that are there at the same time are written together, up to about this many bytes.
const WRITE_BYTES: usize = 32 << 10;

/// Events on their way to the client.
#[derive(Debug, Default)]
pub struct EventBuffer(BytesMut);

impl EventBuffer {
    /// Appends one event with a value as JSON.
    pub fn event<T: Serialize>(&mut self, value: &T) {
        match serde_json::to_vec(value) {
            Ok(json) => {
                self.0.put_slice(b"data: ");
                self.0.put_slice(&json);
                self.0.put_slice(b"\n\n");
            }
            Err(error) => tracing::error!(%error, "an event could not be written as JSON"),
        }
    }

    /// Appends the event that ends a stream.
    fn done(&mut self) {
        self.0.put_slice(b"data: [DONE]\n\n");
    }
}

/// How an endpoint writes its stream.
pub trait StreamWriter {
    /// Before the first output.
    fn begin(&mut self, events: &mut EventBuffer);

    /// Text for the prompt with this index.
    fn output(&mut self, prompt: usize, delta: TextDelta, events: &mut EventBuffer);

    /// Sound for the prompt with this index. An error ends the stream.
    fn sound(&mut self, prompt: usize, packet: AudioPacket, events: &mut EventBuffer)
    -> Result<(), ApiError>;

    /// What the request took. Comes before it is finished, if it was asked for.
    fn measured(&mut self, account: Arc<RequestAccount>);

    /// All choices of the prompt have ended.
    fn finished(&mut self, prompt: usize, reason: FinishReason, events: &mut EventBuffer);

    /// All prompts have ended.
    fn end(&mut self, events: &mut EventBuffer);
}

/// The body of a streamed answer. Dropping it aborts what still runs.
pub struct EventStream<W> {
    /// Where the outputs come from.
    running: RunningRequests,
    /// How they are written.
    writer: W,
    /// What happened first, before the status was sent.
    first: Option<(usize, Progress)>,
    /// `[DONE]` was written.
    done: bool,
}

impl<W: StreamWriter + Unpin + 'static> EventStream<W> {
    /// Answers with a stream. Waits for the first output before the status is sent, so that a request that fails
    /// before it has an error status like any other.
    pub async fn respond(mut running: RunningRequests, writer: W) -> Result<HttpResponse, ApiError> {
        let first = running.next().await.transpose()?;
        let body = Self { running, writer, first, done: false };
        Ok(HttpResponse::Ok()
            .content_type("text/event-stream; charset=utf-8")
            .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
            // Asks proxies of the nginx family to pass events on as they come.
            .insert_header((HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")))
            .streaming(body))
    }

    fn write(&mut self, prompt: usize, progress: Progress, events: &mut EventBuffer) {
        let written = match progress {
            Progress::Output(Output::Text(delta)) => {
                self.writer.output(prompt, delta, events);
                Ok(())
            }
            Progress::Output(Output::Audio(packet)) => self.writer.sound(prompt, packet, events),
            Progress::Measured(account) => {
                self.writer.measured(account);
                Ok(())
            }
            Progress::Finished(reason) => {
                self.writer.finished(prompt, reason, events);
                Ok(())
            }
        };
        if let Err(error) = written {
            self.running.abandon();
            self.fail(&error, events);
        }
    }

    /// Ends the stream with an error.
    fn fail(&mut self, error: &ApiError, events: &mut EventBuffer) {
        events.event(&error.body());
        events.done();
        self.done = true;
    }
}

impl<W: StreamWriter + Unpin + 'static> Stream for EventStream<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut events = EventBuffer::default();
        if let Some((prompt, progress)) = this.first.take() {
            this.writer.begin(&mut events);
            this.write(prompt, progress, &mut events);
        }
        while !this.done && events.0.len() < WRITE_BYTES {
            match this.running.poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok((prompt, progress)))) => this.write(prompt, progress, &mut events),
                Poll::Ready(Some(Err(error))) => this.fail(&error, &mut events),
                Poll::Ready(None) => {
                    this.writer.end(&mut events);
                    events.done();
                    this.done = true;
                }
            }
        }
        if !events.0.is_empty() {
            Poll::Ready(Some(Ok(events.0.freeze())))
        } else if this.done {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}
