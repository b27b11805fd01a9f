//! A model tried without serving it: all of it is loaded and started, and a small request goes through every stage.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use thiserror::Error;

use super::ServerError;
use super::load::LoadedModel;
use super::signals::EndSignals;
use super::started::StartedPipeline;
use crate::cli::ServeArgs;
use crate::http::admission::{Origin, omni_request};
use crate::http::answer::{Choice, finish_word, gather};
use crate::http::chat_request::ChatRequest;
use crate::http::modalities::{to_be_made, word};
use crate::http::request_id::ExternalId;
use crate::http::running::RunningRequests;
use crate::http::{ApiError, AppState};
use crate::metrics::Inference;
use crate::stages::{Modality, Pipeline, Prompt, Registry, StageSpec};

/// What the model is told.
const GREETING: &str = "Hello!";
/// The most that a stage makes for it: tokens of text, or frames of a codec.
const MOST_TOKENS: u32 = 32;

/// Why a model cannot be served as asked. Each message is one line for the user.
#[derive(Debug, Error)]
pub enum CheckError {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] ServerError),
    /// It starts, but does not answer.
    #[error("asked for {output}, the model fails: {error}")]
    Request {
        /// The kind of output.
        output: &'static str,
        /// Why there is none.
        error: ApiError,
    },
    /// A signal came.
    #[error("{0}: ended before the model was checked")]
    Interrupted(&'static str),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The name under which it would be served.
    pub name: String,
    /// Where it was read from.
    pub location: String,
    /// The repository's revision that was asked for, if it is from the hub.
    pub revision: Option<String>,
    /// The commit that this is.
    pub commit: Option<String>,
    /// `model_type`; `None` for a pipeline without a model.
    pub model_type: Option<String>,
    /// The first of `architectures`.
    pub architecture: Option<String>,
    /// The pipeline that serves it.
    pub pipeline: String,
    /// Token ids are below this.
    pub vocabulary_size: Option<usize>,
    /// The most tokens of prompt and answer together.
    pub max_model_len: Option<usize>,
    /// Whether it has a chat template.
    pub chat_template: bool,
    /// The voices that it speaks with, the default one first.
    pub voices: Vec<String>,
    /// The stages, in order.
    pub stages: Vec<StageReport>,
    /// How long it took until every stage was up, downloads included.
    pub startup_seconds: f64,
    /// What it answered, for each kind of output that it makes.
    pub answers: Vec<AnswerReport>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReport {
    /// What it is called.
    pub name: String,
    /// The device that it runs on.
    pub device: String,
    /// Its replicas.
    pub replicas: u16,
    /// The types in which its weights are kept; `None` where that is not known.
    pub dtype: Option<&'static str>,
    /// Its parameters.
    pub parameters: Option<u64>,
    /// Bytes of its weights.
    pub weight_bytes: Option<u64>,
    /// Bytes of the KV caches of all its replicas.
    pub cache_bytes: Option<u64>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerReport {
    /// The kind of output that was asked for.
    pub output: &'static str,
    /// Its text, or what was spoken.
    pub text: String,
    /// Tokens of text.
    pub tokens: usize,
    /// How long the speech is; `None` where there is none.
    pub speech_seconds: Option<f64>,
    /// Why it ended.
    pub finish_reason: Option<&'static str>,
    /// How long it took.
    pub seconds: f64,
}

/// Does what serving would do, but for listening, and asks for each kind of output that the pipeline makes.
pub fn check(args: &ServeArgs, registry: Registry) -> Result<CheckReport, CheckError> {
    actix_rt::System::new().block_on(async {
        let mut signals = EndSignals::listen().map_err(ServerError::Http)?;
        tokio::select! {
            report = check_all(args, registry) => report,
            signal = signals.next() => Err(CheckError::Interrupted(signal)),
        }
    })
}

async fn check_all(args: &ServeArgs, registry: Registry) -> Result<CheckReport, CheckError> {
    let began = Instant::now();
    let started = StartedPipeline::start(args, registry, Inference::Online).await?;
    let mut report = describe(&started.names, &started.model);
    report.startup_seconds = began.elapsed().as_secs_f64();
    let has_template = report.chat_template || report.model_type.is_none();
    let (state, runtime) = started.into_state(args);
    for output in state.pipeline.modalities.clone() {
        let answer = ask(&state, output, has_template).await;
        let failed = |error| CheckError::Request { output: word(output), error };
        report.answers.push(answer.map_err(failed)?);
    }
    runtime.drain(Duration::ZERO).await;
    Ok(report)
}

/// What is known without asking.
fn describe(names: &[String], model: &LoadedModel) -> CheckReport {
    let snapshot = model.found.as_ref().and_then(|found| found.snapshot.as_ref());
    let identity = model.found.as_ref().and_then(|found| found.checkpoint.identity().ok());
    let Pipeline { name: pipeline, stages, voices } = &model.pipeline;
    CheckReport {
        name: names.first().cloned().unwrap_or_default(),
        location: model.location.clone(),
        revision: snapshot.map(|snapshot| snapshot.revision.clone()),
        commit: snapshot.map(|snapshot| snapshot.commit.clone()),
        model_type: identity.as_ref().map(|identity| identity.model_type.clone()),
        architecture: identity.and_then(|identity| identity.architecture),
        pipeline: pipeline.clone(),
        vocabulary_size: model.text.as_ref().map(|text| text.vocabulary_size),
        max_model_len: model.text.as_ref().map(|text| text.max_model_len),
        chat_template: model.text.as_ref().is_some_and(|text| text.template.is_some()),
        voices: voices.clone(),
        stages: stages.iter().map(describe_stage).collect(),
        startup_seconds: 0.0,
        answers: Vec::new(),
    }
}

fn describe_stage(spec: &StageSpec) -> StageReport {
    let weights = spec.size.map(|size| size.weights);
    StageReport {
        name: spec.name.clone(),
        device: spec.device.clone(),
        replicas: spec.replicas,
        dtype: weights.map(|weights| match weights.bytes {
            bytes if bytes == weights.parameters * 2 => "bf16",
            bytes if bytes == weights.parameters * 4 => "f32",
            _ => "bf16 and f32",
        }),
        parameters: weights.map(|weights| weights.parameters),
        weight_bytes: weights.map(|weights| weights.bytes),
        cache_bytes: spec.size.map(|size| size.cache_bytes),
    }
}

/// Asks for one kind of output, as a client would.
async fn ask(state: &AppState, output: Modality, has_template: bool) -> Result<AnswerReport, ApiError> {
    let began = Instant::now();
    let body = json!({
        "messages": [{"role": "user", "content": GREETING}],
        "modalities": [word(output)],
    });
    let asked = ChatRequest::read(&body, state)?;
    let prompt = match has_template {
        true => asked.prompt(state.text.as_ref())?,
        // A base model goes on with what it is given.
        false => Prompt {
            token_ids: state.text.encode(GREETING, true)?,
            text: GREETING.to_owned(),
            ..Prompt::default()
        },
    };
    let external_id = ExternalId(format!("check-{}", word(output)));
    let origin = Origin { arrived: began, external_id, prompt_param: "messages" };
    let made = to_be_made(&asked.modalities, &state.pipeline);
    let mut request = omni_request(prompt, &asked.generation, &made, &origin, state)?;
    for sampling in &mut request.sampling {
        sampling.max_tokens = sampling.max_tokens.min(MOST_TOKENS);
        sampling.min_tokens = sampling.min_tokens.min(sampling.max_tokens);
    }
    let mut running = RunningRequests::submit(state, vec![request], asked.generation.delivery()).await?;
    let answers = gather(&mut running, 1, 1).await?;
    let answer = answers.choices.into_iter().next().unwrap_or_default();
    Ok(report(output, answer, began.elapsed()))
}

fn report(output: Modality, answer: Choice, took: Duration) -> AnswerReport {
    let speech_seconds = answer.sound.map(|sound| {
        let samples_per_second = f64::from(sound.layout.sample_rate) * f64::from(sound.layout.channels);
        sound.samples.len() as f64 / samples_per_second
    });
    AnswerReport {
        output: word(output),
        text: answer.text,
        tokens: answer.token_ids.len(),
        speech_seconds,
        finish_reason: finish_word(answer.finish.as_ref()),
        seconds: took.as_secs_f64(),
    }
}
