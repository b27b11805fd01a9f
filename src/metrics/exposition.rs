//! How a scrape is written: the classic text format, version 0.0.4.
//!
//! The crate's own encoder leaves out families without series. Here every registered family has its HELP and TYPE,
//! so that a reader of the page sees what the server can tell. Numbers are written like vLLM's client library
//! does: `1.0`, `0.05`, `+Inf`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::sync::Arc;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The content type of [`Exposition::to_text`].
pub const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What stands above the series of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// The whole name of the family.
    pub name: String,
    /// What it tells.
    pub help: String,
    /// The word for its kind.
    pub kind: &'static str,
}

/// The values of all series at one moment. Writing it out needs nothing of the actor that gathered it.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// All families, also those without series, in the order of the page.
    headings: Arc<Vec<Heading>>,
    /// Families with series, by name.
    families: BTreeMap<String, MetricFamily>,
}

impl Exposition {
    /// Puts headings and gathered families together. A family without a heading is not written.
    pub fn new(headings: Arc<Vec<Heading>>, gathered: Vec<MetricFamily>) -> Self {
        let families = gathered.into_iter().map(|family| (family.name().to_owned(), family)).collect();
        Self { headings, families }
    }

    /// The page in the classic text format: families in the order of registration, series in that of their label
    /// values.
    pub fn to_text(&self) -> String {
        let mut page = String::new();
        for heading in self.headings.iter() {
            // Writing to a string cannot fail.
            let _ = write_heading(&mut page, heading);
            if let Some(family) = self.families.get(&heading.name) {
                let _ = write_family(&mut page, family);
            }
        }
        page
    }
}

/// The lines `# HELP` and `# TYPE`.
fn write_heading(page: &mut String, heading: &Heading) -> fmt::Result {
    let Heading { name, help, kind } = heading;
    writeln!(page, "# HELP {name} {}", Escaped { text: help, quotes: false })?;
    writeln!(page, "# TYPE {name} {kind}")
}

/// The series of a family.
fn write_family(page: &mut String, family: &MetricFamily) -> fmt::Result {
    let name = family.name();
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => {
                write_sample(page, name, "", labels, None, metric.get_counter().get_value())?;
            }
            MetricType::GAUGE => write_sample(page, name, "", labels, None, metric.get_gauge().get_value())?,
            MetricType::HISTOGRAM => write_histogram(page, name, metric)?,
            // The definitions know no such kinds.
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    Ok(())
}

/// The buckets of a histogram, ending with `+Inf`, its sum and its count.
fn write_histogram(page: &mut String, name: &str, metric: &Metric) -> fmt::Result {
    let (labels, histogram) = (metric.get_label(), metric.get_histogram());
    let count = histogram.get_sample_count() as f64;
    for bucket in histogram.get_bucket() {
        let (bound, below) = (bucket.upper_bound(), bucket.cumulative_count() as f64);
        write_sample(page, name, "_bucket", labels, Some(bound), below)?;
    }
    write_sample(page, name, "_bucket", labels, Some(f64::INFINITY), count)?;
    write_sample(page, name, "_sum", labels, None, histogram.get_sample_sum())?;
    write_sample(page, name, "_count", labels, None, count)
}

/// One line of a series. `bound` is the value of the label `le`.
fn write_sample(
    page: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> fmt::Result {
    write!(page, "{name}{suffix}")?;
    let mut separator = '{';
    for label in labels {
        write!(page, "{separator}{}=\"{}\"", label.name(), Escaped { text: label.value(), quotes: true })?;
        separator = ',';
    }
    if let Some(bound) = bound {
        write!(page, "{separator}le=\"{}\"", Number(bound))?;
        separator = ',';
    }
    if separator == ',' {
        page.write_char('}')?;
    }
    writeln!(page, " {}", Number(value))
}

/// A number as the format wants it.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value if value.is_nan() => f.write_str("NaN"),
            value => write!(f, "{value:?}"),
        }
    }
}

/// Text with backslashes and line ends escaped, and quotes where it stands between quotes.
struct Escaped<'a> {
    /// What is written.
    text: &'a str,
    /// Whether it stands between quotes.
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.text.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_floats() {
        let written = [0.0, 1.0, 0.05, 16384.0, 1e21, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]
            .map(|value| Number(value).to_string());
        assert_eq!(written, ["0.0", "1.0", "0.05", "16384.0", "1e21", "+Inf", "-Inf", "NaN"]);
    }

    #[test]
    fn label_values_are_escaped_with_quotes_and_help_without() {
        let text = "a \"b\" \\ c\nd";
        assert_eq!(Escaped { text, quotes: true }.to_string(), "a \\\"b\\\" \\\\ c\\nd");
        assert_eq!(Escaped { text, quotes: false }.to_string(), "a \"b\" \\\\ c\\nd");
    }

    #[test]
    fn a_family_without_series_still_has_help_and_type() {
        let headings = vec![Heading { name: "a_total".to_owned(), help: "A.".to_owned(), kind: "counter" }];
        let page = Exposition::new(Arc::new(headings), Vec::new()).to_text();
        assert_eq!(page, "# HELP a_total A.\n# TYPE a_total counter\n");
    }
}
