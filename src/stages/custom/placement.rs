//! From a deployment to a pipeline: the model's stages, and the registered ones where the deployment has them.

use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

use super::description::CustomStage;
use super::registry::Registry;
use super::settings::SettingsError;
use crate::config::deploy::{Deploy, StageKind};
use crate::config::{Source, StageDeploy};
use crate::ids::StageId;
use crate::stages::{Pipeline, StageFactory, StageSpec, WiringError};

/// Why the stages of a deployment do not make a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// Nobody registered the stage.
    #[error("stage {stage}: no custom stage \"{name}\" is registered")]
    Unregistered {
        /// Its place.
        stage: StageId,
        /// Its name.
        name: String,
    },
    /// The model does not have the stage.
    #[error("stage {stage}: the model has no stage \"{name}\"")]
    NotTheModels {
        /// Its place.
        stage: StageId,
        /// Its name.
        name: String,
    },
    /// Something is to be put around a stage that the model does not have.
    #[error("something is to be put around stage \"{name}\", which the model does not have")]
    NothingToPutAround {
        /// The name.
        name: String,
    },
    /// Its settings are not what it takes.
    #[error("{at}: stage {stage} ({name}): {cause}")]
    Settings {
        /// Where they stand.
        at: Source,
        /// Its place.
        stage: StageId,
        /// Its name.
        name: String,
        /// Why.
        cause: SettingsError,
    },
    /// The stages do not fit together.
    #[error(transparent)]
    Wiring(#[from] WiringError),
}

impl Registry {
    /// Checks that all custom stages of a deployment are registered and take the settings that they are given there.
    pub fn check_settings(&self, deploy: &Deploy) -> Result<(), PlacementError> {
        for (stage, placed) in (0..).map(StageId).zip(&deploy.stages) {
            let StageKind::Custom { settings } = &placed.kind else { continue };
            let description = self.description(stage, &placed.name)?;
            if let Err(cause) = description.check(settings) {
                let at = match placed.sources.of("settings") {
                    Source::BuiltIn => placed.sources.of("custom_stage"),
                    place => place,
                };
                let (name, at) = (placed.name.clone(), at.clone());
                return Err(PlacementError::Settings { at, stage, name, cause });
            }
        }
        Ok(())
    }

    /// Puts custom stages where `deploy` has them: among the stages of `model`, or by themselves, and around stages of
    /// `model` what is to be there. With `statistics`, what custom stages count is kept. Settings are not checked again.
    pub fn place(
        &self,
        deploy: &Deploy,
        model: Option<Pipeline>,
        statistics: bool,
    ) -> Result<Pipeline, PlacementError> {
        let (models_stages, voices) = model.map(|model| (model.stages, model.voices)).unwrap_or_default();
        let of_the_model = |name: &String| models_stages.iter().any(|spec| spec.name == *name);
        if let Some(name) = self.arounds.keys().find(|name| !of_the_model(name)) {
            return Err(PlacementError::NothingToPutAround { name: name.clone() });
        }
        let mut models_stages = models_stages.into_iter().map(|spec| match self.arounds.get(&spec.name) {
            Some(around) => StageSpec { factory: around.factory(spec.factory.clone()), ..spec },
            None => spec,
        });
        let mut stages = Vec::with_capacity(deploy.stages.len());
        for (stage, placed) in (0..).map(StageId).zip(&deploy.stages) {
            stages.push(match &placed.kind {
                StageKind::Custom { settings } => {
                    let description = self.description(stage, &placed.name)?;
                    spec(description, settings, stage, placed, statistics)
                }
                StageKind::Llm | StageKind::Talker | StageKind::Vocoder => models_stages
                    .next()
                    .ok_or_else(|| PlacementError::NotTheModels { stage, name: placed.name.clone() })?,
            });
        }
        let pipeline = Pipeline { name: deploy.pipeline.clone(), stages, voices };
        pipeline.check()?;
        Ok(pipeline)
    }

    fn description(&self, stage: StageId, name: &str) -> Result<&CustomStage, PlacementError> {
        self.get(name).ok_or_else(|| PlacementError::Unregistered { stage, name: name.to_owned() })
    }
}

