//! What a worker counts of its own, whatever its stage is: what it holds, how long requests take, what came over its edge.

use crate::actors::job_account::JobAccount;
use crate::ids::StageId;
use crate::metrics::{FirstEvents, ReplicaStats, StageAccount, StageTimes, TransferSample};
use crate::stages::StageEvent;
use crate::transport::Arrival;

/// What was counted since the last report.
#[derive(Debug)]
pub(super) struct WorkerStatistics {
    /// Whether anybody asks for reports. If not, nothing is kept for them.
    reported: bool,
    transfers: Vec<TransferSample>,
    first_events: Vec<FirstEvents>,
    stage_times: Vec<StageTimes>,
}

impl WorkerStatistics {
    /// Nothing counted yet. If it is never `reported`, nothing ever is.
    pub(super) fn new(reported: bool) -> Self {
        Self { reported, transfers: Vec::new(), first_events: Vec::new(), stage_times: Vec::new() }
    }

    /// A chunk came over the edge to stage `to`.
    pub(super) fn arrived(&mut self, arrival: &Arrival, to: StageId, account: &mut JobAccount) {
        account.arrived(arrival, to);
        if self.reported {
            self.transfers.push(TransferSample {
                request: arrival.chunk.request,
                from: arrival.from,
                to,
                size_bytes: arrival.size_bytes as u64,
                send_seconds: arrival.send_seconds,
                in_flight_seconds: arrival.in_flight_seconds,
                receive_seconds: arrival.receive_seconds,
            });
        }
    }

    /// The stage gave something of a request, which its account has noted.
    pub(super) fn gave(&mut self, event: &StageEvent, account: &mut JobAccount) {
        if self.reported && matches!(event, StageEvent::Client(_) | StageEvent::Next(_)) {
            self.first_events.extend(account.take_first_chunk());
        }
    }

    /// The worker lets go of a request. With it comes what was not told of its first chunk.
    pub(super) fn let_go(&mut self, account: &StageAccount, first_chunk: Option<FirstEvents>) {
        if !self.reported {
            return;
        }
        self.first_events.extend(first_chunk);
        if account.reason.is_some() {
            self.stage_times.push(StageTimes {
                queue_seconds: account.queue_time().as_secs_f64(),
                work_seconds: (account.generation_time() + account.postprocess_time()).as_secs_f64(),
                audio_seconds: account.audio_seconds(),
            });
        }
    }

