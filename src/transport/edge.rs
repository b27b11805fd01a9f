//! An edge: the way of chunks from one replica's worker to the next one's.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use thiserror::Error;

use crate::transport::Chunk;

/// Why a chunk could not be handed over now.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// The receiver has not taken earlier chunks yet; the chunk comes back, to be sent later.
    #[error("the next stage has {0} chunks waiting and takes no more")]
    Full(usize, Box<Chunk>),
    /// The receiver is gone.
    #[error("the next stage's replica is gone")]
    Closed,
}

/// The sending side, held by a worker for each request that goes on to the next stage.
#[derive(Debug, Clone)]
pub struct EdgeSender(Sender<Chunk>);

/// The receiving side, held by the worker of the next stage's replica.
#[derive(Debug)]
pub struct EdgeReceiver(Receiver<Chunk>);

/// An edge that hands chunks over within the process, without a copy. It holds at most `credits` chunks: a sender
/// that has used them up waits until the receiver has taken some.
pub fn in_process(credits: usize) -> (EdgeSender, EdgeReceiver) {
    let (sender, receiver) = bounded(credits);
    (EdgeSender(sender), EdgeReceiver(receiver))
}

impl EdgeSender {
    /// Hands a chunk over, or gives it back.
    pub fn send(&self, chunk: Chunk) -> Result<(), EdgeError> {
        self.0.try_send(chunk).map_err(|error| match error {
            TrySendError::Full(chunk) => EdgeError::Full(self.0.len(), Box::new(chunk)),
            TrySendError::Disconnected(_) => EdgeError::Closed,
        })
    }

    /// The channel, to wait on together with others.
    pub(crate) fn channel(&self) -> &Sender<Chunk> {
        &self.0
    }
}

impl EdgeReceiver {
    /// The next chunk, if one is there.
    pub fn try_receive(&self) -> Option<Chunk> {
        self.0.try_recv().ok()
    }

    /// The channel, to wait on together with others.
    pub(crate) fn channel(&self) -> &Receiver<Chunk> {
        &self.0
    }
}
