//! Why a deployment cannot be used.

use thiserror::Error;

use crate::config::Source;
use crate::config::document::DocumentError;
use crate::engine::SamplingError;

/// Why a deployment cannot be used. Each message is one line that names the place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeployError {
    /// A file cannot be read.
    #[error("{file}: {cause}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        cause: String,
    },
    /// A key or value is wrong in itself.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Values do not go together.
    #[error("{at}: {fault}")]
    Inconsistent {
        /// Where.
        at: Source,
        /// How.
        fault: Box<Fault>,
    },
}

/// How values do not go together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// A file builds on itself.
    #[error("base_config leads back to {file}, which builds on this file")]
    BaseCycle {
        /// The file that is met again.
        file: String,
    },
    /// A stage stands twice.
    #[error("stage {stage} stands here for the second time; the first is at {first}")]
    DuplicateStage {
        /// Its id.
        stage: u16,
        /// Where it stands first.
        first: Source,
    },
    /// An entry has no id.
    #[error("this stage has no stage_id")]
    NoStageId,
    /// Ids have a gap.
    #[error("there is no stage {missing}; stage ids count from 0 without gaps")]
    MissingStage {
        /// The first id that is not there.
        missing: u16,
    },
    /// The pipeline is that of another type of model.
    #[error("pipeline {named} is not for this model, whose model_type is {model}")]
    OtherPipeline {
        /// The pipeline that is named.
        named: &'static str,
        /// What the model is.
        model: String,
    },
    /// A stage of the pipeline is not in the list.
    #[error("stage {name} of pipeline {pipeline} is missing; every stage must stand in the list")]
    MissingModelStage {
        /// What it is called.
        name: String,
        /// The pipeline.
        pipeline: String,
    },
    /// The pipeline has no such stage.
    #[error("pipeline {pipeline} has no stage {stage}; a stage of your own needs the key \"custom_stage\"")]
    NoSuchStage {
        /// Its id.
        stage: u16,
        /// The pipeline.
        pipeline: String,
    },
    /// There is no stage at all.
    #[error("pipeline custom has no stages but those of the list, and there is none")]
    NoStages,
    /// A custom stage that nobody registered.
    #[error("custom stage \"{name}\" is not registered; {}", known_stages(known))]
    UnknownCustomStage {
        /// Its name.
        name: String,
        /// The names that are.
        known: Vec<String>,
    },
    /// Settings for a stage that takes none.
    #[error("\"settings\" are for custom stages, and stage {stage} is the {name}")]
    SettingsOfModelStage {
        /// Its id.
        stage: u16,
        /// What it is called.
        name: String,
    },
    /// Something that an override cannot change.
    #[error("key \"{key}\" decides what the pipeline is and cannot be overridden")]
    NotAnOverride {
        /// The key.
        key: String,
    },
    /// An edge without one of its ends.
    #[error("an edge has a \"from\" and a \"to\"")]
    HalfAnEdge,
    /// An edge that the pipeline does not have.
    #[error("there is no edge from stage {from} to stage {to}; stages stand in a row, so stage {to} is fed by stage {}", to.saturating_sub(1))]
    NoSuchEdge {
        /// Where it begins.
        from: u16,
        /// Where it ends.
        to: u16,
    },
    /// An edge that leads backwards.
    #[error("an edge from stage {from} to stage {to} makes a cycle; chunks go to stages with a higher id")]
    Cycle {
        /// Where it begins.
        from: u16,
        /// Where it ends.
        to: u16,
    },
    /// A connector that nobody defined.
    #[error("connector \"{name}\" is not defined; {}", suggestion(nearest, known))]
    UndefinedConnector {
        /// Its name.
        name: String,
        /// The known one that is spelt most like it.
        nearest: Option<String>,
        /// Those that are known.
        known: Vec<String>,
    },
    /// A class of connectors that is not here.
    #[error(
        "connector class \"{class}\" is not known; known are in_process, serialized and SharedMemoryConnector"
    )]
    UnknownConnectorClass {
        /// The class.
        class: String,
    },
    /// The ends of an edge name different connectors.
    #[error("this end of the edge has connector \"{here}\", and the other one \"{there}\" at {at}")]
    ConnectorsDisagree {
        /// What stands here.
        here: String,
        /// What stands at the other end.
        there: String,
        /// Where that is.
        at: Source,
    },
    /// The ends of an edge differ in `async_chunk`.
    #[error("async_chunk is {here} at this end of the edge from stage {from} to stage {to}, and {} at {at}", !here)]
    AsyncChunkDisagrees {
        /// What stands here.
        here: bool,
        /// Where the edge begins.
        from: u16,
        /// Where it ends.
        to: u16,
        /// Where the other end says otherwise.
        at: Source,
    },
    /// A stage that cannot run where it is told to.
    #[error("stage {stage} ({name}) runs on the CPU alone, not on \"{asked}\"")]
    CpuAlone {
        /// Its id.
        stage: u16,
        /// What it is called.
        name: String,
        /// What was asked for.
        asked: String,
    },
    /// Sampling parameters that are not possible.
    #[error("key \"{}\" {}", .0.parameter, .0.message)]
    Sampling(SamplingError),
}

impl Fault {
    /// The fault as an error at its place.
    pub(super) fn at(self, place: &Source) -> DeployError {
        DeployError::Inconsistent { at: place.clone(), fault: Box::new(self) }
    }
}

fn suggestion(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

fn known_stages(known: &[String]) -> String {
    if known.is_empty() { "none is".to_owned() } else { format!("registered are {}", known.join(", ")) }
}
