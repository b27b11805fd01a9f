//! Every family moves: what is registered is fed by what happens, and not only by what tests feed it with.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use omni_actors::Registry;
use omni_actors::metrics::StatEvent;
use omni_actors::metrics::definitions::{self, DEFAULT_OMNI_PREFIX};
use serde_json::{Value, json};

use crate::checkpoint_copy::CheckpointCopy;
use crate::client::{self, CHAT, COMPLETIONS};
use crate::gate::Gate;
use crate::page::Page;
use crate::server::ServerThread;
use crate::tiny_cache::TINY;
use crate::troubled::{Broken, Trouble, trouble_stage};

/// A family that has not moved after this long never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that the server holds at most, and prompts of a call.
const MOST_REQUESTS: usize = 1024;
const MOST_PROMPTS: usize = 256;

const MAILBOX_DEPTH: &str = "vllm:omni_metrics_mailbox_depth";

/// What the server has no such thing for, with what the definitions say of when it moves.
const NEVER: [(&str, &str); 4] = [
    ("vllm:external_prefix_cache_queries_total", "never: replicas keep keys and values for themselves"),
    ("vllm:external_prefix_cache_hits_total", "never: replicas keep keys and values for themselves"),
    ("vllm:mm_cache_queries_total", "a request with media is taken; 0 while the model takes none"),
    ("vllm:mm_cache_hits_total", "a request with media is taken; 0 while the model takes none"),
];

/// The families that were seen with something else than 0.
#[derive(Debug, Default)]
struct Moved(BTreeSet<String>);

