//! The metrics actor: the only one that touches the families on `/metrics`.
//!
//! Events come by `do_send` and are never waited for. A scrape first asks every live replica to report, so that the
//! page holds what was counted until then; it waits for them without keeping other messages waiting, and not for
//! long. The page is written by whoever asked for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::OptionFuture;
use tokio::sync::oneshot;

use crate::actors::messages::{Record, RegisterReplica, Scrape};
use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::tables;
use crate::metrics::{
    Exposition, FlushRequest, Inference, Ledger, MetricsError, MetricsSettings, StatEvent, StatsPort,
    StatsSender,
};

/// How long a scrape waits for reports. One that comes later is in the next scrape.
pub const SCRAPE_PATIENCE: Duration = Duration::from_millis(25);

/// How often scheduler values that were held back are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How many messages the mailbox holds for senders that respect it, such as scrapes.
const MAILBOX_CAPACITY: usize = 4096;

/// Owns the registry and applies stat events to it.
#[derive(Debug)]
pub struct MetricsActor {
    /// The families and what is known of requests and replicas.
    ledger: Ledger,
    /// Whether statistics are kept.
    log_stats: bool,
    /// Where requests come from.
    inference: Inference,
    /// How the present life of each replica is asked to report.
    ports: HashMap<(StageId, ReplicaId), Port>,
    /// Scrapes that wait for reports.
    scrapes: Vec<WaitingScrape>,
    /// Events that were sent and not handled yet.
    waiting_events: Arc<AtomicUsize>,
}

/// How one life of a replica is asked to report.
#[derive(Debug)]
struct Port {
    /// Which life.
    key: ReplicaKey,
    /// Its worker's end.
    port: Arc<StatsPort>,
}

/// A scrape that waits for reports.
#[derive(Debug)]
struct WaitingScrape {
    /// The replicas that have not reported yet, with the request that they were sent.
    missing: Vec<(ReplicaKey, FlushRequest)>,
    /// Told when none is missing any more. Closed when the scrape has lost patience.
    complete: oneshot::Sender<()>,
}

impl MetricsActor {
    /// An actor with its families set up.
    pub fn new(settings: MetricsSettings) -> Result<Self, MetricsError> {
        let (log_stats, inference) = (settings.log_stats, settings.inference);
        Ok(Self {
            ledger: Ledger::new(settings)?,
            log_stats,
            inference,
            ports: HashMap::new(),
            scrapes: Vec::new(),
            waiting_events: Arc::default(),
        })
    }

    /// Starts the actor on a thread and gives back its address, and the sender for everyone who has something to tell it. The
    /// sender does nothing when statistics are off.
    pub fn start_with_sender(
        settings: MetricsSettings,
        arbiter: &ArbiterHandle,
    ) -> Result<(Addr<Self>, StatsSender), MetricsError> {
        let actor = Self::new(settings)?;
        let (log_stats, waiting) = (actor.log_stats, Arc::clone(&actor.waiting_events));
        let address = Self::start_in_arbiter(arbiter, move |_| actor);
        let sender = match log_stats {
            true => StatsSender::new({
                let address = address.clone();
                move |event| {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    address.do_send(Record(event));
                }
            }),
            false => StatsSender::off(),
        };
        Ok((address, sender))
    }

    /// Asks every live replica to report. The receiver is told when all have; `None` if there is nobody to ask.
    fn ask_for_reports(&mut self) -> Option<oneshot::Receiver<()>> {
        self.scrapes.retain(|scrape| !scrape.complete.is_closed());
        let missing: Vec<_> = self.ports.values().map(|port| (port.key, port.port.request())).collect();
        if missing.is_empty() {
            return None;
        }
        let (complete, receiver) = oneshot::channel();
        self.scrapes.push(WaitingScrape { missing, complete });
        Some(receiver)
    }

    /// Strikes off what waiting scrapes need not wait for any more and tells those that are complete.
    fn no_longer_missing(&mut self, reported: impl Fn(ReplicaKey, FlushRequest) -> bool) {
        let complete = self.scrapes.extract_if(.., |scrape| {
            scrape.missing.retain(|&(key, request)| !reported(key, request));
            scrape.missing.is_empty()
        });
        for scrape in complete {
            // Nobody listens when the scrape has lost patience.
            let _ = scrape.complete.send(());
        }
    }

    /// Looks at an event for what it says about reports that scrapes wait for.
    fn note_report(&mut self, event: &StatEvent) {
        match event {
            StatEvent::Replica(report) if !self.scrapes.is_empty() => {
                let Some(port) = self.ports.get(&(report.key.stage, report.key.replica)) else { return };
                let port = Arc::clone(&port.port);
                self.no_longer_missing(|key, request| {
                    key == report.key && port.is_answered(request, report.sequence)
                });
            }
            StatEvent::ReplicaDown { key: gone, .. } => {
                let id = (gone.stage, gone.replica);
                if self.ports.get(&id).is_some_and(|port| port.key == *gone) {
                    self.ports.remove(&id);
                }
                self.no_longer_missing(|key, _| key == *gone);
            }
            StatEvent::Replica(_)
            | StatEvent::Pipeline(_)
            | StatEvent::Account(_)
            | StatEvent::Http(_)
            | StatEvent::Scraped { .. }
            | StatEvent::ReplicaUp(_) => {}
        }
    }
}

impl Actor for MetricsActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
        if self.log_stats {
            context.run_interval(TICK, |actor, _| actor.ledger.tick(Instant::now()));
        }
    }
}

impl Handler<Record> for MetricsActor {
    type Result = ();

    fn handle(&mut self, Record(event): Record, _: &mut Self::Context) {
        // Saturating, for whoever sends a record of its own and does not count it.
        let one_less = |waiting: usize| Some(waiting.saturating_sub(1));
        let _ = self.waiting_events.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if let Err(error) = self.ledger.apply(&event, Instant::now()) {
            tracing::error!(reason = error.reason(), %error, "a stat event was not fully applied");
        }
        if let StatEvent::Account(account) = &event {
            let tables = match self.inference {
                Inference::Online => tables::of_request(account),
                Inference::Offline => tables::of_request_in_batch(account),
            };
            tracing::info!("\n{tables}");
        }
        self.note_report(&event);
    }
}

impl Handler<RegisterReplica> for MetricsActor {
    type Result = ();

    fn handle(&mut self, RegisterReplica { key, port }: RegisterReplica, _: &mut Self::Context) {
        let known = self.ports.get(&(key.stage, key.replica));
        if self.log_stats && known.is_none_or(|known| known.key.epoch < key.epoch) {
            self.ports.insert((key.stage, key.replica), Port { key, port });
        }
    }
}

impl Handler<Scrape> for MetricsActor {
    type Result = ResponseActFuture<Self, Exposition>;

    fn handle(&mut self, _: Scrape, _: &mut Self::Context) -> Self::Result {
        let reports = self.ask_for_reports().map(|complete| tokio::time::timeout(SCRAPE_PATIENCE, complete));
        let gathered = OptionFuture::from(reports).into_actor(self).map(|_, actor, _| {
            actor.ledger.tick(Instant::now());
            if actor.log_stats {
                actor.ledger.note_waiting_events(actor.waiting_events.load(Ordering::Relaxed));
            }
            actor.ledger.gather()
        });
        Box::pin(gathered)
    }
}

#[cfg(test)]
mod tests;
