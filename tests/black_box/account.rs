//! The account of requests on the page: what holds on every page, from each page to the next, and at rest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use omni_actors::actors::messages::Held;

use crate::page::Page;
use crate::server::ServerThread;

/// How long the server may take to become quiet when all clients are done.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ACCEPTED: &str = "vllm:omni_requests_accepted_total";
const RUNNING: &str = "vllm:omni_num_requests_running";
const WAITING: &str = "vllm:omni_num_requests_waiting";
pub(crate) const ENDED: &str = "vllm:omni_requests_success_total";
pub(crate) const FAILED: &str = "vllm:omni_requests_failed_total";
pub(crate) const E2E: &str = "vllm:omni_e2e_request_latency_s_count";
const NOTHING: Held = Held { requests: 0, bindings: 0, jobs: 0 };

/// What holds on every page, whenever it is scraped: every accepted request is running, waiting or ended, and by its end it
/// is either detailed as failed or has a latency.
fn assert_conserved(page: &Page) {
    let ended = |reasons: [&str; 2]| {
        reasons
            .map(|reason| page.sum_where(ENDED, &format!("finished_reason=\"{reason}\"")))
            .iter()
            .sum::<f64>()
    };
    let accounted = page.sum(RUNNING) + page.sum(WAITING) + page.sum(ENDED);
    assert_eq!(page.sum(ACCEPTED), accounted, "{}", page.text);
    assert_eq!(page.sum(FAILED), ended(["abort", "error"]), "{}", page.text);
    assert_eq!(page.sum(E2E), ended(["stop", "length"]), "{}", page.text);
}

/// Asserts that no counter and no bucket went down from one page to the next, or is gone.
fn assert_only_up(before: &Page, after: &Page) {
    let later: BTreeMap<_, _> =
        after.samples.iter().map(|(name, labels, value)| ((name, labels), *value)).collect();
    let is_gauge = |name: &String| before.types.get(name).is_some_and(|kind| kind == "gauge");
    for (name, labels, value) in before.samples.iter().filter(|(name, _, _)| !is_gauge(name)) {
        let now = later.get(&(name, labels));
        assert!(now.is_some_and(|now| now >= value), "{name}{{{labels} was {value} and is {now:?}");
    }
}

/// Scrapes for as long as `work` takes, checks every page, and returns what `work` gave with the number of pages on
/// which requests were running.
pub(crate) fn under_scrapes<T: Send>(server: SocketAddr, work: impl FnOnce() -> T + Send) -> (T, usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut before, mut busy) = (Page::of(server), 0);
            while !over.load(Ordering::Relaxed) {
                let page = Page::of(server);
                assert_conserved(&page);
                assert_only_up(&before, &page);
                busy += usize::from(page.sum(RUNNING) > 0.0);
                before = page;
                thread::sleep(Duration::from_millis(10));
            }
            (before, busy)
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        let (last, busy) = scraper.join().expect("every page is right");
        assert_only_up(&last, &Page::of(server));
        (result, busy)
    })
}

/// Waits until a page is as it should be.
pub(crate) fn await_page(server: SocketAddr, what: &str, is_right: impl Fn(&Page) -> bool) -> Page {
    let until = Instant::now() + PATIENCE;
    loop {
        let page = Page::of(server);
        assert_conserved(&page);
        if is_right(&page) {
            return page;
        }
        assert!(Instant::now() < until, "{what}: {}", page.text);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the server holds nothing and all of its replicas live, and returns a page that shows it at rest.
pub(crate) fn page_at_rest(server: &ServerThread) -> Page {
    let until = Instant::now() + PATIENCE;
    while server.held() != NOTHING {
        assert!(Instant::now() < until, "still held: {:?}", server.held());
        thread::sleep(Duration::from_millis(5));
    }
    await_page(server.address, "it does not come to rest", |page| {
        let all_live = page
            .samples
            .iter()
            .filter(|(name, _, _)| name == "vllm:omni_replica_up")
            .all(|(_, _, up)| *up == 1.0);
        let gauges = [
            RUNNING,
            WAITING,
            "vllm:omni_stage_waiting_requests",
            "vllm:omni_stage_queue_depth",
            "vllm:omni_stage_inflight_requests",
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:num_requests_waiting_by_reason",
            "vllm:kv_cache_usage_perc",
        ];
        all_live && gauges.iter().all(|gauge| page.sum(gauge) == 0.0)
    })
}
