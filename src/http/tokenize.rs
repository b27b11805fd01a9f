//! `POST /tokenize` and `POST /detokenize`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;

use crate::http::body::read_json;
use crate::http::chat_request::ChatPrompt;
use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::generation_fields::check_model;
use crate::http::sampling_fields::read_token_ids;
use crate::http::state::AppState;

/// The fields of `/tokenize`: a prompt, or the prompt fields of chat.
const TOKENIZE_FIELDS: &[&str] = &[
    "model",
    "prompt",
    "messages",
    "add_special_tokens",
    "return_token_strs",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
];
/// The fields of `/detokenize`.
const DETOKENIZE_FIELDS: &[&str] = &["model", "tokens"];

/// The answer of `/tokenize`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Tokenized {
    /// How many tokens there are.
    count: usize,
    /// How many there may be, answer included.
    max_model_len: Option<u32>,
    /// Their ids.
    tokens: Vec<u32>,
    /// Their entries in the vocabulary, if asked for.
    token_strs: Option<Vec<Option<String>>>,
}

/// The answer of `/detokenize`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Detokenized {
    /// The text, special tokens included.
    prompt: String,
}

/// Text or messages to tokens.
pub async fn tokenize(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let body = read_json(&request, payload, &state.limits).await?;
    Ok(HttpResponse::Ok().json(body.work(move |value| tokenized(value, &state)).await?))
}

/// Tokens to text.
pub async fn detokenize(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let body = read_json(&request, payload, &state.limits).await?;
    Ok(HttpResponse::Ok().json(body.work(move |value| detokenized(value, &state)).await?))
}

fn tokenized(body: &Value, state: &AppState) -> Result<Tokenized, ApiError> {
    let body = Fields::new(body, "")?;
    body.only(&[TOKENIZE_FIELDS])?;
    check_model(&body, &state.served)?;
    let text = state.text.as_ref();
    let tokens = match (body.string("prompt")?, body.get("messages")) {
        (Some(_), Some(_)) => {
            return Err(body.contradiction("prompt", "and `messages` cannot be given together"));
        }
        (None, Some(_)) => ChatPrompt::read(&body)?.prompt(text)?.token_ids,
        (None, None) => return Err(body.missing("prompt")),
        (Some(prompt), None) => {
            for name in ["add_generation_prompt", "continue_final_message", "chat_template_kwargs"] {
                if body.get(name).is_some() {
                    return Err(body.contradiction(name, "is only possible with `messages`"));
                }
            }
            text.encode(prompt, body.boolean("add_special_tokens")?.unwrap_or(true))?
        }
    };
    let with_strings = body.boolean("return_token_strs")?.unwrap_or(false);
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: state.served.max_model_len,
        token_strs: with_strings.then(|| tokens.iter().map(|id| text.token_text(*id)).collect()),
        tokens,
    })
}

fn detokenized(body: &Value, state: &AppState) -> Result<Detokenized, ApiError> {
    let body = Fields::new(body, "")?;
    body.only(&[DETOKENIZE_FIELDS])?;
    check_model(&body, &state.served)?;
    let tokens = body.get("tokens").ok_or_else(|| body.missing("tokens"))?;
    let ids = read_token_ids(tokens, "tokens", Some(state.text.vocab_size()))?;
    Ok(Detokenized { prompt: state.text.decode(&ids, false)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::unconnected_state;
    use serde_json::json;

    #[test]
    fn a_prompt_or_messages_become_tokens() {
        let state = unconnected_state(1);
        let answer = tokenized(&json!({"prompt": "ab", "return_token_strs": true}), &state).unwrap();
        assert_eq!((answer.count, answer.tokens.as_slice()), (2, [97, 98].as_slice()));
        assert_eq!(answer.token_strs.unwrap(), [Some("a".to_owned()), Some("b".to_owned())]);
        let messages =
            json!({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": false});
        assert_eq!(tokenized(&messages, &state).unwrap().count, "user: x\n".len());
    }

    #[test]
    fn neither_both_and_misplaced_fields_are_refused() {
        let state = unconnected_state(1);
        assert!(tokenized(&json!({}), &state).is_err());
        assert!(tokenized(&json!({"prompt": "a", "messages": []}), &state).is_err());
        assert!(tokenized(&json!({"prompt": "a", "add_generation_prompt": true}), &state).is_err());
        assert!(tokenized(&json!({"prompts": "a"}), &state).is_err());
    }

    #[test]
    fn tokens_become_text_if_they_are_in_the_vocabulary() {
        let state = unconnected_state(1);
        assert_eq!(detokenized(&json!({"tokens": [104, 105]}), &state).unwrap().prompt, "hi");
        let error = detokenized(&json!({"tokens": [104, 256]}), &state).unwrap_err();
        assert!(matches!(error, ApiError::InvalidValue { param, .. } if param == "tokens[1]"));
        assert!(detokenized(&json!({}), &state).is_err());
    }
}
