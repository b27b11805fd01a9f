//! What a worker notes of one request while it holds it.

use std::time::Instant;

use crate::actors::messages::StageOutcome;
use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, StageId};
use crate::metrics::{Batch, EdgeAccount, FirstEvents, StageAccount, TokenCounts};
use crate::stages::{Output, StageEvent};
use crate::transport::Arrival;

/// The account of one request, while it is written.
#[derive(Debug)]
pub(super) struct JobAccount {
    /// When it reached the HTTP layer.
    arrived: Instant,
    /// When it was put into the queue of the worker.
    queued: Instant,
    /// When the step began that works on it first.
    started: Option<Instant>,
    /// When the stage gave its first output.
    first_output: Option<Instant>,
    /// When the stage was done with it.
    done: Option<Instant>,
    /// The step that ended it.
    batch: Batch,
    /// As the stage counted them.
    tokens: TokenCounts,
    /// Samples per channel of the sound that it gave.
    audio_frames: u64,
    /// Samples per second and channel of it.
    audio_sample_rate: u32,
    /// What came over the edge.
    input: Option<EdgeAccount>,
    /// When its first chunk came how far, until that is reported.
    first_chunk: Option<FirstEvents>,
}

impl JobAccount {
    /// A request that was put into the queue at `queued`.
    pub(super) fn new(arrived: Instant, queued: Instant) -> Self {
        Self {
            arrived,
            queued,
            started: None,
            first_output: None,
            done: None,
            batch: Batch::default(),
            tokens: TokenCounts::default(),
            audio_frames: 0,
            audio_sample_rate: 0,
            input: None,
            first_chunk: None,
        }
    }

    /// A chunk came over the edge to stage `to`.
    pub(super) fn arrived(&mut self, arrival: &Arrival, to: StageId) {
        let from = arrival.from;
        let input = self.input.get_or_insert(EdgeAccount {
            from,
            to,
            size_bytes: 0,
            send_seconds: 0.0,
            in_flight_seconds: 0.0,
            receive_seconds: 0.0,
        });
        input.size_bytes += arrival.size_bytes as u64;
        input.send_seconds += arrival.send_seconds;
        input.in_flight_seconds += arrival.in_flight_seconds;
        input.receive_seconds += arrival.receive_seconds;
        if arrival.chunk.sequence == 0 {
            self.first_chunk = Some(FirstEvents {
                request: arrival.chunk.request,
                from,
                to,
                emit_seconds: self.seconds_until(arrival.made_at),
                send_seconds: self.seconds_until(arrival.sent_at),
                receive_seconds: self.seconds_until(Instant::now()),
                output_seconds: None,
            });
        }
    }

    /// The stage gave something of it, in a step that was begun at `launched`. `batch` is the step that it would end in
    /// now.
    pub(super) fn gave(&mut self, event: &StageEvent, launched: Instant, batch: Batch) {
        match event {
            StageEvent::Started => self.started = Some(launched),
            StageEvent::Client(output) => {
                if let Output::Audio(packet) = output {
                    self.audio_frames += packet.frames();
                    self.audio_sample_rate = packet.sample_rate;
                }
                self.first_output.get_or_insert_with(Instant::now);
            }
            StageEvent::Next(_) => {
                self.first_output.get_or_insert_with(Instant::now);
            }
            StageEvent::Counted(tokens) => self.tokens = *tokens,
            StageEvent::Finished(_) | StageEvent::Failed(_) => {
                self.done = Some(Instant::now());
                self.batch = batch;
            }
        }
    }

    /// When its first chunk came how far, once the stage has given something; told once.
    pub(super) fn take_first_chunk(&mut self) -> Option<FirstEvents> {
        let output_seconds = Some(self.seconds_until(self.first_output?));
        self.first_chunk.take().map(|first| FirstEvents { output_seconds, ..first })
    }

    /// The worker lets go of it. With the account comes what was not told of its first chunk.
    pub(super) fn close(
        self,
        replica: ReplicaKey,
        outcome: &StageOutcome,
    ) -> (StageAccount, Option<FirstEvents>) {
        let released = Instant::now();
        let reason: Option<FinishReason> = match outcome {
            StageOutcome::Finished(reason) => Some(*reason),
            StageOutcome::Failed(_) | StageOutcome::Removed => None,
        };
        let account = StageAccount {
            replica,
            queued: self.queued,
            started: self.started,
            first_output: self.first_output,
            done: self.done.unwrap_or(released),
            released,
            reason,
            batch: self.batch,
            tokens: self.tokens,
            audio_frames: self.audio_frames,
            audio_sample_rate: self.audio_sample_rate,
            input: self.input,
        };
        (account, self.first_chunk)
    }

    fn seconds_until(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.arrived).as_secs_f64()
    }
}
