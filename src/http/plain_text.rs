//! Pipelines without a tokenizer: their first stage reads text as it is.

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::frontend::{Conversation, FrontendError, TextFrontend};
use crate::http::messages::text_of;
use crate::http::state::AppState;
use crate::stages::{Message, Prompt};

/// Fields that mean nothing where text does not come with its tokens.
const OUTPUT_FIELDS: &[&str] = &["logprobs", "top_logprobs", "return_token_ids"];
/// Fields that mean nothing where there are neither tokens nor a chat template.
const TOKEN_FIELDS: &[&str] = &[
    "logit_bias",
    "stop_token_ids",
    "ignore_eos",
    "add_special_tokens",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
];

/// The frontend of a pipeline without a tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct PlainText;

impl TextFrontend for PlainText {
    fn has_tokenizer(&self) -> bool {
        false
    }

    fn render_chat(&self, _: &Conversation) -> Result<String, FrontendError> {
        Err(FrontendError::NoTokenizer)
    }

    fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, FrontendError> {
        Err(FrontendError::NoTokenizer)
    }

    fn decode(&self, _: &[u32], _: bool) -> Result<String, FrontendError> {
        Err(FrontendError::NoTokenizer)
    }

    fn token_text(&self, _: u32) -> Option<String> {
        None
    }

    fn vocab_size(&self) -> u32 {
        0
    }
}

/// Refuses fields that the pipeline has no tokens for.
pub fn refuse_token_fields(body: &Fields<'_>, state: &AppState) -> Result<(), ApiError> {
    if !state.pipeline.text_has_tokens {
        refuse(body, OUTPUT_FIELDS, "needs the tokens of the text, which a custom stage makes without")?;
    }
    if !state.text.has_tokenizer() {
        refuse(body, TOKEN_FIELDS, "needs a tokenizer, which this pipeline does not have")?;
    }
    Ok(())
}

/// Refuses those of these fields that ask for anything; false asks for nothing.
fn refuse(body: &Fields<'_>, names: &[&str], message: &str) -> Result<(), ApiError> {
    match names.iter().find(|name| body.get(name).is_some_and(|value| *value != false)) {
        Some(name) => Err(body.unsupported(name, message)),
        None => Ok(()),
    }
}

/// The prompt of a conversation: the texts of its messages, a line each, and the messages themselves.
pub fn plain_prompt(conversation: &Conversation) -> Prompt {
    let message = |message: &serde_json::Value| Message {
        role: message.get("role").and_then(|role| role.as_str()).unwrap_or_default().to_owned(),
        text: text_of(message).unwrap_or_default(),
    };
    let messages: Vec<_> = conversation.messages.iter().map(message).collect();
    let text = messages.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n");
    Prompt { text, messages, ..Prompt::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::http::chat_request::ChatRequest;
    use crate::http::completions_request::CompletionsRequest;
    use crate::http::testing::unconnected_state;

    fn state() -> AppState {
        let mut state = AppState { text: Arc::new(PlainText), ..unconnected_state(2) };
        state.pipeline.text_has_tokens = false;
        state
    }

    fn chat(more: Value) -> Result<Prompt, ApiError> {
        let mut body = json!({"messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]},
        ]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let state = state();
        ChatRequest::read(&body, &state)?.prompt(state.text.as_ref())
    }

    #[test]
    fn a_conversation_becomes_its_text_and_its_messages() {
        let prompt = chat(json!({"temperature": 0.5, "logprobs": false})).unwrap();
        assert_eq!((prompt.text.as_str(), prompt.token_ids.len()), ("Be short.\nhello", 0));
        let roles: Vec<_> = prompt.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user"]);
    }

    #[test]
    fn fields_that_need_a_tokenizer_are_refused_by_name() {
        for (name, value) in [
            ("logit_bias", json!({"5": 1})),
            ("stop_token_ids", json!([1])),
            ("continue_final_message", json!(true)),
            ("chat_template_kwargs", json!({})),
        ] {
            let complaint = chat(json!({name: value})).unwrap_err().to_string();
            assert_eq!(complaint, format!("`{name}` needs a tokenizer, which this pipeline does not have"));
        }
        let complaint = chat(json!({"sampling_params_list": [{}, {"stop_token_ids": [1]}]})).unwrap_err();
        assert!(
            complaint.to_string().contains("`sampling_params_list[1].stop_token_ids` needs"),
            "{complaint}"
        );
    }

    #[test]
    fn text_of_a_custom_stage_is_one_choice_without_tokens() {
        let mut state = unconnected_state(1);
        state.pipeline.text_has_tokens = false;
        let complaint = |field: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
            body.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
            ChatRequest::read(&body, &state).unwrap_err().to_string()
        };
        for field in [json!({"logprobs": true}), json!({"return_token_ids": true})] {
            let complaint = complaint(field);
            assert!(complaint.ends_with("needs the tokens of the text, which a custom stage makes without"));
        }
        assert_eq!(complaint(json!({"n": 2})), "`n` is 2, but a custom stage makes the text, in one choice");
        let body = json!({"messages": [{"role": "user", "content": "hello"}], "logit_bias": {"5": 1}});
        assert!(ChatRequest::read(&body, &state).is_ok(), "the model before it has tokens");
    }

    #[test]
    fn completions_take_text_and_no_tokens() {
        let state = state();
        let read = |prompt: Value| CompletionsRequest::read(&json!({"prompt": prompt}), &state);
        let request = read(json!("hello")).unwrap();
        let prompt = request.prompts[0].prompt(state.text.as_ref(), true).unwrap();
        assert_eq!((prompt.text.as_str(), prompt.token_ids.len()), ("hello", 0));
        for prompt in [json!([1, 2]), json!([[1, 2]])] {
            let complaint = read(prompt).unwrap_err().to_string();
            assert!(complaint.ends_with("is tokens, but this pipeline has no tokenizer"), "{complaint}");
        }
    }
}
