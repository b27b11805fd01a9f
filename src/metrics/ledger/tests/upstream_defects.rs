//! Defects of vLLM-Omni 0.30.0 that a new implementation is to avoid, by their numbers in the list that was made of them,
//! as far as they can be met here. What concerns features that this server does not have is not in it.

use super::*;

/// 1: sizes and receive times of transfers are always 0.
#[test]
fn transfers_have_sizes_and_times_of_all_parts() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), received(key(1, 0, 3), 1, &[1])]);
    let page = page(&ledger);
    for part in ["size_bytes", "tx_s", "in_flight_s", "rx_s"] {
        assert!(page.sum(&format!("vllm:omni_transfer_{part}_sum")) > 0.0, "{part}");
    }
}

/// 2: what is counted between two publications is lost.
#[test]
fn work_and_samples_of_blocks_between_two_publications_are_not_lost() {
    let (mut ledger, start) = (ledger(), Instant::now());
    for step in 1..=1000 {
        let work = StepWork { operations: 2.0 * step as f64, ..StepWork::default() };
        let block =
            BlockResidency { lifetime_seconds: 1.0, idle_seconds: 0.5, reuse_gap_seconds: Vec::new() };
        let stats = ReplicaStats {
            totals: Some(EngineTotals { work, ..EngineTotals::default() }),
            residencies: vec![block],
            ..ReplicaStats::default()
        };
        let report = StatEvent::Replica(Box::new(report(key(0, 0, 0), step, stats)));
        ledger.apply(&report, start + Duration::from_millis(step)).unwrap();
    }
    let page = page(&ledger);
    assert_eq!(page.value("vllm:estimated_flops_per_gpu_total", REPLICA_0), 2000.0);
    assert_eq!(page.value("vllm:kv_block_lifetime_seconds_count", REPLICA_0), 1000.0);
}

/// 3: gauges keep the values of a busy engine when it becomes idle.
#[test]
fn gauges_of_an_idle_engine_are_zero_within_a_tenth_of_a_second() {
    let (mut ledger, start) = (ledger(), Instant::now());
    for step in 0..1000 {
        let event = running(key(0, 0, 0), step + 1, 7, false);
        ledger.apply(&event, start + Duration::from_millis(step)).unwrap();
    }
    let idle = running(key(0, 0, 0), 1001, 0, true);
    ledger.apply(&idle, start + Duration::from_millis(1099)).unwrap();
    let page = page(&ledger);
    for gauge in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
        assert_eq!(page.value(&format!("vllm:{gauge}"), REPLICA_0), 0.0, "{gauge}");
    }
}

/// 4: an abort counts twice and has an end-to-end latency.
#[test]
fn an_abort_counts_once_and_has_no_latency() {
    let mut ledger = ledger();
    let abort = || ended(1, FinishReason::Abort, Some("client_disconnect"));
    apply(&mut ledger, [accepted(1), started(1), abort(), abort()]);
    let page = page(&ledger);
    assert_eq!(page.sum("vllm:omni_requests_success_total"), 1.0);
    assert_eq!(page.sum("vllm:omni_requests_failed_total"), 1.0);
    assert_eq!(page.sum("vllm:omni_e2e_request_latency_s_count"), 0.0);
}

/// 5: the end-to-end latency begins after preprocessing, so that it can be below the time to the first packet.
#[test]
fn latency_and_time_to_first_packet_begin_at_the_same_moment() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), delivered(1, playback(0.0)), ended(1, FinishReason::Stop, None)]);
    let page = page(&ledger);
    let first_packet = page.sum("vllm:omni_audio_ttfp_s_sum");
    assert!(first_packet > 0.0 && page.sum("vllm:omni_e2e_request_latency_s_sum") >= first_packet);
    for definition in [&definitions::pipeline::E2E_REQUEST_LATENCY, &definitions::audio::TIME_TO_FIRST_PACKET]
    {
        assert!(definition.help.contains("arrival of a request at the HTTP layer"), "{}", definition.help);
    }
}

/// 6: every image and nearly every number of steps falls into the last bucket.
#[test]
fn steps_and_pixels_fall_between_bounds() {
    for (definition, usual) in [
        (&definitions::diffusion::INFERENCE_STEPS, [4.0, 8.0, 50.0]),
        (&definitions::diffusion::PIXELS, [65_536.0, 1_048_576.0, 4_194_304.0]),
    ] {
        let bounds = definition.bounds(0);
        let buckets = usual.map(|value| bounds.partition_point(|bound| *bound < value));
        assert!(buckets.is_sorted_by(|a, b| a < b) && buckets[2] < bounds.len(), "{buckets:?}");
    }
}

/// 8: parameters of requests, the cache of media, the configuration of the KV cache and the sleep state are dead.
#[test]
fn what_is_dead_there_moves() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    let page = page(&ledger);
    for name in [
        "request_params_n_count",
        "request_max_num_generation_tokens_count",
        "mm_cache_queries_total",
        "cache_config_info",
        "engine_sleep_state",
    ] {
        assert!(page.sum(&format!("vllm:{name}")) > 0.0, "{name}");
    }
}

