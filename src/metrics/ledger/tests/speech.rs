//! What speech adds: audio that was delivered, and chunks that came over edges.

use super::*;

const MAKER: &[(&str, &str)] = &[("stage", "1"), ("replica", "0")];

/// From the replica of stage 0 to that of stage 1 that [`accepted`] binds.
const EDGE: &[(&str, &str)] =
    &[("from_stage", "0"), ("from_replica", "1"), ("to_stage", "1"), ("to_replica", "0")];

/// The replica of stage 1 that [`accepted`] binds.
fn receiver() -> ReplicaKey {
    key(1, 0, 3)
}

/// The values of audio families of the replica that made it, by what follows `audio_`.
fn audio<const N: usize>(ledger: &Ledger, samples: [&str; N]) -> [f64; N] {
    let page = page(ledger);
    samples.map(|sample| page.value(&format!("vllm:omni_audio_{sample}"), MAKER))
}

/// The sum over all samples of families of audio and transfers.
fn all_counted(ledger: &Ledger) -> f64 {
    let page = page(ledger);
    let of_speech = |name: &str| name.contains("omni_audio_") || name.contains("omni_transfer_");
    page.samples.iter().filter(|((name, _), _)| of_speech(name)).map(|(_, &value)| value).sum()
}

#[test]
fn a_streamed_answer_moves_all_audio_families_and_a_whole_one_those_without_packets() {
    let mut ledger = ledger();
    let names =
        ["ttfp_s_sum", "duration_s_sum", "rtf_sum", "frames_total", "underrun_s_sum", "continuity_ok_total"];
    apply(&mut ledger, [accepted(1), delivered(1, playback(0.05))]);
    assert_eq!(audio(&ledger, names), [0.25, 1.0, 2.0, 24_000.0, 0.05, 1.0]);
    apply(&mut ledger, [accepted(2), delivered(2, None)]);
    assert_eq!(audio(&ledger, names), [0.25, 2.0, 4.0, 48_000.0, 0.05, 1.0]);
    assert_eq!(audio(&ledger, ["duration_s_count", "rtf_count", "ttfp_s_count"]), [2.0, 2.0, 1.0]);
    assert_eq!(audio(&ledger, ["skipped_requests_total"]), [0.0]);
    assert_eq!(ledger.contradictions(), 0);
}

#[test]
fn an_answer_is_continuous_up_to_and_including_the_threshold() {
    let mut ledger = ledger();
    for (request, underrun) in (1..).zip([0.0, 0.1, 0.10000000000000007, 2.0]) {
        apply(&mut ledger, [accepted(request), delivered(request, playback(underrun))]);
    }
    assert_eq!(audio(&ledger, ["continuity_ok_total", "underrun_s_count"]), [2.0, 4.0]);
    let labels = [("threshold_ms", "100")];
    assert_eq!(page(&ledger).value("vllm:omni_audio_continuity_ok_total", &labels), 2.0);
}

#[test]
fn an_answer_with_nothing_to_be_spoken_is_skipped_and_nothing_else() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), nothing_spoken(1)]);
    let labels = [("stage", "1"), ("replica", "0"), ("reason", "no_audio_data")];
    assert_eq!(page(&ledger).value("vllm:omni_audio_skipped_requests_total", &labels), 1.0);
    assert_eq!(all_counted(&ledger), 1.0);
}

#[test]
fn every_chunk_is_one_sample_of_its_edge() {
    let mut ledger = ledger();
    apply(&mut ledger, [accepted(1), accepted(2), received(receiver(), 1, &[1, 2, 1])]);
    let page = page(&ledger);
    for (family, sum) in [("size_bytes", 4800.0), ("tx_s", 6e-6), ("in_flight_s", 9e-5), ("rx_s", 1.2e-5)] {
        let value = |suffix| page.value(&format!("vllm:omni_transfer_{family}_{suffix}"), EDGE);
        assert_eq!(value("count"), 3.0, "{family}");
        assert!((value("sum") - sum).abs() < 1e-12, "{family}: {}", value("sum"));
        assert_eq!(page.sum(&format!("vllm:omni_transfer_{family}_count")), 3.0, "no other edge");
    }
    let below = |bound| page.value("vllm:omni_transfer_tx_s_bucket", &[EDGE, &[("le", bound)]].concat());
    assert_eq!((below("1e-06"), below("2.5e-06")), (0.0, 3.0));
}

#[test]
fn a_report_that_comes_twice_counts_its_chunks_once_though_its_stage_is_no_engine() {
    let mut ledger = ledger_of(true, vec![stage(0, 2, None), vocoder(1, 1)]);
    let reports =
        [received(receiver(), 2, &[1]), received(receiver(), 2, &[1]), received(receiver(), 1, &[1])];
    apply(&mut ledger, [accepted(1)].into_iter().chain(reports));
    assert_eq!(page(&ledger).value("vllm:omni_transfer_size_bytes_count", EDGE), 2.0);
}

