//! A pipeline: its stages in order, and how each of them is built.

use std::fmt;

use thiserror::Error;

use crate::engine::SamplingParams;
use crate::ids::StageId;
use crate::metrics::{MetricFamily, StageDescription};
use crate::stages::{Modality, StageFactory, StageSize};
use crate::transport::{Connector, PayloadKind};

/// Stages in the order in which a request visits them. Chunks go from each stage to the one after it.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What the pipeline is called, such as `qwen3_omni_moe`.
    pub name: String,
    /// The stages; never empty.
    pub stages: Vec<StageSpec>,
    /// The voices that it speaks with, lower-case, the default one first; empty where it does not speak.
    pub voices: Vec<String>,
}

/// One stage of a pipeline.
#[derive(Clone)]
pub struct StageSpec {
    /// What the stage is called, such as `thinker`.
    pub name: String,
    /// What it works on: chunks of this kind from the stage before, or the prompt if there is none.
    pub takes: Option<PayloadKind>,
    /// The kind of output it makes; `None` for a stage that only feeds the next one. Whether clients get it, or the
    /// next stage does, is for [`Pipeline::gives`] to say.
    pub output: Option<Modality>,
    /// The kind of chunks that it makes for the next stage beside its output.
    pub sends: Option<PayloadKind>,
    /// How many replicas serve it.
    pub replicas: u16,
    /// How chunks come to it from the stage before.
    pub connector: Connector,
    /// Whether they come as they are made. If not, all of them come when the stage before is done with the request.
    pub async_chunk: bool,
    /// The device its replicas run on, for the startup message.
    pub device: String,
    /// The longest sequence it takes, if it is an engine.
    pub max_model_len: Option<usize>,
    /// What it takes of its device's memory, if that is known.
    pub size: Option<StageSize>,
    /// Sampling parameters of requests that do not set their own.
    pub sampling: SamplingParams,
    /// The metric families that it declares, if it is a custom stage.
    pub families: Vec<MetricFamily>,
    /// Builds a replica's stage.
    pub factory: StageFactory,
}

/// Why stages do not make a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WiringError {
    /// There is no stage.
    #[error("the pipeline has no stage")]
    Empty,
    /// The first stage wants to be fed.
    #[error("stage 0 ({name}) takes {takes} from a stage before it, but it is the first one")]
    FirstTakesChunks {
        /// What the stage is called.
        name: String,
        /// What it takes.
        takes: PayloadKind,
    },
    /// A later stage wants the prompt.
    #[error("stage {stage} ({name}) takes the prompt, so it can only be the first one")]
    LaterTakesPrompt {
        /// The stage.
        stage: StageId,
        /// What it is called.
        name: String,
    },
    /// A stage is not fed with what it takes.
    #[error("stage {stage} ({name}) takes {takes}, but stage {} ({before}) makes {makes}", .stage.0 - 1)]
    Mismatch {
        /// The stage.
        stage: StageId,
        /// What it is called.
        name: String,
        /// What it takes.
        takes: PayloadKind,
        /// What the stage before is called.
        before: String,
        /// What that makes.
        makes: String,
    },
    /// The last stage makes nothing for clients.
    #[error("stage {stage} ({name}) is the last one, but makes no output for clients")]
    DeadEnd {
        /// The stage.
        stage: StageId,
        /// What it is called.
        name: String,
    },
}

