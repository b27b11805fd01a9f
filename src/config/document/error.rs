//! What can be wrong with a document.

use thiserror::Error;

use crate::config::Source;

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at}: {problem}")]
pub struct DocumentError {
    /// Where.
    pub at: Source,
    /// What.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// The text is not of its language.
    #[error("this is not valid {language}: {message}")]
    Syntax {
        /// YAML or JSON.
        language: &'static str,
        /// What the parser says.
        message: String,
    },
    /// It uses something of YAML that is not taken.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Nothing stands in it.
    #[error("there is nothing in it; {expected} is expected")]
    Empty {
        /// What is expected.
        expected: &'static str,
    },
    /// It is something else.
    #[error("this must be {expected}, not {found}")]
    WrongDocument {
        /// What is expected.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A key stands twice.
    #[error("key \"{key}\" stands here for the second time; the first is at {first}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands first.
        first: Source,
    },
    /// Nobody knows the key.
    #[error("key \"{key}\" is not known{}", suggestion(nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A value is of the wrong kind or out of range.
    #[error("key \"{key}\" must be {expected}, not {found}")]
    WrongValue {
        /// The key.
        key: String,
        /// What is expected.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// How an error goes on that knows what was meant.
fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or(String::new(), |nearest| format!("; did you mean \"{nearest}\"?"))
}
