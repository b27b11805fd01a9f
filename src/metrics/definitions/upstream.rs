//! The definitions against the families of vLLM-Omni 0.30.0 and of the vLLM below it, whose dashboards and queries
//! are to fit.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::differences::{Aspect, BEYOND, DIFFERENCES, Difference};
use super::left_out::LEFT_OUT;
use super::{Buckets, Definition, Kind, all, transfer};

/// One family per line: the name behind `# TYPE`, type, labels, and the finite bucket bounds.
const CATALOG: &str = include_str!("../../../tests/metric_catalog.jsonl");

fn catalog() -> BTreeMap<String, Value> {
    let families = CATALOG.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
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

fn labels_of(family: &Value) -> BTreeSet<&str> {
    family["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect()
}

#[test]
fn types_labels_and_buckets_are_upstreams_but_for_the_listed_differences() {
    let catalog = catalog();
    for definition in all() {
        let name = upstream_name(definition);
        let Some(family) = catalog.get(&name) else { continue };
        let labels: BTreeSet<_> = definition.labels.iter().map(|label| label.name).collect();
        for (aspect, is_the_same) in [
            (Aspect::Type, family["type"] == definition.kind.as_str()),
            (Aspect::Labels, labels == labels_of(family)),
            (Aspect::Buckets, has_buckets_of(definition, family)),
        ] {
            let is_listed = Difference::of(definition, aspect).is_some();
            assert_eq!(is_the_same, !is_listed, "{aspect:?} of {name}: {family}");
        }
    }
    for definition in DIFFERENCES.iter().flat_map(|difference| difference.families) {
        assert!(catalog.contains_key(&upstream_name(definition)), "{}", definition.suffix);
    }
}

#[test]
fn every_family_of_upstream_is_defined_or_left_out_with_a_reason() {
    let catalog = catalog();
    assert_eq!(catalog.len(), 161);
    let defined: BTreeSet<_> = all().map(upstream_name).collect();
    let left_out: Vec<_> = LEFT_OUT.iter().flat_map(|group| group.families).collect();
    for family in catalog.keys() {
        let times = left_out.iter().filter(|name| **name == family).count();
        assert_eq!(usize::from(defined.contains(family)) + times, 1, "{family}");
    }
    for family in left_out {
        assert!(catalog.contains_key(*family), "{family}");
    }
    assert!(LEFT_OUT.iter().all(|group| !group.reason.is_empty()));
}

#[test]
fn what_upstream_does_not_have_is_listed() {
    let catalog = catalog();
    let ours = all().filter(|definition| !catalog.contains_key(&upstream_name(definition)));
    let listed: BTreeSet<_> = BEYOND.iter().map(|definition| definition.suffix).collect();
    assert_eq!(ours.map(|definition| definition.suffix).collect::<BTreeSet<_>>(), listed);
}

#[test]
fn own_bounds_of_transfers_begin_at_a_microsecond_and_go_on_with_upstreams() {
    let catalog = catalog();
    for definition in [&transfer::SEND, &transfer::IN_FLIGHT, &transfer::RECEIVE] {
        let bounds = definition.bounds(0);
        assert_eq!(bounds[0], 1e-6);
        let theirs = catalog[&upstream_name(definition)]["buckets"].as_array().unwrap();
        let theirs: Vec<_> = theirs.iter().map(|bound| bound.as_f64().unwrap()).collect();
        assert!(bounds.ends_with(&theirs), "{}", definition.suffix);
    }
}

#[test]
fn what_is_said_of_the_kv_cache_is_part_of_what_upstream_says() {
    let catalog = catalog();
    let definition = &super::kv_cache::CONFIG_INFO;
    let theirs = labels_of(&catalog[&upstream_name(definition)]);
    let ours = definition.labels.iter().map(|label| label.name).filter(|label| *label != "model_name");
    assert!(ours.into_iter().all(|label| theirs.contains(label)));
}
