//! `omni-actors check`.

use std::io::Write;

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;

use super::{ServeArgs, logging};
use crate::server::{self, AnswerReport, CheckReport, StageReport};
use crate::stages::Registry;

/// What `check` can be told.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What is to be served, and how. Options about the port are accepted and mean nothing here.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Give the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Checks a model, and prints what was found.
pub(super) fn run(args: &CheckArgs, registry: Registry) -> Result<(), String> {
    let _log = logging::init(args.serve.log_level, args.serve.log_format);
    let result = server::check(&args.serve, registry).map_err(|error| error.to_string());
    let printed = match (&result, args.json) {
        (Ok(report), false) => print(report),
        (Err(_), false) => Ok(()),
        (Ok(report), true) => print_json(&json!({"ok": true, "report": report})),
        (Err(error), true) => print_json(&json!({"ok": false, "error": error})),
    };
    printed.map_err(|error| error.to_string())?;
    result.map(drop)
}

fn print_json(value: &serde_json::Value) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{value}")
}

fn print(report: &CheckReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut row = |name: &str, value: String| writeln!(out, "{name:14}{value}");
    row("model", report.name.clone())?;
    row("from", report.location.clone())?;
    if let (Some(revision), Some(commit)) = (&report.revision, &report.commit) {
        row("revision", format!("{revision}, commit {commit}"))?;
    }
    if let Some(model_type) = &report.model_type {
        let architecture = report.architecture.as_deref().unwrap_or("not named");
        row("architecture", format!("{architecture} (model_type {model_type})"))?;
    }
    row("pipeline", report.pipeline.clone())?;
    if let (Some(length), Some(vocabulary)) = (report.max_model_len, report.vocabulary_size) {
        row("length", format!("{length} tokens, from a vocabulary of {vocabulary}"))?;
        row("chat template", if report.chat_template { "yes" } else { "no" }.to_owned())?;
    }
    if !report.voices.is_empty() {
        row("voices", report.voices.join(", "))?;
    }
    row("up after", format!("{:.1} s", report.startup_seconds))?;
    writeln!(out)?;
    print_stages(&mut out, &report.stages)?;
    writeln!(out)?;
    report.answers.iter().try_for_each(|answer| print_answer(&mut out, answer))
}

fn print_stages(out: &mut impl Write, stages: &[StageReport]) -> std::io::Result<()> {
    const HEAD: [&str; 7] = ["stage", "replicas", "dtype", "parameters", "weights", "KV cache", "device"];
    let unknown = || "unknown".to_owned();
    let bytes = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| BinaryBytes(bytes).to_string());
    let cells = |stage: &StageReport| {
        let dtype = stage.dtype.map_or_else(unknown, str::to_owned);
        let parameters = stage.parameters.map_or_else(unknown, count);
        let (weights, cache) = (bytes(stage.weight_bytes), bytes(stage.cache_bytes));
        let replicas = stage.replicas.to_string();
        [stage.name.clone(), replicas, dtype, parameters, weights, cache, stage.device.clone()]
    };
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(stages.iter().map(cells));
    for row in &rows {
        for (column, cell) in row.iter().enumerate().take(HEAD.len() - 1) {
            let widths = rows.iter().filter_map(|row| row.get(column)).map(String::len);
            let width = widths.max().unwrap_or(0) + 2;
            write!(out, "{cell:width$}")?;
        }
        writeln!(out, "{}", row.last().map_or("", String::as_str))?;
    }
    Ok(())
}

fn print_answer(out: &mut impl Write, answer: &AnswerReport) -> std::io::Result<()> {
    let AnswerReport { output, text, tokens, seconds, .. } = answer;
    let speech = answer.speech_seconds.map(|length| format!(" and {length:.2} s of sound"));
    let (speech, reason) = (speech.unwrap_or_default(), answer.finish_reason.unwrap_or("no reason"));
    writeln!(out, "{output:14}{tokens} tokens{speech} in {seconds:.1} s, ended by {reason}: {text:?}")
}

/// A number of parameters, such as `30.5 billion`.
fn count(parameters: u64) -> String {
    let scaled = |unit: f64| parameters as f64 / unit;
    match parameters {
        0..100_000 => parameters.to_string(),
        100_000..1_000_000_000 => format!("{:.1} million", scaled(1e6)),
        _ => format!("{:.1} billion", scaled(1e9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_in_words() {
        assert_eq!(count(12_345), "12345");
        assert_eq!(count(6_912_345), "6.9 million");
        assert_eq!(count(30_532_122_624), "30.5 billion");
    }
}
