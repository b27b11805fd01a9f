//! What one request took: per stage, per edge, and over all; and the sum of several.
//!
//! The formulas are those of the log tables (reference, sections 4.1 to 4.4). All times are taken by the monotonic clock,
//! so that they can be held against each other across stages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, StageId};

/// Tokens that a stage took and gave for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Tokens of its input: of the prompt, rows of a talker's prompt, codes for a vocoder.
    pub input: u64,
    /// Tokens generated, over all choices.
    pub output: u64,
}

/// The step that ended a request in a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Batch {
    /// Steps of this life of the replica before it.
    pub id: u64,
    /// Requests that were at work in the replica at the time.
    pub size: u64,
}

/// What one request took in one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageAccount {
    /// Where.
    pub replica: ReplicaKey,
    /// When it was put into the queue of the replica.
    pub queued: Instant,
    /// When the step began that worked on it first; `None` if none did.
    pub started: Option<Instant>,
    /// When it gave its first output, to the client or to the next stage; `None` if it gave none.
    pub first_output: Option<Instant>,
    /// When the stage was done with it.
    pub done: Instant,
    /// When the replica let go of it, its last chunk having been handed over.
    pub released: Instant,
    /// How the stage ended it; `None` if it failed or was removed.
    pub reason: Option<FinishReason>,
    /// The step that ended it.
    pub batch: Batch,
    /// Tokens in and out.
    pub tokens: TokenCounts,
    /// Samples per channel of the sound that it gave.
    pub audio_frames: u64,
    /// Samples per second and channel of that sound; 0 if there is none.
    pub audio_sample_rate: u32,
    /// What came over the edge before it; `None` if nothing did.
    pub input: Option<EdgeAccount>,
}

/// What came over one edge for one request, summed over its chunks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeAccount {
    /// The stage that sent it.
    pub from: StageId,
    /// The stage that received it.
    pub to: StageId,
    /// Bytes handed over.
    pub size_bytes: u64,
    /// Seconds that the sender spent on handing over.
    pub send_seconds: f64,
    /// Seconds between the two.
    pub in_flight_seconds: f64,
    /// Seconds that the receiver spent on taking.
    pub receive_seconds: f64,
}

/// What one request took.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestAccount {
    /// What the client calls it.
    pub request_id: String,
    /// When it reached the HTTP layer.
    pub arrived: Instant,
    /// When the last of its stages had let go of it.
    pub ended: Instant,
    /// How it ended.
    pub reason: FinishReason,
    /// The stages that report of it, in order. One whose replica died does not.
    pub stages: Vec<StageAccount>,
}

/// The sum over several requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// From the arrival of the first to the end of the last.
    pub wall: Duration,
    /// Tokens over all of them.
    pub tokens: u64,
    /// For each stage, from the first request that it was handed to the last that it let go of.
    pub stage_walls: BTreeMap<StageId, Duration>,
}

impl StageAccount {
    /// From the queue to the first step that worked on it.
    pub fn queue_time(&self) -> Duration {
        self.started.unwrap_or(self.done).saturating_duration_since(self.queued)
    }

    /// From the first step that worked on it until the stage was done, waiting for input included.
    pub fn generation_time(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| self.done.saturating_duration_since(started))
    }

    /// From there until its last chunk was handed over to the next stage.
    pub fn postprocess_time(&self) -> Duration {
        self.released.saturating_duration_since(self.done)
    }

    /// Seconds that its sound plays.
    pub fn audio_seconds(&self) -> f64 {
        match self.audio_sample_rate {
            0 => 0.0,
            rate => self.audio_frames as f64 / f64::from(rate),
        }
    }
}

impl EdgeAccount {
    /// Seconds of sending, flight and receiving.
    pub fn total_seconds(&self) -> f64 {
        self.send_seconds + self.in_flight_seconds + self.receive_seconds
    }
}

impl RequestAccount {
    /// From arrival to the end.
    pub fn total_time(&self) -> Duration {
        self.ended.saturating_duration_since(self.arrived)
    }

    /// What stage 0 took in and all stages gave out.
    pub fn total_tokens(&self) -> u64 {
        let prompt = self.stages.iter().filter(|stage| stage.replica.stage == StageId(0));
        let input: u64 = prompt.map(|stage| stage.tokens.input).sum();
        let output: u64 = self.stages.iter().map(|stage| stage.tokens.output).sum();
        input + output
    }

    /// The edges that something came over, in order.
    pub fn edges(&self) -> impl Iterator<Item = &EdgeAccount> {
        self.stages.iter().filter_map(|stage| stage.input.as_ref())
    }

    /// Seconds of sending, flight and receiving, summed over all edges.
    pub fn transfers_total_seconds(&self) -> f64 {
        self.edges().map(EdgeAccount::total_seconds).sum()
    }

    /// Bytes handed over, summed over all edges.
    pub fn transfers_total_bytes(&self) -> u64 {
        self.edges().map(|edge| edge.size_bytes).sum()
    }
}

impl Summary {
    /// Over these requests; `None` if there are none.
    pub fn of<'a>(requests: impl IntoIterator<Item = &'a RequestAccount>) -> Option<Self> {
        let (mut count, mut tokens) = (0, 0);
        let mut wall: Option<(Instant, Instant)> = None;
        let mut stages: BTreeMap<StageId, (Instant, Instant)> = BTreeMap::new();
        for request in requests {
            count += 1;
            tokens += request.total_tokens();
            let span = (request.arrived, request.ended);
            wall = Some(wall.map_or(span, |known| cover(known, span)));
            for stage in &request.stages {
                let span = (stage.queued, stage.released);
                let known = stages.entry(stage.replica.stage).or_insert(span);
                *known = cover(*known, span);
            }
        }
        let length = |(from, to): (Instant, Instant)| to.saturating_duration_since(from);
        Some(Self {
            requests: count,
            wall: length(wall?),
            tokens,
            stage_walls: stages.into_iter().map(|(stage, span)| (stage, length(span))).collect(),
        })
    }

    /// The wall time over the number of requests.
    pub fn average_time(&self) -> Duration {
        self.wall.div_f64(self.requests as f64)
    }

    /// Tokens per second of the wall time; 0 if it took none.
    pub fn tokens_per_second(&self) -> f64 {
        if self.wall.is_zero() { 0.0 } else { self.tokens as f64 / self.wall.as_secs_f64() }
    }
}

/// The span that covers both.
fn cover(one: (Instant, Instant), other: (Instant, Instant)) -> (Instant, Instant) {
    (one.0.min(other.0), one.1.max(other.1))
}
