//! How the next token is chosen: the parameters a request may set for an autoregressive stage.

use std::collections::BTreeMap;

/// Sampling parameters of one stage of one request, complete: defaults have been filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it. Non-negative, finite.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this. In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keep the k most likely tokens, ties with the k-th included. 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this likely relative to the most likely one. In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Divides (logit ≥ 0) or multiplies (logit < 0) the logits of tokens seen in prompt or output. 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens already generated. In [-2, 2]; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from tokens already generated, times their count. In [-2, 2]; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of the given token ids.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the counter-based generator; without one the server draws it from its own.
    pub seed: Option<u64>,
    /// At most this many tokens are generated per choice.
    pub max_tokens: u32,
    /// End-of-sequence and stop tokens are masked until this many tokens are generated.
    pub min_tokens: u32,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// Generation ends when the text contains one of these; the text is cut before it.
    pub stop: Vec<String>,
    /// Generation ends at one of these tokens.
    pub stop_token_ids: Vec<u32>,
    /// Keep the stop string in the text.
    pub include_stop_str_in_output: bool,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// How a stage samples that chooses several codes a step, beside the first one.
    pub subtalker: SubtalkerParams,
    /// Report the log probability of each generated token and of this many most likely ones.
    pub logprobs: Option<u32>,
}

/// How a code predictor chooses the codes of a frame after the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubtalkerParams {
    /// As [`SamplingParams::temperature`].
    pub temperature: f32,
    /// As [`SamplingParams::top_k`].
    pub top_k: u32,
    /// As [`SamplingParams::top_p`].
    pub top_p: f32,
}

impl Default for SubtalkerParams {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 0.8 }
    }
}

impl Default for SamplingParams {
    /// Greedy, 2048 tokens: the thinker's defaults.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
            max_tokens: 2048,
            min_tokens: 0,
            ignore_eos: false,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_str_in_output: false,
            skip_special_tokens: true,
            subtalker: SubtalkerParams::default(),
            logprobs: None,
        }
    }
}
