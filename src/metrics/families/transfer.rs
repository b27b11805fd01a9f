//! Handles to the families of transfers, and the histograms of one edge.

use prometheus::Histogram;

use super::steps::observe_measured;
use crate::metrics::definitions::transfer;
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{FirstEvents, MetricsError, TransferSample};

/// What is sampled per chunk and per first chunk of a request: families if `H` is a family, the series of one edge if it is a histogram.
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
    /// Seconds from arrival to the making of the first chunk.
    first_emit: H,
    /// Seconds from arrival to handing it over.
    first_send: H,
    /// Seconds from arrival to taking it.
    first_receive: H,
    /// Seconds from arrival to the receiver's first output.
    first_output: H,
}

impl TransferHistograms<Family<Histogram>> {
    /// Registers the families of [`transfer::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            size: catalogue.register(&transfer::SIZE)?,
            send: catalogue.register(&transfer::SEND)?,
            in_flight: catalogue.register(&transfer::IN_FLIGHT)?,
            receive: catalogue.register(&transfer::RECEIVE)?,
            first_emit: catalogue.register(&transfer::FIRST_EMIT)?,
            first_send: catalogue.register(&transfer::FIRST_SEND)?,
            first_receive: catalogue.register(&transfer::FIRST_RECEIVE)?,
            first_output: catalogue.register(&transfer::FIRST_OUTPUT)?,
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
            first_emit: series(&self.first_emit)?,
            first_send: series(&self.first_send)?,
            first_receive: series(&self.first_receive)?,
            first_output: series(&self.first_output)?,
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

    /// Takes in when the first chunk of a request came how far.
    pub fn observe_first(&self, events: &FirstEvents) {
        observe_measured(&self.first_emit, events.emit_seconds);
        observe_measured(&self.first_send, events.send_seconds);
        observe_measured(&self.first_receive, events.receive_seconds);
        if let Some(seconds) = events.output_seconds {
            observe_measured(&self.first_output, seconds);
        }
    }
}
