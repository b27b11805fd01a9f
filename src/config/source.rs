//! Where a value of the configuration came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a value came from. Written as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is built in.
    BuiltIn,
    /// A file of the checkpoint, such as `generation_config.json`.
    Checkpoint(&'static str),
    /// A line of a deploy file.
    File {
        /// The file, as it was named.
        file: Arc<str>,
        /// The line, counted from 1.
        line: usize,
    },
    /// An option of the command line, such as `--num-replicas`.
    Option(&'static str),
    /// A place in the value of an option that holds JSON, such as `--stage-overrides`.
    InOption {
        /// The option.
        option: &'static str,
        /// The path within its value, such as `1.num_replicas`; empty for all of it.
        path: Arc<str>,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in default"),
            Self::Checkpoint(file) => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Option(option) => f.write_str(option),
            Self::InOption { option, path } if path.is_empty() => f.write_str(option),
            Self::InOption { option, path } => write!(f, "{option} {path}"),
        }
    }
}

/// Where values came from, by their path, such as `default_sampling_params.temperature`. What is not listed is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// Notes where a value came from.
    pub fn note(&mut self, path: impl Into<String>, source: Source) {
        self.0.insert(path.into(), source);
    }

    /// Where a value came from.
    pub fn of(&self, path: &str) -> &Source {
        self.0.get(path).unwrap_or(&Source::BuiltIn)
    }
}
