//! The OpenAI API over HTTP.
//!
//! A request is read as JSON ([`body`]), checked field by field ([`chat_request`], [`completions_request`]), made
//! into a prompt by the model's own template and tokenizer ([`frontend`]), completed ([`admission`]) and submitted
//! to the orchestrator ([`running`]). What comes back is written in one piece ([`chat_response`],
//! [`completions_response`]) or as server-sent events ([`sse`], [`chat_stream`]); speech is written by
//! [`spoken_message`]. Whatever goes wrong on the way is
//! an [`errors::ApiError`].
//!
//! The routes know the rest of the server only through [`state::AppState`].

#![deny(clippy::indexing_slicing)]

pub mod admission;
pub mod answer;
pub mod auth;
pub mod body;
pub mod chat;
pub mod chat_request;
pub mod chat_response;
pub mod chat_stream;
pub mod completions;
pub mod completions_request;
pub mod completions_response;
pub mod errors;
pub mod exchange;
pub mod fields;
pub mod frontend;
pub mod generation_fields;
pub mod health;
pub mod logprobs;
pub mod messages;
pub mod modalities;
pub mod models;
pub mod plain_text;
pub mod recording;
pub mod request_id;
pub mod routes;
pub mod running;
pub mod sampling_fields;
pub mod scrape;
pub mod server;
pub mod speech_account;
pub mod speech_fields;
pub mod spoken_message;
pub mod sse;
pub mod stage_metrics;
pub mod state;
pub mod stats;
pub mod subtalker_fields;
pub mod token_budget;
pub mod tokenize;
pub mod unimplemented;

#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod testing;

pub use auth::ApiKeys;
pub use errors::ApiError;
pub use frontend::{Conversation, FrontendError, TextFrontend};
pub use plain_text::PlainText;
pub use server::{ServerOptions, start};
pub use state::{
    AppState, AudioDelta, Limits, MetricsPage, MetricsText, OrchestratorPort, PipelineShape, ScrapeError,
    ServedModel, StageShape,
};
