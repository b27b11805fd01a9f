//! The ledger: applies stat events to the families. Pure bookkeeping, with the time given by the caller.

pub mod audio;
pub mod diffusion;
pub mod labelled;
pub mod life;
pub mod presence;
pub mod publication;
pub mod replica;
pub mod requests;
pub mod route;
pub mod stages;
pub mod transfers;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use self::audio::AudioLedger;
use self::diffusion::DiffusionLedger;
use self::labelled::LabelledLedger;
use self::life::Lives;
use self::replica::ReplicaLedger;
use self::requests::RequestLedger;
use self::stages::StageLedger;
use self::transfers::TransferLedger;
use crate::ids::{ReplicaId, ReplicaKey, RequestId, StageId};
use crate::metrics::families::{
    AudioFamilies, BookkeepingSeries, Catalogue, DiffusionFamilies, EngineFamilies, HttpFamilies,
    PipelineFamilies, ProcessSeries, ReplicaLabels, StageFamilies, TransferHistograms,
};
use crate::metrics::{Exposition, MetricsError, MetricsSettings, ReplicaReport, StageDescription, StatEvent};

/// All that the metrics actor knows: the families and what was seen of requests and replicas.
///
/// Without statistics the families of pipeline, stages, audio, images and edges stand at zero, those of engines and HTTP
/// do not exist, and events change nothing.
#[derive(Debug)]
pub struct Ledger {
    /// Whether statistics are kept.
    log_stats: bool,
    /// The families, to be gathered at a scrape.
    catalogue: Catalogue,
    /// What becomes of requests.
    requests: RequestLedger,
    /// Which reports were seen.
    lives: Lives,
    /// What stages and replicas hold and take.
    stages: StageLedger,
    /// What images were made; `None` for a pipeline that makes none.
    diffusion: Option<DiffusionLedger>,
    /// What came over edges; `None` for a pipeline of one stage.
    transfers: Option<TransferLedger>,
    /// What engine replicas report; `None` without statistics and for a pipeline without an engine.
    engines: Option<EngineLedger>,
    /// What custom stages count in families that they declare; `None` without statistics and without such families.
    labelled: Option<LabelledLedger>,
    /// What the metrics themselves do.
    bookkeeping: BookkeepingSeries,
    /// What the HTTP server answered; `None` without statistics.
    http: Option<HttpFamilies>,
    /// What the process takes of the machine; `None` where that cannot be read.
    process: Option<ProcessSeries>,
}

/// What engine replicas report.
#[derive(Debug)]
struct EngineLedger {
    /// Their families.
    families: EngineFamilies,
    /// `max_model_len` of every stage that is an engine.
    stages: BTreeMap<StageId, u64>,
    /// What was seen of each replica.
    replicas: BTreeMap<(StageId, ReplicaId), ReplicaLedger>,
}

impl Ledger {
    /// Sets up the families, with the series of all known label values at zero.
    pub fn new(settings: MetricsSettings) -> Result<Self, MetricsError> {
        let MetricsSettings { model_name, omni_prefix, log_stats, kv_cache_metrics, inference: _, stages } =
            settings;
        let mut catalogue = Catalogue::new(omni_prefix, model_name);
        let has = |property: fn(&StageDescription) -> bool| stages.iter().any(property);
        let pipeline = PipelineFamilies::register(&mut catalogue)?;
        let stage_ledger = StageLedger::new(StageFamilies::register(&mut catalogue)?, &stages)?;
        let audio = match has(|stage| stage.makes_audio) {
            true => Some(AudioLedger::new(AudioFamilies::register(&mut catalogue)?, &stages)?),
            false => None,
        };
        let diffusion = match has(|stage| stage.diffusion) {
            true => Some(DiffusionLedger::new(DiffusionFamilies::register(&mut catalogue)?, &stages)?),
            false => None,
        };
        let transfers = match stages.len() > 1 {
            true => Some(TransferLedger::new(TransferHistograms::register(&mut catalogue)?, &stages)?),
            false => None,
        };
        let bookkeeping = BookkeepingSeries::register(&mut catalogue)?;
        let engines = match log_stats && has(|stage| stage.max_model_len.is_some()) {
            true => {
                let families = EngineFamilies::register(&mut catalogue, kv_cache_metrics)?;
                Some(EngineLedger::new(families, &stages)?)
            }
            false => None,
        };
        let http = match log_stats {
            true => Some(HttpFamilies::register(&mut catalogue)?),
            false => None,
        };
        let process = ProcessSeries::register(&mut catalogue)?;
        let labelled = match log_stats && has(|stage| !stage.families.is_empty()) {
            true => Some(LabelledLedger::new(&mut catalogue, &stages)?),
            false => None,
        };
        if log_stats {
            stage_ledger.show_lives()?;
        }
        Ok(Self {
            log_stats,
            catalogue,
            requests: RequestLedger::new(pipeline, audio),
            lives: Lives::default(),
            stages: stage_ledger,
            diffusion,
            transfers,
            engines,
            labelled,
            bookkeeping,
            http,
            process,
        })
    }

