//! Routes of requests: which replicas their work and statistics belong to, also for a while after their end.

use std::collections::{HashMap, VecDeque};

use crate::ids::{ReplicaKey, RequestId, StageId};

/// How many ended requests are remembered. What is told of one later than that belongs to nobody any more.
pub const ENDED_REMEMBERED: usize = 4096;

/// The way of one request.
#[derive(Debug)]
pub struct Route {
    /// One replica per stage that it visits.
    replicas: Vec<ReplicaKey>,
    /// Whether it was told that its audio was delivered, which happens once.
    pub audio_delivered: bool,
    /// Tokens that its stages were told to have read and generated, and that are not shown yet.
    pub tokens: RequestTokens,
    /// Whether it has ended by itself.
    pub ended_by_itself: bool,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestTokens {
    /// In the prompt of its first stage.
    pub prompt: u64,
    /// Generated in all its stages.
    pub generation: u64,
}

/// The routes of the latest [`ENDED_REMEMBERED`] requests that ended. Replicas report what they did for a request,
/// and the HTTP layer what its client got, a moment after its end.
#[derive(Debug, Default)]
pub struct EndedRoutes {
    /// The routes by request.
    routes: HashMap<RequestId, Route>,
    /// The same requests, the one that ended first in front.
    order: VecDeque<RequestId>,
}

impl Route {
    /// The route over these replicas.
    pub fn new(replicas: &[ReplicaKey]) -> Self {
        Self {
            replicas: replicas.to_vec(),
            audio_delivered: false,
            tokens: RequestTokens::default(),
            ended_by_itself: false,
        }
    }

    /// Whether `stage` is the one that reads the prompt.
    pub fn begins_with(&self, stage: StageId) -> bool {
        self.replicas.first().is_some_and(|key| key.stage == stage)
    }

    /// The replica of `stage`, if the request visits it.
    pub fn replica(&self, stage: StageId) -> Option<ReplicaKey> {
        self.replicas.iter().find(|key| key.stage == stage).copied()
    }
}

impl EndedRoutes {
    /// Remembers the route of a request that has ended, and forgets that of the earliest one if there are too many.
    /// The request must not be remembered yet.
    pub fn remember(&mut self, request: RequestId, route: Route) {
        if self.order.len() >= ENDED_REMEMBERED
            && let Some(earliest) = self.order.pop_front()
        {
            self.routes.remove(&earliest);
        }
        self.order.push_back(request);
        self.routes.insert(request, route);
    }

    /// The route of a request, if it is remembered.
    pub fn get(&self, request: RequestId) -> Option<&Route> {
        self.routes.get(&request)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, request: RequestId) -> Option<&mut Route> {
        self.routes.get_mut(&request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_routes_are_remembered_and_no_more() {
        let mut ended = EndedRoutes::default();
        let (bound, all) = (ENDED_REMEMBERED as u64, 3 * ENDED_REMEMBERED as u64);
        for request in 0..all {
            ended.remember(RequestId(request), Route::new(&[]));
            let expected = ENDED_REMEMBERED.min(request as usize + 1);
            assert_eq!((ended.routes.len(), ended.order.len()), (expected, expected));
        }
        assert!((0..all - bound).all(|request| ended.get(RequestId(request)).is_none()));
        assert!((all - bound..all).all(|request| ended.get(RequestId(request)).is_some()));
    }
}
