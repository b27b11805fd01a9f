//! The row of stages: which of them stand in the list, and that none is missing.

use super::error::{DeployError, Fault};
use super::layer::{Layer, Stages};
use super::{Deploy, StageDeploy, StageKind};

/// Puts custom stages into the row of a model's stages, as the list of `layer` has them. Without a list the row is the
/// model's.
pub(super) fn compose(deploy: &mut Deploy, layer: &Layer) -> Result<(), DeployError> {
    let Some(list) = &layer.list else {
        let place = layer.place_of("pipeline");
        return if deploy.stages.is_empty() { Err(Fault::NoStages.at(&place)) } else { Ok(()) };
    };
    let mut model = std::mem::take(&mut deploy.stages).into_iter();
    for ((id, entry), expected) in layer.stages.iter().zip(0..) {
        if *id != expected {
            return Err(Fault::MissingStage { missing: expected }.at(&entry.source));
        }
        let stage = match entry.keys.get("custom_stage") {
            Some(name) => {
                let settings = entry.keys.get("settings").map(|settings| settings.node.value.to_json());
                let mut stage = StageDeploy::custom(name.text()?, settings.unwrap_or_default());
                stage.sources.note("custom_stage", name.source.clone());
                stage
            }
            None => model.next().ok_or_else(|| {
                let pipeline = deploy.pipeline.clone();
                Fault::NoSuchStage { stage: *id, pipeline }.at(&entry.source)
            })?,
        };
        deploy.stages.push(stage);
    }
    if let Some(missing) = model.next() {
        let fault = Fault::MissingModelStage { name: missing.name, pipeline: deploy.pipeline.clone() };
        return Err(fault.at(list));
    }
    if deploy.stages.is_empty() {
        return Err(Fault::NoStages.at(list));
    }
    Ok(())
}

/// Checks that what is said of stages concerns stages that there are, and that only custom ones have settings.
pub(super) fn check_stages(deploy: &Deploy, stages: &Stages) -> Result<(), DeployError> {
    for (id, entry) in stages {
        let Some(stage) = deploy.stages.get(usize::from(*id)) else {
            let fault = Fault::NoSuchStage { stage: *id, pipeline: deploy.pipeline.clone() };
            return Err(fault.at(&entry.source));
        };
        if let Some(settings) = entry.keys.get("settings")
            && !matches!(stage.kind, StageKind::Custom { .. })
        {
            let fault = Fault::SettingsOfModelStage { stage: *id, name: stage.name.clone() };
            return Err(fault.at(&settings.source));
        }
    }
    Ok(())
}
