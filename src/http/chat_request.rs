//! What a client may ask of `/v1/chat/completions`.

use serde_json::{Map, Value};

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::frontend::{Conversation, TextFrontend};
use crate::http::generation_fields::{GENERATION_FIELDS, GenerationFields};
use crate::http::messages::{final_text, read_messages};
use crate::http::sampling_fields::{MAX_LOGPROBS, SAMPLING_FIELDS};
use crate::http::state::{AppState, PipelineShape};
use crate::http::unimplemented::{INERT_FIELDS, is_unimplemented, refuse_unimplemented};
use crate::stages::{Modality, Prompt};

/// The fields that only chat has.
const CHAT_FIELDS: &[&str] = &[
    "messages",
    "modalities",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
];

/// The kinds of output that a chat answer can carry.
const WRITABLE: &[Modality] = &[Modality::Text];

/// A checked chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// What the template is given.
    pub chat: ChatPrompt,
    /// The kinds of output wanted.
    pub modalities: Vec<Modality>,
    /// What chat and completions have in common.
    pub generation: GenerationFields,
}

/// The part of a chat request that becomes the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatPrompt {
    /// Messages and variables.
    pub conversation: Conversation,
    /// The prompt ends within the last message, and the answer goes on with it.
    pub continue_final_message: bool,
    /// Whether the tokenizer puts its own special tokens around what the template wrote.
    pub add_special_tokens: bool,
}

impl ChatRequest {
    /// Reads a body.
    pub fn read(body: &Value, state: &AppState) -> Result<Self, ApiError> {
        let body = Fields::new(body, "")?;
        refuse_unimplemented(&body)?;
        body.only_or(&[CHAT_FIELDS, GENERATION_FIELDS, SAMPLING_FIELDS, INERT_FIELDS], is_unimplemented)?;
        let mut generation = GenerationFields::read(&body, state)?;
        generation.thinker.max_tokens = read_max_tokens(&body, generation.thinker.max_tokens)?;
        generation.thinker.logprobs = read_logprobs(&body)?;
        Ok(Self {
            modalities: read_modalities(&body, &state.pipeline)?,
            chat: ChatPrompt::read(&body)?,
            generation,
        })
    }
}

impl ChatPrompt {
    /// Reads the fields that make up the prompt; `/tokenize` takes them, too.
    pub fn read(body: &Fields<'_>) -> Result<Self, ApiError> {
        let continue_final_message = body.boolean("continue_final_message")?.unwrap_or(false);
        let add_generation_prompt = body.boolean("add_generation_prompt")?;
        if continue_final_message && add_generation_prompt != Some(false) {
            return Err(body.contradiction(
                "continue_final_message",
                "is only possible with `add_generation_prompt: false`",
            ));
        }
        let variables =
            body.object("chat_template_kwargs")?.map_or_else(Map::new, |kwargs| kwargs.map().clone());
        Ok(Self {
            conversation: Conversation {
                messages: read_messages(body)?,
                add_generation_prompt: add_generation_prompt.unwrap_or(true),
                variables,
            },
            continue_final_message,
            add_special_tokens: body.boolean("add_special_tokens")?.unwrap_or(false),
        })
    }

    /// Renders and tokenises.
    pub fn prompt(&self, text: &dyn TextFrontend) -> Result<Prompt, ApiError> {
        let mut rendered = text.render_chat(&self.conversation)?;
        if self.continue_final_message {
            let end = end_of_final_message(&rendered, &self.conversation.messages).ok_or_else(|| {
                ApiError::Template(
                    "it does not write the final message as it is, so it cannot be continued".into(),
                )
            })?;
            rendered.truncate(end);
        }
        Ok(Prompt {
            token_ids: text.encode(&rendered, self.add_special_tokens)?,
            text: rendered,
            voice: None,
        })
    }
}

/// Where the text of the last message ends in what the template wrote. Templates often trim messages.
fn end_of_final_message(rendered: &str, messages: &[Value]) -> Option<usize> {
    let text = final_text(messages)?;
    [text.as_str(), text.trim_end(), text.trim()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .find_map(|text| Some(rendered.rfind(text)? + text.len()))
}

/// `max_completion_tokens` is the newer name of `max_tokens`.
fn read_max_tokens(body: &Fields<'_>, max_tokens: Option<u32>) -> Result<Option<u32>, ApiError> {
    let newer =
        body.integer_within("max_completion_tokens", 1, i64::from(i32::MAX))?.map(|count| count as u32);
    match (max_tokens, newer) {
        (Some(old), Some(new)) if old != new => Err(body.contradiction(
            "max_completion_tokens",
            format!("is {new}, but `max_tokens` is {old}; give one of them"),
        )),
        (old, new) => Ok(new.or(old)),
    }
}

/// `logprobs` switches them on, `top_logprobs` says how many alternatives to list.
fn read_logprobs(body: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let wanted = body.boolean("logprobs")?.unwrap_or(false);
    let top = body.integer_within("top_logprobs", 0, MAX_LOGPROBS)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
        (false, Some(1..)) => {
            Err(body.contradiction("top_logprobs", "is only possible with `logprobs: true`"))
        }
        (false, _) => Ok(None),
    }
}

