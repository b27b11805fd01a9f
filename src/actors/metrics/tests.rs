use std::sync::mpsc;
use std::thread;

use super::*;
use crate::actors::messages::{AbortCause, ExitCause, Rejection, Unavailable};
use crate::engine::FinishReason;
use crate::ids::{Epoch, RequestId};
use crate::metrics::definitions::labels;
use crate::metrics::{
    EngineTotals, OmniPrefix, PipelineEvent, ReplicaReporter, ReplicaStats, SchedulerSnapshot,
    StageDescription, TextFormat,
};
use crate::stages::{Modality, StageError};

const KEY: ReplicaKey = ReplicaKey { stage: StageId(0), replica: ReplicaId(0), epoch: Epoch(0) };

fn settings(log_stats: bool) -> MetricsSettings {
    let stages = vec![StageDescription {
        stage: StageId(0),
        replicas: 1,
        max_model_len: Some(64),
        makes_audio: false,
        diffusion: false,
        families: Vec::new(),
    }];
    MetricsSettings {
        model_name: "m".to_owned(),
        omni_prefix: OmniPrefix::default(),
        log_stats,
        kv_cache_metrics: false,
        inference: Inference::Online,
        stages,
    }
}

/// A worker that has counted 42 tokens it would not report by itself, and answers its port unless it is `stuck`.
fn silent_worker(sender: StatsSender, stuck: bool) -> Arc<StatsPort> {
    let (wake, woken) = mpsc::channel();
    let port = Arc::new(StatsPort::new(move || {
        let _ = wake.send(());
    }));
    let mut reporter = ReplicaReporter::new(KEY, sender, Arc::clone(&port));
    thread::spawn(move || {
        while woken.recv().is_ok() {
            if !stuck {
                reporter.report_if_due(Instant::now(), false, |stats: &mut ReplicaStats| {
                    stats.totals = Some(EngineTotals { generation_tokens: 42, ..Default::default() });
                });
            }
        }
    });
    port
}

async fn page(address: &Addr<MetricsActor>) -> String {
    address.send(Scrape).await.unwrap().to_text(TextFormat::Classic)
}

const TOKENS: &str = "vllm:generation_tokens_total{model_name=\"m\",replica=\"0\",stage=\"0\"}";

#[actix::test]
async fn a_scrape_holds_what_replicas_counted_until_then() {
    let (address, sender) = MetricsActor::start_with_sender(settings(true), &Arbiter::current()).unwrap();
    let port = silent_worker(sender, false);
    address.send(RegisterReplica { key: KEY, port }).await.unwrap();
    assert!(page(&address).await.contains(&format!("{TOKENS} 42.0\n")));
}

#[actix::test]
async fn a_scrape_does_not_wait_for_a_replica_that_is_stuck_and_delays_nobody() {
    let (address, sender) = MetricsActor::start_with_sender(settings(true), &Arbiter::current()).unwrap();
    let port = silent_worker(sender.clone(), true);
    address.send(RegisterReplica { key: KEY, port }).await.unwrap();
    let scrape = address.send(Scrape);
    sender.send(|| StatEvent::Pipeline(PipelineEvent::Accepted { request: RequestId(1), route: vec![KEY] }));
    let text = scrape.await.unwrap().to_text(TextFormat::Classic);
    assert!(text.contains(&format!("{TOKENS} 0.0\n")));
    assert!(text.contains("vllm:omni_requests_accepted_total{model_name=\"m\"} 1.0\n"));
}

#[actix::test]
async fn a_scrape_does_not_wait_for_a_replica_that_is_gone() {
    let mut actor = MetricsActor::new(settings(true)).unwrap();
    let port = Arc::new(StatsPort::new(|| {}));
    actor.ports.insert((KEY.stage, KEY.replica), Port { key: KEY, port });
    let mut complete = actor.ask_for_reports().unwrap();
    assert!(complete.try_recv().is_err());
    actor.note_report(&StatEvent::ReplicaDown { key: KEY, reason: "panic" });
    assert!(complete.try_recv().is_ok());
    assert!(actor.ask_for_reports().is_none());
}

