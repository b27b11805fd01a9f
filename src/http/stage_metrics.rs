//! `metrics` of an answer, with `return_stage_metrics`: what the request took, stage by stage and edge by edge. The numbers
//! are those of the logged tables, under the same names.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::http::modalities::word;
use crate::http::state::{PipelineShape, StageShape};
use crate::metrics::tables::{Field, Value, edge_fields, edge_name, request_fields, stage_fields};
use crate::metrics::{RequestAccount, StageAccount};

/// What a request took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestMetrics {
    /// Of each visited stage, by its place in the pipeline.
    stage_metrics: BTreeMap<u16, StageMetrics>,
    /// Of each edge that something came over, as `0->1`.
    transfer_metrics: BTreeMap<String, Fields>,
    /// Over all.
    e2e_metrics: Fields,
    /// The last stage.
    stage_id: u16,
    /// The kind of output that it makes.
    final_output_type: Option<&'static str>,
    /// Tokens that it took.
    num_tokens_in: u64,
    /// Tokens that it gave.
    num_tokens_out: u64,
}

/// What a request took in one stage. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StageMetrics {
    /// Its place in the pipeline.
    stage_id: u16,
    /// Its name in the deploy file.
    stage_name: String,
    /// The replica that the request was bound to.
    replica_id: u16,
    /// The kind of output that it makes; null for a stage that only feeds the next one.
    final_output_type: Option<&'static str>,
    /// How it ended there.
    finish_reason: Option<&'static str>,
    /// From the replica's queue to the first step that worked on it.
    queue_time_ms: f64,
    /// From HTTP arrival to its first output; null if it gave none.
    serving_time_to_first_output_ms: Option<f64>,
    /// Samples per second of its sound; 0 if it made none.
    audio_sample_rate: u32,
    /// Seconds that its sound plays.
    audio_duration_s: f64,
    /// The rows of its column in the table.
    #[serde(flatten)]
    table: Fields,
}

/// Numbers under their names.
#[derive(Debug, Clone, PartialEq)]
struct Fields(Vec<Field>);

/// Writes what requests took with the names that stages have.
#[derive(Debug, Clone)]
pub struct RequestMetricsWriter {
    stages: Vec<StageShape>,
}

impl RequestMetricsWriter {
    /// For requests to this pipeline.
    pub fn new(pipeline: &PipelineShape) -> Self {
        Self { stages: pipeline.stages.clone() }
    }

    /// What a request took.
    pub fn write(&self, account: &RequestAccount) -> RequestMetrics {
        let stages: BTreeMap<u16, StageMetrics> =
            account.stages.iter().map(|stage| self.stage(account, stage)).collect();
        let last = account.stages.last();
        let last_metrics = stages.last_key_value().map(|(_, metrics)| metrics);
        RequestMetrics {
            stage_id: last_metrics.map_or(0, |metrics| metrics.stage_id),
            final_output_type: last_metrics.and_then(|metrics| metrics.final_output_type),
            num_tokens_in: last.map_or(0, |stage| stage.tokens.input),
            num_tokens_out: last.map_or(0, |stage| stage.tokens.output),
            stage_metrics: stages,
            transfer_metrics: account
                .edges()
                .map(|edge| (edge_name(edge), Fields(edge_fields(edge).to_vec())))
                .collect(),
            e2e_metrics: Fields(request_fields(account).to_vec()),
        }
    }

