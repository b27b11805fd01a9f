//! How a scrape is written: the classic text format, version 0.0.4, or OpenMetrics 1.0.
//!
//! The crate's own encoder leaves out families without series. Here every registered family has its HELP and TYPE,
//! so that a reader of the page sees what the server can tell. Numbers are written like vLLM's client library
//! does, which is as Go writes them: `1.0`, `0.05`, `1e-06`, `1.048576e+06`, `+Inf`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::sync::Arc;

use prometheus::proto::{Histogram, LabelPair, MetricFamily, MetricType};

/// The formats of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextFormat {
    /// The text format of Prometheus, which every scraper reads.
    #[default]
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl TextFormat {
    /// The format that a client prefers which sent this `Accept` header: OpenMetrics if it is named and text is not
    /// preferred to it.
    pub fn for_accept(accept: &str) -> Self {
        let quality = |media_type: &str| {
            let ranges = accept.split(',').filter_map(MediaRange::parse);
            let fitting = ranges.filter(|range| range.media_type.eq_ignore_ascii_case(media_type));
            fitting.map(|range| range.quality).fold(0.0, f64::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        match open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            true => Self::OpenMetrics,
            false => Self::Classic,
        }
    }

    /// Its media type with version and character set.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One of the kinds that an `Accept` header lists.
struct MediaRange<'a> {
    media_type: &'a str,
    /// How much it is liked, in [0, 1].
    quality: f64,
}

impl<'a> MediaRange<'a> {
    /// Reads one; `None` for one that is not well-formed, or an OpenMetrics of another version.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { media_type: parts.next()?, quality: 1.0 };
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => range.quality = value.trim().parse().ok()?,
                "version" if range.media_type.ends_with("openmetrics-text") && value.trim() != "1.0.0" => {
                    return None;
                }
                _ => {}
            }
        }
        Some(range)
    }
}

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

    /// The page: families in the order of registration, series in that of their label values.
    pub fn to_text(&self, format: TextFormat) -> String {
        let mut page = String::new();
        for heading in self.headings.iter() {
            // Writing to a string cannot fail.
            let _ = match format {
                TextFormat::Classic => write_heading(&mut page, heading),
                TextFormat::OpenMetrics => write_open_heading(&mut page, heading),
            };
            if let Some(family) = self.families.get(&heading.name) {
                let _ = write_family(&mut page, family);
            }
        }
        if format == TextFormat::OpenMetrics {
            page.push_str("# EOF\n");
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

/// The same in OpenMetrics, where the family of a counter is named without the `_total` of its samples, quotes are escaped
/// in help texts, and a unit can be told if the name ends with it.
fn write_open_heading(page: &mut String, heading: &Heading) -> fmt::Result {
    let Heading { name, help, kind } = heading;
    let name = match *kind {
        "counter" => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    writeln!(page, "# HELP {name} {}", Escaped { text: help, quotes: true })?;
    writeln!(page, "# TYPE {name} {kind}")?;
    for unit in ["seconds", "bytes"] {
        if name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
            writeln!(page, "# UNIT {name} {unit}")?;
        }
    }
    Ok(())
}

/// The series of a family.
fn write_family(page: &mut String, family: &MetricFamily) -> fmt::Result {
    for metric in family.get_metric() {
        let series = SeriesText { name: family.name(), labels: label_text(metric.get_label())? };
        match family.get_field_type() {
            MetricType::COUNTER => series.write(page, "", None, metric.get_counter().get_value())?,
            MetricType::GAUGE => series.write(page, "", None, metric.get_gauge().get_value())?,
            MetricType::HISTOGRAM => series.write_histogram(page, metric.get_histogram())?,
            // The definitions know no such kinds.
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    Ok(())
}

/// Labels as they stand between braces.
fn label_text(labels: &[LabelPair]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for label in labels {
        let separator = if text.is_empty() { "" } else { "," };
        write!(text, "{separator}{}=\"{}\"", label.name(), Escaped { text: label.value(), quotes: true })?;
    }
    Ok(text)
}

/// What all lines of a series have in common; most lines of a page are those of histograms, and are many for one series.
struct SeriesText<'a> {
    /// The family's name.
    name: &'a str,
    /// Its labels as they stand between braces.
    labels: String,
}

impl SeriesText<'_> {
    /// The buckets of a histogram, ending with `+Inf`, its sum and its count.
    fn write_histogram(&self, page: &mut String, histogram: &Histogram) -> fmt::Result {
        let count = histogram.get_sample_count() as f64;
        for bucket in histogram.get_bucket() {
            self.write(page, "_bucket", Some(bucket.upper_bound()), bucket.cumulative_count() as f64)?;
        }
        self.write(page, "_bucket", Some(f64::INFINITY), count)?;
        self.write(page, "_sum", None, histogram.get_sample_sum())?;
        self.write(page, "_count", None, count)
    }

    /// One line. `bound` is the value of the label `le`.
    fn write(&self, page: &mut String, suffix: &str, bound: Option<f64>, value: f64) -> fmt::Result {
        page.push_str(self.name);
        page.push_str(suffix);
        if bound.is_some() || !self.labels.is_empty() {
            page.push('{');
            page.push_str(&self.labels);
        }
        match bound {
            Some(bound) => {
                let separator = if self.labels.is_empty() { "" } else { "," };
                write!(page, "{separator}le=\"{}\"}}", Number(bound))?;
            }
            None if !self.labels.is_empty() => page.push('}'),
            None => {}
        }
        writeln!(page, " {}", Number(value))
    }
}

/// A number as the format wants it.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value if value.is_nan() => f.write_str("NaN"),
            // Most numbers of a page are counts, which are written much faster so.
            value if (0.0..1e6).contains(&value) && value.fract() == 0.0 => write!(f, "{}.0", value as u32),
            value if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) => {
                let written = format!("{value:e}");
                let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
                let (sign, digits) = match exponent.strip_prefix('-') {
                    Some(digits) => ('-', digits),
                    None => ('+', exponent),
                };
                write!(f, "{mantissa}e{sign}{digits:0>2}")
            }
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
        for (value, written) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.05, "0.05"),
            (0.0001, "0.0001"),
            (2.5e-5, "2.5e-05"),
            (1e-6, "1e-06"),
            (999_999.0, "999999.0"),
            (16384.0, "16384.0"),
            (1_048_576.0, "1.048576e+06"),
            (1e21, "1e+21"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Number(value).to_string(), written);
        }
    }

    #[test]
    fn open_metrics_is_written_for_those_who_prefer_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, format) in [
            ("", TextFormat::Classic),
            ("*/*", TextFormat::Classic),
            ("text/plain", TextFormat::Classic),
            ("application/openmetrics-text", TextFormat::OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", TextFormat::OpenMetrics),
            ("application/openmetrics-text; version=0.0.1", TextFormat::Classic),
            ("application/openmetrics-text;q=0", TextFormat::Classic),
            ("application/openmetrics-text;q=0.5, text/plain", TextFormat::Classic),
            (prometheus, TextFormat::OpenMetrics),
        ] {
            assert_eq!(TextFormat::for_accept(accept), format, "{accept}");
        }
    }

    #[test]
    fn open_metrics_names_counters_without_total_and_units_that_names_end_with() {
        let headings = [("a_total", "counter"), ("b_seconds", "histogram"), ("c_seconds_total", "counter")];
        let heading =
            |(name, kind): (&str, _)| Heading { name: name.to_owned(), help: "A \"b\".".to_owned(), kind };
        let page = Exposition::new(Arc::new(headings.map(heading).into()), Vec::new());
        let due = "# HELP a A \\\"b\\\".\n# TYPE a counter\n\
            # HELP b_seconds A \\\"b\\\".\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
            # HELP c_seconds A \\\"b\\\".\n# TYPE c_seconds counter\n# UNIT c_seconds seconds\n# EOF\n";
        assert_eq!(page.to_text(TextFormat::OpenMetrics), due);
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
        let page = Exposition::new(Arc::new(headings), Vec::new()).to_text(TextFormat::Classic);
        assert_eq!(page, "# HELP a_total A.\n# TYPE a_total counter\n");
    }
}
