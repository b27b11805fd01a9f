//! What a real Prometheus server knows of a run after scraping it in both formats: what the clients measured.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use omni_actors::metrics::definitions::{engine, pipeline};
use omni_actors::stages::{Output, Stage, StageError, StageEvent, StageInput, StageOutput, StageRequest};
use omni_actors::{Registry, RequestId};
use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::prometheus_server::PrometheusServer;
use crate::scrape_relay::ScrapeRelay;
use crate::server::ServerThread;
use crate::surrounded::{Surroundings, surround};

/// The jobs of the Prometheus server: one is given the classic text, the other what it prefers.
const JOBS: [&str; 2] = ["text", "open_metrics"];
/// Requests of the run, and how many of them are under way at once.
const REQUESTS: usize = 16;
const CONCURRENCY: usize = 3;
/// Which quantiles are asked for.
const QUANTILES: [f64; 3] = [0.25, 0.5, 0.9];
/// The longest sequence of the demo's thinker.
const MAX_MODEL_LEN: u64 = 4096;
/// Counts are whole numbers, and what is computed from them is off by rounding alone.
const ROUNDING: f64 = 1e-9;

/// What a client saw of its request.
#[derive(Debug, Clone)]
struct Seen {
    number: usize,
    prompt_tokens: u64,
    tokens: u64,
    finish: String,
    /// Before it was sent.
    began: Instant,
    /// When something was there that comes with the first token or later. Only who reads a stream sees that.
    first: Option<Instant>,
    /// When the whole answer was there.
    ended: Instant,
}

/// What happened to the requests within the server, by their numbers, as the stages' surroundings saw it.
#[derive(Debug, Default)]
struct Within {
    numbers: Mutex<HashMap<RequestId, usize>>,
    requests: Mutex<BTreeMap<usize, Moments>>,
}

/// Moments of one request.
#[derive(Debug, Clone, Copy)]
struct Moments {
    /// A stage was about to take it.
    came: Instant,
    /// Before and after the outputs of the step were made that gave the first token.
    first: Option<[Instant; 2]>,
    /// Before the outputs of the step were made that ended it, in the stage that was the last to do so.
    ended: Option<Instant>,
}

