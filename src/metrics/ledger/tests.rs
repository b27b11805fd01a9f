use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::FinishReason;
use crate::ids::Epoch;
use crate::metrics::definitions::{self, Kind};
use crate::metrics::page::Page;
use crate::metrics::{
    BlockResidency, CacheConfiguration, DeliveredAudio, DiffusedRequest, EngineTotals, FinishedRequest,
    FirstEvents, HttpExchange, Inference, OmniPrefix, PipelineEvent, Playback, ReplicaLoad, ReplicaReport,
    ReplicaStats, SchedulerSnapshot, StageDescription, StageTimes, StepWork, TextFormat, TokenSample,
    TransferSample,
};

mod images;
mod labelled;
mod open_metrics;
mod speech;
mod stages;
mod upstream_defects;

fn stage(index: u16, replicas: u16, max_model_len: Option<u64>) -> StageDescription {
    StageDescription {
        stage: StageId(index),
        replicas,
        max_model_len,
        makes_audio: false,
        diffusion: false,
        families: Vec::new(),
    }
}

/// A stage that makes audio and is no engine.
fn vocoder(index: u16, replicas: u16) -> StageDescription {
    StageDescription { makes_audio: true, ..stage(index, replicas, None) }
}

/// A stage that makes images and is no engine.
fn painter(index: u16, replicas: u16) -> StageDescription {
    StageDescription { diffusion: true, ..stage(index, replicas, None) }
}

fn ledger_of(log_stats: bool, stages: Vec<StageDescription>) -> Ledger {
    let (model_name, omni_prefix, kv_cache_metrics) = ("m".to_owned(), OmniPrefix::default(), true);
    let inference = Inference::default();
    Ledger::new(MetricsSettings { model_name, omni_prefix, log_stats, kv_cache_metrics, inference, stages })
        .unwrap()
}

fn ledger() -> Ledger {
    ledger_of(true, vec![stage(0, 2, Some(1000)), vocoder(1, 1)])
}

fn key(stage: u16, replica: u16, epoch: u32) -> ReplicaKey {
    ReplicaKey { stage: StageId(stage), replica: ReplicaId(replica), epoch: Epoch(epoch) }
}

fn report(key: ReplicaKey, sequence: u64, stats: ReplicaStats) -> ReplicaReport {
    ReplicaReport { key, sequence, at: Instant::now(), idle: false, stats }
}

/// A report with this many generated tokens and one sample of a step.
fn tokens(key: ReplicaKey, sequence: u64, generation_tokens: u64) -> StatEvent {
    let totals = Some(EngineTotals { generation_tokens, ..Default::default() });
    let samples = vec![TokenSample::IterationTokens(1)];
    StatEvent::Replica(Box::new(report(
        key,
        sequence,
        ReplicaStats { totals, samples, ..Default::default() },
    )))
}

/// A report with this many running sequences, two waiting for capacity and one deferred.
fn running(key: ReplicaKey, sequence: u64, running: u64, idle: bool) -> StatEvent {
    let waiting = if idle { (0, 0) } else { (2, 1) };
    let scheduler = Some(SchedulerSnapshot {
        running,
        waiting_for_capacity: waiting.0,
        waiting_deferred: waiting.1,
        kv_cache_usage: if idle { 0.0 } else { 0.25 },
    });
    let report = report(key, sequence, ReplicaStats { scheduler, ..Default::default() });
    StatEvent::Replica(Box::new(ReplicaReport { idle, ..report }))
}

fn finished() -> FinishedRequest {
    FinishedRequest {
        request: RequestId(1),
        reason: FinishReason::Length,
        e2e_seconds: 3.5,
        queue_seconds: 0.5,
        prefill_seconds: 1.0,
        decode_seconds: 2.0,
        prompt_tokens: 30,
        cached_tokens: 16,
        generation_tokens: 7,
        max_generation_tokens: 5,
        choices: 2,
        max_tokens: 5,
        preemptions: 1,
    }
}

fn accepted(request: u64) -> StatEvent {
    let route = vec![key(0, 1, 0), key(1, 0, 3)];
    StatEvent::Pipeline(PipelineEvent::Accepted { request: RequestId(request), route })
}