#[test]
fn what_is_told_after_the_end_belongs_to_the_replicas_of_the_route() {
    let mut ledger = ledger();
    let end = ended(1, FinishReason::Stop, None);
    apply(&mut ledger, [accepted(1), end, received(receiver(), 1, &[1]), delivered(1, playback(0.0))]);
    assert_eq!(audio(&ledger, ["frames_total"]), [24_000.0]);
    assert_eq!(page(&ledger).value("vllm:omni_transfer_rx_s_count", EDGE), 1.0);
    assert_eq!(ledger.contradictions(), 0);
}

#[test]
fn replicas_of_unknown_requests_are_not_guessed() {
    let mut ledger = ledger();
    let text_only = PipelineEvent::Accepted { request: RequestId(1), route: vec![key(0, 0, 0)] };
    apply(&mut ledger, [StatEvent::Pipeline(text_only)]);
    let untrue = [
        delivered(1, None),
        nothing_spoken(1),
        delivered(2, playback(0.0)),
        received(receiver(), 1, &[1]),
        received(receiver(), 2, &[2]),
    ];
    for (before, event) in (0..).zip(untrue) {
        assert_eq!(ledger.contradictions(), before);
        apply(&mut ledger, [event]);
    }
    assert_eq!((ledger.contradictions(), all_counted(&ledger)), (5, 0.0));
}

#[test]
fn a_chunk_that_another_replica_received_than_the_bound_one_is_not_counted() {
    let mut ledger = ledger_of(true, vec![stage(0, 2, Some(64)), vocoder(1, 2)]);
    apply(&mut ledger, [accepted(1), received(key(1, 1, 0), 1, &[1])]);
    assert_eq!((ledger.contradictions(), all_counted(&ledger)), (1, 0.0));
}

#[test]
fn audio_is_delivered_once_and_by_a_stage_that_makes_it_at_some_rate() {
    let mut ledger = ledger();
    let of = |stage, sample_rate| {
        let audio = DeliveredAudio { stage, frames: 1, sample_rate, e2e_seconds: 1.0, playback: None };
        StatEvent::Pipeline(PipelineEvent::AudioDelivered { request: RequestId(1), audio })
    };
    apply(&mut ledger, [accepted(1), of(StageId(0), 24_000), of(StageId(1), 0)]);
    assert_eq!((ledger.contradictions(), all_counted(&ledger)), (2, 0.0));
    apply(&mut ledger, [delivered(1, None), delivered(1, None), ended(1, FinishReason::Stop, None)]);
    apply(&mut ledger, [delivered(1, None)]);
    assert_eq!((ledger.contradictions(), audio(&ledger, ["frames_total"])), (4, [24_000.0]));
}

#[test]
fn families_exist_where_their_feature_does() {
    let shown = |stages| {
        let page = page(&ledger_of(true, stages));
        let any = |part: &str| page.families.iter().any(|(name, _)| name.contains(part));
        (any("omni_audio_"), any("omni_transfer_"))
    };
    assert_eq!(shown(vec![stage(0, 1, Some(64))]), (false, false));
    assert_eq!(shown(vec![stage(0, 1, Some(64)), stage(1, 1, None)]), (false, true));
    assert_eq!(shown(vec![vocoder(0, 1)]), (true, false));
    assert_eq!(shown(vec![stage(0, 1, Some(64)), vocoder(1, 1)]), (true, true));
}

#[test]
fn all_makers_of_audio_and_all_edges_are_zero_from_the_start() {
    let page = page(&ledger_of(true, vec![stage(0, 2, Some(64)), stage(1, 3, Some(64)), vocoder(2, 4)]));
    let of_requests = page.samples.iter().filter(|((name, _), _)| !name.starts_with("process_"));
    assert!(of_requests.into_iter().all(|(_, &value)| value == 0.0));
    for definition in definitions::audio::ALL.iter().chain(definitions::transfer::ALL) {
        let name = definition.name(definitions::DEFAULT_OMNI_PREFIX);
        let sample = match definition.kind {
            Kind::Histogram(_) => format!("{name}_count"),
            Kind::Counter | Kind::Gauge => name,
        };
        let expected = if definition.suffix.starts_with("audio_") { 4 } else { 2 * 3 + 3 * 4 };
        assert_eq!(page.fitting(&sample, &[]).len(), expected, "{sample}");
    }
    let between = |from, to| {
        page.fitting("vllm:omni_transfer_rx_s_count", &[("from_stage", from), ("to_stage", to)]).len()
    };
    assert_eq!((between("0", "1"), between("1", "2"), between("0", "2")), (6, 12, 0));
}