/// A custom stage as its deployment says.
fn spec(
    description: &CustomStage,
    settings: &Value,
    stage: StageId,
    deploy: &StageDeploy,
    statistics: bool,
) -> StageSpec {
    let factory: StageFactory = {
        let (description, settings, deploy) = (description.clone(), settings.clone(), deploy.clone());
        Arc::new(move || description.build(&settings, stage, &deploy, statistics))
    };
    StageSpec {
        name: deploy.name.clone(),
        takes: description.takes,
        output: description.output,
        sends: description.sends,
        replicas: deploy.num_replicas,
        connector: deploy.input.connector,
        async_chunk: deploy.input.async_chunk,
        device: deploy.device.to_string(),
        max_model_len: None,
        size: None,
        sampling: deploy.sampling.clone(),
        families: description.families.clone(),
        factory,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::ids::RequestId;
    use crate::metrics::{MetricFamily, ReplicaStats};
    use crate::stages::{
        Emission, FunctionStage, Item, Modality, NoSettings, Poll, Prompt, Readiness, Stage, StageContext,
        StageError, StageInput, StageOutput, StageRequest, Ticket,
    };
    use crate::transport::Chunk;

    #[derive(serde::Deserialize)]
    struct Settings {
        mark: String,
    }

    fn registry() -> Registry {
        let stage = CustomStage::new(|settings: Settings, context: &StageContext| {
            let place = format!("{} of {}", context.stage(), context.replicas());
            let prompts = context.counter("prompts_total")?;
            Ok(FunctionStage::new(move |_: &StageRequest, _: Item<'_>| {
                prompts.increment([&settings.mark]);
                Ok(vec![Emission::text(format!("{}{place}", settings.mark))])
            }))
        });
        let family = MetricFamily::counter("prompts_total", "Prompts.").label("mark");
        let mut registry = Registry::new();
        registry.stage("marker", stage.gives(Modality::Text).counts(family)).unwrap();
        registry
    }

    fn deploy(settings: Value) -> Deploy {
        let stage = StageDeploy { num_replicas: 3, ..StageDeploy::custom("marker", settings) };
        Deploy::new("custom", vec![stage])
    }

    /// What a replica reports after one request.
    fn reported(statistics: bool) -> ReplicaStats {
        let deploy = deploy(json!({"mark": "!"}));
        let pipeline = registry().place(&deploy, None, statistics).unwrap();
        let mut stage = (pipeline.stages[0].factory)().unwrap();
        let prompt = StageInput::Prompt(Arc::new(Prompt::default()));
        stage.add(StageRequest::new(RequestId(0), prompt)).unwrap();
        assert_eq!(stage.plan(), Readiness::Ready);
        stage.launch().unwrap();
        let mut stats = ReplicaStats::default();
        stage.report(&mut stats);
        stats
    }

    #[test]
    fn a_placed_stage_has_what_the_deployment_says_and_reports_what_it_counts() {
        let pipeline = registry().place(&deploy(json!({"mark": "!"})), None, true).unwrap();
        let spec = &pipeline.stages[0];
        assert_eq!((spec.name.as_str(), spec.replicas, spec.output), ("marker", 3, Some(Modality::Text)));
        assert_eq!(spec.families.len(), 1);
        assert_eq!(reported(true).labelled.0["prompts_total"].len(), 1);
        assert!(reported(false).labelled.is_empty());
    }

    #[test]
    fn every_life_is_built_with_its_settings_and_context() {
        let mut trial = registry().get("marker").unwrap().trial(json!({"mark": "?"})).unwrap();
        let events = trial.prompt("hello").unwrap();
        let Emission::Client(due) = Emission::text("?0 of 1") else { panic!("output") };
        assert!(events.contains(&crate::stages::StageEvent::Client(due)), "{events:?}");
        assert_eq!(trial.counted().0["prompts_total"].len(), 1);
    }

    /// A stage that takes prompts and never gets to them.
    struct Stuck;

    impl Stage for Stuck {
        fn add(&mut self, _: StageRequest) -> Result<(), StageError> {
            Ok(())
        }

        fn push(&mut self, _: Chunk) -> Result<(), StageError> {
            Ok(())
        }

        fn remove(&mut self, _: RequestId) {}

        fn plan(&mut self) -> Readiness {
            Readiness::Idle
        }

        fn launch(&mut self) -> Result<Ticket, StageError> {
            Err(StageError::Protocol("nothing was planned".to_owned()))
        }

        fn poll(&mut self, _: Ticket, _: bool, _: &mut Vec<StageOutput>) -> Result<Poll, StageError> {
            Ok(Poll::Complete)
        }

        fn wake_at(&self) -> Option<Instant> {
            Some(Instant::now())
        }
    }

    #[test]
    fn a_stage_that_counts_is_woken_when_it_wants_to_be() {
        let stage = CustomStage::new(|_: NoSettings, _: &StageContext| Ok(Stuck));
        let prompts = MetricFamily::counter("prompts_total", "Prompts.");
        let mut registry = Registry::new();
        registry.stage("stuck", stage.gives(Modality::Text).counts(prompts)).unwrap();
        let deploy = Deploy::new("custom", vec![StageDeploy::custom("stuck", Value::Null)]);
        for statistics in [true, false] {
            let pipeline = registry.place(&deploy, None, statistics).unwrap();
            assert!((pipeline.stages[0].factory)().unwrap().wake_at().is_some());
        }
    }

    #[test]
    fn what_is_put_around_a_models_stage_stands_in_its_place() {
        let model = registry().place(&deploy(json!({"mark": "!"})), None, false).unwrap();
        let deploy = Deploy::new("llm", vec![StageDeploy::new("marker", StageKind::Llm)]);
        let mut registry = Registry::new();
        registry.around("marker", |_| Box::new(Stuck));
        let pipeline = registry.place(&deploy, Some(model.clone()), false).unwrap();
        let mut stage = (pipeline.stages[0].factory)().unwrap();
        stage.add(StageRequest::new(RequestId(0), StageInput::Prompt(Arc::default()))).unwrap();
        assert_eq!(stage.plan(), Readiness::Idle);
        registry.around("maker", |stage| stage);
        let error = registry.place(&deploy, Some(model), false).unwrap_err().to_string();
        assert_eq!(error, "something is to be put around stage \"maker\", which the model does not have");
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let registry = registry();
        let complaint = |deploy: &Deploy| registry.check_settings(deploy).unwrap_err().to_string();
        assert_eq!(
            complaint(&deploy(json!({"mark": 1}))),
            "built-in default: stage 0 (marker): settings.mark: invalid type: integer `1`, expected a string"
        );
        let unknown = Deploy::new("custom", vec![StageDeploy::custom("maker", Value::Null)]);
        assert_eq!(complaint(&unknown), "stage 0: no custom stage \"maker\" is registered");
        let model = Deploy::new("custom", vec![StageDeploy::new("thinker", StageKind::Llm)]);
        let error = registry.place(&model, None, false).unwrap_err().to_string();
        assert_eq!(error, "stage 0: the model has no stage \"thinker\"");
    }
}
