//! The page in OpenMetrics, read by its rules.

use super::*;

/// Reads a page by the rules of OpenMetrics 1.0 that concern it; anything against them is a panic that shows the line.
/// Gives the samples as the classic page has them.
fn read(text: &str) -> Vec<String> {
    let mut lines = text.strip_suffix("# EOF\n").expect("ends with EOF").lines().peekable();
    let (mut families, mut samples) = (BTreeSet::new(), Vec::new());
    while let Some(line) = lines.next() {
        let (name, _) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
        assert!(families.insert(name), "twice: {line}");
        let (named, kind) =
            lines.next().unwrap().strip_prefix("# TYPE ").expect(line).split_once(' ').expect(line);
        assert_eq!(named, name);
        assert!(!(kind == "counter" && name.ends_with("_total")), "{line}");
        if let Some(unit) = lines.next_if(|line| line.starts_with("# UNIT ")) {
            let (named, unit) = unit["# UNIT ".len()..].split_once(' ').expect(unit);
            assert!(named == name && name.ends_with(&format!("_{unit}")), "{line}");
        }
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{other}"),
        };
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let end = sample.find(['{', ' ']).expect(sample);
            let suffix = sample[..end].strip_prefix(name).unwrap_or_else(|| panic!("{sample} in {name}"));
            assert!(suffixes.contains(&suffix), "{sample}");
            samples.push(sample.to_owned());
        }
    }
    samples
}

#[test]
fn both_formats_have_the_same_samples() {
    let mut ledger = full_ledger();
    apply(&mut ledger, everything());
    let exposition = ledger.gather();
    let classic = exposition.to_text(TextFormat::Classic);
    let of_classic: Vec<_> = classic.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(read(&exposition.to_text(TextFormat::OpenMetrics)), of_classic);
}

#[test]
fn no_name_of_a_sample_is_that_of_another_family() {
    let prefix = definitions::DEFAULT_OMNI_PREFIX;
    let mut taken = BTreeMap::new();
    for definition in definitions::all() {
        let name = definition.name(prefix);
        let (family, suffixes): (&str, &[&str]) = match definition.kind {
            Kind::Counter => (name.strip_suffix("_total").unwrap(), &["", "_total", "_created"]),
            Kind::Gauge => (&name, &[""]),
            Kind::Histogram(_) => (&name, &["", "_bucket", "_sum", "_count", "_created"]),
        };
        for suffix in suffixes {
            let other = taken.insert(format!("{family}{suffix}"), name.clone());
            assert_eq!(other, None, "{name}");
        }
    }
}
