//! Families of one replica of one engine stage, with the names of vLLM's own.

use super::labels::{
    FINISHED_REASON, Label, MODEL_NAME, PROMPT_SOURCE, REPLICA, SLEEP_STATE, STAGE, WAITING_REASON,
};
use super::{Buckets, Definition, Kind, Namespace, Unit, buckets};

const ENGINE: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

/// `num_requests_running`
pub const REQUESTS_RUNNING: Definition = Definition {
    suffix: "num_requests_running",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "Sequences in the batch of the engine.",
    unit: Unit::Requests,
    labels: ENGINE,
    moves: "the replica's scheduler values are published: once a second, and when it becomes idle",
};

/// `num_requests_waiting`
pub const REQUESTS_WAITING: Definition = Definition {
    suffix: "num_requests_waiting",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "Sequences waiting to be scheduled.",
    unit: Unit::Requests,
    labels: ENGINE,
    moves: "the replica's scheduler values are published",
};

/// `num_requests_waiting_by_reason`
pub const REQUESTS_WAITING_BY_REASON: Definition = Definition {
    suffix: "num_requests_waiting_by_reason",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "Sequences waiting to be scheduled, by what they wait for.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, STAGE, REPLICA, WAITING_REASON],
    moves: "the replica's scheduler values are published",
};

/// `kv_cache_usage_perc`
pub const KV_CACHE_USAGE: Definition = Definition {
    suffix: "kv_cache_usage_perc",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "Part of the KV-cache blocks in use; 1 means all of them.",
    unit: Unit::Fraction,
    labels: ENGINE,
    moves: "the replica's scheduler values are published",
};

/// `engine_sleep_state`
pub const ENGINE_SLEEP_STATE: Definition = Definition {
    suffix: "engine_sleep_state",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "1 at the state that the replica is in. Replicas never sleep, so a living one is awake.",
    unit: Unit::State,
    labels: &[MODEL_NAME, STAGE, REPLICA, SLEEP_STATE],
    moves: "a life of the replica begins or ends",
};

/// `prefix_cache_queries_total`
pub const PREFIX_CACHE_QUERIES: Definition = Definition {
    suffix: "prefix_cache_queries_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Tokens looked up in the prefix cache.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request is scheduled for the first time",
};

/// `prefix_cache_hits_total`
pub const PREFIX_CACHE_HITS: Definition = Definition {
    suffix: "prefix_cache_hits_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Tokens found in the prefix cache.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request is scheduled for the first time",
};

/// `num_preemptions_total`
pub const PREEMPTIONS: Definition = Definition {
    suffix: "num_preemptions_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Times a sequence was put back to be computed again.",
    unit: Unit::Preemptions,
    labels: ENGINE,
    moves: "a sequence is preempted",
};

/// `prompt_tokens_total`
pub const PROMPT_TOKENS: Definition = Definition {
    suffix: "prompt_tokens_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Prompt tokens of requests that gave their first output.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request gives its first output",
};

/// `prompt_tokens_by_source_total`
pub const PROMPT_TOKENS_BY_SOURCE: Definition = Definition {
    suffix: "prompt_tokens_by_source_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Prompt tokens by where their keys and values came from.",
    unit: Unit::Tokens,
    labels: &[MODEL_NAME, STAGE, REPLICA, PROMPT_SOURCE],
    moves: "a request gives its first output",
};

/// `prompt_tokens_cached_total`
pub const PROMPT_TOKENS_CACHED: Definition = Definition {
    suffix: "prompt_tokens_cached_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Prompt tokens whose keys and values did not have to be computed.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request gives its first output",
};

/// `generation_tokens_total`
pub const GENERATION_TOKENS: Definition = Definition {
    suffix: "generation_tokens_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Tokens generated.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a step gives output",
};

/// `iteration_tokens_total`; a histogram in spite of its name
pub const ITERATION_TOKENS: Definition = Definition {
    suffix: "iteration_tokens_total",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::ITERATION_TOKENS),
    help: "Tokens of one engine step: prompt tokens computed and tokens generated.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a step gives output",
};

/// `time_to_first_token_seconds`
pub const TIME_TO_FIRST_TOKEN: Definition = Definition {
    suffix: "time_to_first_token_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::TIME_TO_FIRST_TOKEN),
    help: "Seconds from the arrival of a request to its first token.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request gives its first output",
};

/// `inter_token_latency_seconds`
pub const INTER_TOKEN_LATENCY: Definition = Definition {
    suffix: "inter_token_latency_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::INTER_TOKEN_LATENCY),
    help: "Seconds between two outputs of a request.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request gives an output that is not its first",
};

/// `request_success_total`
pub const REQUEST_SUCCESS: Definition = Definition {
    suffix: "request_success_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Requests that ended in this replica, by finished reason.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, STAGE, REPLICA, FINISHED_REASON],
    moves: "a request ends in the replica by itself",
};

