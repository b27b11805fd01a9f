//! Configuration as it was written: values that know where they stand.
//!
//! A deploy file in YAML and an option's value in JSON both become a [`Mapping`] of [`Entry`]s, each with its
//! [`Source`](crate::config::Source), so that whatever is wrong with a value can be said with file and line.

mod entry;
mod error;
mod json;
mod mapping;
mod scalar;
mod yaml;

pub use self::error::{DocumentError, Problem};
pub use self::json::parse_json;
pub use self::mapping::{Entry, Mapping, Node, Value};
pub(super) use self::yaml::LONGEST;
pub use self::yaml::parse_yaml;
