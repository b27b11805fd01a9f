//! Typed reading of a key's value. Errors name the key and say what is expected and what was found.

use std::ops::RangeInclusive;

use super::{DocumentError, Entry, Mapping, Node, Problem, Value};

/// How a mapping is asked for.
const MAPPING: &str = "a mapping of keys to values";

impl Entry {
    /// Something is wrong here.
    pub fn error(&self, problem: Problem) -> DocumentError {
        DocumentError { at: self.source.clone(), problem }
    }

    /// The value is not what it must be.
    pub fn expected(&self, expected: impl Into<String>) -> DocumentError {
        self.error(Problem::WrongValue {
            key: self.key.clone(),
            expected: expected.into(),
            found: self.node.value.kind(),
        })
    }

    /// A whole number in a range.
    pub fn integer(&self, range: RangeInclusive<i128>) -> Result<i128, DocumentError> {
        match self.node.value {
            Value::Integer(value) if range.contains(&value) => Ok(value),
            _ => Err(self.expected(format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// A number of things.
    pub fn count(&self, range: RangeInclusive<u32>) -> Result<u32, DocumentError> {
        let value = self.integer(i128::from(*range.start())..=i128::from(*range.end()))?;
        u32::try_from(value).map_err(|_| self.expected("a whole number"))
    }

    /// Any number.
    pub fn number(&self) -> Result<f64, DocumentError> {
        match self.node.value {
            Value::Integer(value) => Ok(value as f64),
            Value::Number(value) => Ok(value),
            _ => Err(self.expected("a number")),
        }
    }

    /// True or false.
    pub fn boolean(&self) -> Result<bool, DocumentError> {
        match self.node.value {
            Value::Boolean(value) => Ok(value),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A string that is not empty.
    pub fn text(&self) -> Result<&str, DocumentError> {
        match &self.node.value {
            Value::Text(text) if !text.is_empty() => Ok(text),
            _ => Err(self.expected("a string")),
        }
    }

    /// Keys with values.
    pub fn mapping(&self) -> Result<&Mapping, DocumentError> {
        match &self.node.value {
            Value::Mapping(mapping) => Ok(mapping),
            _ => Err(self.expected(MAPPING)),
        }
    }

    /// The same, taken out.
    pub fn into_mapping(self) -> Result<Mapping, DocumentError> {
        let error = self.expected(MAPPING);
        if let Value::Mapping(mapping) = self.node.value { Ok(mapping) } else { Err(error) }
    }

    /// A list.
    pub fn list(&self) -> Result<&[Node], DocumentError> {
        match &self.node.value {
            Value::List(items) => Ok(items),
            _ => Err(self.expected("a list")),
        }
    }

    /// The same, taken out.
    pub fn into_list(self) -> Result<Vec<Node>, DocumentError> {
        let error = self.expected("a list");
        if let Value::List(items) = self.node.value { Ok(items) } else { Err(error) }
    }
}

impl Node {
    /// The keys of a document, which must be a mapping.
    pub fn into_document(self, expected: &'static str) -> Result<Mapping, DocumentError> {
        let problem = match self.value {
            Value::Mapping(mapping) => return Ok(mapping),
            Value::Null => Problem::Empty { expected },
            other => Problem::WrongDocument { expected, found: other.kind() },
        };
        Err(DocumentError { at: self.source, problem })
    }
}
