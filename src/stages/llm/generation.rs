//! One choice of one request while it is generated.

use std::sync::Arc;

use super::model::TokenChoice;
use super::spoken::SpokenTokens;
use crate::engine::{
    BlockHash, BlockHasher, Draw, FinishReason, Sampled, SampledLogprobs, SamplingParams, SequenceKey,
    TokenHistory,
};
use crate::ids::{RequestId, StageId};
use crate::stages::{ChoiceFinish, Prompt, StopReason, TextDelta, TokenLogprob, TokenLogprobs};
use crate::text::{CertainText, Detokenizer, Tokenizer};

/// A choice: its tokens so far, and what decides when it ends.
pub(super) struct Generation {
    /// The request it belongs to.
    pub(super) request: RequestId,
    /// Which of the request's choices.
    choice: u32,
    prompt: Arc<Prompt>,
    /// Tokens generated, as far as they are known.
    output: Vec<u32>,
    /// Further ones, which steps in flight choose.
    in_flight: usize,
    /// The logit row from which the last of these comes, in the step launched last.
    last_logit_row: u32,
    params: Arc<SamplingParams>,
    /// What penalties look at.
    history: TokenHistory,
    detokenizer: Detokenizer,
    seed: u64,
    /// At most this many tokens are generated: the request's own bound, or what the model's length leaves.
    max_tokens: usize,
    eos_ids: Arc<[u32]>,
    /// What goes on to the next stage; `None` if the request ends here.
    spoken: Option<SpokenTokens>,
    /// Hashes the blocks that prompt and output fill.
    hasher: BlockHasher,
}

/// A token that was chosen, and what comes of it.
pub(super) struct Step {
    /// For the client.
    pub(super) delta: TextDelta,
    /// Tokens that the next stage is to speak.
    pub(super) spoken: Vec<u32>,
}

/// What a [`Generation`] starts from.
pub(super) struct Start {
    pub(super) request: RequestId,
    pub(super) choice: u32,
    pub(super) seed: u64,
    /// Tokens that the model's length leaves for the answer.
    pub(super) room: usize,
    pub(super) prompt: Arc<Prompt>,
    pub(super) params: Arc<SamplingParams>,
    pub(super) eos_ids: Arc<[u32]>,
    /// Whether the answer is spoken.
    pub(super) spoken: bool,
    /// Has hashed the prompt.
    pub(super) hasher: BlockHasher,
}

impl Generation {
    pub(super) fn new(start: Start, tokenizer: &Arc<Tokenizer>) -> Self {
        let Start { request, choice, seed, room, prompt, params, eos_ids, spoken, hasher } = start;
        Self {
            request,
            choice,
            output: Vec::new(),
            in_flight: 0,
            last_logit_row: 0,
            history: TokenHistory::new(&params, &prompt.token_ids),
            detokenizer: Detokenizer::new(tokenizer.clone(), &params),
            seed,
            max_tokens: room.min(params.max_tokens as usize),
            prompt,
            params,
            eos_ids,
            spoken: spoken.then(SpokenTokens::default),
            hasher,
        }
    }

    /// Tokens generated, as far as they are known.
    pub(super) fn generated(&self) -> u64 {
        self.output.len() as u64
    }

    /// `len` tokens from position `start` on, prompt and output taken as one sequence. Those in flight are 0.
    pub(super) fn tokens(&self, start: usize, len: usize) -> impl Iterator<Item = u32> {
        let in_flight = std::iter::repeat_n(0, self.in_flight);
        self.prompt.token_ids.iter().chain(&self.output).copied().chain(in_flight).skip(start).take(len)
    }

    /// If the token before position `end` is in flight, the logit row that it comes from.
    pub(super) fn chained_to(&self, end: usize) -> Option<u32> {
        (end > self.prompt.token_ids.len() + self.output.len()).then_some(self.last_logit_row)
    }

