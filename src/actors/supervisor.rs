//! The supervisor: starts every replica, and starts it anew when its life ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::actors::messages::{
    ExitCause, RegisterReplica, ReplicaDown, ReplicaUp, StageDone, StageStarted, StopWorkers, WorkerExited,
    WorkerReady,
};
use crate::actors::replica::ReplicaActor;
use crate::actors::worker::{self, WorkerReports, WorkerSettings};
use crate::actors::worker_handle::WorkerHandle;
use crate::ids::{Epoch, ReplicaId, ReplicaKey, StageId};
use crate::metrics::{StatEvent, StatsSender};
use crate::stages::Pipeline;

/// The pause before a restart, doubled with each life that ends soon after the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A replica that lived this long starts again after the first pause.
const STABLE_LIFE: Duration = Duration::from_secs(60);

/// What the supervisor tells of replicas.
#[derive(Clone)]
pub struct SupervisorReports {
    /// Told of requests that a first stage took up.
    pub started: Recipient<StageStarted>,
    /// Told of requests that a replica is done with.
    pub done: Recipient<StageDone>,
    /// Told of lives that begin.
    pub up: Recipient<ReplicaUp>,
    /// Told of lives that end.
    pub down: Recipient<ReplicaDown>,
    /// Told how each life is asked to report.
    pub register: Recipient<RegisterReplica>,
    /// Told what happens to replicas, and what they count.
    pub statistics: StatsSender,
}

/// Starts and restarts the replicas of a pipeline.
pub struct Supervisor {
    pipeline: Arc<Pipeline>,
    reports: SupervisorReports,
    /// Requests that may be queued at one replica.
    max_jobs: usize,
    replicas: BTreeMap<(StageId, ReplicaId), Replica>,
    /// No replica is started any more.
    stopping: bool,
}

/// One replica through all its lives.
struct Replica {
    epoch: Epoch,
    worker: Option<WorkerHandle>,
    born: Instant,
    /// The pause before the next restart.
    pause: Duration,
}

impl Supervisor {
    /// A supervisor that starts the replicas of `pipeline` when it is started itself.
    pub fn new(pipeline: Arc<Pipeline>, max_jobs: usize, reports: SupervisorReports) -> Self {
        Self { pipeline, reports, max_jobs, replicas: BTreeMap::new(), stopping: false }
    }

    fn start_replica(&mut self, stage: StageId, replica: ReplicaId, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let Some(spec) = self.pipeline.stages.get(usize::from(stage.0)) else { return };
        let entry = self.replicas.entry((stage, replica)).or_insert(Replica {
            epoch: Epoch(0),
            worker: None,
            born: Instant::now(),
            pause: FIRST_PAUSE,
        });
        let key = ReplicaKey { stage, replica, epoch: entry.epoch };
        entry.born = Instant::now();
        let reports = WorkerReports {
            started: self.reports.started.clone(),
            done: self.reports.done.clone(),
            ready: ctx.address().recipient(),
            exited: ctx.address().recipient(),
            statistics: self.reports.statistics.clone(),
        };
        let settings = WorkerSettings {
            key,
            factory: spec.factory.clone(),
            connector: spec.connector,
            max_jobs: self.max_jobs,
        };
        match worker::spawn(settings, reports) {
            Ok(worker) => {
                self.reports.register.do_send(RegisterReplica { key, port: worker.statistics.clone() });
                entry.worker = Some(worker);
            }
            Err(error) => {
                let cause = ExitCause::Panicked(format!("no thread for the worker: {error}"));
                ctx.notify(WorkerExited { key, cause });
            }
        }
    }

    /// The replica, if `key` names its present life.
    fn living(&mut self, key: ReplicaKey) -> Option<&mut Replica> {
        self.replicas.get_mut(&(key.stage, key.replica)).filter(|replica| replica.epoch == key.epoch)
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let pipeline = self.pipeline.clone();
        for (stage, spec) in (0..).map(StageId).zip(&pipeline.stages) {
            for replica in (0..spec.replicas).map(ReplicaId) {
                self.start_replica(stage, replica, ctx);
            }
        }
    }
}

impl Handler<WorkerReady> for Supervisor {
    type Result = ();

    fn handle(&mut self, WorkerReady { key }: WorkerReady, _: &mut Self::Context) {
        let Some(worker) = self.living(key).and_then(|replica| replica.worker.clone()) else { return };
        let address = ReplicaActor::new(worker.clone()).start();
        self.reports.statistics.send(|| StatEvent::ReplicaUp(key));
        self.reports.up.do_send(ReplicaUp { key, address, worker });
    }
}

impl Handler<WorkerExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, WorkerExited { key, cause }: WorkerExited, ctx: &mut Self::Context) {
        let stopping = self.stopping;
        let Some(replica) = self.living(key) else { return };
        replica.worker = None;
        replica.epoch = Epoch(replica.epoch.0 + 1);
        if replica.born.elapsed() >= STABLE_LIFE {
            replica.pause = FIRST_PAUSE;
        }
        let pause = replica.pause;
        replica.pause = LONGEST_PAUSE.min(2 * pause);
        self.reports.statistics.send(|| StatEvent::ReplicaDown { key, reason: cause.reason() });
        self.reports.down.do_send(ReplicaDown { key, cause: cause.clone() });
        if !stopping {
            tracing::error!(%key, %cause, restart_in_ms = pause.as_millis() as u64, "replica ended");
            ctx.run_later(pause, move |act, ctx| act.start_replica(key.stage, key.replica, ctx));
        }
    }
}

impl Handler<StopWorkers> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: StopWorkers, _: &mut Self::Context) {
        self.stopping = true;
        for worker in self.replicas.values().filter_map(|replica| replica.worker.as_ref()) {
            worker.stop();
        }
    }
}
