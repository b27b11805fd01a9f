//! Messages to a prompt, by the checkpoint's own Jinja template.
//!
//! Templates are written for the environment that Hugging Face `transformers` sets up, so this one is set up alike:
//! blocks swallow the line end behind them and the blanks before them, values are printed as Python prints them,
//! Python's string and dictionary methods work. Only the checkpoint's templates are ever run.

use std::collections::BTreeMap;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value as JinjaValue};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};
use thiserror::Error;

use super::python_json::{Style, python_float};
use super::tokenizer::special_token;
use crate::config::{Checkpoint, CheckpointError};

/// Instructions that one rendering may take. A conversation of a thousand turns takes some hundred thousand.
const FUEL: u64 = 10_000_000;

/// The template that is used unless another one fits better.
const DEFAULT: &str = "default";

/// The template that is used when there are tools.
const WITH_TOOLS: &str = "tool_use";

/// Tokens that a template may name, as they are called in `tokenizer_config.json`.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// Variables that the server sets, or that would bring in a template from outside.
const RESERVED: [&str; 5] = ["messages", "tools", "add_generation_prompt", "chat_template", "tokenize"];

/// The chat templates of one checkpoint, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The templates, compiled, under their names.
    environment: Environment<'static>,
    /// Whether there is one for requests with tools.
    has_tool_template: bool,
    /// The special tokens by the names under which templates know them.
    special_tokens: BTreeMap<&'static str, String>,
}

/// Why there is no template, or a prompt could not be rendered.
#[derive(Debug, Error)]
pub enum ChatTemplateError {
    /// The checkpoint's files cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The template is neither a string nor a list of named templates.
    #[error("the chat template must be a string, or named templates one of which is \"default\"")]
    Shape,
    /// The template is not Jinja.
    #[error("the chat template cannot be compiled: {0}")]
    Syntax(String),
    /// The template itself refused the messages, with these words.
    #[error("{0}")]
    Refused(String),
    /// The messages do not have the form that the template expects.
    #[error("the chat template cannot render these messages: {0}")]
    Render(String),
    /// Rendering took too long.
    #[error("rendering these messages takes more than {FUEL} steps of the chat template")]
    TooLong,
    /// `chat_template_kwargs` sets a variable that belongs to the server.
    #[error("\"{0}\" cannot be set by chat_template_kwargs")]
    Reserved(String),
}

impl ChatTemplateError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Checkpoint(error) => error.reason(),
            Self::Shape | Self::Syntax(_) => "invalid_chat_template",
            Self::Refused(_) | Self::Render(_) => "chat_template_failed",
            Self::TooLong => "chat_template_too_long",
            Self::Reserved(_) => "reserved_template_argument",
        }
    }
}

