//! From a deployment to a pipeline: the model's stages, and the registered ones where the deployment has them.

use thiserror::Error;

use super::registry::Registry;
use super::settings::SettingsError;
use crate::config::StageDeploy;
use crate::config::deploy::{Deploy, Placement, StageKind};
use crate::ids::StageId;
use crate::stages::{Pipeline, StageSpec, WiringError};

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
    /// Its settings are not what it takes.
    #[error("stage {stage} ({name}): {cause}")]
    Settings {
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
    /// Puts custom stages where `deploy` has them: among the stages of `model`, or by themselves. With `statistics`,
    /// what they count is kept.
    pub fn place(
        &self,
        deploy: &Deploy,
        model: Option<Pipeline>,
        statistics: bool,
    ) -> Result<Pipeline, PlacementError> {
        let (models_stages, voices) = model.map(|model| (model.stages, model.voices)).unwrap_or_default();
        let mut models_stages = models_stages.into_iter();
        let mut stages = Vec::with_capacity(deploy.stages.len());
        for (stage, placed) in (0..).map(StageId).zip(&deploy.stages) {
            stages.push(match &placed.kind {
                StageKind::Custom { .. } => self.custom(stage, placed, statistics)?,
                _ => models_stages
                    .next()
                    .ok_or_else(|| PlacementError::NotTheModels { stage, name: placed.name.clone() })?,
            });
        }
        let pipeline = Pipeline { name: deploy.pipeline.clone(), stages, voices };
        pipeline.check()?;
        Ok(pipeline)
    }

    fn custom(
        &self,
        stage: StageId,
        deploy: &StageDeploy,
        statistics: bool,
    ) -> Result<StageSpec, PlacementError> {
        let name = deploy.name.clone();
        let description = self
            .get(&name)
            .ok_or_else(|| PlacementError::Unregistered { stage, name: name.clone() })?
            .clone();
        let StageKind::Custom { settings } = deploy.kind.clone() else {
            return Err(PlacementError::Unregistered { stage, name });
        };
        description.check(&settings).map_err(|cause| PlacementError::Settings {
            stage,
            name: name.clone(),
            cause,
        })?;
        Ok(StageSpec {
            name,
            takes: description.takes,
            output: description.output,
            sends: description.sends,
            replicas: deploy.num_replicas,
            connector: deploy.input.connector,
            async_chunk: deploy.input.async_chunk,
            device: match deploy.device {
                Placement::Cpu => "cpu".to_owned(),
                Placement::Cuda(index) => format!("cuda:{index}"),
            },
            max_model_len: None,
            sampling: deploy.sampling.clone(),
            families: description.families.clone(),
            factory: {
                let deploy = deploy.clone();
                std::sync::Arc::new(move || description.build(&settings, stage, &deploy, statistics))
            },
        })
    }
}