fn started(request: u64) -> StatEvent {
    StatEvent::Pipeline(PipelineEvent::Started { request: RequestId(request), waited_seconds: 0.75 })
}

fn ended(request: u64, reason: FinishReason, detail: Option<&'static str>) -> StatEvent {
    let request = RequestId(request);
    StatEvent::Pipeline(PipelineEvent::Ended { request, reason, detail, e2e_seconds: 1.5 })
}

/// A second of audio from stage 1, two seconds after its request.
fn delivered(request: u64, playback: Option<Playback>) -> StatEvent {
    let (stage, frames, sample_rate, e2e_seconds) = (StageId(1), 24_000, 24_000, 2.0);
    let audio = DeliveredAudio { stage, frames, sample_rate, e2e_seconds, playback };
    StatEvent::Pipeline(PipelineEvent::AudioDelivered { request: RequestId(request), audio })
}

fn playback(underrun_seconds: f64) -> Option<Playback> {
    Some(Playback { first_packet_seconds: 0.25, underrun_seconds })
}

/// A report of chunks for these requests, from stage 0 to stage 1.
fn received(key: ReplicaKey, sequence: u64, requests: &[u64]) -> StatEvent {
    let transfers = requests.iter().map(|&request| TransferSample {
        request: RequestId(request),
        from: StageId(0),
        to: StageId(1),
        size_bytes: 1600,
        send_seconds: 2e-6,
        in_flight_seconds: 3e-5,
        receive_seconds: 4e-6,
    });
    let stats = ReplicaStats { transfers: transfers.collect(), ..Default::default() };
    StatEvent::Replica(Box::new(report(key, sequence, stats)))
}

fn apply(ledger: &mut Ledger, events: impl IntoIterator<Item = StatEvent>) {
    for event in events {
        ledger.apply(&event, Instant::now()).unwrap();
    }
}

fn page(ledger: &Ledger) -> Page {
    Page::of(&ledger.gather())
}

const REPLICA_0: &[(&str, &str)] = &[("stage", "0"), ("replica", "0")];

/// An answer in which there was nothing to be spoken.
fn nothing_spoken(request: u64) -> StatEvent {
    let (stage, sample_rate, e2e_seconds) = (StageId(1), 24_000, 2.0);
    let audio = DeliveredAudio { stage, frames: 0, sample_rate, e2e_seconds, playback: None };
    StatEvent::Pipeline(PipelineEvent::AudioDelivered { request: RequestId(request), audio })
}

/// The first chunk of a request and what came of it.
fn first_events(request: u64) -> FirstEvents {
    FirstEvents {
        request: RequestId(request),
        from: StageId(0),
        to: StageId(1),
        emit_seconds: 0.5,
        send_seconds: 0.6,
        receive_seconds: 0.7,
        output_seconds: Some(0.9),
    }
}

/// Two images of 1024 by 1024.
fn diffused() -> DiffusedRequest {
    DiffusedRequest {
        steps: 8,
        images: 2,
        pixels: 1 << 20,
        execution_seconds: 4.0,
        preprocess_seconds: 0.1,
        postprocess_seconds: 0.2,
        vae_decode_seconds: Some(0.5),
        forward_seconds: Some(2.0),
        kv_load_seconds: Some(0.05),
        first_image_seconds: Some(4.5),
        peak_memory_bytes: Some(3 << 30),
    }
}

fn exchange() -> HttpExchange {
    HttpExchange {
        method: "POST",
        route: Some("/v1/chat/completions".to_owned()),
        status: 200,
        request_bytes: 100,
        response_bytes: 2000,
        seconds: 0.7,
    }
}

/// Families that no event moves, because there is nothing that they could tell of; see their definitions.
const STILL: [&str; 2] = ["external_prefix_cache_queries_total", "external_prefix_cache_hits_total"];

/// A ledger of a pipeline with all kinds of stages.
fn full_ledger() -> Ledger {
    ledger_of(true, vec![stage(0, 2, Some(1000)), vocoder(1, 1), painter(2, 1)])
}

