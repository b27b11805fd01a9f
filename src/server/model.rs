//! From what the command line calls a model to a checkpoint and its weights.

use super::load::LoadFailure;
use crate::cli::{LoadFormat, ServeArgs};
use crate::config::Checkpoint;
use crate::config::hub::{self, HubError, HubSettings, ModelPlace, Snapshot};
use crate::stages::ServedModel;
use crate::tensor::WeightStore;

/// A model whose configuration and tokenizer are there.
pub(super) struct FoundModel {
    /// Its files.
    pub(super) checkpoint: Checkpoint,
    /// What serves it.
    pub(super) served: ServedModel,
    /// What it is on the hub, if it is from there. Its weights may not be there yet.
    pub(super) snapshot: Option<Snapshot>,
}

impl FoundModel {
    /// Finds the model that the command line names, which must be of a type that is served; without one it is the
    /// built-in demo. Downloads what is needed, but
    /// for the weights: much can be wrong that need not wait for them.
    pub(super) fn find(args: &ServeArgs) -> Result<Self, LoadFailure> {
        let Some(given) = &args.model else {
            let checkpoint = Checkpoint::demo();
            return match &args.revision {
                None => Self::of(checkpoint, None),
                Some(revision) => Err(hub::no_revisions(revision, &checkpoint.location()).into()),
            };
        };
        match hub::locate(given, args.revision.as_deref(), hub_settings)? {
            ModelPlace::Directory(directory) => Self::of(Checkpoint::open(directory)?, None),
            ModelPlace::Snapshot(snapshot) => {
                let Snapshot { repository, revision, commit, directory } = &snapshot;
                tracing::info!("{repository} at {revision} is commit {commit}, in {}", directory.display());
                Self::of(Checkpoint::open(directory)?, Some(snapshot))
            }
        }
    }

    /// A checkpoint, which must be of a type that is served.
    fn of(checkpoint: Checkpoint, snapshot: Option<Snapshot>) -> Result<Self, LoadFailure> {
        let model_type = checkpoint.identity()?.model_type;
        match ServedModel::of_type(&model_type) {
            Some(served) => Ok(Self { checkpoint, served, snapshot }),
            None => Err(LoadFailure::UnknownModelType { location: checkpoint.location(), model_type }),
        }
    }

    /// The name under which it is served unless another is given.
    pub(super) fn default_name(&self) -> String {
        match &self.snapshot {
            Some(snapshot) => snapshot.repository.to_string(),
            None => self.checkpoint.default_name(),
        }
    }

    /// Opens the weights, downloaded if they must be.
    pub(super) fn open_weights(&self, args: &ServeArgs) -> Result<WeightStore, LoadFailure> {
        if args.load_format == LoadFormat::Dummy {
            return Ok(WeightStore::dummy(args.seed));
        }
        if let Some(snapshot) = &self.snapshot {
            snapshot.fetch_weights(hub_settings)?;
        }
        Ok(match self.checkpoint.directory() {
            Some(directory) => WeightStore::open(directory)?,
            None => WeightStore::embedded("model.safetensors", Checkpoint::demo_weights())?,
        })
    }
}

fn hub_settings() -> Result<HubSettings, HubError> {
    HubSettings::from_environment(|name| std::env::var_os(name))
}