    /// Moves what was counted into a report.
    pub(super) fn report(&mut self, stats: &mut ReplicaStats) {
        stats.transfers.append(&mut self.transfers);
        stats.first_events.append(&mut self.first_events);
        stats.stage_times.append(&mut self.stage_times);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::actors::messages::StageOutcome;
    use crate::engine::FinishReason;
    use crate::ids::{Epoch, ReplicaId, ReplicaKey, RequestId};
    use crate::metrics::{Batch, TokenCounts};
    use crate::stages::Output;
    use crate::transport::edge::edge;
    use crate::transport::{AudioPacket, Chunk, Connector, Payload};

    const REPLICA: ReplicaKey = ReplicaKey { stage: StageId(1), replica: ReplicaId(0), epoch: Epoch(0) };

    fn arrival(sequence: u32) -> Arrival {
        let (sender, receiver) = edge(Connector::InProcess, 1);
        let chunk =
            Chunk { request: RequestId(1), sequence, last: false, payload: Payload::Tokens(vec![1, 2]) };
        sender.send(sender.pack(StageId(0), chunk).unwrap()).unwrap();
        receiver.try_receive().unwrap().unwrap()
    }

    /// What a request of two chunks and two seconds of sound leaves behind.
    fn spoken(statistics: &mut WorkerStatistics) -> StageAccount {
        let now = Instant::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let mut account = JobAccount::new(ago(5), ago(4));
        statistics.arrived(&arrival(0), StageId(1), &mut account);
        statistics.arrived(&arrival(1), StageId(1), &mut account);
        let packet = || AudioPacket { samples: vec![0.0; 24_000], sample_rate: 24_000, channels: 1 };
        for event in [
            StageEvent::Started,
            StageEvent::Client(Output::Audio(packet())),
            StageEvent::Client(Output::Audio(packet())),
            StageEvent::Counted(TokenCounts { input: 7, output: 9 }),
            StageEvent::Finished(FinishReason::Stop),
        ] {
            account.gave(&event, ago(3), Batch { id: 6, size: 2 });
            statistics.gave(&event, &mut account);
        }
        let (account, first) = account.close(REPLICA, &StageOutcome::Finished(FinishReason::Stop));
        statistics.let_go(&account, first);
        account
    }

    #[test]
    fn the_first_chunk_and_the_first_output_of_a_request_are_told_once_and_in_order() {
        let (mut statistics, mut stats) = (WorkerStatistics::new(true), ReplicaStats::default());
        let account = spoken(&mut statistics);
        statistics.report(&mut stats);
        assert_eq!(stats.transfers.len(), 2);
        let [first] = stats.first_events[..] else { panic!("{:?}", stats.first_events) };
        let seconds = [first.emit_seconds, first.send_seconds, first.receive_seconds];
        assert!(seconds[0] >= 5.0 && seconds.is_sorted() && first.output_seconds >= Some(seconds[2]));
        let [times] = stats.stage_times[..] else { panic!("{:?}", stats.stage_times) };
        assert_eq!(times.audio_seconds, 2.0);
        // From the queue to the launch of the step, and from there to the end.
        assert!((times.queue_seconds - 1.0).abs() < 1e-9 && times.work_seconds >= 3.0, "{times:?}");

        assert_eq!((account.audio_frames, account.audio_sample_rate), (48_000, 24_000));
        assert_eq!((account.tokens.input, account.tokens.output), (7, 9));
        assert_eq!((account.batch.id, account.batch.size), (6, 2));
        let edge = account.input.unwrap();
        let sum = |of: fn(&TransferSample) -> f64| stats.transfers.iter().map(of).sum::<f64>();
        assert_eq!((edge.from, edge.to), (StageId(0), StageId(1)));
        assert_eq!(edge.size_bytes, stats.transfers.iter().map(|transfer| transfer.size_bytes).sum::<u64>());
        assert_eq!(edge.send_seconds, sum(|transfer| transfer.send_seconds));
        assert_eq!(edge.in_flight_seconds, sum(|transfer| transfer.in_flight_seconds));
        assert_eq!(edge.receive_seconds, sum(|transfer| transfer.receive_seconds));
    }

    #[test]
    fn without_statistics_an_account_leaves_nothing_to_be_reported() {
        let (mut statistics, mut stats) = (WorkerStatistics::new(false), ReplicaStats::default());
        assert_eq!(spoken(&mut statistics).audio_frames, 48_000);
        statistics.report(&mut stats);
        assert_eq!((stats.transfers.len(), stats.first_events.len(), stats.stage_times.len()), (0, 0, 0));
    }

    #[test]
    fn a_request_that_was_removed_has_no_times_but_its_chunk_was_there() {
        let (mut statistics, mut stats) = (WorkerStatistics::new(true), ReplicaStats::default());
        let mut account = JobAccount::new(Instant::now(), Instant::now());
        statistics.arrived(&arrival(0), StageId(1), &mut account);
        let (account, first) = account.close(REPLICA, &StageOutcome::Removed);
        statistics.let_go(&account, first);
        statistics.report(&mut stats);
        assert_eq!((stats.first_events.len(), stats.stage_times.len()), (1, 0));
        assert_eq!(stats.first_events[0].output_seconds, None);
        assert_eq!((account.reason, account.generation_time()), (None, Duration::ZERO));
    }
}
