//! The runtime: all actors of one server, started together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::actors::messages::{AbortAll, AbortCause, Drain, GetHealth, GetHeld, Health, Held, StopWorkers};
use crate::actors::metrics::MetricsActor;
use crate::actors::orchestrator::Orchestrator;
use crate::actors::supervisor::{Supervisor, SupervisorReports};
use crate::metrics::{Inference, MetricsError, MetricsSettings, OmniPrefix, StatsSender};
use crate::stages::Pipeline;

/// How long [`Runtime::wait_until_up`] sleeps between two looks.
const POLL: Duration = Duration::from_millis(2);

/// The actors that serve one pipeline.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Admits and ends requests.
    pub orchestrator: Addr<Orchestrator>,
    /// Starts and restarts replicas.
    pub supervisor: Addr<Supervisor>,
    /// Owns the registry.
    pub metrics: Addr<MetricsActor>,
    /// For everyone who has something to tell the metrics actor.
    pub statistics: StatsSender,
}

/// How a runtime is set up.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Requests held at the same time; more are answered with 429.
    pub max_requests: usize,
    /// The served name, the value of the label `model_name`.
    pub model_name: String,
    /// What the names of pipeline metrics begin with.
    pub omni_prefix: OmniPrefix,
    /// Whether statistics are kept.
    pub log_stats: bool,
    /// Whether engines watch some blocks of their KV caches.
    pub kv_cache_metrics: bool,
    /// Where requests come from.
    pub inference: Inference,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            max_requests: 1024,
            model_name: "model".to_owned(),
            omni_prefix: OmniPrefix::default(),
            log_stats: true,
            kv_cache_metrics: false,
            inference: Inference::Online,
        }
    }
}

impl Runtime {
    /// Starts the actors on threads of their own: one for control, one for metrics. Must be called within an actix
    /// system.
    pub fn start(pipeline: Arc<Pipeline>, options: RuntimeOptions) -> Result<Self, MetricsError> {
        let settings = MetricsSettings {
            model_name: options.model_name,
            omni_prefix: options.omni_prefix,
            log_stats: options.log_stats,
            kv_cache_metrics: options.kv_cache_metrics,
            inference: options.inference,
            stages: pipeline.descriptions(),
        };
        let (metrics, statistics) = MetricsActor::start_with_sender(settings, &Arbiter::new().handle())?;
        let control = Arbiter::new().handle();
        let orchestrator = Orchestrator::start_in_arbiter(&control, {
            let (pipeline, statistics) = (pipeline.clone(), statistics.clone());
            move |_| Orchestrator::new(pipeline, options.max_requests, statistics)
        });
        let reports = SupervisorReports {
            started: orchestrator.clone().recipient(),
            done: orchestrator.clone().recipient(),
            up: orchestrator.clone().recipient(),
            down: orchestrator.clone().recipient(),
            register: metrics.clone().recipient(),
            statistics: statistics.clone(),
        };
        let supervisor = Supervisor::start_in_arbiter(&control, move |_| {
            Supervisor::new(pipeline, options.max_requests, reports)
        });
        Ok(Self { orchestrator, supervisor, metrics, statistics })
    }

    /// Waits until every stage has a live replica. Says whether that was so before the deadline; it does not wait on for
    /// a stage that could not be built.
    pub async fn wait_until_up(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if let Ok(Health { stages_down, not_built, .. }) = self.orchestrator.send(GetHealth).await
                && (stages_down.is_empty() || !not_built.is_empty())
            {
                return stages_down.is_empty();
            }
            actix_rt::time::sleep(POLL).await;
        }
        false
    }

    /// What the actors hold of requests; `None` when they are gone.
    pub async fn held(&self) -> Option<Held> {
        self.orchestrator.send(GetHeld).await.ok()
    }

    /// Takes no new requests, lets running ones end, aborts those that have not ended after `patience`, and stops
    /// the workers.
    pub async fn drain(&self, patience: Duration) {
        let _ = self.orchestrator.send(Drain).await;
        if !self.wait_until_empty(patience).await {
            self.orchestrator.do_send(AbortAll { cause: AbortCause::Shutdown });
            self.wait_until_empty(Duration::from_secs(2)).await;
        }
        self.supervisor.do_send(StopWorkers);
    }

    async fn wait_until_empty(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            match self.held().await {
                Some(held) if held.requests > 0 && Instant::now() < until => {
                    actix_rt::time::sleep(POLL).await
                }
                Some(held) => return held.requests == 0,
                None => return true,
            }
        }
    }
}