/// 9: a replica that was not announced makes an error that ends the loop.
#[test]
fn a_replica_that_nobody_announced_gets_its_series_when_it_is_heard_of() {
    let mut ledger = ledger();
    apply(&mut ledger, [tokens(key(0, 7, 0), 1, 5), received(key(1, 4, 0), 1, &[])]);
    let labels = [("stage", "0"), ("replica", "7")];
    assert_eq!(page(&ledger).value("vllm:generation_tokens_total", &labels), 5.0);
}

/// 10: families of engines and of the pipeline have different names of the model.
#[test]
fn all_families_have_the_served_name_of_the_model() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    let page = page(&ledger);
    let named = page.samples.keys().filter(|(name, _)| name.starts_with("vllm:"));
    assert!(named.into_iter().all(|(_, labels)| labels["model_name"] == "m"));
}

/// 11: one real-time factor means the last stage in one mode and the whole request in the other.
#[test]
fn the_real_time_factors_of_the_request_and_of_its_stage_have_names_of_their_own() {
    let mut ledger = ledger();
    let times = StageTimes { queue_seconds: 1.5, work_seconds: 0.5, audio_seconds: 1.0 };
    let stats = ReplicaStats { stage_times: vec![times], ..Default::default() };
    let of_stage = StatEvent::Replica(Box::new(report(key(1, 0, 3), 1, stats)));
    apply(&mut ledger, [accepted(1), delivered(1, None), of_stage]);
    let page = page(&ledger);
    assert_eq!(page.sum("vllm:omni_audio_rtf_sum"), 2.0);
    assert_eq!(page.sum("vllm:omni_audio_stage_rtf_sum"), 0.5);
}

/// 12: an answer for which nothing was spoken is not counted as such if an earlier stage gave nothing.
#[test]
fn an_answer_without_speech_is_counted_whoever_gave_nothing() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), nothing_spoken(1), ended(1, FinishReason::Stop, None)]);
    assert_eq!(page(&ledger).sum("vllm:omni_audio_skipped_requests_total"), 1.0);
}

/// 13: gauges carry the id of a process and survive its death.
#[test]
fn gauges_carry_no_process_and_go_with_their_replica() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    assert!(page(&ledger).samples.keys().all(|(_, labels)| !labels.contains_key("pid")));
    apply(&mut ledger, [StatEvent::ReplicaDown { key: key(0, 0, 0), reason: "replica_panic" }]);
    assert!(page(&ledger).fitting("vllm:num_requests_running", REPLICA_0).is_empty());
}

/// 15: the time of a stage is told of the last stage alone, under a help text that speaks of images.
#[test]
fn every_stage_tells_its_time() {
    let mut ledger = full_ledger();
    let times = StageTimes { queue_seconds: 0.0, work_seconds: 1.0, audio_seconds: 0.0 };
    for stage in 0..3 {
        let stats = ReplicaStats { stage_times: vec![times], ..Default::default() };
        apply(&mut ledger, [StatEvent::Replica(Box::new(report(key(stage, 0, 0), 1, stats)))]);
    }
    assert_eq!(page(&ledger).fitting("vllm:omni_stage_gen_time_s_count", &[]), [1.0; 3]);
}

/// 16: families are defined that no page shows.
#[test]
fn every_family_that_is_defined_is_on_the_page() {
    let page = page(&full_ledger());
    for definition in definitions::all() {
        assert!(page.helps.contains_key(&definition.name(definitions::DEFAULT_OMNI_PREFIX)));
    }
}

/// 17: the buckets of all stages follow the configuration of the first.
#[test]
fn the_buckets_of_a_stage_follow_its_own_length() {
    let page = page(&ledger_of(true, vec![stage(0, 1, Some(100)), stage(1, 1, Some(5000))]));
    let buckets = |stage| page.fitting("vllm:request_prompt_tokens_bucket", &[("stage", stage)]).len();
    assert_eq!((buckets("0"), buckets("1")), (8, 13));
}

/// 18: running and waiting requests are told when a request comes or goes, and not as they are at a scrape.
#[test]
fn running_and_waiting_are_true_after_every_event() {
    let mut ledger = ledger();
    let shown = |ledger: &Ledger| {
        let page = page(ledger);
        ["running", "waiting"].map(|what| page.sum(&format!("vllm:omni_num_requests_{what}")))
    };
    apply(&mut ledger, [accepted(1), accepted(2)]);
    assert_eq!(shown(&ledger), [0.0, 2.0]);
    apply(&mut ledger, [started(1)]);
    assert_eq!(shown(&ledger), [1.0, 1.0], "no request came or went");
}

/// 19: an option has gauges flap to 0 between two publications.
#[test]
fn a_report_without_scheduler_values_leaves_gauges_alone() {
    let mut ledger = ledger();
    apply(&mut ledger, [running(key(0, 0, 0), 1, 4, false), tokens(key(0, 0, 0), 2, 1)]);
    assert_eq!(page(&ledger).value("vllm:num_requests_running", REPLICA_0), 4.0);
}

/// 20: failures are told as aborts.
#[test]
fn a_failure_is_an_error_and_its_reason_is_told() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), ended(1, FinishReason::Error, Some("device_error"))]);
    let page = page(&ledger);
    let success = |reason| page.value("vllm:omni_requests_success_total", &[("finished_reason", reason)]);
    assert_eq!((success("error"), success("abort")), (1.0, 0.0));
    assert_eq!(page.value("vllm:omni_requests_failed_total", &[("reason", "device_error")]), 1.0);
}