    /// Applies an event that arrived at `now`.
    ///
    /// # Errors
    ///
    /// A series could not be created. What belongs to other series of the event may be missing then.
    pub fn apply(&mut self, event: &StatEvent, now: Instant) -> Result<(), MetricsError> {
        if !self.log_stats {
            return Ok(());
        }
        self.bookkeeping.events.inc();
        match event {
            StatEvent::Pipeline(event) => self.requests.apply(event)?,
            StatEvent::Replica(report) => self.report(report, now)?,
            // What it says has been counted as it happened.
            StatEvent::Account(_) => {}
            StatEvent::Http(exchange) => {
                if let Some(http) = &self.http {
                    http.observe(exchange)?;
                }
            }
            StatEvent::Scraped { seconds } => self.bookkeeping.observe_scrape(*seconds),
            StatEvent::ReplicaUp(key) => {
                self.stages.begin(*key)?;
                if let Some((replica, families)) = self.replica(*key)? {
                    replica.begin(key.epoch, families)?;
                }
                if let Some(labelled) = &mut self.labelled {
                    labelled.begin(*key)?;
                }
            }
            StatEvent::ReplicaDown { key, reason } => {
                self.stages.end(*key, reason)?;
                if let Some((replica, families)) = self.replica(*key)? {
                    replica.end(key.epoch, families);
                }
                if let Some(labelled) = &mut self.labelled {
                    labelled.end(*key);
                }
            }
        }
        Ok(())
    }

    /// Publishes the values of replicas that were held back and whose second is over. To be called every second
    /// and before a scrape.
    pub fn tick(&mut self, now: Instant) {
        self.stages.tick(now);
        if let Some(engines) = &mut self.engines {
            for replica in engines.replicas.values_mut() {
                replica.tick(now);
            }
        }
    }

    /// Notes how many events wait for the ledger.
    pub fn note_waiting_events(&self, events: usize) {
        self.bookkeeping.mailbox_depth.set(events as f64);
    }

    /// The values of all series at this moment.
    pub fn gather(&self) -> Exposition {
        if let Some(process) = &self.process {
            process.update();
        }
        self.catalogue.gather()
    }

    /// Which life of which replica of `stage` works on a request, or did so. Known from its acceptance until
    /// [`ENDED_REMEMBERED`](route::ENDED_REMEMBERED) further requests have ended after it.
    pub fn resolve(&self, request: RequestId, stage: StageId) -> Option<ReplicaKey> {
        self.requests.resolve(request, stage)
    }

    /// Events that contradicted what was known of their request and changed nothing.
    pub fn contradictions(&self) -> u64 {
        self.requests.contradictions()
    }

    /// Takes a report in, once per sequence number of a life.
    fn report(&mut self, report: &ReplicaReport, now: Instant) -> Result<(), MetricsError> {
        let Some(life) = self.lives.new_report(report.key, report.sequence) else {
            tracing::debug!(replica = %report.key, sequence = report.sequence, "ignored a repeated report");
            return Ok(());
        };
        // What a custom stage counts wrongly must not cost the rest of the report.
        let labelled = match &mut self.labelled {
            Some(labelled) => labelled.report(report, &life.advance_labelled(&report.stats.labelled)),
            None => Ok(()),
        };
        if let Some(engines) = &mut self.engines
            && let Some((replica, families)) = engines.replica(report.key.stage, report.key.replica)?
        {
            replica.report(report, life, families, now)?;
        }
        self.stages.report(report, now)?;
        for times in &report.stats.stage_times {
            self.requests.stage_done(report.key, times)?;
        }
        for finished in &report.stats.finished {
            self.requests.finished(report.key, finished);
        }
        if let Some(diffusion) = &mut self.diffusion {
            diffusion.observe(report.key, &report.stats.diffusion)?;
        }
        if let Some(transfers) = &mut self.transfers {
            for sample in &report.stats.transfers {
                let stages = [sample.from, sample.to];
                if let Some([from, to]) = self.requests.edge(sample.request, stages, report.key) {
                    transfers.observe(from, to, sample)?;
                }
            }
            for events in &report.stats.first_events {
                let stages = [events.from, events.to];
                if let Some([from, to]) = self.requests.edge(events.request, stages, report.key) {
                    transfers.observe_first(from, to, events)?;
                }
            }
        }
        labelled
    }

    /// The ledger of a replica and the families of engines, if statistics are kept and its stage is an engine.
    fn replica(
        &mut self,
        key: ReplicaKey,
    ) -> Result<Option<(&mut ReplicaLedger, &EngineFamilies)>, MetricsError> {
        match &mut self.engines {
            Some(engines) => engines.replica(key.stage, key.replica),
            None => Ok(None),
        }
    }
}

impl EngineLedger {
    /// A ledger with the series of all replicas of engine stages at zero.
    fn new(families: EngineFamilies, stages: &[StageDescription]) -> Result<Self, MetricsError> {
        let lengths = stages.iter().filter_map(|stage| Some((stage.stage, stage.max_model_len?))).collect();
        let mut ledger = Self { families, stages: lengths, replicas: BTreeMap::new() };
        for stage in stages {
            for replica in 0..stage.replicas {
                ledger.replica(stage.stage, ReplicaId(replica))?;
            }
        }
        Ok(ledger)
    }

    /// The ledger of a replica, which is opened when the replica is first heard of, and the families of engines. `None` if
    /// its stage is no engine.
    fn replica(
        &mut self,
        stage: StageId,
        replica: ReplicaId,
    ) -> Result<Option<(&mut ReplicaLedger, &EngineFamilies)>, MetricsError> {
        let Some(&max_model_len) = self.stages.get(&stage) else { return Ok(None) };
        let ledger = match self.replicas.entry((stage, replica)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let labels = ReplicaLabels::new(stage, replica);
                let series = self.families.series(labels.clone(), max_model_len)?;
                let gauges = self.families.scheduler.gauges(&labels)?;
                new.insert(ReplicaLedger::new(labels, series, gauges))
            }
        };
        Ok(Some((ledger, &self.families)))
    }
}

#[cfg(test)]
mod tests;
