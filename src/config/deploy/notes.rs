//! What the log says of a deployment: keys and values that are accepted and have no effect.

use std::collections::BTreeSet;

use crate::config::Source;

/// Lines for the log, each subject once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    subjects: BTreeSet<String>,
    lines: Vec<String>,
}

impl Notes {
    /// A key that has no effect, and why.
    pub(super) fn inert(&mut self, key: &str, at: &Source, why: &str) {
        self.once(key, || format!("{at}: key \"{key}\" has no effect: {why}"));
    }

    /// Says something, unless something was said of the subject.
    pub(super) fn once(&mut self, subject: &str, line: impl FnOnce() -> String) {
        if self.subjects.insert(subject.to_owned()) {
            self.lines.push(line());
        }
    }

    /// The lines, in the order in which their causes were met.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
