//! What a client may ask of `/v1/chat/completions`.

use serde_json::{Map, Value};

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::frontend::{Conversation, TextFrontend};
use crate::http::generation_fields::{GENERATION_FIELDS, GenerationFields};
use crate::http::messages::{final_text, read_messages};
use crate::http::modalities::read_modalities;
use crate::http::plain_text::plain_prompt;
use crate::http::sampling_fields::{MAX_LOGPROBS, SAMPLING_FIELDS};
use crate::http::speech_fields::{SPEECH_FIELDS, SpeechFields};
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

/// A checked chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// What the template is given.
    pub chat: ChatPrompt,
    /// The kinds of output that the answer carries.
    pub modalities: Vec<Modality>,
    /// How it is spoken; `None` for an answer without sound.
    pub speech: Option<SpeechFields>,
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
        body.only_or(
            &[CHAT_FIELDS, SPEECH_FIELDS, GENERATION_FIELDS, SAMPLING_FIELDS, INERT_FIELDS],
            is_unimplemented,
        )?;
        let mut generation = GenerationFields::read(&body, state)?;
        generation.thinker.max_tokens = read_max_tokens(&body, generation.thinker.max_tokens)?;
        generation.thinker.logprobs = read_logprobs(&body)?;
        let modalities = read_modalities(&body, &state.pipeline)?;
        let speech = read_speech(&body, &modalities, &generation, &state.pipeline)?;
        Ok(Self { modalities, speech, chat: ChatPrompt::read(&body)?, generation })
    }

    /// Renders and tokenises.
    pub fn prompt(&self, text: &dyn TextFrontend) -> Result<Prompt, ApiError> {
        let voice = self.speech.as_ref().and_then(|speech| speech.voice.clone());
        Ok(Prompt { voice, ..self.chat.prompt(text)? })
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
        if !text.has_tokenizer() {
            return Ok(plain_prompt(&self.conversation));
        }
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
            ..Prompt::default()
        })
    }
}

/// How the answer is spoken, and whether the rest of the request goes with that.
fn read_speech(
    body: &Fields<'_>,
    modalities: &[Modality],
    generation: &GenerationFields,
    pipeline: &PipelineShape,
) -> Result<Option<SpeechFields>, ApiError> {
    if !modalities.contains(&Modality::Audio) {
        SpeechFields::refuse(body)?;
        return Ok(None);
    }
    if generation.choices > 1 {
        let message = format!("is {}, but an answer with audio is one choice", generation.choices);
        return Err(body.contradiction("n", message));
    }
    if generation.stream.is_some() && !modalities.contains(&Modality::Text) {
        let of_text = [
            ("logprobs", generation.thinker.logprobs.is_some()),
            ("return_token_ids", generation.return_token_ids),
        ];
        if let Some((name, _)) = of_text.iter().find(|(_, asked)| *asked) {
            let message = "belongs to text, which is not among the `modalities` of this stream";
            return Err(body.contradiction(name, message));
        }
    }
    SpeechFields::read(body, generation.stream.is_some(), pipeline).map(Some)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{speaking_state, unconnected_state};
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

    /// As [`read`], in front of a pipeline that speaks.
    fn read_spoken(extra: Value) -> Result<ChatRequest, String> {
        let mut body =
            json!({"messages": [{"role": "user", "content": "hi"}], "modalities": ["text", "audio"]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::read(&body, &speaking_state()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_voice_goes_into_the_prompt() {
        let text = speaking_state().text;
        let request = read_spoken(json!({"voice": "Ember"})).unwrap();
        assert_eq!(request.prompt(text.as_ref()).unwrap().voice.as_deref(), Some("ember"));
        assert_eq!(read_spoken(json!({})).unwrap().prompt(text.as_ref()).unwrap().voice, None);
    }

    #[test]
    fn speech_is_one_choice_and_its_settings_need_it() {
        assert!(read_spoken(json!({"n": 2})).unwrap_err().starts_with("`n` is 2"));
        assert!(read_spoken(json!({"n": 2, "modalities": ["text"]})).is_ok());
        assert_eq!(read_spoken(json!({"modalities": ["text"]})).unwrap().speech, None);
        for name in ["voice", "speaker", "audio"] {
            let complaint = read_spoken(json!({"modalities": ["text"], name: "ember"})).unwrap_err();
            assert!(complaint.contains(&format!("`{name}` is only possible with `audio`")), "{complaint}");
        }
    }

    #[test]
    fn a_stream_without_text_has_no_place_for_what_belongs_to_text() {
        for name in ["logprobs", "return_token_ids"] {
            let silent = json!({"modalities": ["audio"], "stream": true, name: true});
            assert!(read_spoken(silent).unwrap_err().starts_with(&format!("`{name}` belongs to text")));
            assert!(read_spoken(json!({"modalities": ["audio"], name: true})).is_ok());
            assert!(read_spoken(json!({"stream": true, name: true})).is_ok());
        }
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
