//! The keys of a deploy file that have an effect here, and what they mean. Those that have none stand in
//! [`inert`](super::inert). The tables of docs/deployment.md are held against this one.

use super::notes::Notes;
use super::{DeployError, inert};
use crate::config::document::{Entry, Mapping, Problem};
use crate::config::spelling::nearest;

/// A key, with what it means.
pub type Key = (&'static str, &'static str);

/// The keys that may stand in one kind of mapping.
#[derive(Debug, Clone, Copy)]
pub struct KeySet {
    /// What the mapping is, for the documentation.
    pub name: &'static str,
    /// Keys that have an effect.
    pub active: &'static [Key],
    /// Keys of vLLM-Omni that have none, with the reason.
    pub inert: &'static [Key],
}

/// Bytes of a replica's KV cache, or of all of them.
pub(super) const CACHE_MEMORY_KEY: &str = "kv_cache_memory_bytes";
/// Whether requests share what is cached of their prompts.
pub(super) const PREFIX_CACHING_KEY: &str = "enable_prefix_caching";

/// At the top of a file.
pub const TOP: KeySet = KeySet {
    name: "Top of the file",
    active: &[
        (
            "pipeline",
            "`qwen3_omni_moe`, `qwen3_omni_moe_thinker_only` (text alone), `qwen3`, `qwen3_moe`, or `custom` (custom stages \
             alone, no model); without it, what the model is.",
        ),
        (
            "base_config",
            "A file that this one builds on, relative to it. Mappings are merged key by key, stages by `stage_id`.",
        ),
        (
            "async_chunk",
            "Whether a stage begins with the first chunk of the one before (`true`) or when that one is done (`false`).",
        ),
        ("dtype", "Type of weights and activations: `auto`, `float32` or `bfloat16`."),
        (
            CACHE_MEMORY_KEY,
            "Bytes of all KV caches of a device together; by default a share of what is free.",
        ),
        (
            PREFIX_CACHING_KEY,
            "Whether requests share cached prefixes, in every stage whose entry does not say.",
        ),
        ("connectors", "Named connectors; see below."),
        ("edges", "Edges as `{from, to}`, checked against the pipeline: stages stand in a row."),
        (
            "stages",
            "The stages; see below. If there is such a list, every stage of the pipeline stands in it.",
        ),
        (
            "platforms",
            "What is laid over the rest on one kind of device: `cuda` when the language model runs on a GPU.",
        ),
    ],
    inert: inert::TOP,
};

/// In an entry of `stages`.
pub const STAGE: KeySet = KeySet {
    name: "An entry of `stages`",
    active: &[
        ("stage_id", "The stage's place in the pipeline, from 0."),
        (
            "custom_stage",
            "The name under which a custom stage was registered. Its place in the row is its `stage_id`.",
        ),
        ("settings", "Values for a custom stage, handed to it as they are."),
        (
            "devices",
            "`cpu`, `cuda` or `cuda:N`; GPU indices (`\"0\"`) stand for the GPU of a server that runs on one. The language model \
             (the thinker, or a plain text model) alone can run there.",
        ),
        ("num_replicas", "Replicas of the stage, 1 to 64."),
        ("max_num_seqs", "Sequences that an engine works on at the same time."),
        (
            "max_num_batched_tokens",
            "Tokens that an engine computes in one step; no more than its sequences can have are planned for.",
        ),
        (
            CACHE_MEMORY_KEY,
            "Bytes of the KV cache of each replica of an engine; by default a share of what is free.",
        ),
        (
            PREFIX_CACHING_KEY,
            "Whether requests share what is cached of their common prefixes (default: `true`); for the language model.",
        ),
        ("max_model_len", "The most tokens of a sequence, at most what the model was made for."),
        ("default_sampling_params", "How an engine samples unless a request says otherwise; see below."),
        (
            "subtalker_sampling_params",
            "The same for the talker's code predictor: `temperature`, `top_k`, `top_p`, `do_sample`.",
        ),
        (
            "input_connectors",
            "`{from_stage_N: NAME}`: the connector by which chunks come from the stage before.",
        ),
        (
            "output_connectors",
            "`{to_stage_N: NAME}`: the same from the other end. Where both are given they agree.",
        ),
        ("async_chunk", "As at the top, for the edges of this stage. Both ends of an edge agree."),
        ("engine_args", "A block whose keys count as the stage's own."),
        ("engine_extras", "The same."),
        ("runtime", "The same; for `devices`, `num_replicas` and `env`."),
    ],
    inert: inert::STAGE,
};

/// In an entry of `connectors`.
pub const CONNECTOR: KeySet = KeySet {
    name: "An entry of `connectors`",
    active: &[
        (
            "name",
            "`in_process` hands chunks over as they are, `serialized` as bytes. `SharedMemoryConnector` is taken for `in_process`.",
        ),
        ("extra", "Settings of the connector; see below."),
    ],
    inert: &[],
};