    fn stage(&self, account: &RequestAccount, stage: &StageAccount) -> (u16, StageMetrics) {
        let id = stage.replica.stage.0;
        let shape = self.stages.get(usize::from(id));
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let to_output = |output: std::time::Instant| output.saturating_duration_since(account.arrived);
        let metrics = StageMetrics {
            stage_id: id,
            stage_name: shape.map(|shape| shape.name.clone()).unwrap_or_default(),
            replica_id: stage.replica.replica.0,
            final_output_type: shape.and_then(|shape| shape.output).map(word),
            finish_reason: stage.reason.map(|reason| reason.as_str()),
            queue_time_ms: milliseconds(stage.queue_time()),
            serving_time_to_first_output_ms: stage.first_output.map(to_output).map(milliseconds),
            audio_sample_rate: stage.audio_sample_rate,
            audio_duration_s: stage.audio_seconds(),
            table: Fields(stage_fields(stage).to_vec()),
        };
        (id, metrics)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Count(count) => serializer.serialize_u64(count),
            Self::Real(amount) => serializer.serialize_f64(amount),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::FinishReason;
    use crate::http::testing::speaking_state;
    use crate::ids::{Epoch, ReplicaId, ReplicaKey, StageId};
    use crate::metrics::{Batch, EdgeAccount, TokenCounts};

    fn stage(stage: u16, arrived: Instant, tokens: TokenCounts, input: Option<EdgeAccount>) -> StageAccount {
        let at = |ms| arrived + Duration::from_millis(ms);
        StageAccount {
            replica: ReplicaKey { stage: StageId(stage), replica: ReplicaId(1), epoch: Epoch(0) },
            queued: at(2),
            started: Some(at(5)),
            first_output: Some(at(9)),
            done: at(20),
            released: at(21),
            reason: Some(FinishReason::Length),
            batch: Batch { id: 3, size: 2 },
            tokens,
            audio_frames: 1200,
            audio_sample_rate: 24_000,
            input,
        }
    }

    #[test]
    fn stages_and_edges_are_written_by_name_with_the_numbers_of_the_tables() {
        let arrived = Instant::now();
        let edge = EdgeAccount {
            from: StageId(0),
            to: StageId(1),
            size_bytes: 2048,
            send_seconds: 0.001,
            in_flight_seconds: 0.002,
            receive_seconds: 0.003,
        };
        let account = RequestAccount {
            request_id: "r".into(),
            arrived,
            ended: arrived + Duration::from_millis(22),
            reason: FinishReason::Length,
            stages: vec![
                stage(0, arrived, TokenCounts { input: 7, output: 5 }, None),
                stage(1, arrived, TokenCounts { input: 6, output: 9 }, Some(edge)),
            ],
        };
        let writer = RequestMetricsWriter::new(&speaking_state().pipeline);
        let json = serde_json::to_value(writer.write(&account)).unwrap();
        let thinker = &json["stage_metrics"]["0"];
        assert_eq!((&thinker["stage_id"], &thinker["replica_id"]), (&0.into(), &1.into()));
        assert_eq!((&thinker["num_tokens_in"], &thinker["num_tokens_out"]), (&7.into(), &5.into()));
        assert_eq!(thinker["final_output_type"], "text");
        assert_eq!(thinker["finish_reason"], "length");
        assert_eq!((&thinker["queue_time_ms"], &thinker["stage_gen_time_ms"]), (&3.0.into(), &15.0.into()));
        assert_eq!(thinker["postprocess_time_ms"], 1.0);
        assert_eq!(thinker["serving_time_to_first_output_ms"], 9.0);
        assert_eq!((&thinker["batch_id"], &thinker["batch_size"]), (&3.into(), &2.into()));
        assert_eq!(
            (&thinker["audio_generated_frames"], &thinker["audio_duration_s"]),
            (&1200.into(), &0.05.into())
        );
        let transfer = &json["transfer_metrics"]["0->1"];
        assert_eq!((&transfer["size_kbytes"], &transfer["tx_time_ms"]), (&2.0.into(), &1.0.into()));
        assert_eq!(json["e2e_metrics"]["e2e_total_ms"], 22.0);
        assert_eq!(json["e2e_metrics"]["e2e_total_tokens"], 7 + 5 + 9);
        assert_eq!((&json["stage_id"], &json["num_tokens_out"]), (&1.into(), &9.into()));
    }
}
