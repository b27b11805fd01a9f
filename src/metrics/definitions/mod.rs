//! What every metric is: name, type, help, unit, labels, buckets, and when it moves.
//!
//! Nothing else in the crate spells a family's name. The registry, the text on `/metrics`, the documentation and
//! the tests are made from these definitions or checked against them.

pub mod audio;
pub mod bookkeeping;
pub mod buckets;
pub mod differences;
pub mod diffusion;
pub mod engine;
pub mod http;
pub mod kv_cache;
pub mod labels;
pub mod left_out;
pub mod pipeline;
pub mod process;
pub mod stage;
pub mod transfer;
pub mod work;

pub use buckets::Buckets;
pub use labels::Label;

/// One metric family.
#[derive(Debug, PartialEq)]
pub struct Definition {
    /// The name behind the prefix; that of a counter ends in `_total`.
    pub suffix: &'static str,
    /// Which prefix it stands behind.
    pub namespace: Namespace,
    /// What kind of numbers it holds.
    pub kind: Kind,
    /// One sentence for the reader of `/metrics`.
    pub help: &'static str,
    /// What is counted or measured.
    pub unit: Unit,
    /// Its labels. The first is `model_name`, which has the same value everywhere in a server; families of the server
    /// itself do without.
    pub labels: &'static [Label],
    /// The event that moves it, for the documentation.
    pub moves: &'static str,
}

/// Whose family it is, which decides the prefix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Of the pipeline as a whole, or of what only a pipeline has. The prefix is an option of the server.
    Omni,
    /// Of one replica of one engine stage.
    Engine,
    /// Of the process or its HTTP server, under the names that are usual for these; without a prefix.
    Server,
}

/// The prefix of engine families, as in vLLM.
pub const ENGINE_PREFIX: &str = "vllm:";

/// The prefix of pipeline families unless the server was told another one.
pub const DEFAULT_OMNI_PREFIX: &str = "vllm:omni_";

/// The kinds of families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Samples counted by size.
    Histogram(Buckets),
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a family counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
    /// Seconds.
    Seconds,
    /// Part of a whole, in [0, 1].
    Fraction,
    /// Times a sequence was preempted.
    Preemptions,
    /// Choices (`n`) of a request.
    Choices,
    /// Audio samples of one channel.
    Samples,
    /// Bytes.
    Bytes,
    /// One quantity over another of the same unit.
    Ratio,
    /// 1 where something holds, 0 where it does not.
    State,
    /// Starts of a replica after its first.
    Restarts,
    /// Stat events.
    Events,
    /// Images, sounds or films.
    Items,
    /// Images.
    Images,
    /// Pixels.
    Pixels,
    /// Denoising steps.
    Steps,
    /// 2^20 bytes.
    Mebibytes,
    /// Floating-point operations.
    Operations,
    /// A moment, in seconds since 1970.
    UnixSeconds,
    /// File descriptors.
    Descriptors,
}

impl Unit {
    /// The word used in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds",
            Self::Fraction => "fraction",
            Self::Preemptions => "preemptions",
            Self::Choices => "choices",
            Self::Samples => "samples",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::State => "0 or 1",
            Self::Restarts => "restarts",
            Self::Events => "events",
            Self::Items => "items",
            Self::Images => "images",
            Self::Pixels => "pixels",
            Self::Steps => "steps",
            Self::Mebibytes => "MiB",
            Self::Operations => "operations",
            Self::UnixSeconds => "seconds since 1970",
            Self::Descriptors => "descriptors",
        }
    }
}

impl Definition {
    /// The whole name, with `omni_prefix` for families of the pipeline.
    pub fn name(&self, omni_prefix: &str) -> String {
        let prefix = match self.namespace {
            Namespace::Omni => omni_prefix,
            Namespace::Engine => ENGINE_PREFIX,
            Namespace::Server => "",
        };
        format!("{prefix}{}", self.suffix)
    }

