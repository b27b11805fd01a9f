//! What stages and replicas hold and take, whether they live, and what requests cost as a whole.

use super::*;

/// A report of what a replica holds.
fn load(key: ReplicaKey, sequence: u64, in_flight: u64, waiting: u64) -> StatEvent {
    let stats = ReplicaStats { load: Some(ReplicaLoad { in_flight, waiting }), ..Default::default() };
    let report = report(key, sequence, stats);
    StatEvent::Replica(Box::new(ReplicaReport { idle: in_flight == 0, ..report }))
}

/// A report of a request that ended in a replica.
fn ended_in(key: ReplicaKey, sequence: u64, request: u64) -> StatEvent {
    let finished = vec![FinishedRequest { request: RequestId(request), ..finished() }];
    StatEvent::Replica(Box::new(report(key, sequence, ReplicaStats { finished, ..Default::default() })))
}

#[test]
fn requests_that_wait_in_a_stage_are_those_of_its_replicas() {
    let (mut ledger, start) = (ledger(), Instant::now());
    ledger.apply(&load(key(0, 0, 0), 1, 5, 3), start).unwrap();
    ledger.apply(&load(key(0, 1, 0), 1, 4, 4), start).unwrap();
    ledger.apply(&load(key(1, 0, 0), 1, 9, 1), start).unwrap();
    let busy = page(&ledger);
    assert_eq!(busy.value("vllm:omni_stage_waiting_requests", &[("stage", "0")]), 7.0);
    assert_eq!(busy.value("vllm:omni_stage_waiting_requests", &[("stage", "1")]), 1.0);
    assert_eq!(busy.value("vllm:omni_stage_queue_depth", REPLICA_0), 3.0);
    assert_eq!(busy.value("vllm:omni_stage_inflight_requests", REPLICA_0), 5.0);

    let later = start + Duration::from_millis(50);
    ledger.apply(&load(key(0, 0, 0), 2, 8, 6), later).unwrap();
    ledger.apply(&load(key(0, 1, 0), 2, 0, 0), later).unwrap();
    assert_eq!(
        page(&ledger).value("vllm:omni_stage_waiting_requests", &[("stage", "0")]),
        3.0,
        "one is idle"
    );
    ledger.tick(start + Duration::from_secs(1));
    assert_eq!(page(&ledger).value("vllm:omni_stage_waiting_requests", &[("stage", "0")]), 6.0);

    apply(&mut ledger, [StatEvent::ReplicaDown { key: key(0, 0, 0), reason: "device_error" }]);
    let gone = page(&ledger);
    assert_eq!(gone.value("vllm:omni_stage_waiting_requests", &[("stage", "0")]), 0.0);
    assert!(gone.fitting("vllm:omni_stage_queue_depth", REPLICA_0).is_empty());
}

#[test]
fn lives_and_restarts_of_replicas_are_shown_with_their_reasons() {
    let mut ledger = ledger();
    let up = |ledger: &Ledger| page(ledger).value("vllm:omni_replica_up", REPLICA_0);
    assert_eq!(up(&ledger), 0.0);
    let (first, second) = (key(0, 0, 0), key(0, 0, 1));
    apply(&mut ledger, [StatEvent::ReplicaUp(first)]);
    assert_eq!(up(&ledger), 1.0);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: first, reason: "replica_panic" }]);
    assert_eq!(up(&ledger), 0.0);
    apply(&mut ledger, [StatEvent::ReplicaUp(second)]);
    assert_eq!(up(&ledger), 1.0);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: second, reason: "replica_stopped" }]);
    let page = page(&ledger);
    let restarts = |reason| {
        page.value(
            "vllm:omni_replica_restarts_total",
            &[("stage", "0"), ("replica", "0"), ("reason", reason)],
        )
    };
    assert_eq!((restarts("replica_panic"), restarts("device_error")), (1.0, 0.0));
    assert_eq!(page.sum("vllm:omni_replica_restarts_total"), 1.0, "to be stopped is no restart");
}

#[test]
fn a_living_engine_is_awake_and_one_that_is_gone_is_nothing() {
    let mut ledger = ledger();
    let alive = key(0, 0, 0);
    apply(&mut ledger, [StatEvent::ReplicaUp(alive)]);
    let state = |state| [("stage", "0"), ("replica", "0"), ("sleep_state", state)];
    let awake = page(&ledger);
    assert_eq!(awake.value("vllm:engine_sleep_state", &state("awake")), 1.0);
    assert_eq!(awake.value("vllm:engine_sleep_state", &state("discard_all")), 0.0);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: alive, reason: "replica_panic" }]);
    assert!(page(&ledger).fitting("vllm:engine_sleep_state", REPLICA_0).is_empty());
}

