//! Stages: the units of a pipeline, and the plug-in point of the server.
//!
//! A [`Stage`] is driven by one worker thread. The worker hands it requests and chunks, asks it to plan a step,
//! launches the step and collects what came out. Nothing here knows of actors, HTTP or the Prometheus registry.

pub mod checkpoint_pipeline;
pub mod code2wav;
pub mod custom;
pub mod device_memory;
pub mod engine_statistics;
pub mod error;
pub mod function;
pub mod llm;
pub mod memory_ledger;
pub mod output;
pub mod pipeline;
pub mod qwen3_omni;
pub mod request;
pub mod sampling_defaults;
pub mod served_model;
pub mod size;
pub mod stage;
pub mod statistics_options;
pub mod talker;
pub mod text_generation;
pub mod trial;

pub use custom::{CustomStage, NoSettings, PlacementError, Registry, RegistryError, StageContext};
pub use error::StageError;
pub use function::{Emission, Emissions, FunctionStage, Item};
pub use output::{
    AudioPacket, ChoiceFinish, Output, StageEvent, StageOutput, StopReason, TextDelta, TokenLogprob,
    TokenLogprobs,
};
pub use pipeline::{Pipeline, StageSpec, WiringError};
pub use request::{Cancellation, Message, Modality, Prompt, StageInput, StageRequest};
pub use served_model::ServedModel;
pub use size::StageSize;
pub use stage::{Poll, Readiness, Stage, StageFactory, Ticket};
pub use statistics_options::{EngineStatisticsOptions, StatisticsOptions};
pub use trial::StageTrial;