/// Events that move every family.
fn everything() -> Vec<StatEvent> {
    let totals = EngineTotals {
        prompt_tokens: 30,
        prompt_tokens_computed: 14,
        prompt_tokens_cached: 16,
        generation_tokens: 7,
        prefix_cache_queries: 30,
        prefix_cache_hits: 16,
        preemptions: 1,
        steps: 5,
        corrupted_requests: 1,
        media_cache_queries: 3,
        media_cache_hits: 2,
        work: StepWork { operations: 1e12, read_bytes: 1e9, write_bytes: 1e6 },
    };
    let samples = vec![
        TokenSample::IterationTokens(15),
        TokenSample::TimeToFirstToken(0.3),
        TokenSample::InterTokenLatency(0.02),
    ];
    let stats = ReplicaStats {
        scheduler: None,
        totals: Some(totals),
        samples,
        finished: vec![finished()],
        cache: Some(CacheConfiguration { block_size: 16, blocks: 100, prefix_caching: true }),
        residencies: vec![BlockResidency {
            lifetime_seconds: 9.0,
            idle_seconds: 5.0,
            reuse_gap_seconds: vec![1.0, 2.0],
        }],
        ..ReplicaStats::default()
    };
    let vocoded = ReplicaStats {
        load: Some(ReplicaLoad { in_flight: 3, waiting: 2 }),
        stage_times: vec![StageTimes { queue_seconds: 0.25, work_seconds: 3.0, audio_seconds: 6.0 }],
        first_events: vec![first_events(1)],
        ..ReplicaStats::default()
    };
    let painted = ReplicaStats { diffusion: vec![diffused()], ..ReplicaStats::default() };
    vec![
        StatEvent::Pipeline(PipelineEvent::Rejected { reason: "overloaded" }),
        accepted(1),
        accepted(2),
        accepted(3),
        accepted(4),
        started(1),
        started(3),
        ended(1, FinishReason::Stop, None),
        ended(2, FinishReason::Error, Some("device_error")),
        StatEvent::ReplicaDown { key: key(0, 1, 0), reason: "replica_panic" },
        StatEvent::ReplicaUp(key(0, 1, 1)),
        StatEvent::Http(exchange()),
        StatEvent::Scraped { seconds: 0.01 },
        running(key(0, 0, 0), 1, 4, false),
        StatEvent::Replica(Box::new(report(key(0, 0, 0), 2, stats))),
        received(key(1, 0, 3), 1, &[1, 3]),
        delivered(1, playback(0.05)),
        nothing_spoken(3),
        StatEvent::Replica(Box::new(report(key(1, 0, 3), 2, vocoded))),
        StatEvent::Replica(Box::new(report(key(2, 0, 0), 1, painted))),
    ]
}

#[test]
fn every_family_moves_when_fed() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    ledger.note_waiting_events(3);
    let page = page(&ledger);
    for definition in definitions::all() {
        let name = definition.name(definitions::DEFAULT_OMNI_PREFIX);
        let sample = match definition.kind {
            Kind::Histogram(_) => format!("{name}_count"),
            Kind::Counter | Kind::Gauge => name,
        };
        let is_still = STILL.contains(&definition.suffix);
        assert_eq!(page.sum(&sample) > 0.0, !is_still, "{sample}");
    }
    let expected = [
        ("vllm:num_requests_waiting", 3.0),
        ("vllm:kv_cache_usage_perc", 0.25),
        ("vllm:prompt_tokens_total", 30.0),
        ("vllm:prompt_tokens_cached_total", 16.0),
        ("vllm:iteration_tokens_total_sum", 15.0),
        ("vllm:request_inference_time_seconds_sum", 3.0),
        ("vllm:request_time_per_output_token_seconds_sum", 0.5),
        ("vllm:request_prefill_kv_computed_tokens_sum", 14.0),
        ("vllm:request_params_n_sum", 2.0),
        ("vllm:corrupted_requests_total", 1.0),
        ("vllm:mm_cache_hits_total", 2.0),
        ("vllm:estimated_flops_per_gpu_total", 1e12),
        ("vllm:kv_block_reuse_gap_seconds_sum", 3.0),
        ("vllm:kv_block_idle_before_evict_seconds_sum", 5.0),
    ];
    for (name, value) in expected {
        assert_eq!(page.value(name, REPLICA_0), value, "{name}");
    }
    for (source, value) in [("local_compute", 14.0), ("local_cache_hit", 16.0)] {
        let labels = [("replica", "0"), ("source", source)];
        assert_eq!(page.value("vllm:prompt_tokens_by_source_total", &labels), value);
    }
    for (reason, value) in [("capacity", 2.0), ("deferred", 1.0)] {
        let labels = [("replica", "0"), ("reason", reason)];
        assert_eq!(page.value("vllm:num_requests_waiting_by_reason", &labels), value);
    }
    assert_eq!(
        page.value("vllm:request_success_total", &[("replica", "0"), ("finished_reason", "length")]),
        1.0
    );
}

