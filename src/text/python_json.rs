//! JSON as Python's `json.dumps` writes it, which is how chat templates print tools and arguments.
//!
//! A model was trained on that spelling: a space after `:` and `,`, floats as Python prints them, no escaping for HTML.

use serde_json::Value;

/// The options of `json.dumps` that a template may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    /// Spaces per level, one item a line; without it everything stands in one line.
    pub(super) indent: Option<usize>,
    /// Written between items.
    pub(super) item_separator: String,
    /// Written between a key and its value.
    pub(super) key_separator: String,
    /// Write characters beyond ASCII as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Write keys in order.
    pub(super) sort_keys: bool,
}

impl Style {
    /// The defaults: with an indent there is no space after the comma, because a line end follows.
    pub(super) fn with_indent(indent: Option<usize>) -> Self {
        Self {
            indent,
            item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
            key_separator: ": ".to_owned(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }

    /// Writes a value.
    pub(super) fn write(&self, value: &Value) -> String {
        let mut out = String::new();
        self.append(value, 0, &mut out);
        out
    }

    /// Writes a value that stands `depth` levels deep.
    fn append(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => out.push_str(&python_float(float)),
                None => out.push_str(&number.to_string()),
            },
            Value::String(text) => self.append_string(text, out),
            Value::Array(items) => {
                self.append_items(['[', ']'], items, depth, out, |item, out| {
                    self.append(item, depth + 1, out)
                });
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if self.sort_keys {
                    members.sort_by_key(|(key, _)| *key);
                }
                self.append_items(['{', '}'], &members, depth, out, |(key, value), out| {
                    self.append_string(key, out);
                    out.push_str(&self.key_separator);
                    self.append(value, depth + 1, out);
                });
            }
        }
    }

    /// Writes items between brackets, each on its own line where there is an indent.
    fn append_items<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        out: &mut String,
        append: impl Fn(&T, &mut String),
    ) {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            self.break_line(depth + 1, out);
            append(item, out);
        }
        if !items.is_empty() {
            self.break_line(depth, out);
        }
        out.push(close);
    }

    /// Begins a line at a depth, where there is an indent.
    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    /// Writes a string in quotes.
    fn append_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                control if control < ' ' => append_escape(u32::from(control), out),
                other if self.ensure_ascii && !other.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in other.encode_utf16(&mut units) {
                        append_escape(u32::from(*unit), out);
                    }
                }
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

/// Writes one UTF-16 code unit as `\uXXXX`.
fn append_escape(unit: u32, out: &mut String) {
    out.push_str(&format!("\\u{unit:04x}"));
}

/// The shortest digits that give the number back, in Python's choice between plain and scientific notation.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        // Display never uses an exponent, Debug always shows a fraction; within this range we want both.
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_has_spaces_after_separators() {
        let value = json!({"b": [1, 2.0, null, true], "a": {}, "c": []});
        assert_eq!(
            Style::with_indent(None).write(&value),
            r#"{"b": [1, 2.0, null, true], "a": {}, "c": []}"#
        );
    }

    #[test]
    fn an_indent_puts_each_item_on_a_line() {
        let value = json!({"a": [1, 2], "b": {}});
        let expected = "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {}\n}";
        assert_eq!(Style::with_indent(Some(2)).write(&value), expected);
    }

    #[test]
    fn html_is_not_escaped_and_control_characters_are() {
        let value = json!("<a href='x'>&\u{1}\n\"é😀\u{7f}");
        let written = Style::with_indent(None).write(&value);
        assert_eq!(written, "\"<a href='x'>&\\u0001\\n\\\"é😀\u{7f}\"");
    }

    #[test]
    fn ensure_ascii_writes_surrogate_pairs() {
        let style = Style { ensure_ascii: true, ..Style::with_indent(None) };
        assert_eq!(style.write(&json!("é😀")), r#""\u00e9\ud83d\ude00""#);
    }

    #[test]
    fn keys_are_sorted_when_asked() {
        let style = Style { sort_keys: true, ..Style::with_indent(None) };
        assert_eq!(style.write(&json!({"b": 1, "a": 2})), r#"{"a": 2, "b": 1}"#);
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e300, "1e+300"),
        ];
        for (value, expected) in cases {
            assert_eq!(python_float(value), expected);
        }
    }
}
