//! omni-actors serves any-to-any models as a pipeline of stages, each stage an actor.
//!
//! # A guided tour
//!
//! [`server`] puts everything together. A request comes in at [`http`], is admitted and routed by the orchestrator in [`actors`], and is worked on by
//! replicas, each of which drives one [`stages::Stage`] on a thread of its own. Autoregressive stages share the
//! scheduler, KV-cache blocks and sampler of [`engine`]; the mathematics of a model stands in [`models`], written
//! against the operations of [`tensor`]. Replicas hand chunks to each other over the edges of [`transport`], and
//! send what they count as typed events to the one metrics actor, which owns the registry described in [`metrics`].
//!
//! Read [`actors::messages`] first: it holds every message that passes between actors.
//!
//! # Stages of one's own
//!
//! A crate that depends on this one can bring stages: it describes each as a [`CustomStage`], registers it in a
//! [`Registry`] under a name that deploy files use, and hands that to a [`Server`], which is the whole program. All that
//! this takes can be imported from the root of the crate, as `examples/custom_stage.rs` and
//! `examples/custom_pipeline.rs` do; `docs/custom-stages.md` explains it.
//!
//! A stage is a [`FunctionStage`] around a plain function, or a type of one's own that implements [`Stage`].
//! [`StageTrial`] drives one in a test. It counts in families that it declares as [`MetricFamily`].
//!
//! # Layers
//!
//! Dependencies point downwards only: http → actors → stages → {engine, models} → tensor; `metrics` and
//! `transport` are used by actors and stages and use none of them. [`text`] turns text into tokens and back for
//! `http` and `stages`; it reads its files through [`config`] and its settings from [`engine::SamplingParams`].
//! [`media`] turns samples into sound files for `http`. [`selftest`] holds a device against what is known to be right, and
//! [`bench`] measures how fast a model is served, without HTTP.

pub mod actors;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
pub mod ids;
pub mod media;
pub mod metrics;
pub mod models;
pub mod selftest;
pub mod server;
pub mod stages;
pub mod tensor;
pub mod text;
pub mod transport;

pub use engine::{FinishReason, SamplingParams};
pub use ids::{RequestId, StageId};
pub use metrics::{CounterFamily, GaugeFamily, HistogramFamily, LabelledStats, MetricFamily, ReplicaStats};
pub use server::Server;
pub use stages::{
    CustomStage, Emission, Emissions, FunctionStage, Item, Message, Modality, NoSettings, Output, Poll,
    Prompt, Readiness, Registry, RegistryError, Stage, StageContext, StageError, StageEvent, StageInput,
    StageOutput, StageRequest, StageTrial, TextDelta, Ticket,
};
pub use transport::{AudioPacket, Chunk, HostData, HostTensor, Payload, PayloadKind};

/// The code in the guide, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/custom-stages.md")]
struct CustomStagesGuide;
