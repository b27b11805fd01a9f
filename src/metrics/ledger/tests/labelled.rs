//! Families that custom stages declare.

use super::*;
use crate::metrics::labelled::{CounterFamily, GaugeFamily, HistogramFamily, MetricFamily, Recorder};

fn families() -> Vec<MetricFamily> {
    vec![
        MetricFamily::counter("words_total", "Words.").label("language").max_children(3),
        MetricFamily::gauge("queue", "Waiting.").label("kind"),
        MetricFamily::gauge("level", "Level."),
        MetricFamily::histogram("length", "Lengths.", &[1.0, 2.0]),
    ]
}

/// An engine, and a custom stage of two replicas.
fn custom_ledger(log_stats: bool) -> Ledger {
    let custom = StageDescription { families: families(), ..stage(1, 2, None) };
    ledger_of(log_stats, vec![stage(0, 1, Some(1000)), custom])
}

/// One life of a replica of the custom stage.
struct CustomLife {
    key: ReplicaKey,
    recorder: Recorder,
    sequence: u64,
    words: CounterFamily<1>,
    queue: GaugeFamily<1>,
    level: GaugeFamily<0>,
    length: HistogramFamily<0>,
}

impl CustomLife {
    fn new(key: ReplicaKey) -> Self {
        let recorder = Recorder::new(families().into(), true);
        Self {
            key,
            sequence: 0,
            words: recorder.counter("words_total").unwrap(),
            queue: recorder.gauge("queue").unwrap(),
            level: recorder.gauge("level").unwrap(),
            length: recorder.histogram("length").unwrap(),
            recorder,
        }
    }

    /// The report of all that was counted so far.
    fn report(&mut self) -> StatEvent {
        self.sequence += 1;
        let stats = ReplicaStats { labelled: self.recorder.totals(), ..Default::default() };
        StatEvent::Replica(Box::new(report(self.key, self.sequence, stats)))
    }
}

const ONE: &[(&str, &str)] = &[("stage", "1"), ("replica", "0")];

fn language(language: &str) -> [(&str, &str); 3] {
    [("stage", "1"), ("replica", "0"), ("language", language)]
}

#[test]
fn declared_families_stand_on_the_page_with_help_type_and_the_replicas_labels() {
    let mut ledger = custom_ledger(true);
    let untouched = page(&ledger);
    for family in families() {
        assert_eq!(untouched.helps[family.name()], family.help());
        let kind = (family.name().to_owned(), family.kind().as_str().to_owned());
        assert!(untouched.families.contains(&kind), "{kind:?}");
    }
    assert_eq!(untouched.fitting("level", &[]), [0.0, 0.0], "known label values stand at zero");
    assert_eq!(untouched.fitting("length_count", &[]), [0.0, 0.0]);
    assert!(untouched.fitting("words_total", &[]).is_empty(), "others are created when they are counted");

    let mut life = CustomLife::new(key(1, 0, 0));
    life.words.add(["en"], 2.0);
    life.length.observe([], 1.5);
    apply(&mut ledger, [life.report()]);
    let page = page(&ledger);
    let labels = [("model_name", "m"), ("stage", "1"), ("replica", "0"), ("language", "en")];
    assert_eq!(page.value("words_total", &labels), 2.0);
    let bucket = |le| page.value("length_bucket", &[("replica", "0"), ("le", le)]);
    assert_eq!(["1.0", "2.0", "+Inf"].map(bucket), [0.0, 1.0, 1.0]);
    assert_eq!(page.value("length_sum", ONE), 1.5);
}

#[test]
fn without_statistics_declared_families_do_not_exist() {
    let mut ledger = custom_ledger(false);
    let mut life = CustomLife::new(key(1, 0, 0));
    life.words.increment(["en"]);
    apply(&mut ledger, [life.report()]);
    let page = page(&ledger);
    assert!(families().iter().all(|family| !page.helps.contains_key(family.name())));
}

#[test]
fn a_report_that_lacks_a_family_or_a_label_changes_nothing_of_it() {
    let mut ledger = custom_ledger(true);
    let (mut first, mut second) = (CustomLife::new(key(1, 0, 0)), CustomLife::new(key(1, 0, 1)));
    first.words.add(["en"], 2.0);
    first.length.observe([], 5.0);
    second.words.add(["de"], 3.0);
    apply(&mut ledger, [first.report(), second.report()]);
    let empty = StatEvent::Replica(Box::new(report(key(1, 0, 1), 9, ReplicaStats::default())));
    apply(&mut ledger, [empty]);
    let page = page(&ledger);
    assert_eq!(page.value("words_total", &language("en")), 2.0);
    assert_eq!(page.value("words_total", &language("de")), 3.0);
    assert_eq!(page.value("length_count", ONE), 1.0);
}