    /// The finite bucket bounds of a child that belongs to a stage with this `max_model_len`; none for a family
    /// that is no histogram.
    pub fn bounds(&self, max_model_len: u64) -> Vec<f64> {
        match self.kind {
            Kind::Histogram(buckets) => buckets.bounds(max_model_len),
            Kind::Counter | Kind::Gauge => Vec::new(),
        }
    }
}

/// Every family, in the order of `/metrics`. Which of them a server has depends on its pipeline and on whether it
/// keeps statistics.
pub fn all() -> impl Iterator<Item = &'static Definition> {
    GROUPS.iter().flat_map(|group| group.families).copied()
}

/// Families that tell of the same and exist under the same condition.
#[derive(Debug)]
pub struct Group {
    /// What they tell of, for the documentation.
    pub title: &'static str,
    /// When they exist, for the documentation.
    pub condition: &'static str,
    /// The families.
    pub families: &'static [&'static Definition],
}

/// All groups, in the order of `/metrics`.
pub const GROUPS: &[Group] = &[
    Group { title: "Requests", condition: "Always there.", families: pipeline::ALL },
    Group { title: "Stages and replicas", condition: "Always there.", families: stage::ALL },
    Group {
        title: "Audio",
        condition: "There where the pipeline has a stage that makes audio.",
        families: audio::ALL,
    },
    Group {
        title: "Diffusion",
        condition: "There where the pipeline has a stage that makes images.",
        families: diffusion::ALL,
    },
    Group {
        title: "Edges between stages",
        condition: "There where the pipeline has two stages or more.",
        families: transfer::ALL,
    },
    Group { title: "The metrics themselves", condition: "Always there.", families: bookkeeping::ALL },
    Group {
        title: "Engines",
        condition: "There with statistics where the pipeline has an engine.",
        families: engine::ALL,
    },
    Group {
        title: "Caches of engines",
        condition: "There with statistics where the pipeline has an engine.",
        families: kv_cache::ALL,
    },
    Group {
        title: "Work of engines",
        condition: "There with statistics where the pipeline has an engine; at 0 without `--enable-mfu-metrics`.",
        families: work::ALL,
    },
    Group {
        title: "Sampled blocks of KV caches",
        condition: "There with statistics and `--kv-cache-metrics` where the pipeline has an engine.",
        families: kv_cache::SAMPLED,
    },
    Group { title: "HTTP", condition: "There with statistics.", families: http::ALL },
    Group { title: "The process", condition: "Always there, on Linux.", families: process::ALL },
];

#[cfg(test)]
mod upstream;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_stands_once() {
        let names: BTreeSet<_> = all().map(|definition| definition.name(DEFAULT_OMNI_PREFIX)).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn counters_and_only_they_end_in_total_but_for_the_one_name_that_is_given() {
        for definition in all() {
            let is_counter = definition.kind == Kind::Counter;
            let exception = definition == &engine::ITERATION_TOKENS;
            assert_eq!(
                definition.suffix.ends_with("_total"),
                is_counter || exception,
                "{}",
                definition.suffix
            );
        }
    }

    #[test]
    fn families_carry_the_labels_of_their_namespace_first() {
        for definition in all() {
            let names: Vec<_> = definition.labels.iter().map(|label| label.name).collect();
            let expected: &[&str] = match definition.namespace {
                Namespace::Omni => &["model_name"],
                Namespace::Engine => &["model_name", "stage", "replica"],
                Namespace::Server => &[],
            };
            assert!(names.starts_with(expected), "{}: {names:?}", definition.suffix);
            assert_eq!(names.contains(&"model_name"), definition.namespace != Namespace::Server);
        }
    }

    #[test]
    fn the_omni_prefix_changes_pipeline_names_only() {
        assert_eq!(pipeline::REQUESTS_RUNNING.name("vllm_omni:"), "vllm_omni:num_requests_running");
        assert_eq!(pipeline::REQUESTS_RUNNING.name(DEFAULT_OMNI_PREFIX), "vllm:omni_num_requests_running");
        assert_eq!(engine::REQUESTS_RUNNING.name("vllm_omni:"), "vllm:num_requests_running");
    }
}
