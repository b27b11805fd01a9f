//! What a client may ask of `/v1/completions`.

use serde_json::Value;

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::frontend::TextFrontend;
use crate::http::generation_fields::{GENERATION_FIELDS, GenerationFields};
use crate::http::sampling_fields::{MAX_LOGPROBS, SAMPLING_FIELDS, read_token_ids};
use crate::http::state::AppState;
use crate::http::unimplemented::{INERT_FIELDS, is_unimplemented, refuse_unimplemented};
use crate::stages::{Modality, Prompt};

/// The fields that only completions have.
const COMPLETIONS_FIELDS: &[&str] = &["prompt", "logprobs", "best_of", "add_special_tokens"];

/// A checked completions request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionsRequest {
    /// The prompts, at least one; each is answered by `n` choices.
    pub prompts: Vec<PromptInput>,
    /// Whether the tokenizer puts its own special tokens around a prompt that is text.
    pub add_special_tokens: bool,
    /// What chat and completions have in common.
    pub generation: GenerationFields,
}

/// A prompt as the client gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// Text, still to be tokenised.
    Text(String),
    /// Token ids, checked against the vocabulary.
    Tokens(Vec<u32>),
}

impl CompletionsRequest {
    /// Reads a body.
    pub fn read(body: &Value, state: &AppState) -> Result<Self, ApiError> {
        let body = Fields::new(body, "")?;
        refuse_unimplemented(&body)?;
        body.only_or(
            &[COMPLETIONS_FIELDS, GENERATION_FIELDS, SAMPLING_FIELDS, INERT_FIELDS],
            is_unimplemented,
        )?;
        if !state.pipeline.modalities.contains(&Modality::Text) {
            return Err(body.unsupported("prompt", "cannot be completed: this pipeline does not make text"));
        }
        let mut generation = GenerationFields::read(&body, state)?;
        generation.thinker.logprobs =
            body.integer_within("logprobs", 0, MAX_LOGPROBS)?.map(|count| count as u32);
        if let Some(best_of) = body.integer("best_of")?
            && best_of != i64::from(generation.choices)
        {
            return Err(body.unsupported("best_of", "is not supported yet unless it is equal to `n`"));
        }
        let prompts = read_prompts(&body, state)?;
        if generation.return_stage_metrics && prompts.len() > 1 {
            let message = format!("tells of one request, and there are {} prompts", prompts.len());
            return Err(body.unsupported("return_stage_metrics", message));
        }
        Ok(Self {
            prompts,
            add_special_tokens: body.boolean("add_special_tokens")?.unwrap_or(true),
            generation,
        })
    }
}

impl PromptInput {
    /// Tokenises, where that is still to be done.
    pub fn prompt(&self, text: &dyn TextFrontend, add_special_tokens: bool) -> Result<Prompt, ApiError> {
        Ok(match self {
            Self::Text(written) => Prompt {
                token_ids: match text.has_tokenizer() {
                    true => text.encode(written, add_special_tokens)?,
                    false => Vec::new(),
                },
                text: written.clone(),
                ..Prompt::default()
            },
            Self::Tokens(ids) => Prompt { token_ids: ids.clone(), ..Prompt::default() },
        })
    }
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
fn read_prompts(body: &Fields<'_>, state: &AppState) -> Result<Vec<PromptInput>, ApiError> {
    let tokens = |value: &Value, name: &str| {
        if !state.text.has_tokenizer() {
            return Err(body.unsupported(name, "is tokens, but this pipeline has no tokenizer"));
        }
        Ok(PromptInput::Tokens(read_token_ids(value, name, Some(state.text.vocab_size()))?))
    };
    let most = state.limits.max_prompts;
    let prompt = body.get("prompt").ok_or_else(|| body.missing("prompt"))?;
    let list = match prompt {
        Value::String(text) => return Ok(vec![PromptInput::Text(text.clone())]),
        Value::Array(list) => list,
        other => return Err(body.wrong_type("prompt", "a string, a list of strings or token ids", other)),
    };
    match list.first() {
        None => return Err(body.invalid("prompt", "must not be empty")),
        Some(Value::Number(_)) => {
            return Ok(vec![tokens(prompt, "prompt")?]);
        }
        Some(_) => {}
    }
    if list.len() > most {
        return Err(body.invalid("prompt", format!("has {} prompts; at most {most} are taken", list.len())));
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            let name = format!("prompt[{index}]");
            match value {
                Value::String(text) => Ok(PromptInput::Text(text.clone())),
                Value::Array(_) => tokens(value, &name),
                other => Err(body.wrong_type(&name, "a string or a list of token ids", other)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::unconnected_state;
    use serde_json::json;

    fn read(body: Value) -> Result<CompletionsRequest, ApiError> {
        CompletionsRequest::read(&body, &unconnected_state(1))
    }

    fn complaint(body: Value) -> String {
        read(body).unwrap_err().to_string()
    }

    #[test]
    fn a_prompt_comes_in_four_forms() {
        let text = |text: &str| PromptInput::Text(text.into());
        let tokens = |ids: &[u32]| PromptInput::Tokens(ids.to_vec());
        assert_eq!(read(json!({"prompt": "a"})).unwrap().prompts, [text("a")]);
        assert_eq!(read(json!({"prompt": ["a", "b"]})).unwrap().prompts, [text("a"), text("b")]);
        assert_eq!(read(json!({"prompt": [1, 2]})).unwrap().prompts, [tokens(&[1, 2])]);
        assert_eq!(read(json!({"prompt": [[1], [2, 3]]})).unwrap().prompts, [tokens(&[1]), tokens(&[2, 3])]);
    }

    #[test]
    fn other_prompts_are_refused_by_name() {
        assert!(complaint(json!({})).contains("`prompt` is required"));
        assert!(complaint(json!({"prompt": []})).contains("must not be empty"));
        assert!(complaint(json!({"prompt": [1, "a"]})).contains("`prompt[1]`"));
        assert!(complaint(json!({"prompt": ["a", {}]})).contains("`prompt[1]`"));
        assert!(complaint(json!({"prompt": [1, 100000]})).contains("`prompt[1]` is 100000"));
        assert!(complaint(json!({"prompt": vec!["a"; 300]})).contains("at most 256"));
    }

    #[test]
    fn echo_suffix_and_best_of_are_refused_by_name() {
        assert!(complaint(json!({"prompt": "a", "echo": true})).contains("`echo`"));
        assert!(complaint(json!({"prompt": "a", "suffix": "x"})).contains("`suffix`"));
        assert!(complaint(json!({"prompt": "a", "best_of": 2})).contains("`best_of`"));
        assert!(read(json!({"prompt": "a", "best_of": 2, "n": 2})).is_ok());
    }

    #[test]
    fn logprobs_is_a_number_here() {
        assert_eq!(read(json!({"prompt": "a", "logprobs": 5})).unwrap().generation.thinker.logprobs, Some(5));
        assert!(complaint(json!({"prompt": "a", "logprobs": true})).contains("`logprobs`"));
        assert!(complaint(json!({"prompt": "a", "logprobs": 21})).contains("from 0 to 20"));
    }
}