impl Surroundings for Arc<Within> {
    fn comes(&mut self, request: &StageRequest) -> Result<(), StageError> {
        let came = Instant::now();
        let (StageInput::Prompt(prompt) | StageInput::Upstream(prompt)) = &request.input;
        let number = prompt.text.split("what is stage ").nth(1).and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        });
        let number = number.expect("a number in the question");
        self.numbers.lock().expect("nobody panicked").insert(request.id, number);
        let mut requests = self.requests.lock().expect("nobody panicked");
        requests.entry(number).or_insert(Moments { came, first: None, ended: None });
        Ok(())
    }

    fn gave(
        &mut self,
        asked: Instant,
        outputs: &mut Vec<StageOutput>,
        _: &mut dyn Stage,
    ) -> Result<(), StageError> {
        let numbers = self.numbers.lock().expect("nobody panicked");
        let mut requests = self.requests.lock().expect("nobody panicked");
        for StageOutput { request, event } in outputs {
            let moments = numbers.get(request).and_then(|number| requests.get_mut(number));
            let moments = moments.expect("it came before");
            match event {
                StageEvent::Client(Output::Text(_)) => {
                    moments.first.get_or_insert([asked, Instant::now()]);
                }
                StageEvent::Finished(_) => moments.ended = Some(asked),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Written and spoken answers, in one piece and streamed; those that are written are of very different lengths.
fn request(number: usize) -> Value {
    let streamed = number.is_multiple_of(2);
    let mut request = json!({
        "messages": [{"role": "user", "content": format!("what is stage {number}")}],
        "stream": streamed,
        "stream_options": if streamed { json!({"include_usage": true}) } else { Value::Null },
    });
    if number % 4 < 2 {
        request["max_tokens"] = json!(1 + number * number);
        request["ignore_eos"] = json!(true);
    } else {
        request["modalities"] = json!(["text", "audio"]);
        request["max_tokens"] = json!(number);
    }
    request
}

/// Sends a request and measures it.
fn measure(server: SocketAddr, number: usize) -> Seen {
    let request = request(number);
    let began = Instant::now();
    let mut connection = client::begin(server, CHAT, &request);
    let streamed = request["stream"] == true;
    let first = streamed.then(|| {
        // The first event tells the role and comes before any token.
        connection.read_events(2);
        Instant::now()
    });
    let reply = connection.finish().expect("a whole response");
    let ended = Instant::now();
    assert_eq!(reply.status, 200, "{reply:?}");
    let parts = if streamed { reply.events() } else { vec![reply.json()] };
    let usage = &parts.last().expect("a part")["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    let finish = parts.iter().filter_map(|part| part["choices"][0]["finish_reason"].as_str()).next_back();
    Seen {
        number,
        prompt_tokens: count("prompt_tokens"),
        tokens: count("completion_tokens"),
        finish: finish.expect("it ends").to_owned(),
        began,
        first,
        ended,
    }
}

/// Sends all requests, a few at a time.
fn run(server: SocketAddr) -> Vec<Seen> {
    let client = |first: usize| {
        let numbers = (first..REQUESTS).step_by(CONCURRENCY);
        numbers.map(|number| measure(server, number)).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONCURRENCY).map(|first| scope.spawn(move || client(first))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("the client is content")).collect()
    })
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64()
}

/// The bucket of a value: its bounds.
fn bucket(bounds: &[f64], value: f64) -> (f64, f64) {
    let upper = bounds.iter().position(|bound| value <= *bound).expect("no value is in the last bucket");
    (if upper == 0 { 0.0 } else { bounds[upper - 1] }, bounds[upper])
}

/// The value that as many are not above as a quantile says.
fn ranked(values: &[f64], quantile: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (quantile * values.len() as f64).ceil() as usize;
    values[rank.max(1) - 1]
}

/// What `histogram_quantile` makes of a histogram of these values: the values of a bucket are taken to lie evenly in it.
fn histogram_quantile(bounds: &[f64], values: &[f64], quantile: f64) -> f64 {
    let (lower, upper) = bucket(bounds, ranked(values, quantile));
    let below = |bound: f64| values.iter().filter(|value| **value <= bound).count() as f64;
    let before = if lower == 0.0 { 0.0 } else { below(lower) };
    let part = (quantile * values.len() as f64 - before) / (below(upper) - before);
    lower + (upper - lower) * part
}

/// The counters of the run with what they must be.
fn counters(seen: &[Seen]) -> Vec<(String, f64)> {
    let total = |count: fn(&Seen) -> u64| seen.iter().map(count).sum::<u64>() as f64;
    let mut due = vec![
        ("vllm:omni_requests_accepted_total".to_owned(), seen.len() as f64),
        ("vllm:omni_e2e_request_latency_s_count".to_owned(), seen.len() as f64),
        ("vllm:omni_prompt_tokens_total".to_owned(), total(|seen| seen.prompt_tokens)),
        ("vllm:prompt_tokens_total{stage=\"0\"}".to_owned(), total(|seen| seen.prompt_tokens)),
        ("vllm:generation_tokens_total{stage=\"0\"}".to_owned(), total(|seen| seen.tokens)),
        ("vllm:request_generation_tokens_sum{stage=\"0\"}".to_owned(), total(|seen| seen.tokens)),
        ("http_request_duration_highr_seconds_count".to_owned(), seen.len() as f64),
    ];
    for reason in ["stop", "length", "abort", "error"] {
        let count = seen.iter().filter(|seen| seen.finish == reason).count();
        due.push((format!("vllm:omni_requests_success_total{{finished_reason=\"{reason}\"}}"), count as f64));
    }
    due
}

/// Asserts that both jobs have a value, and that it is this but for rounding.
fn assert_both(prometheus: &PrometheusServer, query: &str, due: f64) {
    let values = prometheus.query(query);
    assert_eq!(values.len(), JOBS.len(), "{query}: {values:?}");
    for (job, value) in values {
        assert!((value - due).abs() <= ROUNDING * due.max(1.0), "{query} of {job}: {value}, not {due}");
    }
}

/// The last scrape of each job, seconds since 1970.
fn last_scrape(prometheus: &PrometheusServer) -> BTreeMap<String, f64> {
    prometheus.query("timestamp(up) and up == 1")
}

#[test]
fn a_prometheus_server_knows_what_clients_measured_from_either_format() {
    let within = Arc::new(Within::default());
    let mut registry = Registry::new();
    for stage in ["thinker", "talker", "code2wav"] {
        let within = within.clone();
        surround(&mut registry, stage, move || within.clone());
    }
    let server = ServerThread::start_with(registry, &["--log-stats"]);
    let text = ScrapeRelay::start(server.address, Some("text/plain"));
    let open_metrics = ScrapeRelay::start(server.address, None);
    let addresses = [text.address, open_metrics.address];
    let jobs: Vec<_> = JOBS.into_iter().zip(addresses).collect();
    let Some(prometheus) = PrometheusServer::start(&jobs) else {
        let _ =
            writeln!(std::io::stdout().lock(), "prometheus is not installed: nothing was scraped with it");
        return;
    };

    // What is counted before the first scrape would be no increase.
    prometheus.await_query("up", JOBS.len(), |up| up == 1.0);
    let began = last_scrape(&prometheus).into_values().fold(0.0, f64::max);
    let seen = run(server.address);
    assert_eq!(seen.len(), REQUESTS);
    let counters = counters(&seen);
    for (counter, due) in &counters {
        prometheus.await_query(counter, JOBS.len(), |value| value == *due);
    }

    // Everything is counted; from here on the last scrape of each job is one that began after that.
    let quiet = unix_seconds();
    prometheus.await_query("timestamp(up) and up == 1", JOBS.len(), |scraped| scraped > quiet);
    for (counter, due) in &counters {
        assert_both(&prometheus, counter, *due);
    }
    assert_scrapes_are_sound(&prometheus);
    assert_eq!(
        text.content_types().into_iter().collect::<Vec<_>>(),
        ["text/plain; version=0.0.4; charset=utf-8"]
    );
    assert_eq!(
        open_metrics.content_types().into_iter().collect::<Vec<_>>(),
        ["application/openmetrics-text; version=1.0.0; charset=utf-8"]
    );

    assert_rates(&prometheus, &counters, began);
    assert_token_quantiles(&prometheus, &seen);
    assert_time_quantiles(&prometheus, &seen, &within);
}

/// Asserts that nothing was wrong with the last scrapes, and that both formats have the same samples.
fn assert_scrapes_are_sound(prometheus: &PrometheusServer) {
    let targets = prometheus.api("targets?state=active");
    let targets = targets["activeTargets"].as_array().expect("targets");
    assert_eq!(targets.len(), JOBS.len());
    for target in targets {
        assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{target}");
    }
    let samples = prometheus.query("scrape_samples_scraped");
    assert_eq!(samples.len(), JOBS.len());
    assert!(samples["text"] > 500.0 && samples["text"] == samples["open_metrics"], "{samples:?}");
}

/// Asserts that counters grew by what was counted, however it is asked for.
///
/// `increase` guesses how a counter went on before the first and after the last sample of its range. Evaluated at the
/// moment of the last scrape nothing lies after that, and nothing was before a first sample of 0, so it is exact.
fn assert_rates(prometheus: &PrometheusServer, counters: &[(String, f64)], began: f64) {
    for (job, ended) in last_scrape(prometheus) {
        let of_job = |counter: &str| match counter.strip_suffix('}') {
            Some(labelled) => format!("{labelled},job=\"{job}\"}}"),
            None => format!("{counter}{{job=\"{job}\"}}"),
        };
        for (counter, due) in counters {
            let counter = of_job(counter);
            let grown = [
                (format!("increase({counter}[10m] @ {ended:.3})"), *due),
                (format!("600 * rate({counter}[10m] @ {ended:.3})"), *due),
                (format!("{counter} @ {ended:.3} - {counter} @ {began:.3}"), *due),
                (
                    format!("({counter} @ {ended:.3} - {counter} @ {began:.3}) / ({ended:.3} - {began:.3})"),
                    due / (ended - began),
                ),
            ];
            for (query, due) in grown {
                let value = prometheus.query(&query)[&job];
                assert!((value - due).abs() <= 1e-6 * due.max(1.0), "{query}: {value}, not {due}");
            }
        }
    }
}

/// Asserts that quantiles of counts of tokens are those of the counts that clients got.
fn assert_token_quantiles(prometheus: &PrometheusServer, seen: &[Seen]) {
    let counts = |count: fn(&Seen) -> u64| seen.iter().map(|seen| count(seen) as f64).collect::<Vec<_>>();
    for (family, values) in [
        (&engine::REQUEST_PROMPT_TOKENS, counts(|seen| seen.prompt_tokens)),
        (&engine::REQUEST_GENERATION_TOKENS, counts(|seen| seen.tokens)),
    ] {
        let (bounds, name) = (family.bounds(MAX_MODEL_LEN), family.name(""));
        for quantile in QUANTILES {
            let query = format!("histogram_quantile({quantile}, {name}_bucket{{stage=\"0\"}})");
            assert_both(prometheus, &query, histogram_quantile(&bounds, &values, quantile));
        }
    }
}

/// Asserts that quantiles of times lie within the buckets that clients' own do.
///
/// A client's time holds the server's: it begins before the request is sent and ends when the answer is there. The server's
/// holds what was seen within it. There are as many requests in all three, so the value of each rank, too, lies between those
/// of that rank within and outside; and so does its bucket, however slow the machine is at the moment. Of an answer in one
/// piece no client sees the first token; when it left its stage stands for that.
fn assert_time_quantiles(prometheus: &PrometheusServer, seen: &[Seen], within: &Within) {
    let within = within.requests.lock().expect("nobody panicked");
    assert_eq!((seen.len(), within.len()), (REQUESTS, REQUESTS));
    let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
    let (mut e2e, mut first_token) = (Vec::new(), Vec::new());
    for Seen { number, began, first, ended, .. } in seen {
        let inner = within[number];
        e2e.push((seconds(inner.came, inner.ended.expect("it ended")), seconds(*began, *ended)));
        let [before, after] = inner.first.expect("it has a token");
        first_token.push((seconds(inner.came, before), seconds(*began, first.unwrap_or(after))));
    }
    for (family, series, times) in [
        (&pipeline::E2E_REQUEST_LATENCY, "vllm:omni_e2e_request_latency_s_bucket", e2e),
        (&engine::TIME_TO_FIRST_TOKEN, "vllm:time_to_first_token_seconds_bucket{stage=\"0\"}", first_token),
    ] {
        let (inside, outside): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        let bounds = family.bounds(MAX_MODEL_LEN);
        for quantile in QUANTILES {
            let (lowest, _) = bucket(&bounds, ranked(&inside, quantile));
            let (_, highest) = bucket(&bounds, ranked(&outside, quantile));
            let values = prometheus.query(&format!("histogram_quantile({quantile}, {series})"));
            assert_eq!(values.len(), JOBS.len());
            for (job, value) in values {
                assert!(
                    value > lowest && value <= highest,
                    "{series} of {job}, quantile {quantile}: {value} is not in ({lowest}, {highest}]"
                );
            }
        }
    }
}
