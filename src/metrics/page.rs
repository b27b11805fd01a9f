//! A page of `/metrics` read back, for tests.

use std::collections::BTreeMap;

use crate::metrics::{Exposition, TextFormat};

/// A page in the classic text format, parsed strictly: anything unexpected is a panic that shows the line.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Type by family name, in the order of the page.
    pub(crate) families: Vec<(String, String)>,
    /// Help by family name.
    pub(crate) helps: BTreeMap<String, String>,
    /// Value by sample name and labels.
    pub(crate) samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Page {
    pub(crate) fn of(exposition: &Exposition) -> Self {
        Self::parse(&exposition.to_text(TextFormat::Classic))
    }

    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.is_empty() || text.ends_with('\n'));
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                let help = help.replace("\\n", "\n").replace("\\\\", "\\");
                assert!(page.helps.insert(name.to_owned(), help).is_none(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(page.helps.contains_key(name), "{line}");
                page.families.push((name.to_owned(), kind.to_owned()));
            } else {
                let (family, kind) = page.families.last().unwrap();
                let (name, labels, value) = parse_sample(line);
                let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line}"));
                let allowed: &[&str] = match kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(allowed.contains(&suffix), "{line}");
                assert!(page.samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        page
    }

    /// The value of a sample. `labels` is a part of its labels which must fit exactly one sample, which is the
    /// case without `model_name` for most.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fitting = self.fitting(name, labels);
        assert_eq!(fitting.len(), 1, "{name} {labels:?}: {fitting:?}");
        fitting[0]
    }

    /// The sum of all samples of this name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.fitting(name, &[]).iter().sum()
    }

    /// The values of the samples that have these labels, whatever others they have.
    pub(crate) fn fitting(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let fits = |given: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| given.get(*label).is_some_and(|given| given == value))
        };
        let samples = self.samples.iter().filter(|((sample, given), _)| sample == name && fits(given));
        samples.map(|(_, &value)| value).collect()
    }
}

fn parse_sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || "_:".contains(*c)).collect();
    let mut rest = &line[name.len()..];
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap_or_else(|| panic!("{line}")) {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().unwrap().1 {
                        'n' => value.push('\n'),
                        escaped @ ('\\' | '"') => value.push(escaped),
                        other => panic!("escaped {other}: {line}"),
                    },
                    (_, plain) => value.push(plain),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = match rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}")) {
        "+Inf" => f64::INFINITY,
        number => number.parse().unwrap_or_else(|_| panic!("{line}")),
    };
    (name, labels, value)
}
