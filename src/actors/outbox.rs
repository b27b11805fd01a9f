//! Chunks that a worker has made and the next stage has not taken yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::Select;

use crate::ids::RequestId;
use crate::transport::{EdgeError, EdgeSender, Parcel};

/// A request whose chunk waits at a replica of the next stage that takes no chunk for this long is given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// Chunks in the order in which they were made. A replica that takes none holds up its own chunks alone.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    request: RequestId,
    /// No further chunk of the request follows.
    last: bool,
    edge: EdgeSender,
    parcel: Parcel,
    /// When it was made, or the replica last took an earlier chunk while it waited.
    since: Instant,
}

impl Outbox {
    /// Adds a chunk. With `last`, no further one of the request follows.
    pub(super) fn push(&mut self, request: RequestId, last: bool, edge: EdgeSender, parcel: Parcel) {
        self.waiting.push_back(Outgoing { request, last, edge, parcel, since: Instant::now() });
    }

    /// Chunks that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what the replicas of the next stage take, in order for each of them. Returns the requests whose last
    /// chunk went. A chunk for a replica that is gone goes nowhere: the orchestrator fails its request.
    pub(super) fn flush(&mut self) -> Vec<RequestId> {
        let (mut taking, mut full): (Vec<EdgeSender>, Vec<EdgeSender>) = Default::default();
        let mut complete = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(mut outgoing) = self.waiting.pop_front() else { break };
            let among = |edges: &[EdgeSender]| edges.iter().any(|edge| edge.is_same(&outgoing.edge));
            let (was_taking, is_full) = (among(&taking), among(&full));
            if was_taking {
                outgoing.since = Instant::now();
            }
            if is_full {
                self.waiting.push_back(outgoing);
                continue;
            }
            let Outgoing { request, last, edge, parcel, since } = outgoing;
            match edge.send(parcel) {
                Ok(()) | Err(EdgeError::Closed) => {
                    if last {
                        complete.push(request);
                    }
                    if !was_taking {
                        taking.push(edge);
                    }
                }
                Err(EdgeError::Full(parcel)) => {
                    full.push(edge.clone());
                    self.waiting.push_back(Outgoing { request, last, edge, parcel: *parcel, since });
                }
            }
        }
        complete
    }

    /// A request whose chunk has waited too long.
    pub(super) fn overdue(&self) -> Option<RequestId> {
        let overdue = |outgoing: &&Outgoing| outgoing.since.elapsed() > DEADLINE;
        self.waiting.iter().find(overdue).map(|outgoing| outgoing.request)
    }

    /// Drops all chunks of a request.
    pub(super) fn forget(&mut self, request: RequestId) {
        self.waiting.retain(|outgoing| outgoing.request != request);
    }

    /// Has `select` wait until a replica takes chunks; returns when the oldest chunk will have waited too long.
    pub(super) fn wait_for_room<'a>(&'a self, select: &mut Select<'a>) -> Option<Instant> {
        for outgoing in &self.waiting {
            select.send(outgoing.edge.channel());
        }
        self.waiting.iter().map(|outgoing| outgoing.since + DEADLINE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StageId;
    use crate::transport::edge::edge;
    use crate::transport::{Chunk, Connector, EdgeReceiver, Payload};

    fn push(outbox: &mut Outbox, edge: &EdgeSender, request: u64, sequence: u32, last: bool) {
        let request = RequestId(request);
        let chunk = Chunk { request, sequence, last, payload: Payload::End };
        outbox.push(request, last, edge.clone(), edge.pack(StageId(0), chunk).unwrap());
    }

    fn sequences(receiver: &EdgeReceiver) -> Vec<u32> {
        std::iter::from_fn(|| receiver.try_receive()).map(|arrival| arrival.unwrap().chunk.sequence).collect()
    }

    #[test]
    fn a_full_edge_holds_up_its_own_chunks_alone_and_keeps_their_order() {
        let (slow, slow_receiver) = edge(Connector::InProcess, 1);
        let (fast, fast_receiver) = edge(Connector::InProcess, 8);
        let mut outbox = Outbox::default();
        for sequence in 0..3 {
            push(&mut outbox, &slow, 1, sequence, sequence == 2);
            push(&mut outbox, &fast, 2, sequence, sequence == 2);
        }
        assert_eq!(outbox.flush(), [RequestId(2)]);
        assert_eq!(sequences(&fast_receiver), [0, 1, 2]);
        let mut seen = sequences(&slow_receiver);
        assert!(outbox.flush().is_empty());
        seen.extend(sequences(&slow_receiver));
        assert_eq!(outbox.flush(), [RequestId(1)]);
        seen.extend(sequences(&slow_receiver));
        assert_eq!((seen, outbox.len()), (vec![0, 1, 2], 0));
    }

    #[test]
    fn a_request_that_is_forgotten_sends_nothing_more() {
        let (sender, receiver) = edge(Connector::InProcess, 8);
        let mut outbox = Outbox::default();
        push(&mut outbox, &sender, 1, 0, true);
        push(&mut outbox, &sender, 2, 0, true);
        outbox.forget(RequestId(1));
        assert_eq!(outbox.flush(), [RequestId(2)]);
        assert_eq!(sequences(&receiver).len(), 1);
    }

    #[test]
    fn a_replica_that_takes_chunks_slowly_is_not_taken_for_stuck() {
        let (sender, receiver) = edge(Connector::InProcess, 1);
        let mut outbox = Outbox::default();
        for sequence in 0..3 {
            push(&mut outbox, &sender, 1, sequence, sequence == 2);
        }
        outbox.flush();
        let long_ago = Instant::now().checked_sub(2 * DEADLINE).expect("the clock runs longer");
        outbox.waiting.iter_mut().for_each(|outgoing| outgoing.since = long_ago);
        outbox.flush();
        assert_eq!(outbox.overdue(), Some(RequestId(1)), "it takes nothing");
        assert!(receiver.try_receive().is_some());
        outbox.flush();
        assert_eq!(outbox.overdue(), None, "it took the one before");
    }
}