#[actix::test]
async fn values_held_back_appear_by_themselves_when_their_second_is_over() {
    let (address, sender) = MetricsActor::start_with_sender(settings(true), &Arbiter::current()).unwrap();
    let mut reporter = ReplicaReporter::new(KEY, sender, Arc::new(StatsPort::new(|| {})));
    for (index, running) in [1, 2].into_iter().enumerate() {
        reporter.changed();
        let now = Instant::now() + Duration::from_millis(30 * index as u64);
        assert!(reporter.report_if_due(now, false, |stats| {
            stats.scheduler = Some(SchedulerSnapshot { running, ..Default::default() });
        }));
    }
    let running = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("vllm:num_requests_running{")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(running(&page(&address).await), "1.0");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(running(&page(&address).await), "2.0");
}

#[actix::test]
async fn without_statistics_the_page_is_placeholders_and_nothing_is_sent() {
    let (address, sender) = MetricsActor::start_with_sender(settings(false), &Arbiter::current()).unwrap();
    assert!(!sender.is_on());
    let ended = PipelineEvent::Ended {
        request: RequestId(1),
        reason: FinishReason::Stop,
        detail: None,
        e2e_seconds: 1.0,
    };
    address
        .send(Record(StatEvent::Pipeline(PipelineEvent::Accepted { request: RequestId(1), route: vec![] })))
        .await
        .unwrap();
    address.send(Record(StatEvent::Pipeline(ended))).await.unwrap();
    let text = page(&address).await;
    assert!(text.contains("# TYPE vllm:omni_requests_success_total counter\n"));
    assert!(
        text.contains("vllm:omni_requests_success_total{finished_reason=\"stop\",model_name=\"m\"} 0.0\n")
    );
    assert!(!text.contains("vllm:generation_tokens_total"));
}

#[actix::test]
async fn a_page_tells_of_the_events_handled_and_of_those_that_wait() {
    let (address, sender) = MetricsActor::start_with_sender(settings(true), &Arbiter::current()).unwrap();
    for _ in 0..3 {
        sender.send(|| StatEvent::Pipeline(PipelineEvent::Rejected { reason: "overloaded" }));
    }
    sender.send(|| StatEvent::Scraped { seconds: 0.5 });
    let page = page(&address).await;
    for line in [
        "vllm:omni_metrics_events_total{model_name=\"m\"} 4.0\n",
        "vllm:omni_metrics_mailbox_depth{model_name=\"m\"} 0.0\n",
        "vllm:omni_metrics_scrape_s_sum{model_name=\"m\"} 0.5\n",
    ] {
        assert!(page.contains(line), "{line}");
    }
}

#[actix::test]
async fn events_that_were_sent_and_not_handled_wait() {
    let actor = MetricsActor::new(settings(true)).unwrap();
    let waiting = Arc::clone(&actor.waiting_events);
    waiting.store(7, Ordering::Relaxed);
    let address = actor.start();
    assert!(page(&address).await.contains("vllm:omni_metrics_mailbox_depth{model_name=\"m\"} 7.0\n"));
    address
        .send(Record(StatEvent::Pipeline(PipelineEvent::Rejected { reason: "overloaded" })))
        .await
        .unwrap();
    assert_eq!(waiting.load(Ordering::Relaxed), 6);
}

#[test]
fn the_reasons_known_to_the_definitions_are_those_of_the_errors() {
    let rejections = [
        Rejection::Overloaded { limit: 1 },
        Rejection::StageUnavailable { stage: StageId(0) },
        Rejection::Draining,
        Rejection::UnsupportedModality(Modality::Audio),
    ];
    assert_eq!(labels::REJECTED_REASON.known, rejections.map(|rejection| rejection.reason()));
    let aborts =
        [AbortCause::ClientDisconnect, AbortCause::Timeout, AbortCause::Shutdown, AbortCause::SiblingFailed];
    let exits = [ExitCause::Panicked(String::new()), ExitCause::Stopped];
    let failures = [
        StageError::InvalidInput,
        StageError::OutOfCapacity,
        StageError::Protocol,
        StageError::Device,
        StageError::Failed,
    ];
    let replicas = exits.map(|cause| cause.reason()).into_iter().chain([Unavailable.reason()]);
    let failed = failures.map(|failure| failure(String::new()).reason());
    let words: Vec<_> = aborts.map(AbortCause::reason).into_iter().chain(replicas).chain(failed).collect();
    assert_eq!(labels::FAILED_REASON.known, words);
    let broken = failures.map(|failure| ExitCause::Broken(failure(String::new())).reason());
    let ends: Vec<_> = [ExitCause::Panicked(String::new()).reason()].into_iter().chain(broken).collect();
    assert_eq!(labels::RESTART_REASON.known, ends);
    assert_eq!(labels::STOPPED, ExitCause::Stopped.reason());
}