#[test]
fn a_page_read_back_is_what_was_gathered() {
    let model_name = "a \"quoted\" \\ name\nof two lines".to_owned();
    let stages = vec![stage(0, 1, Some(1000)), vocoder(1, 1), painter(2, 1)];
    let settings = MetricsSettings {
        model_name: model_name.clone(),
        omni_prefix: OmniPrefix::default(),
        log_stats: true,
        kv_cache_metrics: true,
        inference: Inference::Online,
        stages,
    };
    let mut ledger = Ledger::new(settings).unwrap();
    apply(&mut ledger, everything());
    let page = page(&ledger);
    let families: Vec<_> = definitions::all()
        .map(|family| (family.name(definitions::DEFAULT_OMNI_PREFIX), family.kind.as_str().to_owned()))
        .collect();
    assert_eq!(page.families, families, "in the order of the definitions");
    let of_the_model = page.samples.keys().filter(|(name, _)| name.starts_with("vllm:"));
    assert!(of_the_model.into_iter().all(|(_, labels)| labels["model_name"] == model_name));
    for definition in definitions::all() {
        let name = definition.name(definitions::DEFAULT_OMNI_PREFIX);
        assert_eq!(page.helps[&name], definition.help);
        let Kind::Histogram(buckets) = definition.kind else { continue };
        let bounds: BTreeSet<_> = page
            .samples
            .keys()
            .filter(|(sample, _)| *sample == format!("{name}_bucket"))
            .filter_map(|(_, labels)| labels["le"].parse::<f64>().ok())
            .map(|bound| bound.to_string())
            .collect();
        let bounds_and_infinity = buckets.bounds(1000).into_iter().chain([f64::INFINITY]);
        let expected: BTreeSet<_> = bounds_and_infinity.map(|bound| bound.to_string()).collect();
        assert_eq!(bounds, expected, "{name}");
    }
    let le = |bound| [("stage", "0"), ("replica", "0"), ("le", bound)];
    assert_eq!(page.value("vllm:request_prompt_tokens_bucket", &le("20.0")), 0.0);
    assert_eq!(page.value("vllm:request_prompt_tokens_bucket", &le("50.0")), 1.0);
    assert_eq!(page.value("vllm:request_prompt_tokens_bucket", &le("+Inf")), 1.0);
    assert_eq!(page.value("vllm:request_prompt_tokens_sum", REPLICA_0), 30.0);
}

#[test]
fn promtool_finds_nothing_but_what_the_names_force() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("skipped: promtool is not installed");
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(ledger.gather().to_text(TextFormat::Classic).as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let forced = |line: &str| {
        line.ends_with("metric names should not contain ':'")
            || line.ends_with("metric names should not contain abbreviated units")
            || line.starts_with(
                "vllm:iteration_tokens_total non-counter metrics should not have \"_total\" suffix",
            )
    };
    let complaints: Vec<_> = said.lines().filter(|line| !line.is_empty() && !forced(line)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(said.contains("':'"), "promtool did not read the page: {said}");
}

#[test]
fn a_thousand_reports_a_second_are_published_once_a_second_and_sums_are_exact() {
    let (mut ledger, start) = (ledger(), Instant::now());
    let mut shown = BTreeMap::new();
    for step in 1..=3000_u64 {
        let now = start + Duration::from_millis(step);
        let totals = Some(EngineTotals { generation_tokens: 3 * step, ..Default::default() });
        let scheduler = Some(SchedulerSnapshot { running: step, ..Default::default() });
        let stats = ReplicaStats { scheduler, totals, ..Default::default() };
        ledger.apply(&StatEvent::Replica(Box::new(report(key(0, 0, 0), step, stats))), now).unwrap();
        if step % 100 == 0 || step % 1000 == 1 {
            let page = page(&ledger);
            assert_eq!(page.value("vllm:generation_tokens_total", REPLICA_0), 3.0 * step as f64);
            shown.insert(step, page.value("vllm:num_requests_running", REPLICA_0));
        }
    }
    let changes: BTreeSet<_> = shown.values().map(|&value| value as u64).collect();
    assert_eq!(changes, BTreeSet::from([1, 1001, 2001]));
}

#[test]
fn gauges_are_zero_as_soon_as_a_replica_is_idle() {
    let (mut ledger, start) = (ledger(), Instant::now());
    ledger.apply(&running(key(0, 0, 0), 1, 4, false), start).unwrap();
    ledger.apply(&running(key(0, 0, 0), 2, 5, false), start + Duration::from_millis(10)).unwrap();
    ledger.apply(&running(key(0, 0, 0), 3, 0, true), start + Duration::from_millis(20)).unwrap();
    ledger.tick(start + Duration::from_secs(5));
    for gauge in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
        assert_eq!(page(&ledger).value(&format!("vllm:{gauge}"), REPLICA_0), 0.0, "{gauge}");
    }
}

