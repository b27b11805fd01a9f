//! Any number of HTTP threads counts alike: the same requests, queued in the same order, give the same counts.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::gate::Gate;
use crate::page::Page;
use crate::server::ServerThread;

const REQUESTS: usize = 200;
/// How long the page may take to tell of everything when all answers are there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cache of 32 blocks of 32 KiB, which is 512 tokens: far too few for all of them at once.
const OPTIONS: [&str; 4] = [
    "--log-stats",
    "--enable-mfu-metrics",
    "--stage-overrides",
    r#"{"0": {"kv_cache_memory_bytes": 1048576, "max_model_len": 512}}"#,
];

/// Totals that need not be the same.
const OTHERWISE: [(&str, &str); 3] = [
    ("process_cpu_seconds_total", "it is a time"),
    ("vllm:omni_metrics_events_total", "replicas report every 20 ms, however many steps that are"),
    ("http_requests_total", "it is told when a response has left, which its client may notice before"),
];

/// Histograms that count tokens and choices, and so must be the same.
const COUNTED: [&str; 7] = [
    "vllm:iteration_tokens_total",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_params_n",
    "vllm:request_params_max_tokens",
    "vllm:request_num_preemptions",
];

/// What a run came to.
#[derive(Debug)]
struct Run {
    page: Page,
    /// Tokens that each step gave, of those that gave some, as the stage gave them out.
    steps: Vec<usize>,
    /// Tokens of all prompts, as clients were told.
    prompts: f64,
    /// Tokens of all answers.
    answers: f64,
}

/// Prompts and answers of different lengths; some answers end by themselves, some requests want two.
fn request(number: usize) -> Value {
    let more = " and on".repeat(number % 5);
    let streamed = number.is_multiple_of(3);
    json!({
        "messages": [
            {"role": "system", "content": "tell me what a stage is, please"},
            {"role": "user", "content": format!("{number}{more}")},
        ],
        "temperature": if number.is_multiple_of(2) { 0.0 } else { 1.0 },
        "seed": number,
        "max_tokens": 1 + number * 37 % 17,
        "ignore_eos": !number.is_multiple_of(5),
        "n": if number % 10 == 9 { 2 } else { 1 },
        "stream": streamed,
        "stream_options": if streamed { json!({"include_usage": true}) } else { Value::Null },
    })
}

/// Queues all requests before a stage that is held up, one after the other, then lets it go.
fn run(threads: &str) -> Run {
    let (gate, registry) = Gate::before("thinker");
    let server =
        ServerThread::start_with(registry, &[&OPTIONS[..], &["--api-server-count", threads]].concat());
    let queue = |number| {
        let connection = client::begin(server.address, CHAT, &request(number));
        gate.await_taken(number + 1);
        connection
    };
    let connections: Vec<_> = (0..REQUESTS).map(queue).collect();
    assert_eq!(server.held().requests, REQUESTS);
    assert_eq!(Page::of(server.address).sum("vllm:generation_tokens_total"), 0.0);
    gate.open();

    let (mut prompts, mut answers) = (0.0, 0.0);
    for (number, connection) in connections.into_iter().enumerate() {
        let reply = connection.finish().expect("a whole response");
        assert_eq!(reply.status, 200, "{reply:?}");
        let streamed = number.is_multiple_of(3);
        let last = if streamed { reply.events().pop().expect("events") } else { reply.json() };
        let count = |name: &str| last["usage"][name].as_f64().expect("a count");
        prompts += count("prompt_tokens");
        answers += count("completion_tokens");
    }
    // The end of the last request and the last report of the stage come by different ways.
    let until = Instant::now() + PATIENCE;
    let page = loop {
        let page = Page::of(server.address);
        let total = |name: &str| page.sum_where(name, "stage=\"0\"");
        if page.sum("vllm:omni_generation_tokens_total") == answers
            && total("vllm:generation_tokens_total") == answers
        {
            break page;
        }
        assert!(Instant::now() < until, "{answers} tokens, but {}", page.text);
        thread::sleep(Duration::from_millis(5));
    };
    Run { page, steps: gate.steps(), prompts, answers }
}

/// Everything on a page that counts and is no time.
fn counts(page: &Page) -> BTreeMap<(&str, &str), f64> {
    let is_counted = |name: &str| match page.types.get(name).map(String::as_str) {
        Some("counter") => !OTHERWISE.iter().any(|(otherwise, _)| *otherwise == name),
        Some(_) => false,
        None => {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            series.is_some_and(|family| COUNTED.contains(&family))
        }
    };
    let counted = page.samples.iter().filter(|(name, _, _)| is_counted(name));
    counted.map(|(name, labels, value)| ((name.as_str(), labels.as_str()), *value)).collect()
}

/// Asserts that the page tells what clients got, and of the steps that the stage made.
fn assert_true(Run { page, steps, prompts, answers }: &Run) {
    let total = |name: &str| page.sum_where(name, "stage=\"0\"");
    assert_eq!(page.sum("vllm:omni_requests_success_total"), REQUESTS as f64);
    assert_eq!(page.sum("vllm:omni_prompt_tokens_total"), *prompts);
    assert_eq!(total("vllm:prompt_tokens_total"), *prompts);
    assert_eq!(steps.iter().sum::<usize>() as f64, *answers);
    assert!(total("vllm:num_preemptions_total") > 0.0, "the cache holds all of them");
    let cached = total("vllm:prompt_tokens_cached_total");
    assert!(cached > 0.0, "all prompts begin alike");
    assert_eq!(total("vllm:iteration_tokens_total_sum"), prompts + answers - cached);
    assert_eq!(total("vllm:iteration_tokens_total_count"), steps.len() as f64);
}

#[test]
fn counts_are_the_same_with_any_number_of_http_threads_and_are_those_of_clients_and_steps() {
    let [one, four, sixteen] = ["1", "4", "16"].map(run);
    assert_true(&one);
    let due = counts(&one.page);
    assert!(due.len() > 100, "{due:#?}");
    for (other, threads) in [(four, 4), (sixteen, 16)] {
        assert_true(&other);
        assert_eq!(other.steps, one.steps, "{threads} threads: the schedule differs");
        let differing: Vec<_> = counts(&other.page)
            .into_iter()
            .filter(|(series, value)| due.get(series) != Some(value))
            .collect();
        assert!(differing.is_empty(), "{threads} threads: {differing:#?}");
        assert_eq!(counts(&other.page).len(), due.len());
    }
    for (otherwise, why) in OTHERWISE {
        assert!(one.page.has(otherwise), "{otherwise}, left out because {why}, is no family");
    }
}
