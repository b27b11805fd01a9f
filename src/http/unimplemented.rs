//! Fields of the OpenAI and vLLM APIs that are accepted without effect, and those that are not implemented.
//!
//! A field that would change the result is never passed over. Where it has a value that asks for nothing, that
//! value is accepted: clients send it.

use serde_json::Value;

use crate::http::errors::ApiError;
use crate::http::fields::Fields;

/// Fields that are accepted and change nothing: they serve billing, storing and tracing elsewhere.
pub const INERT_FIELDS: &[&str] = &[
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "request_id",
];

/// The value with which a field asks for nothing.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// There is none.
    Never,
    /// `false`.
    False,
    /// `true`.
    True,
    /// `1`.
    One,
    /// An empty string, list or object.
    Empty,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An object with `"type": "text"`.
    TypeText,
}

/// Fields that are not implemented, with the value that asks for nothing.
const UNIMPLEMENTED_FIELDS: &[(&str, Neutral)] = &[
    ("tools", Neutral::Empty),
    ("tool_choice", Neutral::Word(&["none", "auto"])),
    ("functions", Neutral::Empty),
    ("function_call", Neutral::Word(&["none", "auto"])),
    ("response_format", Neutral::TypeText),
    ("structured_outputs", Neutral::Never),
    ("guided_json", Neutral::Never),
    ("guided_regex", Neutral::Never),
    ("guided_choice", Neutral::Never),
    ("guided_grammar", Neutral::Never),
    ("reasoning_effort", Neutral::Never),
    ("include_reasoning", Neutral::True),
    ("thinking_token_budget", Neutral::Never),
    ("verbosity", Neutral::Never),
    ("prediction", Neutral::Never),
    ("web_search_options", Neutral::Never),
    ("language", Neutral::Never),
    ("instructions", Neutral::Never),
    ("additional_information", Neutral::Empty),
    ("mm_processor_kwargs", Neutral::Empty),
    ("media_io_kwargs", Neutral::Empty),
    ("documents", Neutral::Empty),
    ("chat_template", Neutral::Never),
    ("echo", Neutral::False),
    ("suffix", Neutral::Empty),
    ("use_beam_search", Neutral::False),
    ("length_penalty", Neutral::One),
    ("prompt_logprobs", Neutral::Never),
    ("return_tokens_as_token_ids", Neutral::False),
    ("allowed_token_ids", Neutral::Never),
    ("bad_words", Neutral::Empty),
    ("detokenize", Neutral::True),
    ("spaces_between_special_tokens", Neutral::True),
    ("truncate_prompt_tokens", Neutral::Never),
    ("logits_processors", Neutral::Empty),
    ("kv_transfer_params", Neutral::Never),
    ("vllm_xargs", Neutral::Empty),
];

/// Whether the name is that of a field that is known, but not implemented.
pub fn is_unimplemented(name: &str) -> bool {
    UNIMPLEMENTED_FIELDS.iter().any(|(known, _)| *known == name)
}

/// Complains about the first field that is not implemented and asks for something.
pub fn refuse_unimplemented(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (name, neutral) in UNIMPLEMENTED_FIELDS {
        if fields.get(name).is_some_and(|value| !neutral.is(value)) {
            return Err(fields.unsupported(name, "is not supported yet"));
        }
    }
    Ok(())
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Never => false,
            Self::False => value.as_bool() == Some(false),
            Self::True => value.as_bool() == Some(true),
            Self::One => value.as_f64() == Some(1.0),
            Self::Empty => match value {
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            },
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::TypeText => value.get("type").and_then(Value::as_str) == Some("text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(value: Value) -> bool {
        refuse_unimplemented(&Fields::new(&value, "").unwrap()).is_err()
    }

    #[test]
    fn what_asks_for_nothing_is_accepted() {
        let value = json!({"tools": [], "tool_choice": "none", "response_format": {"type": "text"},
                           "echo": false, "suffix": "", "length_penalty": 1.0, "language": null});
        assert!(!refused(value));
    }

    #[test]
    fn what_asks_for_something_is_refused() {
        assert!(refused(json!({"tools": [{"type": "function"}]})));
        assert!(refused(json!({"response_format": {"type": "json_object"}})));
        assert!(refused(json!({"echo": true})));
        assert!(refused(json!({"language": "en"})));
    }
}