    /// How the next token is chosen.
    pub(super) fn choice(&self, key: SequenceKey, stage: StageId) -> TokenChoice<'_> {
        let step = (self.output.len() + self.in_flight) as u32;
        let draw = Draw { seed: self.seed, stage: stage.0, choice: self.choice, step, within_step: 0 };
        TokenChoice { key, params: &self.params, history: &self.history, draw }
    }

    /// A step was launched that chooses the next token in a logit row. Says whether the answer may go on after it.
    pub(super) fn launched(&mut self, logit_row: u32) -> bool {
        self.in_flight += 1;
        self.last_logit_row = logit_row;
        self.output.len() + self.in_flight < self.max_tokens
    }

    /// Takes the oldest token in flight and says what that gives the client. Appends the hash of the block that it fills,
    /// if it does.
    pub(super) fn accept(
        &mut self,
        sampled: &Sampled,
        tokenizer: &Tokenizer,
        hashes: &mut Vec<BlockHash>,
    ) -> Step {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.output.push(sampled.id);
        self.history.push(sampled.id);
        self.hasher.extend([sampled.id], hashes);
        let (text, finish) = self.take(sampled.id);
        let logprobs = sampled.logprobs.iter().map(|found| logprobs(sampled.id, found, tokenizer)).collect();
        let spoken = self.speak(sampled.id, &text, finish.as_ref());
        let delta = TextDelta { choice: self.choice, text, token_ids: vec![sampled.id], logprobs, finish };
        Step { delta, spoken }
    }

    /// The tokens that are to be spoken from now on.
    fn speak(&mut self, token: u32, text: &str, finish: Option<&ChoiceFinish>) -> Vec<u32> {
        let Some(spoken) = &mut self.spoken else { return Vec::new() };
        let mut tokens = spoken.push(token, self.detokenizer.text_end(), text.len());
        if let Some(finish) = finish {
            let cut = matches!(finish.stop_reason, Some(StopReason::Text(_)));
            tokens.extend(spoken.finish(cut));
        }
        tokens
    }

    /// The text that a token makes certain, and whether it is the last one.
    fn take(&mut self, token: u32) -> (String, Option<ChoiceFinish>) {
        let ending = self.ending(token);
        // The token that ends an answer is not part of its text.
        let silent = ending.is_some() && !self.params.include_stop_str_in_output;
        let mut certain = if silent { CertainText::default() } else { self.detokenizer.push(token) };
        let full = self.output.len() >= self.max_tokens;
        let length = full.then_some(ChoiceFinish { reason: FinishReason::Length, stop_reason: None });
        let finish = ending.or(length);
        if finish.is_some() && certain.stopped_by.is_none() {
            let rest = self.detokenizer.finish();
            certain.text.push_str(&rest.text);
            certain.stopped_by = rest.stopped_by;
        }
        match certain.stopped_by {
            Some(matched) => (certain.text, Some(stopped(Some(StopReason::Text(matched))))),
            None => (certain.text, finish),
        }
    }

    /// Whether a token ends the answer whatever its text.
    fn ending(&self, token: u32) -> Option<ChoiceFinish> {
        if !self.params.ignore_eos && self.eos_ids.contains(&token) {
            Some(stopped(None))
        } else if self.params.stop_token_ids.contains(&token) {
            Some(stopped(Some(StopReason::Token(token))))
        } else {
            None
        }
    }
}

fn stopped(stop_reason: Option<StopReason>) -> ChoiceFinish {
    ChoiceFinish { reason: FinishReason::Stop, stop_reason }
}

fn logprobs(id: u32, found: &SampledLogprobs, tokenizer: &Tokenizer) -> TokenLogprobs {
    let entry = |id: u32, logprob: f32| TokenLogprob {
        id,
        token: tokenizer.token_text(id),
        bytes: tokenizer.token_bytes(id).to_vec(),
        logprob,
    };
    TokenLogprobs {
        chosen: entry(id, found.chosen),
        top: found.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect(),
    }
}
