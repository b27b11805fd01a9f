//! What a program puts around the stages of a model.

use std::fmt;
use std::sync::Arc;

use crate::stages::{Stage, StageFactory};

/// Makes of each life of a stage another stage, which stands in its place.
#[derive(Clone)]
pub(super) struct Around(Arc<Wrap>);

type Wrap = dyn Fn(Box<dyn Stage>) -> Box<dyn Stage> + Send + Sync;

impl Around {
    pub(super) fn new(wrap: impl Fn(Box<dyn Stage>) -> Box<dyn Stage> + Send + Sync + 'static) -> Self {
        Self(Arc::new(wrap))
    }

    /// Builds what stands in the place of the stages that `inner` builds.
    pub(super) fn factory(&self, inner: StageFactory) -> StageFactory {
        let wrap = self.0.clone();
        Arc::new(move || Ok(wrap(inner()?)))
    }
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}
