//! What is otherwise than in vLLM-Omni and vLLM: families that have another form here, and those that only we have.

use super::{Definition, audio, bookkeeping, diffusion, http, kv_cache, pipeline, stage, transfer};

/// In what a family differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Its type.
    Type,
    /// Its labels.
    Labels,
    /// The bounds of its buckets.
    Buckets,
}

impl Aspect {
    /// The word in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Labels => "labels",
            Self::Buckets => "buckets",
        }
    }
}

/// A difference.
#[derive(Debug)]
pub struct Difference {
    /// Which families.
    pub families: &'static [&'static Definition],
    /// In what they differ.
    pub aspects: &'static [Aspect],
    /// Why.
    pub reason: &'static str,
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        families: &[&transfer::SEND, &transfer::IN_FLIGHT, &transfer::RECEIVE],
        aspects: &[Aspect::Buckets],
        reason: "begin at a microsecond: handing a chunk over within a process takes a few",
    },
    Difference {
        families: &[&diffusion::INFERENCE_STEPS, &diffusion::PIXELS],
        aspects: &[Aspect::Buckets],
        reason: "bounds of seconds tell nothing of steps and pixels",
    },
    Difference {
        families: &[&http::REQUEST_SIZE, &http::RESPONSE_SIZE],
        aspects: &[Aspect::Type, Aspect::Buckets],
        reason: "histograms where there are summaries without quantiles",
    },
    Difference {
        families: &[&kv_cache::CONFIG_INFO],
        aspects: &[Aspect::Labels],
        reason: "has the labels for which there is something to say, and `model_name`",
    },
];

/// Families that neither vLLM-Omni nor vLLM has.
pub const BEYOND: &[&Definition] = &[
    &pipeline::REQUESTS_ACCEPTED,
    &pipeline::REQUESTS_REJECTED,
    &stage::QUEUE_DEPTH,
    &stage::IN_FLIGHT,
    &stage::REPLICA_UP,
    &stage::REPLICA_RESTARTS,
    &audio::STAGE_REAL_TIME_FACTOR,
    &transfer::FIRST_EMIT,
    &transfer::FIRST_SEND,
    &transfer::FIRST_RECEIVE,
    &transfer::FIRST_OUTPUT,
    &bookkeeping::EVENTS,
    &bookkeeping::MAILBOX_DEPTH,
    &bookkeeping::SCRAPE,
];

impl Difference {
    /// The difference of a family in this aspect, if there is one.
    pub fn of(definition: &Definition, aspect: Aspect) -> Option<&'static Self> {
        DIFFERENCES.iter().find(|difference| {
            difference.families.contains(&definition) && difference.aspects.contains(&aspect)
        })
    }
}
