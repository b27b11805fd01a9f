//! The definitions against the families of vLLM-Omni 0.30.0 and of the vLLM below it, whose dashboards and queries
//! are to fit. What differs on purpose is listed here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Buckets, Definition, Kind, Namespace, all, audio, transfer};

/// One family per line: the name behind `# TYPE`, type, labels, and the finite bucket bounds.
const FAMILIES: &str = include_str!("upstream.jsonl");

/// Families of ours that upstream does not have.
const OURS: [&str; 2] = ["requests_accepted_total", "requests_rejected_total"];

/// Families whose buckets are ours.
const OWN_BUCKETS: [&str; 3] = ["transfer_tx_s", "transfer_in_flight_s", "transfer_rx_s"];

fn upstream() -> BTreeMap<String, Value> {
    let families = FAMILIES.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    families.map(|family| (family["name"].as_str().unwrap().to_owned(), family)).collect()
}

/// The name upstream. Newer releases write `vllm_omni:` for families of the pipeline.
fn upstream_name(definition: &Definition) -> String {
    definition.name("vllm_omni:")
}

fn has_buckets_of(definition: &Definition, family: &Value) -> bool {
    match definition.kind {
        Kind::Histogram(Buckets::OneTwoFive) => family["buckets"] == "1-2-5",
        Kind::Histogram(Buckets::Fixed(bounds)) => family["buckets"]
            .as_array()
            .is_some_and(|theirs| theirs.iter().map(Value::as_f64).eq(bounds.iter().copied().map(Some))),
        Kind::Counter | Kind::Gauge => family["buckets"].is_null(),
    }
}

#[test]
fn names_types_labels_and_buckets_are_upstreams_but_for_the_listed_ones() {
    let upstream = upstream();
    let (mut ours, mut own_buckets) = (BTreeSet::new(), BTreeSet::new());
    for definition in all() {
        let name = upstream_name(definition);
        let Some(family) = upstream.get(&name) else {
            ours.insert(definition.suffix);
            continue;
        };
        assert_eq!(family["type"], definition.kind.as_str(), "{name}");
        let labels: BTreeSet<_> = definition.labels.iter().map(|label| label.name).collect();
        let theirs: BTreeSet<_> =
            family["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
        assert_eq!(labels, theirs, "{name}");
        if !has_buckets_of(definition, family) {
            own_buckets.insert(definition.suffix);
        }
    }
    assert_eq!(ours, BTreeSet::from(OURS));
    assert_eq!(own_buckets, BTreeSet::from(OWN_BUCKETS));
}

#[test]
fn no_audio_or_transfer_family_of_upstream_is_missing() {
    for (prefix, group) in [("vllm_omni:audio_", audio::ALL), ("vllm_omni:transfer_", transfer::ALL)] {
        let ours: BTreeSet<_> = group.iter().map(|definition| upstream_name(definition)).collect();
        let theirs: BTreeSet<_> = upstream().into_keys().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn own_bounds_of_transfers_begin_at_a_microsecond_and_go_on_with_upstreams() {
    let upstream = upstream();
    for definition in transfer::ALL.iter().filter(|definition| OWN_BUCKETS.contains(&definition.suffix)) {
        assert_eq!(definition.namespace, Namespace::Omni);
        let bounds = definition.bounds(0);
        assert_eq!(bounds[0], 1e-6);
        let theirs = upstream[&upstream_name(definition)]["buckets"].as_array().unwrap();
        let theirs: Vec<_> = theirs.iter().map(|bound| bound.as_f64().unwrap()).collect();
        assert!(bounds.ends_with(&theirs), "{}", definition.suffix);
    }
}