#[test]
fn a_lost_report_loses_nothing_and_a_repeated_or_late_one_doubles_nothing() {
    let mut ledger = custom_ledger(true);
    let mut life = CustomLife::new(key(1, 0, 0));
    let mut reports = Vec::new();
    for round in 0..4 {
        life.words.add(["en"], 1.0);
        life.length.observe([], f64::from(round));
        life.level.set([], f64::from(round));
        reports.push(life.report());
    }
    let [first, _lost, third, fourth] = reports.try_into().unwrap();
    apply(&mut ledger, [first.clone(), fourth.clone(), third, first, fourth]);
    let page = page(&ledger);
    assert_eq!(page.value("words_total", &language("en")), 4.0);
    assert_eq!(page.value("length_count", ONE), 4.0);
    assert_eq!(page.value("length_sum", ONE), 6.0);
    assert_eq!(page.value("level", ONE), 3.0, "a late report does not show the past");
}

#[test]
fn a_restart_doubles_nothing_and_takes_gauges_away_until_they_are_set_again() {
    let mut ledger = custom_ledger(true);
    let (old, new) = (key(1, 0, 0), key(1, 0, 1));
    let mut first = CustomLife::new(old);
    first.words.add(["en"], 5.0);
    first.length.observe([], 1.0);
    first.queue.set(["a"], 7.0);
    first.level.set([], 7.0);
    apply(&mut ledger, [StatEvent::ReplicaUp(old), first.report()]);
    assert_eq!(page(&ledger).sum("queue"), 7.0);
    apply(&mut ledger, [StatEvent::ReplicaDown { key: old, reason: "panic" }]);
    let gone = page(&ledger);
    assert!(gone.fitting("queue", &[]).is_empty() && gone.fitting("level", ONE).is_empty());
    assert_eq!(gone.value("words_total", &language("en")), 5.0);

    let mut second = CustomLife::new(new);
    second.words.add(["en"], 2.0);
    second.length.observe([], 1.0);
    first.words.add(["en"], 1.0);
    first.level.set([], 9.0);
    apply(&mut ledger, [StatEvent::ReplicaUp(new), first.report(), second.report()]);
    let page = page(&ledger);
    assert_eq!(page.value("words_total", &language("en")), 8.0);
    assert_eq!(page.value("length_count", ONE), 2.0);
    assert_eq!(page.value("level", ONE), 0.0, "not the value of the life that is over");
}

#[test]
fn children_are_bounded_over_all_lives_and_the_rest_is_counted_as_overflow() {
    let mut ledger = custom_ledger(true);
    for epoch in 0..3 {
        let mut life = CustomLife::new(key(1, 0, epoch));
        for child in 0..4 {
            life.words.increment([&format!("{epoch}-{child}")]);
        }
        apply(&mut ledger, [life.report()]);
    }
    let page = page(&ledger);
    assert_eq!(page.fitting("words_total", ONE).len(), 4);
    assert_eq!(page.value("words_total", &language("0-0")), 1.0);
    assert_eq!(page.value("words_total", &language("overflow")), 9.0);
    assert_eq!(page.sum("words_total"), 12.0);
}

#[test]
fn stages_share_a_family_that_they_declare_alike_and_no_other() {
    let custom = |index, families| StageDescription { families, ..stage(index, 1, None) };
    let settings = |second| MetricsSettings {
        model_name: "m".to_owned(),
        omni_prefix: OmniPrefix::default(),
        log_stats: true,
        kv_cache_metrics: false,
        inference: Inference::Online,
        stages: vec![custom(0, families()), custom(1, second)],
    };
    let ledger = Ledger::new(settings(families())).unwrap();
    assert_eq!(page(&ledger).fitting("level", &[]).len(), 2);
    let error = Ledger::new(settings(vec![MetricFamily::gauge("level", "Another level.")])).unwrap_err();
    assert_eq!(error.to_string(), "metric level is declared in different ways by stages 0 and 1");
}

#[test]
fn what_was_not_declared_is_refused_and_the_rest_of_the_report_counts() {
    let mut ledger = custom_ledger(true);
    let other = Recorder::new([MetricFamily::counter("a_total", "A.")].into(), true);
    other.counter::<0>("a_total").unwrap().increment([]);
    let life = CustomLife::new(key(1, 0, 0));
    life.words.increment(["en"]);
    let mut labelled = other.totals();
    labelled.merge(life.recorder.totals());
    let stats = ReplicaStats { labelled, ..Default::default() };
    let event = StatEvent::Replica(Box::new(report(life.key, 1, stats)));
    let error = ledger.apply(&event, Instant::now()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage 1 replica 0 (epoch 0) reported metric a_total, which its stage does not declare so"
    );
    assert_eq!(page(&ledger).value("words_total", &language("en")), 1.0);
}