/// `corrupted_requests_total`
pub const CORRUPTED_REQUESTS: Definition = Definition {
    suffix: "corrupted_requests_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Requests that failed because the model gave no finite logit.",
    unit: Unit::Requests,
    labels: ENGINE,
    moves: "no token can be chosen for a request",
};

/// `request_prompt_tokens`
pub const REQUEST_PROMPT_TOKENS: Definition = Definition {
    suffix: "request_prompt_tokens",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(Buckets::OneTwoFive),
    help: "Prompt tokens of a request.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_generation_tokens`
pub const REQUEST_GENERATION_TOKENS: Definition = Definition {
    suffix: "request_generation_tokens",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(Buckets::OneTwoFive),
    help: "Tokens generated for a request.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_max_num_generation_tokens`
pub const REQUEST_MAX_GENERATION_TOKENS: Definition = Definition {
    suffix: "request_max_num_generation_tokens",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(Buckets::OneTwoFive),
    help: "Tokens generated for the longest choice of a request.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_params_n`
pub const REQUEST_PARAMS_N: Definition = Definition {
    suffix: "request_params_n",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::CHOICES),
    help: "Parameter n of a request.",
    unit: Unit::Choices,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_params_max_tokens`
pub const REQUEST_PARAMS_MAX_TOKENS: Definition = Definition {
    suffix: "request_params_max_tokens",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(Buckets::OneTwoFive),
    help: "Parameter max_tokens of a request.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request with max_tokens ends in the replica by itself",
};

/// `request_time_per_output_token_seconds`
pub const REQUEST_TIME_PER_OUTPUT_TOKEN: Definition = Definition {
    suffix: "request_time_per_output_token_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::INTER_TOKEN_LATENCY),
    help: "Mean seconds per token of a request after its first; 0 for a request of one token.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `e2e_request_latency_seconds`
pub const E2E_REQUEST_LATENCY: Definition = Definition {
    suffix: "e2e_request_latency_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::REQUEST_LATENCY),
    help: "Seconds from the arrival of a request to its last output in this replica.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_queue_time_seconds`
pub const REQUEST_QUEUE_TIME: Definition = Definition {
    suffix: "request_queue_time_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::REQUEST_LATENCY),
    help: "Seconds from being queued to being scheduled for the first time.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_inference_time_seconds`
pub const REQUEST_INFERENCE_TIME: Definition = Definition {
    suffix: "request_inference_time_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::REQUEST_LATENCY),
    help: "Seconds from being scheduled to the last token.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_prefill_time_seconds`
pub const REQUEST_PREFILL_TIME: Definition = Definition {
    suffix: "request_prefill_time_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::REQUEST_LATENCY),
    help: "Seconds from being scheduled to the first token.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_decode_time_seconds`
pub const REQUEST_DECODE_TIME: Definition = Definition {
    suffix: "request_decode_time_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::REQUEST_LATENCY),
    help: "Seconds from the first to the last token.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_num_preemptions`
pub const REQUEST_PREEMPTIONS: Definition = Definition {
    suffix: "request_num_preemptions",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::PREEMPTIONS),
    help: "Times a request was preempted.",
    unit: Unit::Preemptions,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// `request_prefill_kv_computed_tokens`
pub const REQUEST_PREFILL_COMPUTED_TOKENS: Definition = Definition {
    suffix: "request_prefill_kv_computed_tokens",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(Buckets::OneTwoFive),
    help: "Prompt tokens of a request whose keys and values were computed in prefill.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "a request ends in the replica by itself",
};

/// Every family of engine stages, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[
    &REQUESTS_RUNNING,
    &REQUESTS_WAITING,
    &REQUESTS_WAITING_BY_REASON,
    &KV_CACHE_USAGE,
    &ENGINE_SLEEP_STATE,
    &PREFIX_CACHE_QUERIES,
    &PREFIX_CACHE_HITS,
    &PREEMPTIONS,
    &CORRUPTED_REQUESTS,
    &PROMPT_TOKENS,
    &PROMPT_TOKENS_BY_SOURCE,
    &PROMPT_TOKENS_CACHED,
    &GENERATION_TOKENS,
    &ITERATION_TOKENS,
    &TIME_TO_FIRST_TOKEN,
    &INTER_TOKEN_LATENCY,
    &REQUEST_SUCCESS,
    &REQUEST_PROMPT_TOKENS,
    &REQUEST_GENERATION_TOKENS,
    &REQUEST_MAX_GENERATION_TOKENS,
    &REQUEST_PARAMS_N,
    &REQUEST_PARAMS_MAX_TOKENS,
    &REQUEST_TIME_PER_OUTPUT_TOKEN,
    &E2E_REQUEST_LATENCY,
    &REQUEST_QUEUE_TIME,
    &REQUEST_INFERENCE_TIME,
    &REQUEST_PREFILL_TIME,
    &REQUEST_DECODE_TIME,
    &REQUEST_PREEMPTIONS,
    &REQUEST_PREFILL_COMPUTED_TOKENS,
];