#[test]
fn a_cache_is_described_while_its_replica_lives() {
    let mut ledger = ledger();
    let cache = Some(CacheConfiguration { block_size: 16, blocks: 250, prefix_caching: false });
    let stats = || ReplicaStats { cache, ..Default::default() };
    let tell = |key, sequence| StatEvent::Replica(Box::new(report(key, sequence, stats())));
    apply(&mut ledger, [tell(key(0, 0, 0), 1), tell(key(0, 0, 0), 2)]);
    let labels = [
        ("stage", "0"),
        ("replica", "0"),
        ("block_size", "16"),
        ("num_gpu_blocks", "250"),
        ("kv_cache_size_tokens", "4000"),
        ("enable_prefix_caching", "False"),
    ];
    assert_eq!(page(&ledger).value("vllm:cache_config_info", &labels), 1.0);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: key(0, 0, 0), reason: "replica_panic" }]);
    assert!(page(&ledger).fitting("vllm:cache_config_info", &[]).is_empty());
    apply(&mut ledger, [StatEvent::ReplicaUp(key(0, 0, 1)), tell(key(0, 0, 1), 1)]);
    assert_eq!(page(&ledger).value("vllm:cache_config_info", &labels), 1.0);
}

#[test]
fn times_of_stages_are_told_with_how_they_work() {
    let mut ledger = ledger();
    let times = StageTimes { queue_seconds: 0.25, work_seconds: 3.0, audio_seconds: 6.0 };
    for stage in [0, 1] {
        let stats = ReplicaStats { stage_times: vec![times; 2], ..Default::default() };
        apply(&mut ledger, [StatEvent::Replica(Box::new(report(key(stage, 0, 0), 1, stats)))]);
    }
    let page = page(&ledger);
    let gen_time = |stage, stage_type| {
        page.value("vllm:omni_stage_gen_time_s_sum", &[("stage", stage), ("stage_type", stage_type)])
    };
    assert_eq!((gen_time("0", "llm"), gen_time("1", "other")), (6.0, 6.0));
    assert_eq!(page.value("vllm:omni_stage_in_queue_s_sum", &[("stage", "1")]), 0.5);
    assert_eq!(page.value("vllm:omni_audio_stage_rtf_sum", &[]), 1.0, "of the stage that makes audio alone");
}

#[test]
fn tokens_of_a_request_count_once_it_has_ended_by_itself_whatever_is_told_first() {
    let mut ledger = ledger();
    let (thinker, later) = (key(0, 1, 0), key(1, 0, 3));
    let tokens = |ledger: &Ledger| {
        let page = page(ledger);
        ["prompt", "generation"].map(|kind| page.sum(&format!("vllm:omni_{kind}_tokens_total")))
    };
    apply(&mut ledger, [accepted(1), started(1), ended_in(thinker, 1, 1)]);
    assert_eq!(tokens(&ledger), [0.0, 0.0], "it may still fail");
    apply(&mut ledger, [ended(1, FinishReason::Stop, None)]);
    assert_eq!(tokens(&ledger), [30.0, 7.0]);
    apply(&mut ledger, [ended_in(later, 1, 1)]);
    assert_eq!(tokens(&ledger), [30.0, 14.0], "only the first stage reads a prompt");
    apply(&mut ledger, [accepted(2), ended_in(thinker, 2, 2), ended(2, FinishReason::Abort, None)]);
    apply(&mut ledger, [ended_in(later, 2, 2)]);
    assert_eq!(tokens(&ledger), [30.0, 14.0], "nobody got what an aborted one made");
    assert_eq!(ledger.contradictions(), 0);
    assert_eq!(page(&ledger).value("vllm:omni_request_queue_wait_s_sum", &[]), 0.75);
}

#[test]
fn http_exchanges_are_counted_by_method_class_and_route() {
    let mut ledger = ledger();
    let unknown = HttpExchange { method: "GET", route: None, status: 404, ..exchange() };
    apply(&mut ledger, [exchange(), exchange(), unknown].map(StatEvent::Http));
    let page = page(&ledger);
    let requests = |method, status, handler| {
        page.value("http_requests_total", &[("method", method), ("status", status), ("handler", handler)])
    };
    assert_eq!(requests("POST", "2xx", "/v1/chat/completions"), 2.0);
    assert_eq!(requests("GET", "4xx", "none"), 1.0);
    assert_eq!(page.sum("http_response_size_bytes_sum"), 6000.0);
    assert_eq!(page.value("http_request_duration_highr_seconds_count", &[]), 3.0);
    assert_eq!(page.fitting("http_request_duration_seconds_count", &[("handler", "none")]), [1.0]);
}
