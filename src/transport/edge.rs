//! An edge: the way of chunks from one replica's worker to the next one's.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use thiserror::Error;

use crate::ids::StageId;
use crate::transport::Chunk;
use crate::transport::wire::{self, WireError};

/// How an edge hands chunks over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connector {
    /// As they are, without a copy; both ends are in one process.
    #[default]
    InProcess,
    /// Encoded into bytes and decoded on the other side.
    Serialized,
}

/// Why a chunk could not be handed over.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// The receiver has not taken earlier chunks yet; the parcel comes back, to be sent later.
    #[error("the next stage takes no more chunks")]
    Full(Box<Parcel>),
    /// The receiver is gone.
    #[error("the next stage's replica is gone")]
    Closed,
}

/// A chunk on its way, with what was measured of it so far.
#[derive(Debug)]
pub struct Parcel {
    content: Content,
    /// The stage that sends it.
    from: StageId,
    /// Bytes handed over.
    size_bytes: usize,
    /// When its chunk was there to be sent.
    made_at: Instant,
    /// Seconds spent on making the parcel.
    send_seconds: f64,
    /// When it was handed over.
    sent_at: Instant,
}

#[derive(Debug)]
enum Content {
    Chunk(Chunk),
    Bytes(Vec<u8>),
}

/// A chunk that arrived, with what was measured of its way.
#[derive(Debug)]
pub struct Arrival {
    /// The chunk.
    pub chunk: Chunk,
    /// The stage that sent it.
    pub from: StageId,
    /// Bytes handed over: of content where chunks are passed as they are, of the encoding where they are encoded.
    pub size_bytes: usize,
    /// When it was there to be sent.
    pub made_at: Instant,
    /// When it was handed over.
    pub sent_at: Instant,
    /// Seconds that the sender spent on handing it over.
    pub send_seconds: f64,
    /// Seconds between the two, the wait in the receiver's queue included.
    pub in_flight_seconds: f64,
    /// Seconds that the receiver spent on taking it.
    pub receive_seconds: f64,
}

/// The sending side, held by a worker for each request that goes on to the next stage.
#[derive(Debug, Clone)]
pub struct EdgeSender {
    connector: Connector,
    parcels: Sender<Parcel>,
}

/// The receiving side, held by the worker of the next stage's replica.
#[derive(Debug)]
pub struct EdgeReceiver(Receiver<Parcel>);

/// An edge that holds at most `credits` chunks: a sender that has used them up waits until the receiver takes some.
pub fn edge(connector: Connector, credits: usize) -> (EdgeSender, EdgeReceiver) {
    let (parcels, receiver) = bounded(credits);
    (EdgeSender { connector, parcels }, EdgeReceiver(receiver))
}

impl EdgeSender {
    /// Makes a parcel of a chunk.
    pub fn pack(&self, from: StageId, chunk: Chunk) -> Result<Parcel, WireError> {
        let begun = Instant::now();
        let (content, size_bytes) = match self.connector {
            Connector::InProcess => {
                let size = chunk.payload.size_bytes();
                (Content::Chunk(chunk), size)
            }
            Connector::Serialized => {
                let bytes = wire::encode(&chunk)?;
                let size = bytes.len();
                (Content::Bytes(bytes), size)
            }
        };
        let sent_at = Instant::now();
        let send_seconds = (sent_at - begun).as_secs_f64();
        Ok(Parcel { content, from, size_bytes, made_at: begun, send_seconds, sent_at })
    }

    /// Hands a parcel over, or gives it back.
    pub fn send(&self, mut parcel: Parcel) -> Result<(), EdgeError> {
        parcel.sent_at = Instant::now();
        self.parcels.try_send(parcel).map_err(|error| match error {
            TrySendError::Full(parcel) => EdgeError::Full(Box::new(parcel)),
            TrySendError::Disconnected(_) => EdgeError::Closed,
        })
    }

    /// Whether two senders lead to the same replica.
    pub fn is_same(&self, other: &Self) -> bool {
        self.parcels.same_channel(&other.parcels)
    }

    /// The channel, to wait on together with others.
    pub(crate) fn channel(&self) -> &Sender<Parcel> {
        &self.parcels
    }
}

impl EdgeReceiver {
    /// The next chunk, if one is there. An error names bytes that are no chunk; they are dropped.
    pub fn try_receive(&self) -> Option<Result<Arrival, WireError>> {
        let Parcel { content, from, size_bytes, made_at, send_seconds, sent_at } = self.0.try_recv().ok()?;
        let taken_at = Instant::now();
        let chunk = match content {
            Content::Chunk(chunk) => chunk,
            Content::Bytes(bytes) => match wire::decode(&bytes) {
                Ok(chunk) => chunk,
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok(Arrival {
            chunk,
            from,
            size_bytes,
            made_at,
            sent_at,
            send_seconds,
            in_flight_seconds: taken_at.saturating_duration_since(sent_at).as_secs_f64(),
            receive_seconds: taken_at.elapsed().as_secs_f64(),
        }))
    }

    /// The channel, to wait on together with others.
    pub(crate) fn channel(&self) -> &Receiver<Parcel> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;
    use crate::transport::Payload;

    fn chunk(sequence: u32) -> Chunk {
        Chunk { request: RequestId(7), sequence, last: false, payload: Payload::Tokens(vec![1, 2, 3]) }
    }

    #[test]
    fn both_connectors_hand_over_the_same_chunk_and_measure_it() {
        for (connector, larger) in [(Connector::InProcess, false), (Connector::Serialized, true)] {
            let (sender, receiver) = edge(connector, 4);
            sender.send(sender.pack(StageId(1), chunk(0)).unwrap()).unwrap();
            let arrival = receiver.try_receive().unwrap().unwrap();
            assert_eq!((arrival.chunk, arrival.from), (chunk(0), StageId(1)));
            assert_eq!(arrival.size_bytes > 12, larger);
            assert!(arrival.in_flight_seconds >= 0.0 && arrival.receive_seconds >= 0.0);
            assert!(receiver.try_receive().is_none());
        }
    }

    #[test]
    fn a_full_edge_gives_the_parcel_back_and_a_closed_one_says_so() {
        let (sender, receiver) = edge(Connector::InProcess, 1);
        sender.send(sender.pack(StageId(0), chunk(0)).unwrap()).unwrap();
        let Err(EdgeError::Full(parcel)) = sender.send(sender.pack(StageId(0), chunk(1)).unwrap()) else {
            panic!("the edge holds one chunk");
        };
        assert!(receiver.try_receive().is_some());
        sender.send(*parcel).unwrap();
        drop(receiver);
        assert!(matches!(sender.send(sender.pack(StageId(0), chunk(2)).unwrap()), Err(EdgeError::Closed)));
    }
}
