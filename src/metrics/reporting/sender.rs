//! How events reach the metrics actor.

use std::fmt;
use std::sync::Arc;

use crate::metrics::StatEvent;

/// Sends stat events to the metrics actor, and is never waited for. When statistics are off it does nothing, and
/// the event is not even made.
#[derive(Clone, Default)]
pub struct StatsSender {
    /// Puts an event into the actor's mailbox; `None` when statistics are off.
    sink: Option<Arc<dyn Fn(StatEvent) + Send + Sync>>,
}

impl StatsSender {
    /// A sender that hands its events to `sink`, which must not block.
    pub fn new(sink: impl Fn(StatEvent) + Send + Sync + 'static) -> Self {
        Self { sink: Some(Arc::new(sink)) }
    }

    /// The sender of a server without statistics.
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether statistics are kept.
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Sends the event that `event` makes; does not call it when statistics are off.
    pub fn send(&self, event: impl FnOnce() -> StatEvent) {
        if let Some(sink) = &self.sink {
            sink(event());
        }
    }
}

impl fmt::Debug for StatsSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatsSender").field("is_on", &self.is_on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_not_made_when_statistics_are_off() {
        StatsSender::off().send(|| unreachable!("statistics are off"));
    }
}
