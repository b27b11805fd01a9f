//! The types of models that are served, and the pipeline of each.

use crate::config::{Checkpoint, Deploy};
use crate::models::qwen3::text_model;
use crate::stages::checkpoint_pipeline::PipelineError;
use crate::stages::{qwen3_omni, text_generation};

/// A type of model that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedModel {
    /// Text and speech: thinker, talker, vocoder.
    Qwen3Omni,
    /// Text alone: one stage.
    TextGeneration,
}

impl ServedModel {
    /// Every `model_type` that is served.
    pub const TYPES: [(&'static str, Self); 3] = [
        (qwen3_omni::MODEL_TYPE, Self::Qwen3Omni),
        (text_model::DENSE, Self::TextGeneration),
        (text_model::SPARSE, Self::TextGeneration),
    ];

    /// What serves a `model_type`, if anything does.
    pub fn of_type(model_type: &str) -> Option<Self> {
        Self::TYPES.iter().find(|(known, _)| *known == model_type).map(|(_, model)| *model)
    }

    /// The deployment of a checkpoint of this type that nobody says anything about. With `thinker_only`, what speaks is
    /// left away.
    pub fn built_in_deploy(
        self,
        checkpoint: &Checkpoint,
        thinker_only: bool,
    ) -> Result<Deploy, PipelineError> {
        match self {
            Self::Qwen3Omni => qwen3_omni::built_in_deploy(checkpoint, thinker_only),
            Self::TextGeneration => text_generation::built_in_deploy(checkpoint),
        }
    }
}
