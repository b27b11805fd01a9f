//! What requests ask for: prompts of random tokens, and answers of a fixed length.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, json};

use super::BenchError;
use crate::actors::messages::OmniRequest;
use crate::config::deploy::StageKind;
use crate::config::{Deploy, StageDeploy};
use crate::engine::{Draw, SamplingParams};
use crate::models::qwen3_omni::REPLY_ROWS;
use crate::server::ModelText;
use crate::stages::{Modality, Pipeline, Prompt, StageSpec};
use crate::transport::PayloadKind;

/// Codec frames per token of text, where nobody says how many an answer has: some three tokens are spoken in a second,
/// and 12.5 frames sound in it.
const FRAMES_PER_TOKEN: u32 = 4;
/// Stands for the tokens of a turn while its surroundings are looked for.
const MARK: &str = "prompt";

/// What every request asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Tokens of the prompt.
    pub input_len: usize,
    /// Tokens of the answer.
    pub output_len: u32,
    /// Whether it is spoken.
    pub spoken: bool,
    /// Codec frames of a spoken answer; a number that follows from its tokens where there is none.
    pub codec_frames: Option<u32>,
    /// The temperature at which its tokens are drawn.
    pub temperature: f32,
}

impl Workload {
    /// Checks that a deployment can do it.
    pub(super) fn check(&self, deploy: &Deploy) -> Result<(), BenchError> {
        let pipeline = || deploy.pipeline.clone();
        let Some(llm) = deploy.stage_of(&StageKind::Llm) else {
            return Err(BenchError::NoLanguageModel { pipeline: pipeline() });
        };
        let (input_len, output_len) = (self.input_len, self.output_len);
        let limit = |stage: &StageDeploy| stage.max_model_len.unwrap_or(usize::MAX);
        if input_len as u64 + u64::from(output_len) > limit(llm) as u64 {
            let (stage, max_model_len) = (llm.name.clone(), limit(llm));
            return Err(BenchError::TooLong { input_len, output_len, stage, max_model_len });
        }
        if !self.spoken {
            return if self.codec_frames.is_some() { Err(BenchError::FramesOfText) } else { Ok(()) };
        }
        let Some(talker) = deploy.stage_of(&StageKind::Talker) else {
            return Err(BenchError::NoSpeech { pipeline: pipeline() });
        };
        if output_len < 2 {
            return Err(BenchError::TooShortToSpeak { asked: output_len });
        }
        let rows = (input_len + REPLY_ROWS) as u64 + u64::from(self.frames());
        if rows > limit(talker) as u64 {
            let (frames, stage, max_model_len) = (self.frames(), talker.name.clone(), limit(talker));
            return Err(BenchError::SpeechTooLong { input_len, frames, rows, stage, max_model_len });
        }
        Ok(())
    }

    /// Codec frames of each answer; 0 if it is not spoken.
    pub fn frames(&self) -> u32 {
        let usual = self.output_len.saturating_mul(FRAMES_PER_TOKEN);
        if self.spoken { self.codec_frames.unwrap_or(usual) } else { 0 }
    }

    /// A request that is sent now.
    pub(super) fn request(&self, index: usize, prompt: Prompt, pipeline: &Pipeline) -> OmniRequest {
        let mut sampling: Vec<SamplingParams> =
            pipeline.stages.iter().map(|stage| stage.sampling.clone()).collect();
        if let Some(llm) = sampling.first_mut() {
            *llm = SamplingParams {
                temperature: self.temperature,
                max_tokens: self.output_len,
                ignore_eos: true,
                ..SamplingParams::default()
            };
        }
        let talks = |stage: &StageSpec| stage.sends == Some(PayloadKind::Codes);
        let talker = pipeline.stages.iter().position(talks);
        if let Some(talker) = talker.and_then(|talker| sampling.get_mut(talker)) {
            // The first code after the last frame ends the speech, and begins no frame.
            talker.max_tokens = self.frames().saturating_add(1);
            talker.min_tokens = 0;
            talker.ignore_eos = true;
            talker.stop_token_ids.clear();
        }
        let mut modalities = vec![Modality::Text];
        if self.spoken {
            modalities.push(Modality::Audio);
        }
        OmniRequest {
            arrived: Instant::now(),
            external_id: format!("bench-{index}"),
            prompt: Arc::new(prompt),
            choices: 1,
            sampling,
            modalities,
            priority: 0,
            streamed: true,
            measured: false,
        }
    }
}

