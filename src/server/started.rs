//! A pipeline whose stages are up, and that nobody can reach yet.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::load::{LoadedModel, load};
use super::{STAGE_START_DEADLINE, ServerError, state};
use crate::actors::messages::GetHealth;
use crate::actors::runtime::{Runtime, RuntimeOptions};
use crate::cli::ServeArgs;
use crate::http::AppState;
use crate::metrics::{Inference, OmniPrefix};
use crate::stages::{Pipeline, Registry};

/// What a server is before it listens.
pub(crate) struct StartedPipeline {
    /// What was loaded.
    pub(crate) model: LoadedModel,
    /// The stages.
    pub(crate) pipeline: Arc<Pipeline>,
    /// The names by which requests may ask for the model; not empty.
    pub(crate) names: Vec<String>,
    /// The actors.
    pub(crate) runtime: Runtime,
}

impl StartedPipeline {
    /// Loads the model, places the custom stages of `registry`, starts the actors, and waits until every stage is up.
    /// Must be called within an actix system.
    pub(crate) async fn start(
        args: &ServeArgs,
        registry: Registry,
        inference: Inference,
    ) -> Result<Self, ServerError> {
        let model = load_on_a_thread(args, registry).await?;
        for kind in &args.default_modalities {
            if !model.pipeline.modalities().contains(&state::modality(*kind)) {
                return Err(ServerError::DefaultModality(*kind));
            }
        }
        let mut names = args.served_model_name.clone();
        if names.is_empty() {
            names.push(model.default_name.clone());
            // Whoever starts the server with a path may well ask for the model by that path.
            let given = args.model.as_ref().map(|given| given.display().to_string());
            names.extend(given.filter(|given| *given != model.default_name));
        }
        let options = RuntimeOptions {
            model_name: names.first().cloned().unwrap_or_default(),
            omni_prefix: args.metrics_omni_prefix.parse::<OmniPrefix>().map_err(ServerError::Prefix)?,
            log_stats: args.log_stats,
            kv_cache_metrics: args.kv_cache_metrics,
            inference,
            ..RuntimeOptions::default()
        };
        for note in &model.notes {
            tracing::info!("{note}");
        }
        let pipeline = Arc::new(model.pipeline.clone());
        let runtime = Runtime::start(pipeline.clone(), options)?;
        if !runtime.wait_until_up(STAGE_START_DEADLINE).await {
            return Err(why_down(&runtime, &pipeline).await);
        }
        Ok(Self { model, pipeline, names, runtime })
    }

    /// The routes' view of it, and its actors.
    pub(super) fn into_state(self, args: &ServeArgs) -> (AppState, Runtime) {
        let Self { model, names, runtime, .. } = self;
        (state::app_state(model, names, args, &runtime), runtime)
    }
}

/// Why not every stage came up.
async fn why_down(runtime: &Runtime, pipeline: &Pipeline) -> ServerError {
    let not_built = runtime.orchestrator.send(GetHealth).await.map(|health| health.not_built);
    match not_built.unwrap_or_default().into_iter().next() {
        Some((stage, cause)) => {
            let name = pipeline.stages.get(usize::from(stage.0)).map(|spec| spec.name.clone());
            ServerError::NotBuilt { stage, name: name.unwrap_or_default(), cause }
        }
        None => ServerError::StagesDown,
    }
}

/// Loads the model on a thread of its own, so that signals are heard meanwhile: a large model takes its time.
async fn load_on_a_thread(args: &ServeArgs, registry: Registry) -> Result<LoadedModel, ServerError> {
    let (sender, loaded) = oneshot::channel();
    let args = args.clone();
    let load = move || {
        // Nobody waits for the model when a signal came first.
        let _ = sender.send(load(&args, &registry));
    };
    std::thread::Builder::new().name("load".into()).spawn(load).map_err(ServerError::NotLoaded)?;
    Ok(loaded.await.map_err(|_| ServerError::NotLoaded(std::io::Error::other("its thread ended")))??)
}
