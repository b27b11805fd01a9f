//! Log probabilities as chat and completions write them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stages::{TokenLogprob, TokenLogprobs};

/// JSON has no infinity: a token that was masked has this log probability.
const LOWEST: f32 = -9999.0;

/// `logprobs` of a chat choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatTokenLogprobs>,
}

/// A token of a chat choice with its alternatives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTokenLogprobs {
    /// The token itself.
    #[serde(flatten)]
    pub chosen: ChatTokenLogprob,
    /// The most likely tokens, most likely first.
    pub top_logprobs: Vec<ChatTokenLogprob>,
}

/// A token with its log probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTokenLogprob {
    /// The token as text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, also where they are no complete character.
    pub bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Writes the log probabilities of some tokens.
    pub fn new(tokens: &[TokenLogprobs]) -> Self {
        let content = tokens
            .iter()
            .map(|token| ChatTokenLogprobs {
                chosen: chat_token(&token.chosen),
                top_logprobs: token.top.iter().map(chat_token).collect(),
            })
            .collect();
        Self { content }
    }
}

fn chat_token(token: &TokenLogprob) -> ChatTokenLogprob {
    ChatTokenLogprob {
        token: token.token.clone(),
        logprob: finite(token.logprob),
        bytes: token.bytes.clone(),
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOWEST } else { logprob.max(LOWEST) }
}

/// `logprobs` of a completions choice: lists with one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CompletionsLogprobs {
    /// Where the token's text begins, in characters of all tokens' texts.
    pub text_offset: Vec<usize>,
    /// The log probability of the token.
    pub token_logprobs: Vec<f32>,
    /// The token as text.
    pub tokens: Vec<String>,
    /// The token itself and the most likely ones.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
}

impl CompletionsLogprobs {
    /// Writes the log probabilities of some tokens. `offset` is where the text of the first of them begins; it
    /// moves to the end of the last.
    pub fn new(tokens: &[TokenLogprobs], offset: &mut usize) -> Self {
        let mut lists = Self::default();
        for token in tokens {
            lists.text_offset.push(*offset);
            *offset += token.chosen.token.chars().count();
            lists.token_logprobs.push(finite(token.chosen.logprob));
            lists.tokens.push(token.chosen.token.clone());
            let mut top = BTreeMap::new();
            for candidate in std::iter::once(&token.chosen).chain(&token.top) {
                // Pieces of characters may look the same; the more likely one comes first and stays.
                top.entry(candidate.token.clone()).or_insert_with(|| finite(candidate.logprob));
            }
            lists.top_logprobs.push(top);
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, logprob: f32) -> TokenLogprob {
        TokenLogprob { id: 1, token: text.into(), bytes: text.as_bytes().to_vec(), logprob }
    }

    fn tokens() -> Vec<TokenLogprobs> {
        vec![
            TokenLogprobs { chosen: token("né", -0.5), top: vec![token("né", -0.5), token("x", -1.0)] },
            TokenLogprobs { chosen: token("e", f32::NEG_INFINITY), top: vec![token("x", -0.25)] },
        ]
    }

    #[test]
    fn offsets_count_characters_and_go_on() {
        let mut offset = 3;
        let lists = CompletionsLogprobs::new(&tokens(), &mut offset);
        assert_eq!(lists.text_offset, [3, 5]);
        assert_eq!(offset, 6);
    }

    #[test]
    fn completions_list_the_token_itself_beside_the_most_likely() {
        let lists = CompletionsLogprobs::new(&tokens(), &mut 0);
        assert_eq!(lists.top_logprobs[0].len(), 2);
        assert_eq!(lists.top_logprobs[1]["e"], LOWEST);
        assert_eq!(lists.top_logprobs[1]["x"], -0.25);
    }

    #[test]
    fn chat_writes_bytes_and_finite_numbers() {
        let json = serde_json::to_value(ChatLogprobs::new(&tokens())).unwrap();
        assert_eq!(json["content"][0]["bytes"], serde_json::json!([110, 195, 169]));
        assert_eq!(json["content"][0]["top_logprobs"][1]["token"], "x");
        assert_eq!(json["content"][1]["logprob"], -9999.0);
    }
}
