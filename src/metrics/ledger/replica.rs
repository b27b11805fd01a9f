//! What one replica of an engine stage reports, over all its lives.

use std::time::Instant;

use super::life::Life;
use super::presence::Presence;
use super::publication::Publication;
use crate::ids::Epoch;
use crate::metrics::families::{EngineFamilies, ReplicaLabels, ReplicaSeries, SchedulerGauges};
use crate::metrics::{CacheConfiguration, MetricsError, ReplicaReport, SchedulerSnapshot};

/// One replica. Counters and histograms go on from life to life; gauges show the present one only.
#[derive(Debug)]
pub struct ReplicaLedger {
    /// Which replica it is, on the page.
    labels: ReplicaLabels,
    /// Its counters and histograms.
    series: ReplicaSeries,
    /// The gauges of the present life; `None` while there is none.
    gauges: Option<SchedulerGauges>,
    /// How the cache of the present life is set up, as far as it is shown.
    cache: Option<CacheConfiguration>,
    /// Which life is present.
    presence: Presence,
    /// When scheduler values are shown.
    publication: Publication<SchedulerSnapshot>,
}

impl ReplicaLedger {
    /// A replica that was announced, with its series.
    pub fn new(labels: ReplicaLabels, series: ReplicaSeries, gauges: SchedulerGauges) -> Self {
        Self {
            labels,
            series,
            gauges: Some(gauges),
            cache: None,
            presence: Presence::default(),
            publication: Publication::default(),
        }
    }

    /// A life began: the gauges stand at zero until it reports. Does nothing if it is not later than the last.
    pub fn begin(&mut self, epoch: Epoch, families: &EngineFamilies) -> Result<(), MetricsError> {
        if self.presence.begins(epoch) {
            let gauges = families.scheduler.gauges(&self.labels)?;
            families.scheduler.show_awake(&self.labels)?;
            gauges.set(&SchedulerSnapshot::default());
            self.gauges = Some(gauges);
            self.publication = Publication::default();
        }
        Ok(())
    }

    /// A life ended: its gauges go. Does nothing if a later one has begun.
    pub fn end(&mut self, epoch: Epoch, families: &EngineFamilies) {
        if self.presence.ends(epoch) {
            self.gauges = None;
            self.publication = Publication::default();
            families.scheduler.remove(&self.labels);
            if let Some(cache) = self.cache.take() {
                families.cache.remove(&self.labels, &cache);
            }
        }
    }

    /// Takes in a report that was not seen before, of a life that is remembered in `life`. A report of a life that
    /// was not announced announces it.
    ///
    /// Totals are cumulative: a lost report loses nothing of them, and a late one doubles nothing.
    pub fn report(
        &mut self,
        report: &ReplicaReport,
        life: &mut Life,
        families: &EngineFamilies,
        now: Instant,
    ) -> Result<(), MetricsError> {
        let epoch = report.key.epoch;
        self.begin(epoch, families)?;
        if let Some(totals) = &report.stats.totals {
            let difference = life.advance(totals);
            self.series.add(&difference);
        }
        for sample in &report.stats.samples {
            self.series.observe(*sample);
        }
        for request in &report.stats.finished {
            self.series.finish(request)?;
        }
        for block in &report.stats.residencies {
            self.series.give_up(block);
        }
        if !self.presence.is_news(epoch, report.sequence) {
            return Ok(());
        }
        if let Some(values) = report.stats.scheduler {
            let shown = self.publication.offer(values, report.idle, now);
            self.show(shown.as_ref());
        }
        if let Some(cache) = report.stats.cache
            && self.cache.is_none()
        {
            families.cache.show(&self.labels, &cache)?;
            self.cache = Some(cache);
        }
        Ok(())
    }

    /// Shows the scheduler values that were held back, when their second is over.
    pub fn tick(&mut self, now: Instant) {
        let due = self.publication.take_due(now);
        self.show(due.as_ref());
    }

    fn show(&self, values: Option<&SchedulerSnapshot>) {
        if let (Some(gauges), Some(values)) = (&self.gauges, values) {
            gauges.set(values);
        }
    }
}
