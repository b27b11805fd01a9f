//! Handles to the families of transfers, and the histograms of one edge.

use prometheus::Histogram;

use super::steps::observe_measured;
use crate::metrics::definitions::transfer;
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{MetricsError, TransferSample};

/// What is sampled per chunk: families if `H` is a family, the series of one edge if it is a histogram.
#[derive(Debug)]
pub struct TransferHistograms<H> {
    /// Bytes of a chunk.
    size: H,
    /// Seconds that the sender spent.
    send: H,
    /// Seconds between the two.
    in_flight: H,
    /// Seconds that the receiver spent.
    receive: H,
}

impl TransferHistograms<Family<Histogram>> {
    /// Registers the families of [`transfer::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            size: catalogue.register(&transfer::SIZE)?,
            send: catalogue.register(&transfer::SEND)?,
            in_flight: catalogue.register(&transfer::IN_FLIGHT)?,
            receive: catalogue.register(&transfer::RECEIVE)?,
        })
    }

    /// The histograms of the edge between two replicas.
    pub fn series(
        &self,
        from: &ReplicaLabels,
        to: &ReplicaLabels,
    ) -> Result<TransferHistograms<Histogram>, MetricsError> {
        let ([from_stage, from_replica], [to_stage, to_replica]) = (from.values(), to.values());
        let series =
            |family: &Family<Histogram>| family.series(&[from_stage, from_replica, to_stage, to_replica]);
        Ok(TransferHistograms {
            size: series(&self.size)?,
            send: series(&self.send)?,
            in_flight: series(&self.in_flight)?,
            receive: series(&self.receive)?,
        })
    }
}

impl TransferHistograms<Histogram> {
    /// Takes in a chunk that came over the edge.
    pub fn observe(&self, sample: &TransferSample) {
        self.size.observe(sample.size_bytes as f64);
        observe_measured(&self.send, sample.send_seconds);
        observe_measured(&self.in_flight, sample.in_flight_seconds);
        observe_measured(&self.receive, sample.receive_seconds);
    }
}
