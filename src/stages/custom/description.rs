//! What a custom stage is, before it has a place in a pipeline.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::context::StageContext;
use super::settings::{self, SettingsError};
use crate::config::StageDeploy;
use crate::ids::{RequestId, StageId};
use crate::metrics::{MetricFamily, Recorder, ReplicaStats, SchedulerSnapshot};
use crate::stages::{
    Modality, Poll, Readiness, Stage, StageError, StageOutput, StageRequest, StageTrial, Ticket,
};
use crate::transport::{Chunk, PayloadKind};

/// A stage that a user brings: what it takes and makes, the metric families that it declares, and how it is built.
///
/// ```
/// use omni_actors::{CustomStage, Emission, FunctionStage, Item, Modality, NoSettings, StageContext, StageRequest};
///
/// let echo = CustomStage::new(|_: NoSettings, _: &StageContext| {
///     Ok(FunctionStage::new(|_: &StageRequest, item: Item<'_>| match item {
///         Item::Prompt(prompt) => Ok(vec![Emission::text(&*prompt.text)]),
///         other => Err(other.unexpected("the prompt")),
///     }))
/// })
/// .gives(Modality::Text);
/// ```
#[derive(Clone)]
pub struct CustomStage {
    pub(super) takes: Option<PayloadKind>,
    pub(super) output: Option<Modality>,
    pub(super) sends: Option<PayloadKind>,
    pub(super) families: Vec<MetricFamily>,
    check: Arc<Check>,
    build: Arc<Build>,
}

/// Checks settings.
type Check = dyn Fn(&Value) -> Result<(), SettingsError> + Send + Sync;
/// Builds a stage of settings that were checked.
type Build = dyn Fn(&Value, &StageContext) -> Result<Box<dyn Stage>, StageError> + Send + Sync;

impl CustomStage {
    /// A stage that `build` makes of its settings, once for each life of a replica.
    ///
    /// It stands first in a pipeline, works on the prompt and makes no output, unless told otherwise. Settings are read
    /// before the server starts, so that wrong ones end it at once; [`NoSettings`](super::NoSettings) is for stages
    /// without. An error of `build` means that the replica cannot be started; it is tried again, ever more slowly.
    pub fn new<S, T, B>(build: B) -> Self
    where
        S: DeserializeOwned,
        T: Stage + 'static,
        B: Fn(S, &StageContext) -> Result<T, StageError> + Send + Sync + 'static,
    {
        Self {
            takes: None,
            output: None,
            sends: None,
            families: Vec::new(),
            check: Arc::new(|settings| settings::read::<S>(settings).map(drop)),
            build: Arc::new(move |settings, context| {
                let settings =
                    settings::read(settings).map_err(|error| StageError::Failed(error.to_string()))?;
                Ok(Box::new(build(settings, context)?))
            }),
        }
    }

    /// It takes chunks of this kind from the stage before. Where that makes such chunks for the next stage, it gets
    /// them; where its output is of this kind, it gets the output, which then does not go to clients.
    pub fn takes(self, kind: PayloadKind) -> Self {
        Self { takes: Some(kind), ..self }
    }

    /// It makes output of this kind: what it emits as [`StageEvent::Client`](crate::stages::StageEvent::Client).
    pub fn gives(self, output: Modality) -> Self {
        Self { output: Some(output), ..self }
    }

    /// It makes chunks of this kind for the next stage, beside output: what it emits as
    /// [`StageEvent::Next`](crate::stages::StageEvent::Next).
    pub fn sends(self, kind: PayloadKind) -> Self {
        Self { sends: Some(kind), ..self }
    }

    /// It counts in this family.
    pub fn counts(mut self, family: MetricFamily) -> Self {
        self.families.push(family);
        self
    }

    /// Builds it for a test, without a server, with statistics on. `settings` is what would stand in the deploy file.
    ///
    /// # Errors
    ///
    /// The settings are not what it takes, or it cannot be built.
    pub fn trial(&self, settings: impl Serialize) -> Result<StageTrial, StageError> {
        let settings =
            serde_json::to_value(settings).map_err(|error| StageError::Failed(error.to_string()))?;
        let deploy = StageDeploy::custom("trial", settings.clone());
        let recorder = Recorder::new(self.families.as_slice().into(), true);
        let context = StageContext { stage: StageId(0), deploy, recorder: recorder.clone() };
        Ok(StageTrial::new((self.build)(&settings, &context)?).recorded_by(recorder))
    }

    /// Checks settings without building it.
    pub(super) fn check(&self, settings: &Value) -> Result<(), SettingsError> {
        (self.check)(settings)
    }

    /// Builds one life of a replica.
    pub(super) fn build(
        &self,
        settings: &Value,
        stage: StageId,
        deploy: &StageDeploy,
        statistics: bool,
    ) -> Result<Box<dyn Stage>, StageError> {
        let recorder = Recorder::new(self.families.as_slice().into(), statistics);
        let context = StageContext { stage, deploy: deploy.clone(), recorder: recorder.clone() };
        let stage = (self.build)(settings, &context)?;
        let counts = statistics && !self.families.is_empty();
        Ok(if counts { Box::new(RecordedStage { stage, recorder }) } else { stage })
    }
}

impl fmt::Debug for CustomStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomStage")
            .field("takes", &self.takes)
            .field("output", &self.output)
            .field("sends", &self.sends)
            .field("families", &self.families)
            .finish_non_exhaustive()
    }
}

/// A stage together with what it counts in declared families: its reports carry that, too.
struct RecordedStage {
    stage: Box<dyn Stage>,
    recorder: Recorder,
}

impl Stage for RecordedStage {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        self.stage.add(request)
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        self.stage.push(chunk)
    }

    fn room(&self) -> usize {
        self.stage.room()
    }

    fn remove(&mut self, request: RequestId) {
        self.stage.remove(request);
    }

    fn plan(&mut self) -> Readiness {
        self.stage.plan()
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        self.stage.launch()
    }

    fn poll(
        &mut self,
        ticket: Ticket,
        wait: bool,
        outputs: &mut Vec<StageOutput>,
    ) -> Result<Poll, StageError> {
        self.stage.poll(ticket, wait, outputs)
    }

    fn steps_in_flight(&self) -> usize {
        self.stage.steps_in_flight()
    }

    fn wake_at(&self) -> Option<Instant> {
        self.stage.wake_at()
    }

    fn scheduler(&self) -> Option<SchedulerSnapshot> {
        self.stage.scheduler()
    }

    fn report(&mut self, stats: &mut ReplicaStats) {
        self.stage.report(stats);
        stats.labelled.merge(self.recorder.totals());
    }
}
