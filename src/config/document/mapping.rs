//! The values of a document.

use super::{DocumentError, Problem};
use crate::config::Source;

/// A value, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins.
    pub source: Source,
}

/// A value of YAML's core schema, or of JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing; a key with it is as good as absent.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with values.
    Mapping(Mapping),
}

/// Keys with values, in the order in which they stand. No key stands twice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapping {
    entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub source: Source,
    /// Its value.
    pub node: Node,
}

impl Value {
    /// What kind of value it is, for people.
    pub fn kind(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Boolean(value) => format!("{value}"),
            Self::Integer(value) => format!("{value}"),
            Self::Number(value) => format!("{value}"),
            Self::Text(text) => {
                const LONGEST: usize = 40;
                let shown: String = text.chars().take(LONGEST).collect();
                let rest = if shown.len() < text.len() { "…" } else { "" };
                format!("the string {shown:?}{rest}")
            }
            Self::List(_) => "a list".to_owned(),
            Self::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// The same value as JSON. Numbers that JSON does not have become null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Boolean(value) => (*value).into(),
            Self::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => (*value as f64).into(),
            },
            Self::Number(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Mapping(mapping) => {
                let entries = mapping.entries.iter();
                entries.map(|entry| (entry.key.clone(), entry.node.value.to_json())).collect()
            }
        }
    }
}

impl Mapping {
    /// Adds a key. One that is there already is an error that names both places.
    pub fn insert(&mut self, entry: Entry) -> Result<(), DocumentError> {
        if let Some(first) = self.entries.iter().find(|other| other.key == entry.key) {
            let problem = Problem::DuplicateKey { key: entry.key, first: first.source.clone() };
            return Err(DocumentError { at: entry.source, problem });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// A key with its value, unless it is not there or has none.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().find(|entry| entry.key == key)
    }

    /// Takes a key out.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let place = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(place))
    }

    /// All keys that have a value.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.node.value != Value::Null)
    }

    /// All keys, those without a value included.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter()
    }

    /// Lays another mapping over this one: its keys win, and mappings are merged key by key. A key without a value
    /// takes the one below away.
    pub fn merge(&mut self, over: Mapping) {
        for entry in over.entries {
            let below = self.entries.iter_mut().find(|below| below.key == entry.key);
            match (below, entry) {
                (None, entry) => self.entries.push(entry),
                (
                    Some(Entry { node: Node { value: Value::Mapping(below), .. }, .. }),
                    Entry { node: Node { value: Value::Mapping(over), .. }, .. },
                ) => below.merge(over),
                (Some(below), entry) => *below = entry,
            }
        }
    }
}