/// What a template says when it calls `raise_exception`; carried as the source of the engine's error.
#[derive(Debug, Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// The checkpoint's template; `None` where it has none, as base models do.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>, ChatTemplateError> {
        let Some(template) = checkpoint.chat_template()? else {
            return Ok(None);
        };
        let config = checkpoint.tokenizer_config()?.unwrap_or_default();
        Self::new(&template, &config).map(Some)
    }

    /// Compiles a template: a string, a list of `{name, template}`, or an object of templates by name.
    /// `tokenizer_config` gives the special tokens.
    pub fn new(template: &Value, tokenizer_config: &Value) -> Result<Self, ChatTemplateError> {
        let mut environment = environment();
        let templates = named_templates(template).ok_or(ChatTemplateError::Shape)?;
        for (name, source) in &templates {
            environment
                .add_template_owned((*name).to_owned(), without_generation_tags(source))
                .map_err(|error| ChatTemplateError::Syntax(error.to_string()))?;
        }
        if !templates.iter().any(|(name, _)| *name == DEFAULT) {
            return Err(ChatTemplateError::Shape);
        }
        let special_tokens = SPECIAL_TOKENS
            .into_iter()
            .filter_map(|name| Some((name, special_token(tokenizer_config, name)?.to_owned())))
            .collect();
        let has_tool_template = templates.iter().any(|(name, _)| *name == WITH_TOOLS);
        Ok(Self { environment, has_tool_template, special_tokens })
    }

    /// Renders a conversation.
    ///
    /// `messages` is the list as the template expects it; `tools` is a list of function definitions, if there are any;
    /// `arguments` are further variables, such as `enable_thinking`.
    pub fn render(
        &self,
        messages: &Value,
        add_generation_prompt: bool,
        tools: Option<&Value>,
        arguments: &Map<String, Value>,
    ) -> Result<String, ChatTemplateError> {
        let mut variables: BTreeMap<&str, JinjaValue> = BTreeMap::new();
        for (name, token) in &self.special_tokens {
            variables.insert(name, JinjaValue::from(token.as_str()));
        }
        for (name, value) in arguments {
            if RESERVED.contains(&name.as_str()) {
                return Err(ChatTemplateError::Reserved(name.clone()));
            }
            variables.insert(name, JinjaValue::from_serialize(value));
        }
        variables.insert("messages", JinjaValue::from_serialize(messages));
        variables.insert("tools", JinjaValue::from_serialize(tools));
        variables.insert("add_generation_prompt", JinjaValue::from(add_generation_prompt));
        let name = if tools.is_some() && self.has_tool_template { WITH_TOOLS } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|error| failure(&error))?;
        template.render(variables).map_err(|error| failure(&error))
    }
}

/// The environment that chat templates are written for.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(|out, state, value| {
        let printed = match value.kind() {
            ValueKind::None => "None".to_owned(),
            ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
            ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
                Ok(float) => python_float(float),
                Err(_) => value.to_string(),
            },
            _ => return minijinja::escape_formatter(out, state, value),
        };
        out.write_str(&printed).map_err(minijinja::Error::from)
    });
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Templates by name.
fn named_templates(template: &Value) -> Option<Vec<(&str, &str)>> {
    match template {
        Value::String(source) => Some(vec![(DEFAULT, source)]),
        Value::Array(entries) => entries
            .iter()
            .map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
            .collect(),
        Value::Object(entries) => {
            entries.iter().map(|(name, source)| Some((name.as_str(), source.as_str()?))).collect()
        }
        _ => None,
    }
}

/// Replaces the tags that mark the assistant's words for training by tags that do nothing and keep their blanks.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = tag;
            continue;
        };
        let word = inside.trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&inside.replace(word, "if true")),
            "endgeneration" => out.push_str(&inside.replace(word, "endif")),
            _ => out.push_str(inside),
        }
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `tojson(value, indent=None, separators=None, ensure_ascii=False, sort_keys=False)`.
fn tojson(value: &JinjaValue, indent: Option<usize>, options: Kwargs) -> Result<String, minijinja::Error> {
    if value.is_undefined() {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "tojson of an undefined value"));
    }
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let mut style = Style::with_indent(indent);
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators).map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, "separators must be two strings")
        })?;
        (style.item_separator, style.key_separator) = (item, key);
    }
    style.ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, "tojson").with_source(error))?;
    Ok(style.write(&value))
}

/// Ends the rendering with the template's own words.
fn raise_exception(_state: &State, message: String) -> Result<JinjaValue, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "the template refused")
        .with_source(Raised(message)))
}

/// The local time, formatted by C's rules.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut formatted = String::new();
    std::fmt::write(&mut formatted, format_args!("{}", chrono::Local::now().format(format))).map_err(
        |_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot read {format:?}"))
        },
    )?;
    Ok(formatted)
}