/// In `extra` of a connector.
pub const EXTRA: KeySet = KeySet {
    name: "`extra` of a connector that leads to the vocoder",
    active: &[
        ("initial_codec_chunk_frames", "Codec frames of the first window, which is heard first."),
        ("codec_chunk_frames", "Codec frames of later windows."),
        ("codec_left_context_frames", "Codec frames before a window that are decoded again with it."),
        ("decode_batch_max_size", "Windows, of different requests, that are decoded in one step."),
    ],
    inert: inert::EXTRA,
};

/// In an entry of `edges`.
pub const EDGE: KeySet = KeySet {
    name: "An entry of `edges`",
    active: &[("from", "A `stage_id`."), ("to", "The `stage_id` that follows.")],
    inert: inert::EDGE,
};

/// In `default_sampling_params`.
pub const SAMPLING: KeySet = KeySet {
    name: "`default_sampling_params`",
    active: &[
        ("temperature", "0 takes the most likely token."),
        ("top_p", "Keeps the smallest set of tokens with this probability."),
        ("top_k", "Keeps so many tokens; 0 and -1 keep all."),
        ("min_p", "Keeps tokens at least so likely relative to the most likely one."),
        ("repetition_penalty", "1 is off."),
        ("presence_penalty", "0 is off."),
        ("frequency_penalty", "0 is off."),
        ("logit_bias", "`{token id: bias}`."),
        ("seed", "Seed of requests that bring none; -1 lets the server choose."),
        ("max_tokens", "The most tokens that are generated."),
        ("min_tokens", "No end before so many tokens."),
        ("ignore_eos", "Go on after the end-of-sequence token."),
        ("stop", "A string, or a list of them, that ends the text."),
        ("stop_token_ids", "Tokens that end it."),
        ("include_stop_str_in_output", "Keep the stop string."),
        ("skip_special_tokens", "Leave special tokens out of the text."),
    ],
    inert: inert::SAMPLING,
};

/// In `subtalker_sampling_params`.
pub const SUBTALKER: KeySet = KeySet {
    name: "`subtalker_sampling_params`",
    active: &[
        ("temperature", "0 takes the most likely code."),
        ("top_k", "Keeps so many codes; 0 and -1 keep all."),
        ("top_p", "Keeps the smallest set of codes with this probability."),
        ("do_sample", "`false` takes the most likely code, whatever the temperature."),
    ],
    inert: &[],
};

/// In `platforms`.
pub const PLATFORMS: KeySet = KeySet {
    name: "`platforms`",
    active: &[("cuda", "Laid over the file when the language model runs on a GPU: `{stages: [...]}`.")],
    inert: inert::PLATFORMS,
};

/// In one platform's overlay.
pub const OVERLAY: KeySet = KeySet {
    name: "An entry of `platforms`",
    active: &[(
        "stages",
        "Entries as above, merged by `stage_id`; those of stages that stay as they are may be missing.",
    )],
    inert: inert::OVERLAY,
};

/// All of them, in the order in which they are documented.
pub const ALL: [KeySet; 9] = [TOP, STAGE, SAMPLING, SUBTALKER, CONNECTOR, EXTRA, EDGE, PLATFORMS, OVERLAY];

impl KeySet {
    /// Refuses keys that nobody knows, and notes those that have no effect.
    pub(super) fn check(&self, mapping: &Mapping, notes: &mut Notes) -> Result<(), DeployError> {
        for entry in mapping.entries() {
            let named = |(name, _): &&Key| *name == entry.key;
            if self.active.iter().any(|key| named(&key)) {
                continue;
            }
            match self.inert.iter().find(named) {
                Some((_, why)) => notes.inert(&entry.key, &entry.source, why),
                None => return Err(self.unknown(entry)),
            }
        }
        Ok(())
    }

    fn unknown(&self, entry: &Entry) -> DeployError {
        let known = self.active.iter().chain(self.inert).map(|(name, _)| *name);
        let nearest = nearest(&entry.key, known);
        entry.error(Problem::UnknownKey { key: entry.key.clone(), nearest }).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation of all keys.
    const GUIDE: &str = include_str!("../../../docs/deployment.md");

    /// The table of a set of keys, as the documentation has it.
    fn table(title: &str, column: &str, keys: &[Key]) -> String {
        let rows = keys.iter().map(|(key, text)| format!("| `{key}` | {text} |\n"));
        format!("### {title}\n\n| key | {column} |\n|---|---|\n{}", rows.collect::<String>())
    }

    #[test]
    fn the_documentation_has_all_keys_and_no_others() {
        let mut keys = 0;
        for set in ALL {
            let active = table(set.name, "meaning", set.active);
            let inert = table(&format!("{}, without effect", set.name), "why", set.inert);
            assert!(GUIDE.contains(&active), "docs/deployment.md should have:\n{active}");
            assert!(
                set.inert.is_empty() || GUIDE.contains(&inert),
                "docs/deployment.md should have:\n{inert}"
            );
            keys += set.active.len() + set.inert.len();
        }
        assert_eq!(GUIDE.lines().filter(|line| line.starts_with("| `")).count(), keys);
    }

    #[test]
    fn no_key_is_listed_twice() {
        for set in ALL {
            let mut names: Vec<_> = set.active.iter().chain(set.inert).map(|(name, _)| name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{}", set.name);
        }
    }
}
