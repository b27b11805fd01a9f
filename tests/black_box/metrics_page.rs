//! `/metrics` as a scraper sees it: with statistics, without, and from two servers in one process.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use omni_actors::metrics::definitions::{DEFAULT_OMNI_PREFIX, Definition, ENGINE_PREFIX, engine, pipeline};
use serde_json::json;

use crate::client::{self, CHAT};
use crate::page::Page;
use crate::server::{ServerProcess, ServerThread};

/// What promtool says of names that were given to us: of the colon in all of them, …
const COLON: &str = "metric names should not contain ':'";
/// … of those that end in `_s`, …
const ABBREVIATED: &str = "metric names should not contain abbreviated units";
/// … and of a histogram that is named like a counter.
const TOTAL: &str = "vllm:iteration_tokens_total non-counter metrics should not have \"_total\" suffix";

fn ask(server: &ServerThread) {
    let body = json!({"messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(client::post(server.address, CHAT, &body).status, 200);
}

/// Asserts that the page has a family as it is defined.
fn assert_declared(page: &Page, definition: &Definition, prefix: &str) {
    let name = definition.name(prefix);
    assert_eq!(page.types.get(&name).map(String::as_str), Some(definition.kind.as_str()), "{name}");
    assert_eq!(page.helps.get(&name).map(String::as_str), Some(definition.help), "{name}");
}

#[test]
fn without_statistics_pipeline_families_stand_there_with_zeros_and_engine_families_do_not() {
    let server = ServerThread::start(&[]);
    ask(&server);
    let page = Page::of(server.address);
    for definition in pipeline::ALL {
        assert_declared(&page, definition, DEFAULT_OMNI_PREFIX);
    }
    for definition in engine::ALL {
        assert!(!page.has(&definition.name(DEFAULT_OMNI_PREFIX)), "{}", definition.suffix);
    }
    assert!(
        page.sum("vllm:omni_requests_accepted_total") == 0.0,
        "a family without labels to wait for shows a zero"
    );
    for (name, labels, value) in page.samples.iter().filter(|(name, _, _)| !name.starts_with("process_")) {
        assert_eq!(*value, 0.0, "{name}{{{labels}");
    }
    assert!(!page.has("http_requests_total"));
}

#[test]
fn with_statistics_all_families_are_there_and_requests_move_them() {
    let server = ServerThread::start(&["--log-stats", "--served-model-name", "first", "second"]);
    ask(&server);
    let page = Page::of(server.address);
    for definition in pipeline::ALL.iter().chain(engine::ALL) {
        assert_declared(&page, definition, DEFAULT_OMNI_PREFIX);
    }
    for (name, labels, _) in page.samples.iter().filter(|(name, _, _)| name.starts_with(ENGINE_PREFIX)) {
        assert!(labels.contains("model_name=\"first\""), "{name}{{{labels}");
        if !name.starts_with(DEFAULT_OMNI_PREFIX) {
            assert!(labels.contains("stage=\"") && labels.contains("replica=\""), "{name}{{{labels}");
        }
    }
    for moved in [
        "vllm:omni_requests_accepted_total",
        "vllm:omni_e2e_request_latency_s_count",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:iteration_tokens_total_count",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count",
        "vllm:request_success_total",
    ] {
        assert!(page.sum(moved) > 0.0, "{moved} has not moved");
    }
}

#[test]
fn the_prefix_of_pipeline_families_is_an_option() {
    let server = ServerThread::start(&["--metrics-omni-prefix", "vllm_omni:"]);
    let page = Page::of(server.address);
    for definition in pipeline::ALL {
        assert_declared(&page, definition, "vllm_omni:");
        assert!(!page.has(&definition.name(DEFAULT_OMNI_PREFIX)));
    }
}

#[test]
fn servers_in_one_process_do_not_count_for_each_other() {
    let (one, other) = (ServerThread::start(&["--log-stats"]), ServerThread::start(&["--log-stats"]));
    for _ in 0..3 {
        ask(&one);
    }
    ask(&other);
    let (one, other) = (Page::of(one.address), Page::of(other.address));
    assert_eq!(one.sum("vllm:omni_requests_success_total"), 3.0);
    assert_eq!(other.sum("vllm:omni_requests_success_total"), 1.0);
    assert_eq!(one.sum("vllm:generation_tokens_total"), 3.0 * other.sum("vllm:generation_tokens_total"));
}

#[test]
fn a_refused_request_is_counted_with_its_reason() {
    let server = ServerThread::start(&["--log-stats"]);
    let reply = client::post(server.address, CHAT, &json!({"messages": [], "max_tokens": 1})).json();
    let reason = reply["error"]["reason"].as_str().expect("a reason");
    let page = Page::of(server.address);
    assert_eq!(page.sum_where("vllm:omni_requests_rejected_total", &format!("reason=\"{reason}\"")), 1.0);
    assert_eq!(page.sum("vllm:omni_requests_accepted_total"), 0.0);
}

/// What promtool finds on a page; none if it is not installed.
fn promtool(page: &Page) -> Option<Vec<String>> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        child => child.expect("promtool can be run"),
    };
    child.stdin.take().expect("a pipe").write_all(page.text.as_bytes()).expect("promtool reads the page");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).lines().map(str::to_owned).collect())
}

/// Has promtool check a page, if it is installed.
pub(crate) fn assert_nothing_but_what_is_forced(page: &Page) {
    let Some(findings) = promtool(page) else {
        let _ =
            writeln!(std::io::stdout().lock(), "promtool is not installed: the page was not checked with it");
        return;
    };
    // Every name of our own has a colon, so that silence would mean that promtool did not read the page.
    assert!(!findings.is_empty());
    for finding in findings {
        let (name, said) = finding.split_once(' ').unwrap_or_else(|| panic!("{finding}"));
        let forced = (name.starts_with(ENGINE_PREFIX) && said == COLON)
            || (name.ends_with("_s") && said == ABBREVIATED)
            || finding == TOTAL;
        assert!(forced, "{finding}");
    }
}

#[test]
fn promtool_finds_nothing_but_what_the_names_force() {
    for arguments in [&[] as &[&str], &["--log-stats"]] {
        let server = ServerProcess::start(arguments);
        let body = json!({"messages": [{"role": "user", "content": "hello"}]});
        assert_eq!(client::post(server.address, CHAT, &body).status, 200);
        let page = Page::of(server.address);
        assert_nothing_but_what_is_forced(&page);
    }
}