impl Pipeline {
    /// Checks that every stage is fed with what it takes, and that clients get something.
    pub fn check(&self) -> Result<(), WiringError> {
        let first = self.stages.first().ok_or(WiringError::Empty)?;
        if let Some(takes) = first.takes {
            return Err(WiringError::FirstTakesChunks { name: first.name.clone(), takes });
        }
        for ((before, spec), stage) in self.stages.iter().zip(self.stages.iter().skip(1)).zip(1..) {
            let (stage, name) = (StageId(stage), spec.name.clone());
            let takes =
                spec.takes.ok_or_else(|| WiringError::LaterTakesPrompt { stage, name: name.clone() })?;
            if !before.kinds_made().any(|kind| kind == takes) {
                let kinds: Vec<_> = before.kinds_made().map(PayloadKind::as_str).collect();
                let makes = if kinds.is_empty() { "nothing for it".to_owned() } else { kinds.join(" and ") };
                let before = before.name.clone();
                return Err(WiringError::Mismatch { stage, name, takes, before, makes });
            }
        }
        match self.stages.last() {
            Some(StageSpec { output: None, name, .. }) => {
                let stage = StageId((self.stages.len() - 1) as u16);
                Err(WiringError::DeadEnd { stage, name: name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether the output of a stage goes to the next one, which takes it further, and not to clients. A stage that
    /// makes chunks of that kind beside its output sends those.
    pub fn passes_output_on(&self, stage: usize) -> bool {
        let (Some(spec), Some(next)) = (self.stages.get(stage), self.stages.get(stage + 1)) else {
            return false;
        };
        let output = spec.output.and_then(Modality::payload_kind);
        next.takes.is_some() && next.takes == output && next.takes != spec.sends
    }

    /// The kind of output that clients get of a stage.
    pub fn gives(&self, stage: usize) -> Option<Modality> {
        self.stages.get(stage)?.output.filter(|_| !self.passes_output_on(stage))
    }

    /// The last stage that a request for these kinds of output visits, or the first kind that no stage makes.
    pub fn last_stage(&self, modalities: &[Modality]) -> Result<StageId, Modality> {
        let mut last = 0;
        for &wanted in modalities {
            let gives = |stage: &usize| self.gives(*stage) == Some(wanted);
            last = last.max((0..self.stages.len()).find(gives).ok_or(wanted)?);
        }
        Ok(StageId(last as u16))
    }

    /// The kinds of output that clients get, in stage order.
    pub fn modalities(&self) -> Vec<Modality> {
        (0..self.stages.len()).filter_map(|stage| self.gives(stage)).collect()
    }

    /// Whether the text that clients get comes with its tokens: from an engine of a model, and not from a custom stage.
    pub fn text_has_tokens(&self) -> bool {
        let engines = self.stages.iter().map(|spec| spec.max_model_len.is_some());
        engines.enumerate().any(|(stage, engine)| engine && self.gives(stage) == Some(Modality::Text))
    }

    /// What the metrics must know of the stages.
    pub fn descriptions(&self) -> Vec<StageDescription> {
        let description = |(index, spec): (usize, &StageSpec)| StageDescription {
            stage: StageId(index as u16),
            replicas: spec.replicas,
            max_model_len: spec.max_model_len.map(|len| len as u64),
            makes_audio: self.gives(index) == Some(Modality::Audio),
            diffusion: spec.output == Some(Modality::Image),
            families: spec.families.clone(),
        };
        self.stages.iter().enumerate().map(description).collect()
    }
}

impl StageSpec {
    /// The kinds of chunks that the next stage can be fed with.
    fn kinds_made(&self) -> impl Iterator<Item = PayloadKind> {
        self.sends.into_iter().chain(self.output.and_then(Modality::payload_kind))
    }
}

impl fmt::Debug for StageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageSpec")
            .field("name", &self.name)
            .field("output", &self.output)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stages::StageError;

    fn stage(
        name: &str,
        takes: Option<PayloadKind>,
        output: Option<Modality>,
        sends: Option<PayloadKind>,
    ) -> StageSpec {
        StageSpec {
            name: name.to_owned(),
            takes,
            output,
            sends,
            replicas: 1,
            connector: Connector::InProcess,
            async_chunk: true,
            device: "cpu".to_owned(),
            max_model_len: None,
            size: None,
            sampling: SamplingParams::default(),
            families: Vec::new(),
            factory: Arc::new(|| Err(StageError::Device("not to be built".into()))),
        }
    }

    fn pipeline(stages: Vec<StageSpec>) -> Pipeline {
        Pipeline { name: "test".to_owned(), stages, voices: Vec::new() }
    }

    fn speaking() -> Vec<StageSpec> {
        vec![
            stage("thinker", None, Some(Modality::Text), Some(PayloadKind::Tokens)),
            stage("talker", Some(PayloadKind::Tokens), None, Some(PayloadKind::Codes)),
            stage("code2wav", Some(PayloadKind::Codes), Some(Modality::Audio), None),
        ]
    }

    #[test]
    fn the_output_that_a_later_stage_takes_further_is_not_for_clients() {
        let mut stages = speaking();
        let plain = pipeline(stages.clone());
        assert_eq!(plain.check(), Ok(()));
        assert_eq!(plain.last_stage(&[Modality::Audio]), Ok(StageId(2)));
        for name in ["loudness", "echo"] {
            stages.push(stage(name, Some(PayloadKind::Audio), Some(Modality::Audio), None));
        }
        let changed = pipeline(stages);
        assert_eq!(changed.check(), Ok(()));
        assert_eq!(
            [0, 1, 2, 3, 4].map(|stage| changed.passes_output_on(stage)),
            [false, false, true, true, false]
        );
        assert_eq!(changed.modalities(), [Modality::Text, Modality::Audio]);
        assert_eq!(changed.last_stage(&[Modality::Text, Modality::Audio]), Ok(StageId(4)));
        assert_eq!(changed.last_stage(&[Modality::Text]), Ok(StageId(0)));
        assert_eq!(changed.last_stage(&[Modality::Image]), Err(Modality::Image));
        let makes_audio: Vec<_> = changed.descriptions().iter().map(|stage| stage.makes_audio).collect();
        assert_eq!(makes_audio, [false, false, false, false, true]);
    }

    #[test]
    fn chunks_that_are_made_beside_the_output_leave_it_to_clients() {
        let text = Some(PayloadKind::Text);
        let pipeline = pipeline(vec![
            stage("writer", None, Some(Modality::Text), text),
            stage("speaker", text, Some(Modality::Audio), None),
        ]);
        assert!(!pipeline.passes_output_on(0));
        assert_eq!(pipeline.modalities(), [Modality::Text, Modality::Audio]);
    }

    #[test]
    fn text_has_tokens_unless_a_custom_stage_makes_it() {
        let mut stages = speaking();
        stages.truncate(1);
        stages[0].max_model_len = Some(100);
        assert!(pipeline(stages.clone()).text_has_tokens());
        stages.push(stage("translator", Some(PayloadKind::Text), Some(Modality::Text), None));
        let translated = pipeline(stages);
        assert_eq!((translated.check(), translated.passes_output_on(0)), (Ok(()), true));
        assert!(!translated.text_has_tokens());
    }

    #[test]
    fn stages_that_do_not_fit_are_named_with_what_they_take() {
        let complaint = |stages| pipeline(stages).check().unwrap_err().to_string();
        let loudness = || stage("loudness", Some(PayloadKind::Audio), Some(Modality::Audio), None);
        assert_eq!(complaint(Vec::new()), "the pipeline has no stage");
        assert_eq!(
            complaint(vec![loudness()]),
            "stage 0 (loudness) takes audio from a stage before it, but it is the first one"
        );
        let writer = || stage("writer", None, Some(Modality::Text), None);
        assert_eq!(
            complaint(vec![writer(), writer()]),
            "stage 1 (writer) takes the prompt, so it can only be the first one"
        );
        assert_eq!(
            complaint(vec![writer(), loudness()]),
            "stage 1 (loudness) takes audio, but stage 0 (writer) makes text"
        );
        let mut stages = speaking();
        stages.truncate(2);
        assert_eq!(complaint(stages), "stage 1 (talker) is the last one, but makes no output for clients");
        let mut stages = speaking();
        stages.insert(1, loudness());
        assert_eq!(
            complaint(stages),
            "stage 1 (loudness) takes audio, but stage 0 (thinker) makes tokens and text"
        );
    }
}
