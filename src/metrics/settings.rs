//! What the server tells its metrics at the start.

use crate::metrics::definitions::{DEFAULT_OMNI_PREFIX, ENGINE_PREFIX};
use crate::metrics::{MetricsError, StageDescription};

/// Everything that the families of a server depend on.
#[derive(Debug, Clone)]
pub struct MetricsSettings {
    /// The served name of the model, the value of the label `model_name` everywhere.
    pub model_name: String,
    /// What the names of pipeline families begin with.
    pub omni_prefix: OmniPrefix,
    /// Whether statistics are kept. If not, families of the pipeline stay at zero and engine families do not exist.
    pub log_stats: bool,
    /// Whether engines sample blocks of their KV caches.
    pub kv_cache_metrics: bool,
    /// Where requests come from.
    pub inference: Inference,
    /// The stages of the pipeline, in order. Chunks go from each stage to the one after it.
    pub stages: Vec<StageDescription>,
}

/// Where requests come from, which decides what is logged of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Inference {
    /// From clients that know nothing of each other: each is summed up on its own.
    #[default]
    Online,
    /// From one batch: whoever sent it sums it up when all of it has ended.
    Offline,
}

/// What the names of pipeline families begin with: `vllm:omni_`, or `vllm_omni:` for dashboards of newer releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OmniPrefix(String);

impl OmniPrefix {
    /// Checks that names can begin with `prefix` and do not collide with those of engine families.
    pub fn parse(prefix: &str) -> Result<Self, MetricsError> {
        let refused = |problem| MetricsError::InvalidPrefix { prefix: prefix.to_owned(), problem };
        if prefix.is_empty() {
            return Err(refused("it is empty"));
        }
        if prefix.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(refused("a metric's name cannot begin with a digit"));
        }
        if prefix.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')) {
            return Err(refused("only ASCII letters, digits, '_' and ':' are allowed"));
        }
        if prefix == ENGINE_PREFIX {
            return Err(refused("it is the prefix of engine metrics"));
        }
        Ok(Self(prefix.to_owned()))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for OmniPrefix {
    fn default() -> Self {
        Self(DEFAULT_OMNI_PREFIX.to_owned())
    }
}

impl std::str::FromStr for OmniPrefix {
    type Err = MetricsError;

    fn from_str(prefix: &str) -> Result<Self, Self::Err> {
        Self::parse(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_omni_prefix_are_taken() {
        assert_eq!(OmniPrefix::default().as_str(), "vllm:omni_");
        assert_eq!(OmniPrefix::parse("vllm_omni:").unwrap().as_str(), "vllm_omni:");
    }

    #[test]
    fn a_prefix_that_breaks_names_is_refused_and_named() {
        for prefix in ["", "1omni_", "omni-", "vllm:", "omnï_"] {
            let error = OmniPrefix::parse(prefix).unwrap_err();
            assert_eq!(error.reason(), "invalid_metrics_prefix");
            assert!(error.to_string().contains(&format!("{prefix:?}")), "{error}");
        }
    }
}
