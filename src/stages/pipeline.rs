//! A pipeline: its stages in order, and how each of them is built.

use std::fmt;

use crate::engine::SamplingParams;
use crate::ids::StageId;
use crate::metrics::StageDescription;
use crate::stages::{Modality, StageFactory};
use crate::transport::Connector;

/// Stages in the order in which a request visits them. Chunks go from each stage to the one after it.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What the pipeline is called, such as `qwen3_omni_moe`.
    pub name: String,
    /// The stages; never empty.
    pub stages: Vec<StageSpec>,
    /// The voices that it speaks with, lower-case, the default one first; empty where it does not speak.
    pub voices: Vec<String>,
}

/// One stage of a pipeline.
#[derive(Clone)]
pub struct StageSpec {
    /// What the stage is called, such as `thinker`.
    pub name: String,
    /// The kind of output it gives to clients; `None` for a stage that only feeds the next one.
    pub output: Option<Modality>,
    /// How many replicas serve it.
    pub replicas: u16,
    /// How chunks come to it from the stage before.
    pub connector: Connector,
    /// Whether they come as they are made. If not, all of them come when the stage before is done with the request.
    pub async_chunk: bool,
    /// The device its replicas run on, for the startup message.
    pub device: String,
    /// The longest sequence it takes, if it is an engine.
    pub max_model_len: Option<usize>,
    /// Sampling parameters of requests that do not set their own.
    pub sampling: SamplingParams,
    /// Builds a replica's stage.
    pub factory: StageFactory,
}

impl Pipeline {
    /// The last stage that a request for these kinds of output visits, or the first kind that no stage makes.
    pub fn last_stage(&self, modalities: &[Modality]) -> Result<StageId, Modality> {
        let mut last = 0;
        for &wanted in modalities {
            let makes = |stage: &StageSpec| stage.output == Some(wanted);
            last = last.max(self.stages.iter().position(makes).ok_or(wanted)?);
        }
        Ok(StageId(last as u16))
    }

    /// The kinds of output that the pipeline makes, in stage order.
    pub fn modalities(&self) -> Vec<Modality> {
        self.stages.iter().filter_map(|stage| stage.output).collect()
    }
}

impl Pipeline {
    /// What the metrics must know of the stages.
    pub fn descriptions(&self) -> Vec<StageDescription> {
        let stages = (0..).map(StageId).zip(&self.stages);
        let description = |(stage, spec): (StageId, &StageSpec)| StageDescription {
            stage,
            replicas: spec.replicas,
            max_model_len: spec.max_model_len.map(|len| len as u64),
            makes_audio: spec.output == Some(Modality::Audio),
        };
        stages.map(description).collect()
    }
}

impl fmt::Debug for StageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageSpec")
            .field("name", &self.name)
            .field("output", &self.output)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
