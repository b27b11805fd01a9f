//! What the HTTP layer is given of a server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actix::Addr;

use super::load::{LoadedModel, ModelText};
use super::text_frontend::CheckpointText;
use crate::actors::messages::Scrape;
use crate::actors::metrics::MetricsActor;
use crate::actors::runtime::Runtime;
use crate::cli::{ModalityArg, ServeArgs};
use crate::http::{
    ApiKeys, AppState, Limits, MetricsPage, MetricsText, OrchestratorPort, PipelineShape, PlainText,
    ScrapeError, ServedModel, StageShape, TextFrontend,
};
use crate::metrics::{StatEvent, StatsSender, TextFormat};
use crate::stages::Modality;

/// What the built-in demo is, for the log and for `/v1/models`.
pub(super) const DEMO_NOTICE: &str =
    "a tiny demo model of 6.9 million parameters that answers questions about omni-actors and little else";

/// Normalisation may make a text shorter, by less than this.
const NORMALIZATION_SLACK: usize = 3;

/// The routes' view of a server.
pub(super) fn app_state(
    model: LoadedModel,
    names: Vec<String>,
    args: &ServeArgs,
    runtime: &Runtime,
) -> AppState {
    let stage = |spec: &crate::stages::StageSpec| StageShape {
        name: spec.name.clone(),
        output: spec.output,
        default_sampling: spec.sampling.clone(),
    };
    AppState {
        orchestrator: OrchestratorPort {
            submit: runtime.orchestrator.clone().recipient(),
            abort: runtime.orchestrator.clone().recipient(),
            health: runtime.orchestrator.clone().recipient(),
            stages: runtime.orchestrator.clone().recipient(),
        },
        served: ServedModel {
            names,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            root: model.location.clone(),
            max_model_len: model
                .text
                .as_ref()
                .map(|text| u32::try_from(text.max_model_len).unwrap_or(u32::MAX)),
            notice: model.is_demo.then(|| DEMO_NOTICE.to_owned()),
        },
        pipeline: PipelineShape {
            stages: model.pipeline.stages.iter().map(stage).collect(),
            modalities: model.pipeline.modalities(),
            text_has_tokens: model.pipeline.text_has_tokens(),
            default_modalities: args.default_modalities.iter().map(|kind| modality(*kind)).collect(),
            voices: model.pipeline.voices.clone(),
        },
        metrics: Arc::new(ActorPage {
            actor: runtime.metrics.clone(),
            statistics: runtime.statistics.clone(),
        }),
        statistics: runtime.statistics.clone(),
        limits: Limits::default(),
        api_keys: ApiKeys::new(args.api_key.clone()),
        audio_delta: args.audio_delta.into(),
        text: model.text.map_or_else(|| Arc::new(PlainText) as Arc<dyn TextFrontend>, frontend),
    }
}

/// Tokenizer and chat template of a model, for the routes.
fn frontend(text: ModelText) -> Arc<dyn TextFrontend> {
    let ModelText { tokenizer, template, vocabulary_size, max_model_len } = text;
    Arc::new(CheckpointText {
        max_bytes: max_model_len * tokenizer.longest_token() * NORMALIZATION_SLACK,
        tokenizer,
        template,
        vocabulary_size: u32::try_from(vocabulary_size).unwrap_or(u32::MAX),
    })
}

pub(super) fn modality(kind: ModalityArg) -> Modality {
    match kind {
        ModalityArg::Text => Modality::Text,
        ModalityArg::Audio => Modality::Audio,
    }
}

/// The metrics page of the metrics actor, written on a thread that nobody waits for.
struct ActorPage {
    actor: Addr<MetricsActor>,
    /// Told how long pages take.
    statistics: StatsSender,
}

impl MetricsPage for ActorPage {
    fn scrape(&self, accept: &str) -> Pin<Box<dyn Future<Output = Result<MetricsText, ScrapeError>>>> {
        let (format, began) = (TextFormat::for_accept(accept), Instant::now());
        let (scrape, statistics) = (self.actor.send(Scrape), self.statistics.clone());
        Box::pin(async move {
            let exposition = scrape.await.map_err(|error| ScrapeError(error.to_string()))?;
            let body = tokio::task::spawn_blocking(move || exposition.to_text(format));
            let body = body.await.map_err(|error| ScrapeError(error.to_string()))?;
            statistics.send(|| StatEvent::Scraped { seconds: began.elapsed().as_secs_f64() });
            Ok(MetricsText { content_type: format.content_type(), body })
        })
    }
}
