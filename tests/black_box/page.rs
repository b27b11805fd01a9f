//! A page of `/metrics`, read back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::client;

/// A page, taken apart.
#[derive(Debug)]
pub(crate) struct Page {
    /// The page as it was sent.
    pub(crate) text: String,
    /// Type by family name.
    pub(crate) types: BTreeMap<String, String>,
    /// Help by family name.
    pub(crate) helps: BTreeMap<String, String>,
    /// Name, labels as they are written, and value of each sample.
    pub(crate) samples: Vec<(String, String, f64)>,
}

impl Page {
    /// The page of a server as it is now.
    pub(crate) fn of(server: SocketAddr) -> Self {
        let reply = client::get(server, "/metrics");
        assert_eq!(reply.status, 200);
        Self::parse(reply.body)
    }

    fn parse(text: String) -> Self {
        let mut page =
            Self { text: String::new(), types: BTreeMap::new(), helps: BTreeMap::new(), samples: Vec::new() };
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(page.types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else if let Some((name, help)) =
                line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
            {
                assert!(page.helps.insert(name.to_owned(), help.to_owned()).is_none(), "twice: {line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
                let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
                let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
                page.samples.push((name.to_owned(), labels.to_owned(), value));
            }
        }
        page.text = text;
        page
    }

    /// The sum of all samples of this name, of which there must be one.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum of the samples of this name whose labels hold this text, of which there must be one.
    pub(crate) fn sum_where(&self, name: &str, label: &str) -> f64 {
        let fitting =
            self.samples.iter().filter(|(sample, labels, _)| sample == name && labels.contains(label));
        let values: Vec<f64> = fitting.map(|(_, _, value)| *value).collect();
        assert!(!values.is_empty(), "no {name} with {label:?} in\n{}", self.text);
        values.iter().sum()
    }

    /// Whether the page says anything of this family.
    pub(crate) fn has(&self, family: &str) -> bool {
        self.types.contains_key(family)
    }
}
