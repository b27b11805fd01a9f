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
//! Dependencies point downwards only: http → actors → stages → {engine, models} → tensor; `metrics` and
//! `transport` are used by actors and stages and use none of them. [`text`] turns text into tokens and back for
//! `http` and `stages`; it reads its files through [`config`] and its settings from [`engine::SamplingParams`].
//! [`media`] turns samples into sound files for `http`. [`selftest`] holds a device against what is known to be right.

pub mod actors;
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