/// The kinds of output wanted, each once; those of the pipeline that a chat answer can carry.
fn read_modalities(body: &Fields<'_>, pipeline: &PipelineShape) -> Result<Vec<Modality>, ApiError> {
    let offered = || WRITABLE.iter().copied().filter(|modality| pipeline.modalities.contains(modality));
    let words = || offered().map(word).collect::<Vec<_>>().join(", ");
    let mut wanted = Vec::new();
    for (index, value) in body.list("modalities")?.unwrap_or_default().iter().enumerate() {
        let name = format!("modalities[{index}]");
        let asked = value.as_str().ok_or_else(|| body.wrong_type(&name, "a string", value))?;
        let modality = offered().find(|modality| word(*modality) == asked).ok_or_else(|| {
            body.unsupported(&name, format!("is `{asked}`, but this server makes: {}", words()))
        })?;
        if !wanted.contains(&modality) {
            wanted.push(modality);
        }
    }
    if wanted.is_empty() {
        if body.get("modalities").is_some() {
            return Err(body.invalid("modalities", "must not be empty"));
        }
        wanted = offered().filter(|modality| pipeline.default_modalities.contains(modality)).collect();
    }
    if wanted.is_empty() {
        return Err(body.unsupported("modalities", format!("must be given; this server makes: {}", words())));
    }
    Ok(wanted)
}

/// The word for a kind of output in a request.
pub fn word(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Audio => "audio",
        Modality::Image => "image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::unconnected_state;
    use serde_json::json;

    /// Reads a request with one message and these further fields.
    fn read(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::read(&body, &unconnected_state(1))
    }

    fn complaint(extra: Value) -> String {
        read(extra).unwrap_err().to_string()
    }

    #[test]
    fn both_names_of_max_tokens_must_agree() {
        assert_eq!(read(json!({"max_completion_tokens": 5})).unwrap().generation.max_tokens(), Some(5));
        assert_eq!(
            read(json!({"max_tokens": 5, "max_completion_tokens": 5})).unwrap().generation.max_tokens(),
            Some(5)
        );
        assert!(
            complaint(json!({"max_tokens": 5, "max_completion_tokens": 6})).contains("`max_tokens` is 5")
        );
    }

    #[test]
    fn top_logprobs_need_logprobs() {
        assert_eq!(read(json!({"logprobs": true})).unwrap().generation.thinker.logprobs, Some(0));
        assert_eq!(
            read(json!({"logprobs": true, "top_logprobs": 20})).unwrap().generation.thinker.logprobs,
            Some(20)
        );
        assert!(complaint(json!({"top_logprobs": 2})).contains("`logprobs: true`"));
        assert!(complaint(json!({"logprobs": true, "top_logprobs": 21})).contains("from 0 to 20"));
        assert!(complaint(json!({"logprobs": 3})).contains("`logprobs` must be true or false"));
    }

    #[test]
    fn a_kind_of_output_that_is_not_made_is_refused_with_what_is() {
        assert_eq!(read(json!({"modalities": ["text"]})).unwrap().modalities, [Modality::Text]);
        assert_eq!(read(json!({})).unwrap().modalities, [Modality::Text]);
        assert!(complaint(json!({"modalities": ["text", "audio"]})).contains("this server makes: text"));
        assert!(complaint(json!({"modalities": []})).contains("must not be empty"));
        assert!(complaint(json!({"modalities": "text"})).contains("must be a list"));
    }

    #[test]
    fn fields_that_are_not_implemented_or_not_known_are_named() {
        assert!(complaint(json!({"tools": [{"type": "function"}]})).contains("`tools` is not supported yet"));
        assert!(complaint(json!({"response_format": {"type": "json_object"}})).contains("`response_format`"));
        assert!(complaint(json!({"max_token": 1})).contains("did you mean `max_tokens`?"));
        assert!(read(json!({"user": "me", "metadata": {}, "store": false, "tools": null})).is_ok());
    }

    #[test]
    fn the_final_message_is_continued_where_its_text_ends() {
        let request = read(json!({"add_generation_prompt": false, "continue_final_message": true})).unwrap();
        let prompt = request.chat.prompt(unconnected_state(1).text.as_ref()).unwrap();
        assert_eq!(prompt.text, "user: hi");
        assert!(complaint(json!({"continue_final_message": true})).contains("add_generation_prompt"));
    }

    #[test]
    fn messages_are_required() {
        let error = ChatRequest::read(&json!({}), &unconnected_state(1)).unwrap_err();
        assert_eq!(error, ApiError::MissingField { param: "messages".into() });
        assert!(ChatRequest::read(&json!([]), &unconnected_state(1)).is_err());
    }
}
