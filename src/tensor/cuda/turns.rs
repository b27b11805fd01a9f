//! Who may queue on the one stream of a device, which all threads share.
//!
//! While a thread captures a graph, whatever is queued on the stream becomes part of that graph. So everybody else waits
//! until it is done, which takes no longer than the launches of one step do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Turns at a stream.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The thread that captures.
    capturing: Mutex<Option<ThreadId>>,
    /// Notified when it is done.
    ended: Condvar,
}

/// A turn: while it is held, nobody else queues anything.
#[derive(Debug)]
pub(super) struct Turn<'a>(MutexGuard<'a, Option<ThreadId>>);

impl Turns {
    /// Waits for a turn. A thread that captures gets one at once.
    pub(super) fn take(&self) -> Turn<'_> {
        let own = thread::current().id();
        let guard = self.capturing.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |capturing: &mut Option<ThreadId>| capturing.is_some_and(|thread| thread != own);
        Turn(self.ended.wait_while(guard, others).unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the capture of this thread.
    pub(super) fn end_capture(&self, turn: Turn<'_>) {
        let Turn(mut capturing) = turn;
        *capturing = None;
        drop(capturing);
        self.ended.notify_all();
    }
}

impl Turn<'_> {
    /// Whether the thread that holds it captures.
    pub(super) fn captures(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps other threads out from now on.
    pub(super) fn begin_capture(&mut self) {
        *self.0 = Some(thread::current().id());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn others_wait_while_a_thread_captures_and_it_does_not() {
        let turns = Turns::default();
        turns.take().begin_capture();
        assert!(turns.take().captures());
        thread::scope(|scope| {
            let (sender, taken) = mpsc::channel();
            let turns = &turns;
            scope.spawn(move || sender.send(turns.take().captures()));
            assert!(taken.recv_timeout(Duration::from_millis(50)).is_err(), "it has to wait");
            turns.end_capture(turns.take());
            assert_eq!(taken.recv(), Ok(false));
        });
    }
}
