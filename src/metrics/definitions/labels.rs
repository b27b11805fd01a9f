//! The labels that families carry, and those of their values that are known before anything happens.

/// A label of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Values that are known from the start, for which the family shows a zero at once. Empty where the values
    /// depend on the server, like the stages.
    pub known: &'static [&'static str],
}

/// The served name of the model.
pub const MODEL_NAME: Label = Label { name: "model_name", known: &[] };

/// Index of the stage in pipeline order, from 0.
pub const STAGE: Label = Label { name: "stage", known: &[] };

/// Index of the replica within its stage, from 0.
pub const REPLICA: Label = Label { name: "replica", known: &[] };

/// Index of the stage that sent a chunk.
pub const FROM_STAGE: Label = Label { name: "from_stage", known: &[] };

/// Index of the replica that sent a chunk, within its stage.
pub const FROM_REPLICA: Label = Label { name: "from_replica", known: &[] };

/// Index of the stage that received a chunk.
pub const TO_STAGE: Label = Label { name: "to_stage", known: &[] };

/// Index of the replica that received a chunk, within its stage.
pub const TO_REPLICA: Label = Label { name: "to_replica", known: &[] };

/// Why a request ended; the words of [`FinishReason`](crate::engine::FinishReason).
pub const FINISHED_REASON: Label =
    Label { name: "finished_reason", known: &["stop", "length", "abort", "error"] };

/// Why a request was turned away; the word in the body of the HTTP error.
pub const REJECTED_REASON: Label = Label {
    name: "reason",
    known: &["overloaded", "stage_unavailable", "shutting_down", "unsupported_modality"],
};

/// Why a request was aborted or failed.
pub const FAILED_REASON: Label = Label {
    name: "reason",
    known: &[
        "client_disconnect",
        "timeout",
        "shutting_down",
        "sibling_failed",
        "replica_panic",
        "replica_stopped",
        "replica_unavailable",
        "invalid_input",
        "out_of_capacity",
        "stage_protocol",
        "device_error",
        "stage_error",
    ],
};

/// What a waiting sequence waits for.
pub const WAITING_REASON: Label = Label { name: "reason", known: &[WAITING_CAPACITY, WAITING_DEFERRED] };

/// It waits for a place in the batch or for blocks of KV cache.
pub const WAITING_CAPACITY: &str = "capacity";

/// It waits for something else, such as its input.
pub const WAITING_DEFERRED: &str = "deferred";

/// Where the keys and values of prompt tokens came from.
pub const PROMPT_SOURCE: Label = Label { name: "source", known: &[SOURCE_COMPUTED, SOURCE_CACHED] };

/// They were computed here.
pub const SOURCE_COMPUTED: &str = "local_compute";

/// They were found in the replica's prefix cache.
pub const SOURCE_CACHED: &str = "local_cache_hit";

/// How a stage works.
pub const STAGE_TYPE: Label = Label { name: "stage_type", known: &[] };

/// It is an engine: it generates tokens one after the other.
pub const STAGE_TYPE_LLM: &str = "llm";

/// It makes images by diffusion.
pub const STAGE_TYPE_DIFFUSION: &str = "diffusion";

/// It works otherwise, as a vocoder does.
pub const STAGE_TYPE_OTHER: &str = "other";

/// Why a life of a replica ended; the words of its failure.
pub const RESTART_REASON: Label = Label {
    name: "reason",
    known: &[
        "replica_panic",
        "invalid_input",
        "out_of_capacity",
        "stage_protocol",
        "device_error",
        "stage_error",
    ],
};

/// Why the life of a replica ends that is stopped; it is not started anew.
pub const STOPPED: &str = "replica_stopped";

/// Whether an engine sleeps, and how deeply.
pub const SLEEP_STATE: Label =
    Label { name: "sleep_state", known: &[AWAKE, "weights_offloaded", "discard_all"] };

/// It does not sleep.
pub const AWAKE: &str = "awake";

/// Tokens of a block of the KV cache.
pub const BLOCK_SIZE: Label = Label { name: "block_size", known: &[] };

/// Blocks of the KV cache, on whatever device it is.
pub const NUM_GPU_BLOCKS: Label = Label { name: "num_gpu_blocks", known: &[] };

/// Tokens that the KV cache holds.
pub const KV_CACHE_SIZE_TOKENS: Label = Label { name: "kv_cache_size_tokens", known: &[] };

/// Whether requests share what is cached of their common prefixes: `True` or `False`.
pub const ENABLE_PREFIX_CACHING: Label = Label { name: "enable_prefix_caching", known: &[] };

/// The method of an HTTP request; `OTHER` for one that HTTP does not define.
pub const METHOD: Label = Label { name: "method", known: &[] };

/// The class of the status of a response, such as `2xx`.
pub const STATUS: Label = Label { name: "status", known: &[] };

/// The pattern of the route that answered; `none` where there was none.
pub const HANDLER: Label = Label { name: "handler", known: &[] };

/// The longest underrun of an answer that counts as continuous, in milliseconds.
pub const THRESHOLD_MS: Label = Label { name: "threshold_ms", known: &[CONTINUITY_THRESHOLD_MS] };

/// [`CONTINUITY_THRESHOLD_SECONDS`](super::audio::CONTINUITY_THRESHOLD_SECONDS) in milliseconds.
pub const CONTINUITY_THRESHOLD_MS: &str = "100";

/// Why an answer for which audio was asked holds none.
pub const SKIPPED_REASON: Label = Label { name: "reason", known: &[SKIPPED_NO_AUDIO_DATA] };

/// There was nothing to be spoken.
pub const SKIPPED_NO_AUDIO_DATA: &str = "no_audio_data";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::FinishReason;
    use crate::metrics::definitions::audio::CONTINUITY_THRESHOLD_SECONDS;

    #[test]
    fn the_continuity_threshold_is_the_one_in_the_label() {
        let milliseconds: f64 = CONTINUITY_THRESHOLD_MS.parse().unwrap();
        assert_eq!(milliseconds / 1000.0, CONTINUITY_THRESHOLD_SECONDS);
    }

    #[test]
    fn finished_reasons_are_the_engines_words() {
        assert_eq!(FINISHED_REASON.known, FinishReason::ALL.map(FinishReason::as_str));
    }
}