/// Prompts of random tokens: the same for the same seed and index, and no two of them alike.
pub(super) struct Prompts {
    seed: u64,
    /// The ids that are drawn: those of the vocabulary that are no special tokens.
    ids: Vec<u32>,
    /// Drawn tokens of a prompt.
    drawn: usize,
    /// What stands before them.
    before: Vec<u32>,
    /// What stands behind them.
    after: Vec<u32>,
}

impl Prompts {
    /// Prompts for a model. For one that speaks they are a user's turn, as the talker wants it.
    pub(super) fn new(workload: &Workload, text: &ModelText, seed: u64) -> Result<Self, BenchError> {
        let (before, after) = if workload.spoken { around_a_turn(text)? } else { Default::default() };
        let around = before.len() + after.len();
        let vocabulary = u32::try_from(text.vocabulary_size).unwrap_or(u32::MAX);
        let ids = (0..vocabulary).filter(|id| !text.tokenizer.is_special(*id)).collect();
        match workload.input_len.checked_sub(around) {
            Some(drawn) if drawn > 0 => Ok(Self { seed, ids, drawn, before, after }),
            _ => Err(BenchError::PromptTooShort { asked: workload.input_len, needed: around + 1 }),
        }
    }

    /// The prompt of a request.
    pub(super) fn prompt(&self, index: usize) -> Prompt {
        let draw = |step: usize| {
            let draw = Draw { seed: self.seed, choice: index as u32, step: step as u32, ..Draw::default() };
            self.ids.get((draw.uniform() * self.ids.len() as f64) as usize).copied().unwrap_or(0)
        };
        let drawn = (0..self.drawn).map(draw);
        let token_ids = self.before.iter().copied().chain(drawn).chain(self.after.iter().copied());
        Prompt { token_ids: token_ids.collect(), ..Prompt::default() }
    }
}

/// The tokens before and behind what a user says, up to where the answer begins.
fn around_a_turn(text: &ModelText) -> Result<(Vec<u32>, Vec<u32>), BenchError> {
    let template = text.template.as_ref().ok_or(BenchError::NoTurns)?;
    let messages = json!([{"role": "user", "content": MARK}]);
    let rendered = template.render(&messages, true, None, &Map::new())?;
    let (before, after) = rendered.split_once(MARK).ok_or(BenchError::NoTurns)?;
    Ok((text.tokenizer.encode(before)?, text.tokenizer.encode(after)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(seed: u64) -> Prompts {
        Prompts { seed, ids: (10..500).collect(), drawn: 8, before: vec![1], after: vec![2, 3] }
    }

    #[test]
    fn a_prompt_follows_from_seed_and_index_and_no_two_are_alike() {
        let drawn = |seed: u64, index: usize| prompts(seed).prompt(index).token_ids;
        let first = drawn(0, 0);
        assert_eq!(first.len(), 11);
        assert_eq!((first[0], &first[9..]), (1, &[2, 3][..]));
        assert!(first[1..9].iter().all(|id| (10..500).contains(id)), "{first:?}");
        assert_eq!(drawn(0, 0), first);
        assert!(drawn(1, 0) != first && drawn(0, 1) != first);
    }

    #[test]
    fn a_spoken_answer_has_frames_in_proportion_to_its_tokens_unless_it_is_said() {
        let text =
            Workload { input_len: 8, output_len: 10, spoken: false, codec_frames: None, temperature: 1.0 };
        assert_eq!(text.frames(), 0);
        let spoken = Workload { spoken: true, ..text };
        assert_eq!(spoken.frames(), 10 * FRAMES_PER_TOKEN);
        assert_eq!(Workload { codec_frames: Some(7), ..spoken }.frames(), 7);
    }
}
