//! JSON text to values, each with its path.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{DocumentError, Entry, Mapping, Node, Problem, Value};
use crate::config::Source;

/// Reads the JSON value of an option, such as `--stage-overrides`.
///
/// # Errors
///
/// Text that is not JSON, and a key that stands twice.
pub fn parse_json(option: &'static str, text: &str) -> Result<Node, DocumentError> {
    let mut duplicate = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let place = Place { option, path: String::new(), duplicate: &mut duplicate };
    let parsed = place.deserialize(&mut deserializer).and_then(|node| deserializer.end().map(|()| node));
    parsed.map_err(|error| {
        duplicate.unwrap_or_else(|| DocumentError {
            at: Source::InOption { option, path: "".into() },
            problem: Problem::Syntax { language: "JSON", message: error.to_string() },
        })
    })
}

/// Where a value stands.
struct Place<'a> {
    option: &'static str,
    path: String,
    /// Where a key that stands twice is noted, for serde knows errors of its own alone.
    duplicate: &'a mut Option<DocumentError>,
}

impl Place<'_> {
    fn source(&self) -> Source {
        Source::InOption { option: self.option, path: Arc::from(self.path.as_str()) }
    }

    fn inner(&mut self, key: &str) -> Place<'_> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Place { option: self.option, path, duplicate: &mut *self.duplicate }
    }

    fn node(&self, value: Value) -> Node {
        Node { value, source: self.source() }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(self.node(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(self.node(Value::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(self.node(Value::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(self.node(Value::Integer(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(self.node(Value::Number(value)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(self.node(Value::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.inner(&items.len().to_string()))? {
            items.push(item);
        }
        Ok(self.node(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Node, A::Error> {
        let mut mapping = Mapping::default();
        while let Some(key) = map.next_key::<String>()? {
            let place = self.inner(&key);
            let source = place.source();
            let node = map.next_value_seed(place)?;
            if let Err(error) = mapping.insert(Entry { key, source, node }) {
                *self.duplicate = Some(error);
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(self.node(Value::Mapping(mapping)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTION: &str = "--stage-overrides";

    #[test]
    fn every_value_knows_its_path() {
        let node = parse_json(OPTION, r#"{"1": {"stop": ["a", 2], "x": null}}"#).unwrap();
        let one = node.into_document("a mapping").unwrap().take("1").unwrap();
        let stop = one.mapping().unwrap().get("stop").unwrap();
        assert_eq!(stop.source.to_string(), "--stage-overrides 1.stop");
        assert_eq!(stop.list().unwrap()[1].source.to_string(), "--stage-overrides 1.stop.1");
        assert!(one.mapping().unwrap().get("x").is_none(), "null is as good as absent");
    }

    #[test]
    fn a_key_that_stands_twice_is_named() {
        let message = parse_json(OPTION, r#"{"1": {"a": 1, "a": 2}}"#).unwrap_err().to_string();
        assert!(message.starts_with("--stage-overrides 1.a: key \"a\" stands here"), "{message}");
    }

    #[test]
    fn text_that_is_no_json_is_located() {
        for text in ["", "{", "{} {}", "{'1': 2}"] {
            let message = parse_json(OPTION, text).unwrap_err().to_string();
            assert!(message.starts_with("--stage-overrides: this is not valid JSON: "), "{message}");
            assert!(message.contains("line 1 column"), "{message}");
        }
    }
}
