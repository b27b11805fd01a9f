//! `GET /stats`: how every replica is at this moment, for people who look after the server. It is there without
//! `--log-stats` too: nothing is counted for it.

use std::time::{Duration, UNIX_EPOCH};

use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::actors::messages::{GetStages, ReplicaError, ReplicaState, StageState};
use crate::http::errors::ApiError;
use crate::http::state::AppState;

/// How long the orchestrator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The stages of the pipeline with their replicas.
#[derive(Debug, Serialize)]
struct Stats {
    /// The served name.
    model: String,
    /// In pipeline order.
    stages: Vec<Stage>,
}

/// A stage.
#[derive(Debug, Serialize)]
struct Stage {
    /// Its place in the pipeline.
    stage: u16,
    /// Its name in the deploy file.
    name: String,
    /// All that it should have.
    replicas: Vec<Replica>,
}

/// A replica. What is said of its work is null while it is down.
#[derive(Debug, PartialEq, Serialize)]
struct Replica {
    /// Which one.
    replica: u16,
    /// Whether it takes requests.
    up: bool,
    /// Lives before the present one.
    epoch: Option<u32>,
    /// Requests that it holds or has queued.
    in_flight: Option<u64>,
    /// Those of them that it has not begun to work on.
    queue_depth: Option<u64>,
    /// Sequences of its scheduler in the running batch; without a scheduler, requests that it works on.
    running: Option<u64>,
    /// Sequences that wait for capacity.
    waiting: Option<u64>,
    /// Sequences that wait for something else, such as input.
    deferred: Option<u64>,
    /// Share of its KV cache in use, in [0, 1]; null for a stage without one.
    kv_cache_usage: Option<f64>,
    /// Steps of its present life.
    steps: Option<u64>,
    /// The last thing that went wrong and was not a client's fault, in whatever life.
    last_error: Option<LastError>,
}

/// Something that went wrong.
#[derive(Debug, PartialEq, Serialize)]
struct LastError {
    /// The word of the HTTP error and of `/metrics`.
    reason: &'static str,
    /// What happened.
    message: String,
    /// When, in seconds since 1970.
    at: f64,
}

/// Answers with the present state of every replica.
pub async fn stats(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let stages = state.orchestrator.stages.send(GetStages).timeout(PATIENCE).await;
    let stages = stages.map_err(|_| ApiError::Unavailable)?;
    let stages = stages.into_iter().map(Stage::from).collect();
    Ok(HttpResponse::Ok().json(Stats { model: state.served.name().to_owned(), stages }))
}

impl From<StageState> for Stage {
    fn from(state: StageState) -> Self {
        let replicas = state.replicas.into_iter().map(Replica::from).collect();
        Self { stage: state.stage.0, name: state.name, replicas }
    }
}

impl From<ReplicaState> for Replica {
    fn from(state: ReplicaState) -> Self {
        let life = state.life;
        let scheduler = life.and_then(|life| life.worker.scheduler);
        let working = life.map(|life| life.worker.started as u64);
        Self {
            replica: state.replica.0,
            up: life.is_some(),
            epoch: life.map(|life| life.epoch.0),
            in_flight: life.map(|life| life.jobs as u64),
            queue_depth: life.map(|life| life.jobs.saturating_sub(life.worker.started) as u64),
            running: scheduler.map(|scheduler| scheduler.running).or(working),
            waiting: scheduler.map(|scheduler| scheduler.waiting_for_capacity),
            deferred: scheduler.map(|scheduler| scheduler.waiting_deferred),
            kv_cache_usage: scheduler.map(|scheduler| scheduler.kv_cache_usage),
            steps: life.map(|life| life.worker.steps),
            last_error: state.last_error.map(LastError::from),
        }
    }
}

impl From<ReplicaError> for LastError {
    fn from(ReplicaError { reason, message, at }: ReplicaError) -> Self {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { reason, message, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::messages::ReplicaLife;
    use crate::actors::worker_state::WorkerState;
    use crate::ids::{Epoch, ReplicaId};
    use crate::metrics::SchedulerSnapshot;

    #[test]
    fn a_replica_says_what_waits_what_runs_and_what_went_wrong() {
        let scheduler = SchedulerSnapshot {
            running: 2,
            waiting_for_capacity: 1,
            waiting_deferred: 4,
            kv_cache_usage: 0.25,
        };
        let worker = WorkerState { steps: 17, started: 3, scheduler: Some(scheduler) };
        let at = UNIX_EPOCH + Duration::from_millis(1_500);
        let state = ReplicaState {
            replica: ReplicaId(1),
            life: Some(ReplicaLife { epoch: Epoch(2), jobs: 5, worker }),
            last_error: Some(ReplicaError { reason: "replica_panic", message: "it fell".into(), at }),
        };
        let replica = Replica::from(state.clone());
        assert_eq!((replica.up, replica.epoch, replica.steps), (true, Some(2), Some(17)));
        assert_eq!((replica.in_flight, replica.queue_depth), (Some(5), Some(2)));
        assert_eq!((replica.running, replica.waiting, replica.deferred), (Some(2), Some(1), Some(4)));
        assert_eq!(replica.kv_cache_usage, Some(0.25));
        let error = replica.last_error.unwrap();
        assert_eq!((error.reason, error.at), ("replica_panic", 1.5));

        // A stage without a scheduler works on what it has begun.
        let worker = WorkerState { scheduler: None, ..worker };
        let life = state.life.map(|life| ReplicaLife { worker, ..life });
        let plain = Replica::from(ReplicaState { life, ..state.clone() });
        assert_eq!((plain.running, plain.waiting, plain.kv_cache_usage), (Some(3), None, None));

        let down = Replica::from(ReplicaState { life: None, ..state });
        assert_eq!((down.up, down.in_flight, down.steps), (false, None, None));
        assert!(down.last_error.is_some());
    }
}
