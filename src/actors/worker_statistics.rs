//! What a worker counts of its own, whatever its stage is: what it holds, how long requests take, what came over its edge.

use std::time::Instant;

use crate::ids::StageId;
use crate::metrics::{FirstEvents, ReplicaStats, StageTimes, TransferSample};
use crate::stages::{Output, StageEvent};
use crate::transport::Arrival;

/// What was counted since the last report.
#[derive(Debug, Default)]
pub(super) struct WorkerStatistics {
    transfers: Vec<TransferSample>,
    first_events: Vec<FirstEvents>,
    stage_times: Vec<StageTimes>,
}

/// The times of one request at a worker.
#[derive(Debug)]
pub(super) struct JobTimes {
    /// When it reached the HTTP layer.
    arrived: Instant,
    /// When it was put into the queue of the worker.
    queued: Instant,
    /// When the stage began to work on it.
    started: Option<Instant>,
    /// When its first chunk came how far, until that is reported.
    first: Option<FirstEvents>,
    /// Seconds that the audio plays which it gave.
    audio_seconds: f64,
}

impl WorkerStatistics {
    /// A chunk came over the edge to stage `to`.
    pub(super) fn arrived(&mut self, arrival: &Arrival, to: StageId, times: &mut JobTimes) {
        let request = arrival.chunk.request;
        self.transfers.push(TransferSample {
            request,
            from: arrival.from,
            to,
            size_bytes: arrival.size_bytes as u64,
            send_seconds: arrival.send_seconds,
            in_flight_seconds: arrival.in_flight_seconds,
            receive_seconds: arrival.receive_seconds,
        });
        if arrival.chunk.sequence == 0 {
            times.first = Some(FirstEvents {
                request,
                from: arrival.from,
                to,
                emit_seconds: times.seconds_until(arrival.made_at),
                send_seconds: times.seconds_until(arrival.sent_at),
                receive_seconds: times.seconds_until(Instant::now()),
                output_seconds: None,
            });
        }
    }

    /// The stage gave something of a request, in a step that was begun at `launched`.
    pub(super) fn gave(&mut self, event: &StageEvent, times: &mut JobTimes, launched: Instant) {
        match event {
            StageEvent::Started => times.started = Some(launched),
            StageEvent::Client(output) => {
                if let Output::Audio(packet) = output {
                    times.audio_seconds += packet.seconds();
                }
                self.gave_output(times);
            }
            StageEvent::Next(_) => self.gave_output(times),
            StageEvent::Finished(_) | StageEvent::Failed(_) => {}
        }
    }

    fn gave_output(&mut self, times: &mut JobTimes) {
        if let Some(first) = times.first.take() {
            let output_seconds = Some(times.seconds_until(Instant::now()));
            self.first_events.push(FirstEvents { output_seconds, ..first });
        }
    }

    /// The worker lets go of a request, which the stage may have `finished` by itself.
    pub(super) fn let_go(&mut self, times: JobTimes, finished: bool) {
        self.first_events.extend(times.first);
        if !finished {
            return;
        }
        let now = Instant::now();
        let started = times.started.unwrap_or(now);
        self.stage_times.push(StageTimes {
            queue_seconds: started.saturating_duration_since(times.queued).as_secs_f64(),
            work_seconds: now.saturating_duration_since(started).as_secs_f64(),
            audio_seconds: times.audio_seconds,
        });
    }

    /// Moves what was counted into a report.
    pub(super) fn report(&mut self, stats: &mut ReplicaStats) {
        stats.transfers.append(&mut self.transfers);
        stats.first_events.append(&mut self.first_events);
        stats.stage_times.append(&mut self.stage_times);
    }
}

impl JobTimes {
    /// A request that was put into the queue at `queued`.
    pub(super) fn new(arrived: Instant, queued: Instant) -> Self {
        Self { arrived, queued, started: None, first: None, audio_seconds: 0.0 }
    }

    /// Whether the stage has begun to work on it.
    pub(super) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    fn seconds_until(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.arrived).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::FinishReason;
    use crate::ids::RequestId;
    use crate::transport::edge::edge;
    use crate::transport::{AudioPacket, Chunk, Connector, Payload};

    fn arrival(sequence: u32) -> Arrival {
        let (sender, receiver) = edge(Connector::InProcess, 1);
        let chunk = Chunk { request: RequestId(1), sequence, last: false, payload: Payload::End };
        sender.send(sender.pack(StageId(0), chunk).unwrap()).unwrap();
        receiver.try_receive().unwrap().unwrap()
    }

    #[test]
    fn the_first_chunk_and_the_first_output_of_a_request_are_told_once_and_in_order() {
        let (mut statistics, mut stats) = (WorkerStatistics::default(), ReplicaStats::default());
        let now = Instant::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let mut times = JobTimes::new(ago(5), ago(4));
        statistics.arrived(&arrival(0), StageId(1), &mut times);
        statistics.arrived(&arrival(1), StageId(1), &mut times);
        assert!(!times.is_started());
        let packet = || AudioPacket { samples: vec![0.0; 24_000], sample_rate: 24_000, channels: 1 };
        for event in [
            StageEvent::Started,
            StageEvent::Client(Output::Audio(packet())),
            StageEvent::Client(Output::Audio(packet())),
            StageEvent::Finished(FinishReason::Stop),
        ] {
            statistics.gave(&event, &mut times, ago(3));
        }
        statistics.let_go(times, true);
        statistics.report(&mut stats);
        assert_eq!(stats.transfers.len(), 2);
        let [first] = stats.first_events[..] else { panic!("{:?}", stats.first_events) };
        let seconds = [first.emit_seconds, first.send_seconds, first.receive_seconds];
        assert!(seconds[0] >= 5.0 && seconds.is_sorted() && first.output_seconds >= Some(seconds[2]));
        let [times] = stats.stage_times[..] else { panic!("{:?}", stats.stage_times) };
        assert_eq!(times.audio_seconds, 2.0);
        // From the queue to the launch of the step, and from there to the end.
        assert!((times.queue_seconds - 1.0).abs() < 1e-9 && times.work_seconds >= 3.0, "{times:?}");
    }

    #[test]
    fn a_request_that_was_removed_has_no_times_but_its_chunk_was_there() {
        let (mut statistics, mut stats) = (WorkerStatistics::default(), ReplicaStats::default());
        let mut times = JobTimes::new(Instant::now(), Instant::now());
        statistics.arrived(&arrival(0), StageId(1), &mut times);
        statistics.let_go(times, false);
        statistics.report(&mut stats);
        assert_eq!((stats.first_events.len(), stats.stage_times.len()), (1, 0));
        assert_eq!(stats.first_events[0].output_seconds, None);
    }
}