impl Moved {
    /// Takes in a page.
    fn note(&mut self, page: &Page) {
        for (name, _, _) in page.samples.iter().filter(|(_, _, value)| *value > 0.0) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_histogram =
                |family: &&str| page.types.get(*family).is_some_and(|kind| kind == "histogram");
            self.0.insert(family.filter(is_histogram).unwrap_or(name).to_owned());
        }
    }

    /// Scrapes until these families have moved.
    fn until(&mut self, server: SocketAddr, families: &[&str]) -> Page {
        let missing = |moved: &Self| {
            families.iter().filter(|family| !moved.0.contains(**family)).copied().collect::<Vec<_>>()
        };
        self.until_page(server, |moved, _| missing(moved))
    }

    /// Scrapes until nothing is missing any more.
    fn until_page<'a>(&mut self, server: SocketAddr, missing: impl Fn(&Self, &Page) -> Vec<&'a str>) -> Page {
        let until = Instant::now() + PATIENCE;
        loop {
            let page = Page::of(server);
            self.note(&page);
            let missing = missing(self, &page);
            if missing.is_empty() {
                return page;
            }
            assert!(Instant::now() < until, "{missing:?} do not move: {}", page.text);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A question that is long enough for its beginning to be found in the cache.
fn question(text: &str, tokens: usize) -> Value {
    json!({
        "messages": [
            {"role": "system", "content": "Say what a stage is, and what it is for, in a word or two."},
            {"role": "user", "content": text},
        ],
        "max_tokens": tokens,
        "ignore_eos": true,
    })
}

/// The same, to be answered aloud with so few codec frames that they are one packet, which cannot be late.
fn spoken(text: &str, tokens: usize) -> Value {
    let mut question = question(text, tokens);
    question["modalities"] = json!(["text", "audio"]);
    question["sampling_params_list"] = json!([{}, {"max_tokens": 3, "ignore_eos": true}, {}]);
    question["stream"] = json!(true);
    question
}

/// Turned away before they are admitted: what is no request, and what is too much.
fn refusals(moved: &mut Moved, server: &ServerThread, thinker: &Gate) {
    let address = server.address;
    assert_eq!(client::post(address, CHAT, &json!({"messages": []})).status, 400);
    moved.until(address, &["vllm:omni_requests_rejected_total"]);
    thinker.close();
    let before = thinker.taken();
    let many = json!({"prompt": vec!["a"; MOST_PROMPTS], "max_tokens": 1});
    let connections: Vec<_> =
        (0..MOST_REQUESTS / MOST_PROMPTS).map(|_| client::begin(address, COMPLETIONS, &many)).collect();
    thinker.await_taken(before + MOST_REQUESTS);
    let reply = client::post(address, CHAT, &question("one more", 1));
    assert_eq!((reply.status, &reply.json()["error"]["reason"]), (429, &json!("overloaded")));
    let rejected = "vllm:omni_requests_rejected_total";
    assert!(Page::of(address).sum_where(rejected, "reason=\"overloaded\"") > 0.0);
    thinker.open();
    for connection in connections {
        assert_eq!(connection.finish().expect("a whole response").status, 200);
    }
}

/// Requests that wait, are under way, and are preempted.
fn pressure(moved: &mut Moved, server: &ServerThread, thinker: &Gate) {
    let address = server.address;
    let mut requests = vec![spoken("aloud, please", 8)];
    requests.extend(["this", "that", "those"].map(|text| question(text, 60)));
    let connections: Vec<_> = requests.iter().map(|request| client::begin(address, CHAT, request)).collect();
    thinker.await_taken(requests.len());
    moved.until(
        address,
        &[
            "vllm:omni_num_requests_waiting",
            "vllm:omni_stage_waiting_requests",
            "vllm:omni_stage_queue_depth",
            "vllm:omni_stage_inflight_requests",
            "vllm:num_requests_waiting",
        ],
    );
    // The thinker waits to be let through, the talker for the thinker's words.
    moved.until_page(address, |_, page| {
        let mut reasons =
            vec![r#"reason="capacity",replica="0",stage="0""#, r#"reason="deferred",replica="0",stage="1""#];
        let waiting = "vllm:num_requests_waiting_by_reason";
        reasons.retain(|reason| page.sum_where(waiting, reason) == 0.0);
        reasons
    });
    thinker.let_through(3);
    moved.until(
        address,
        &["vllm:omni_num_requests_running", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"],
    );
    thinker.open();
    for connection in connections {
        assert_eq!(connection.finish().expect("a whole response").status, 200);
    }
    moved.until(
        address,
        &["vllm:num_preemptions_total", "vllm:omni_audio_continuity_ok_total", "vllm:omni_audio_duration_s"],
    );
}

/// Blocks of the cache that are found again, and whose place is taken then.
fn reuse(moved: &mut Moved, server: &ServerThread) {
    for text in ["the same", "the same", "the same", "something else", "and now to something new"] {
        let reply = client::post(server.address, CHAT, &question(text, 60));
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    moved.until(
        server.address,
        &[
            "vllm:prefix_cache_hits_total",
            "vllm:prompt_tokens_cached_total",
            "vllm:kv_block_reuse_gap_seconds",
        ],
    );
}

/// Answers that are not spoken, requests that fail, replicas that break.
fn misfortunes(moved: &mut Moved, server: &ServerThread) {
    let address = server.address;
    assert_eq!(client::post(address, CHAT, &spoken("a word", 1)).status, 200);
    let panics = format!("{} now", Trouble::Panics(1).words("thinker"));
    let reply = client::post(address, CHAT, &question(&panics, 2));
    assert_eq!((reply.status, &reply.json()["error"]["reason"]), (500, &json!("replica_panic")));
    moved.until(
        address,
        &[
            "vllm:omni_audio_skipped_requests_total",
            "vllm:omni_requests_failed_total",
            "vllm:omni_replica_restarts_total",
        ],
    );
    let until = Instant::now() + PATIENCE;
    while client::get(address, "/health").status != 200 {
        assert!(Instant::now() < until, "the replica does not come back");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Events that come while a page is gathered for one scraper, so that they wait when that of the next is.
fn haste(moved: &mut Moved, server: &ServerThread) {
    let (over, until) = (AtomicBool::new(false), Instant::now() + PATIENCE);
    let scrape = || {
        let mut found = None;
        while !over.load(Ordering::Relaxed) && Instant::now() < until {
            found = Some(Page::of(server.address)).filter(|page| page.sum(MAILBOX_DEPTH) > 0.0);
            over.fetch_or(found.is_some(), Ordering::Relaxed);
        }
        found
    };
    let pages = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && Instant::now() < until {
                server.statistics().send(|| StatEvent::Scraped { seconds: 0.0 });
                thread::sleep(Duration::from_micros(10));
            }
        });
        let scrapers: Vec<_> = (0..4).map(|_| scope.spawn(scrape)).collect();
        scrapers.into_iter().filter_map(|scraper| scraper.join().expect("pages")).collect::<Vec<_>>()
    });
    pages.iter().for_each(|page| moved.note(page));
}

/// A model that gives no finite logit.
fn corruption(moved: &mut Moved) {
    let checkpoint = CheckpointCopy::new();
    checkpoint.change_weights(|tensors| {
        tensors.get_mut("thinker.lm_head.weight").expect("the tensor").spoil();
    });
    let server = ServerThread::start(&[checkpoint.path(), "--log-stats"]);
    let reply = client::post(server.address, CHAT, &question("hello", 2));
    assert_eq!((reply.status, &reply.json()["error"]["reason"]), (500, &json!("stage_error")));
    moved.until(server.address, &["vllm:corrupted_requests_total"]);
}

#[test]
fn every_family_of_what_the_server_has_moves() {
    let (thinker, talker) = (Arc::new(Gate::default()), Arc::new(Gate::opened()));
    let (broken, mut registry) = (Broken::default(), Registry::new());
    trouble_stage(&mut registry, "thinker", &thinker, &broken);
    trouble_stage(&mut registry, "talker", &talker, &broken);
    let options = ["--kv-cache-metrics", "--kv-cache-metrics-sample", "1", "--enable-mfu-metrics"];
    let server = ServerThread::start_with(registry, &[TINY, &options].concat());

    let mut moved = Moved::default();
    pressure(&mut moved, &server, &thinker);
    reuse(&mut moved, &server);
    refusals(&mut moved, &server, &thinker);
    misfortunes(&mut moved, &server);
    haste(&mut moved, &server);
    corruption(&mut moved);

    // Diffusion is fed by the events of its stage in the tests of the ledger: no pipeline has such a stage.
    let groups = definitions::GROUPS.iter().filter(|group| group.title != "Diffusion");
    let families = groups.flat_map(|group| group.families);
    let named = families.map(|family| (family.name(DEFAULT_OMNI_PREFIX), family.moves)).collect::<Vec<_>>();
    let never = |name: &str| NEVER.iter().find(|(family, _)| *family == name);
    let due: Vec<_> =
        named.iter().map(|(name, _)| name.as_str()).filter(|name| never(name).is_none()).collect();
    let page = moved.until(server.address, &due);
    for (name, moves) in &named {
        assert!(page.has(name), "{name} is not registered");
        let Some((_, why)) = never(name) else { continue };
        assert_eq!(moves, why, "{name}");
        assert!(!moved.0.contains(name), "{name} has moved");
    }
    for engine in ["stage=\"0\"", "stage=\"1\""] {
        for family in ["vllm:estimated_flops_per_gpu_total", "vllm:cache_config_info"] {
            assert!(page.sum_where(family, engine) > 0.0, "{family} {engine}");
        }
    }
}