#[test]
fn values_held_back_are_published_by_the_tick() {
    let (mut ledger, start) = (ledger(), Instant::now());
    ledger.apply(&running(key(0, 0, 0), 1, 4, false), start).unwrap();
    ledger.apply(&running(key(0, 0, 0), 2, 5, false), start + Duration::from_millis(10)).unwrap();
    ledger.tick(start + Duration::from_millis(999));
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 4.0);
    ledger.tick(start + Duration::from_millis(1000));
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 5.0);
}

#[test]
fn replicas_have_a_second_each() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.apply(&running(key(0, 0, 0), 1, 4, false), now).unwrap();
    ledger.apply(&running(key(0, 1, 0), 1, 5, false), now).unwrap();
    assert_eq!(page(&ledger).sum("vllm:num_requests_running"), 9.0);
}

#[test]
fn a_late_report_adds_its_samples_but_does_not_show_the_past() {
    let (mut ledger, start) = (ledger(), Instant::now());
    ledger.apply(&running(key(0, 0, 0), 2, 0, true), start).unwrap();
    ledger.apply(&running(key(0, 0, 0), 1, 7, true), start).unwrap();
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 0.0);
}

#[test]
fn a_replica_that_restarts_loses_and_doubles_nothing() {
    let mut ledger = ledger();
    let (first, second) = (key(0, 0, 0), key(0, 0, 1));
    apply(
        &mut ledger,
        [
            StatEvent::ReplicaUp(first),
            tokens(first, 1, 100),
            StatEvent::ReplicaDown { key: first, reason: "panic" },
            StatEvent::ReplicaUp(second),
            tokens(second, 1, 30),
            tokens(first, 2, 110),
            tokens(second, 2, 50),
        ],
    );
    let page = page(&ledger);
    assert_eq!(page.value("vllm:generation_tokens_total", REPLICA_0), 160.0);
    assert_eq!(page.value("vllm:iteration_tokens_total_count", REPLICA_0), 4.0);
}

#[test]
fn gauges_of_a_replica_that_is_gone_are_removed_and_its_counters_stay() {
    let mut ledger = ledger();
    let (first, second) = (key(0, 0, 0), key(0, 0, 1));
    apply(&mut ledger, [tokens(first, 1, 100), running(first, 2, 4, false)]);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: first, reason: "panic" }, running(first, 3, 5, true)]);
    ledger.tick(Instant::now() + Duration::from_secs(9));
    let gone = page(&ledger);
    for name in [
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_waiting_by_reason",
        "kv_cache_usage_perc",
    ] {
        assert!(gone.fitting(&format!("vllm:{name}"), REPLICA_0).is_empty(), "{name}");
    }
    assert_eq!(gone.value("vllm:generation_tokens_total", REPLICA_0), 100.0);
    assert_eq!(gone.sum("vllm:num_requests_running"), 0.0, "the other replica's is there");

    apply(&mut ledger, [StatEvent::ReplicaUp(second)]);
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 0.0);
    apply(
        &mut ledger,
        [StatEvent::ReplicaDown { key: first, reason: "panic" }, running(second, 1, 3, false)],
    );
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 3.0);
}