/// Tells the template's own refusal from other failures.
fn failure(error: &minijinja::Error) -> ChatTemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ChatTemplateError::TooLong;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return ChatTemplateError::Refused(message.clone());
        }
        cause = error.source();
    }
    ChatTemplateError::Render(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(&json!(source), &json!({"eos_token": {"content": "<end>"}, "bos_token": null}))
            .unwrap()
    }

    fn render(source: &str, messages: Value) -> Result<String, ChatTemplateError> {
        template(source).render(&messages, true, None, &Map::new())
    }

    #[test]
    fn blocks_swallow_the_line_end_behind_and_the_blanks_before() {
        let source = "{% for m in messages %}\n    {% if m %}\n{{ m }}\n    {% endif %}\n{% endfor %}\n";
        assert_eq!(render(source, json!(["a", "b"])).unwrap(), "a\nb\n");
    }

    #[test]
    fn values_are_printed_as_python_prints_them() {
        assert_eq!(render("{{ true }} {{ none }} {{ 1.0 }} {{ 3 }}", json!([])).unwrap(), "True None 1.0 3");
    }

    #[test]
    fn python_methods_work() {
        let source = "{{ messages[0].split('x')[-1].strip() }} {{ messages[1].get('a', 'none') }}";
        assert_eq!(render(source, json!(["1 x 2 ", {}])).unwrap(), "2 none");
    }

    #[test]
    fn tojson_takes_pythons_options() {
        let source = "{{ messages[0]|tojson }} {{ messages[0]|tojson(separators=(',', ':')) }} \
                      {{ messages[0]|tojson(ensure_ascii=true) }} {{ messages|tojson(indent=1) }}";
        let rendered = render(source, json!([{"b": "<é>"}])).unwrap();
        let expected =
            "{\"b\": \"<é>\"} {\"b\":\"<é>\"} {\"b\": \"<\\u00e9>\"} [\n {\n  \"b\": \"<é>\"\n }\n]";
        assert_eq!(rendered, expected);
    }

    #[test]
    fn a_refusal_keeps_the_templates_words() {
        let source =
            "{% macro check() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ check() }}";
        let error = render(source, json!([])).unwrap_err();
        assert!(
            matches!(&error, ChatTemplateError::Refused(words) if words == "roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn other_failures_say_where() {
        let error = render("{{ messages[0].a.b.c }}", json!([{}])).unwrap_err();
        assert_eq!(error.reason(), "chat_template_failed");
        assert!(error.to_string().contains("undefined"), "{error}");
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
        assert!(matches!(render(source, json!([])), Err(ChatTemplateError::TooLong)));
    }

    #[test]
    fn generation_tags_do_nothing_and_keep_their_blanks() {
        let source = "a {%- generation -%} b {% generation %}\nc{% endgeneration %} {%- endgeneration %} d";
        assert_eq!(render(source, json!([])).unwrap(), "ab c d");
    }

    #[test]
    fn special_tokens_are_variables_and_missing_ones_undefined() {
        let source = "{{ eos_token }}{{ bos_token is defined }}{{ tools is none }}";
        assert_eq!(render(source, json!([])).unwrap(), "<end>FalseTrue");
    }

    #[test]
    fn the_tool_template_is_used_with_tools() {
        let named =
            json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
        let template = ChatTemplate::new(&named, &json!({})).unwrap();
        let none = Map::new();
        assert_eq!(template.render(&json!([]), true, None, &none).unwrap(), "plain");
        assert_eq!(template.render(&json!([]), true, Some(&json!([])), &none).unwrap(), "tools");
    }

    #[test]
    fn the_servers_variables_cannot_be_set_from_outside() {
        let arguments = Map::from_iter([("messages".to_owned(), json!([]))]);
        let error = template("x").render(&json!([]), true, None, &arguments).unwrap_err();
        assert!(matches!(error, ChatTemplateError::Reserved(name) if name == "messages"));
    }

    #[test]
    fn a_broken_template_is_refused_at_the_start() {
        let error = ChatTemplate::new(&json!("{% if %}"), &json!({})).unwrap_err();
        assert_eq!(error.reason(), "invalid_chat_template");
        assert!(matches!(ChatTemplate::new(&json!(3), &json!({})), Err(ChatTemplateError::Shape)));
    }

    #[test]
    fn the_time_is_formatted_by_cs_rules() {
        let year = render("{{ strftime_now('%Y') }}", json!([])).unwrap();
        assert!(year.len() == 4 && year.chars().all(|digit| digit.is_ascii_digit()));
        assert!(render("{{ strftime_now('%') }}", json!([])).is_err());
    }
}
