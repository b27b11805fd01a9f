//! The messages of a chat request: roles, content, and what goes on to the template.

use serde_json::{Map, Value};

use crate::http::errors::ApiError;
use crate::http::fields::{Fields, kind_of};

/// The roles that a message may have.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];
/// The fields of a message. Those after `content` go to the template as they are.
const MESSAGE_FIELDS: &[&str] =
    &["role", "content", "name", "tool_call_id", "tool_calls", "reasoning_content", "reasoning"];
/// Fields that clients send back with an earlier answer and that say nothing when they are empty.
const EMPTY_FIELDS: &[&str] = &["refusal", "annotations", "audio", "function_call"];

/// Checks the messages at `messages` of the body and makes them ready for the template.
pub fn read_messages(body: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let messages = body.list("messages")?.ok_or_else(|| body.missing("messages"))?;
    if messages.is_empty() {
        return Err(body.invalid("messages", "must not be empty"));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            read_message(&Fields::new(message, body.path_of(&format!("messages[{index}]")))?)
        })
        .collect()
}

/// The text of the last message, which `continue_final_message` goes on with.
pub fn final_text(messages: &[Value]) -> Option<String> {
    text_of(messages.last()?)
}

/// The text of a message; `None` for one without content.
pub fn text_of(message: &Value) -> Option<String> {
    match message.get("content")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            Some(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<String>())
        }
        _ => None,
    }
}

fn read_message(message: &Fields<'_>) -> Result<Value, ApiError> {
    let role = message.string("role")?.ok_or_else(|| message.missing("role"))?;
    if !ROLES.contains(&role) {
        return Err(message.invalid("role", format!("is `{role}`, but must be one of {}", ROLES.join(", "))));
    }
    for name in EMPTY_FIELDS {
        let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        if message.get(name).is_some_and(|value| !empty(value)) {
            return Err(message.unsupported(name, "is not supported in a message yet"));
        }
    }
    message.only(&[MESSAGE_FIELDS, EMPTY_FIELDS])?;

    let mut ready = Map::new();
    // `developer` is what newer clients call `system`; templates know only the latter.
    let role = if role == "developer" { "system" } else { role };
    ready.insert("role".into(), role.into());
    let tool_calls = read_tool_calls(message)?;
    match message.get("content") {
        Some(content) => {
            ready.insert("content".into(), read_content(message, content)?);
        }
        // An assistant that only called tools has said nothing.
        None if role == "assistant" && !tool_calls.is_empty() => {
            ready.insert("content".into(), "".into());
        }
        None => return Err(message.missing("content")),
    }
    for name in ["name", "tool_call_id", "reasoning_content", "reasoning"] {
        if let Some(text) = message.string(name)? {
            ready.insert(name.into(), text.into());
        }
    }
    if !tool_calls.is_empty() {
        if role != "assistant" {
            return Err(message.contradiction("tool_calls", "belongs to messages of the role assistant"));
        }
        ready.insert("tool_calls".into(), tool_calls.into());
    }
    Ok(Value::Object(ready))
}

/// A string, or a list of text parts.
fn read_content(message: &Fields<'_>, content: &Value) -> Result<Value, ApiError> {
    match content {
        Value::String(_) => Ok(content.clone()),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .map(|(index, part)| {
                read_part(&Fields::new(part, message.path_of(&format!("content[{index}]")))?)
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        other => Err(ApiError::WrongType {
            param: message.path_of("content"),
            expected: "a string or a list of parts",
            found: kind_of(other),
        }),
    }
}

fn read_part(part: &Fields<'_>) -> Result<Value, ApiError> {
    match part.string("type")?.ok_or_else(|| part.missing("type"))? {
        "text" => {
            part.only(&[&["type", "text"]])?;
            let text = part.string("text")?.ok_or_else(|| part.missing("text"))?;
            Ok(serde_json::json!({ "type": "text", "text": text }))
        }
        kind => Err(part.unsupported(
            "type",
            format!("is `{kind}`, which is not supported yet; content parts are of type text"),
        )),
    }
}

/// The calls that an assistant made. Their arguments come as JSON text; templates want them as objects.
fn read_tool_calls(message: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let calls = message.list("tool_calls")?.unwrap_or_default();
    calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let fields = Fields::new(call, message.path_of(&format!("tool_calls[{index}]")))?;
            let function = fields.object("function")?.ok_or_else(|| fields.missing("function"))?;
            function.string("name")?.ok_or_else(|| function.missing("name"))?;
            let mut ready = call.clone();
            if let Some(text) = function.get("arguments").and_then(Value::as_str) {
                let arguments =
                    if text.is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_str(text) };
                let arguments = arguments
                    .map_err(|error| function.invalid("arguments", format!("is not valid JSON: {error}")))?;
                if let Some(slot) = ready.pointer_mut("/function/arguments") {
                    *slot = arguments;
                }
            }
            Ok(ready)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(messages: Value) -> Result<Vec<Value>, ApiError> {
        let body = json!({ "messages": messages });
        read_messages(&Fields::new(&body, "").unwrap())
    }

    fn message_of(messages: Value) -> String {
        read(messages).unwrap_err().to_string()
    }

    #[test]
    fn developer_speaks_as_system() {
        let ready = read(json!([{"role": "developer", "content": "Be brief."}])).unwrap();
        assert_eq!(ready, [json!({"role": "system", "content": "Be brief."})]);
    }

    #[test]
    fn strings_and_text_parts_stay_what_they_are() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let ready =
            read(json!([{"role": "user", "content": "x"}, {"role": "user", "content": parts}])).unwrap();
        assert_eq!(ready[0]["content"], "x");
        assert_eq!(ready[1]["content"], parts);
        assert_eq!(final_text(&ready).unwrap(), "ab");
    }

    #[test]
    fn other_parts_are_named() {
        let text = message_of(json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]));
        assert!(text.contains("messages[0].content[0].type") && text.contains("`image_url`"), "{text}");
    }

    #[test]
    fn unknown_roles_fields_and_missing_content_are_named() {
        assert!(message_of(json!([{"role": "robot", "content": "x"}])).contains("`robot`"));
        assert!(message_of(json!([{"role": "user", "contents": "x"}])).contains("did you mean `content`?"));
        assert!(message_of(json!([{"role": "user"}])).contains("`messages[0].content` is required"));
        assert!(message_of(json!([{"content": "x"}])).contains("`messages[0].role` is required"));
        assert!(message_of(json!([])).contains("must not be empty"));
        assert!(message_of(json!(["x"])).contains("`messages[0]` must be an object"));
    }

    #[test]
    fn an_earlier_answer_may_be_sent_back_with_its_empty_fields() {
        let answer = json!({"role": "assistant", "content": "Hi", "refusal": null, "audio": null,
                            "annotations": [], "tool_calls": [], "reasoning_content": "Greet."});
        let ready = read(json!([answer])).unwrap();
        assert_eq!(ready, [json!({"role": "assistant", "content": "Hi", "reasoning_content": "Greet."})]);
    }

    #[test]
    fn tool_arguments_become_objects() {
        let call =
            json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let ready = read(json!([{"role": "assistant", "content": null, "tool_calls": [call]}])).unwrap();
        assert_eq!(ready[0]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(ready[0]["content"], "");
        let broken = json!({"function": {"name": "f", "arguments": "{"}});
        let text = message_of(json!([{"role": "assistant", "tool_calls": [broken]}]));
        assert!(text.contains("messages[0].tool_calls[0].function.arguments"), "{text}");
    }
}