#[test]
fn a_request_ends_once_and_only_one_that_ended_by_itself_has_a_latency() {
    let mut ledger = ledger();
    apply(
        &mut ledger,
        [
            accepted(1),
            started(1),
            ended(1, FinishReason::Abort, Some("client_disconnect")),
            ended(1, FinishReason::Stop, None),
            started(1),
            accepted(2),
            accepted(2),
            ended(2, FinishReason::Length, None),
        ],
    );
    let page = page(&ledger);
    let success = |reason| page.value("vllm:omni_requests_success_total", &[("finished_reason", reason)]);
    assert_eq!(["stop", "length", "abort", "error"].map(success), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(page.value("vllm:omni_requests_failed_total", &[("reason", "client_disconnect")]), 1.0);
    assert_eq!(page.value("vllm:omni_e2e_request_latency_s_count", &[]), 1.0);
    assert_eq!(page.value("vllm:omni_requests_accepted_total", &[]), 2.0);
    assert_eq!(ledger.contradictions(), 3);
}

#[test]
fn routes_are_known_from_acceptance_on_and_for_a_while_after_the_end() {
    let mut ledger = ledger();
    let resolve = |ledger: &Ledger, stage| ledger.resolve(RequestId(1), StageId(stage));
    assert_eq!(resolve(&ledger, 0), None);
    apply(&mut ledger, [accepted(1)]);
    assert_eq!(resolve(&ledger, 0), Some(key(0, 1, 0)));
    assert_eq!(resolve(&ledger, 1), Some(key(1, 0, 3)));
    assert_eq!(resolve(&ledger, 2), None);
    apply(&mut ledger, [ended(1, FinishReason::Stop, None)]);
    let ended_later = |request| [accepted(request), ended(request, FinishReason::Abort, None)];
    let remembered = route::ENDED_REMEMBERED as u64;
    apply(&mut ledger, (2..=remembered).flat_map(ended_later));
    assert_eq!(resolve(&ledger, 0), Some(key(0, 1, 0)));
    apply(&mut ledger, ended_later(remembered + 1));
    assert_eq!(resolve(&ledger, 0), None, "as many have ended since as are remembered");
    assert_eq!(ledger.resolve(RequestId(2), StageId(1)), Some(key(1, 0, 3)));
}

#[test]
fn without_statistics_omni_families_are_placeholders_and_engine_families_do_not_exist() {
    let mut ledger = ledger_of(false, vec![stage(0, 1, Some(1000)), vocoder(1, 2), painter(2, 1)]);
    apply(&mut ledger, everything());
    let page = page(&ledger);
    let omni = definitions::all().filter(|definition| definition.namespace == definitions::Namespace::Omni);
    let always = omni.chain(definitions::process::ALL.iter().copied());
    let names: Vec<_> = always.map(|definition| definition.name(definitions::DEFAULT_OMNI_PREFIX)).collect();
    assert_eq!(page.families.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    let of_requests = page.samples.iter().filter(|((name, _), _)| !name.starts_with("process_"));
    assert!(of_requests.into_iter().all(|(_, &value)| value == 0.0));
    assert!(page.sum("process_resident_memory_bytes") > 0.0);
    assert!(page.fitting("vllm:omni_replica_up", &[]).is_empty(), "a 0 would say that nothing lives");
    assert_eq!(page.fitting("vllm:omni_requests_success_total", &[]).len(), 4);
    assert_eq!(page.fitting("vllm:omni_audio_frames_total", &[]).len(), 2);
    assert_eq!(page.fitting("vllm:omni_transfer_tx_s_count", &[]).len(), 4);
    assert_eq!(ledger.resolve(RequestId(4), StageId(0)), None);
}

#[test]
fn known_label_sets_are_zero_from_the_start() {
    let page = page(&ledger_of(true, vec![stage(0, 2, Some(64)), stage(1, 1, Some(16)), stage(2, 3, None)]));
    let of_requests = page.samples.iter().filter(|((name, _), _)| !name.starts_with("process_"));
    assert!(of_requests.into_iter().all(|(_, &value)| value == 0.0));
    for (name, series) in [
        ("vllm:generation_tokens_total", 3),
        ("vllm:request_success_total", 12),
        ("vllm:num_requests_waiting_by_reason", 6),
        ("vllm:kv_block_lifetime_seconds_count", 3),
        ("vllm:estimated_flops_per_gpu_total", 3),
        ("vllm:omni_requests_rejected_total", 4),
        ("vllm:omni_stage_waiting_requests", 3),
        ("vllm:omni_stage_gen_time_s_count", 3),
        ("vllm:omni_stage_queue_depth", 6),
        ("vllm:omni_replica_up", 6),
        ("vllm:omni_replica_restarts_total", 36),
        ("vllm:omni_edge_first_emit_s_count", 5),
    ] {
        assert_eq!(page.fitting(name, &[]).len(), series, "{name}");
    }
    let buckets =
        |stage| page.fitting("vllm:request_prompt_tokens_bucket", &[("stage", stage), ("replica", "0")]);
    assert_eq!((buckets("0").len(), buckets("1").len()), (7, 5));
}

/// One happening in the life of a pipeline, for the property tests.
fn happening() -> impl Strategy<Value = StatEvent> {
    let reason = proptest::sample::select(FinishReason::ALL.to_vec());
    let detail = proptest::sample::select(vec![None, Some("client_disconnect"), Some("stage_error")]);
    prop_oneof![
        (0..40_u64).prop_map(accepted),
        (0..40_u64).prop_map(started),
        (0..40_u64, reason, detail).prop_map(|(request, reason, detail)| ended(request, reason, detail)),
        Just(StatEvent::Pipeline(PipelineEvent::Rejected { reason: "overloaded" })),
    ]
}

/// What happens to a report on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Once,
    Twice,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn accepted_is_running_and_waiting_and_ended_at_every_scrape(
        events in prop::collection::vec(happening(), 1..120)
    ) {
        let mut ledger = ledger_of(true, Vec::new());
        for event in events {
            apply(&mut ledger, [event]);
            let page = page(&ledger);
            let sum = |name: &str| page.sum(&format!("vllm:omni_{name}"));
            let ended = sum("requests_success_total");
            let live = sum("num_requests_running") + sum("num_requests_waiting");
            prop_assert_eq!(sum("requests_accepted_total"), live + ended);
            let success = |reason| {
                page.value("vllm:omni_requests_success_total", &[("finished_reason", reason)])
            };
            prop_assert_eq!(sum("requests_failed_total"), success("abort") + success("error"));
            let latencies = sum("e2e_request_latency_s_count");
            prop_assert_eq!(latencies, success("stop") + success("length"));
        }
    }

    #[test]
    fn lost_repeated_and_reordered_reports_lose_no_total_and_double_nothing(
        lives in prop::collection::vec(
            prop::collection::vec(
                (0..50_u64, prop_oneof![Just(Fate::Lost), Just(Fate::Once), Just(Fate::Twice)]),
                1..20,
            ),
            1..4,
        ),
        seed in any::<u64>(),
    ) {
        let (mut deliveries, mut counted, mut arrived) = (Vec::new(), 0, 0);
        for (epoch, reports) in lives.iter().enumerate() {
            let (mut total, mut reported) = (0, 0);
            for (index, &(step, fate)) in reports.iter().enumerate() {
                total += step;
                let event = || tokens(key(0, 0, epoch as u32), index as u64 + 1, total);
                match fate {
                    Fate::Lost => continue,
                    Fate::Once => deliveries.push(event()),
                    Fate::Twice => deliveries.extend([event(), event()]),
                }
                (reported, arrived) = (total, arrived + 1);
            }
            counted += reported;
        }
        shuffle(&mut deliveries, seed);
        let mut ledger = ledger();
        apply(&mut ledger, deliveries);
        let page = page(&ledger);
        prop_assert_eq!(page.value("vllm:generation_tokens_total", REPLICA_0), counted as f64);
        prop_assert_eq!(page.value("vllm:iteration_tokens_total_count", REPLICA_0), f64::from(arrived));
    }
}

/// Puts the elements into an order that depends on `seed`.
fn shuffle<T>(elements: &mut [T], mut seed: u64) {
    for last in (1..elements.len()).rev() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        elements.swap(last, (seed >> 33) as usize % (last + 1));
    }
}
