//! The tables that are logged of a request: overall summary, request, stages, edges.
//!
//! Names, units and formulas are those of the field (reference, sections 4.1 to 4.5): times in milliseconds, sizes in units
//! of 1,024 bytes. A row that is 0 in every column is left out.

mod grid;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::grid::Grid;
pub use self::grid::Value;
use crate::metrics::{EdgeAccount, RequestAccount, StageAccount, Summary};

/// A named number of a table.
pub type Field = (&'static str, Value);

/// All tables of a request that was served: the summary, which is of this request alone, and its own.
pub fn of_request(request: &RequestAccount) -> String {
    let mut text = String::with_capacity(2048);
    if let Some(summary) = Summary::of([request]) {
        write_summary(&summary, &mut text);
    }
    write_request(request, &mut text);
    text
}

/// The tables of one request of many, whose summary comes at the end of all.
pub fn of_request_in_batch(request: &RequestAccount) -> String {
    let mut text = String::with_capacity(2048);
    write_request(request, &mut text);
    text
}

/// The summary of many requests.
pub fn of_batch(summary: &Summary) -> String {
    let mut text = String::with_capacity(1024);
    write_summary(summary, &mut text);
    text
}

/// The rows of `RequestE2EStats`, in the order of their names.
pub fn request_fields(request: &RequestAccount) -> [Field; 4] {
    [
        ("e2e_total_ms", milliseconds(request.total_time())),
        ("e2e_total_tokens", Value::Count(request.total_tokens())),
        ("transfers_total_kbytes", kbytes(request.transfers_total_bytes())),
        ("transfers_total_time_ms", Value::Real(request.transfers_total_seconds() * 1e3)),
    ]
}

/// The rows of `StageRequestStats`, in the order of their names.
pub fn stage_fields(stage: &StageAccount) -> [Field; 7] {
    [
        ("audio_generated_frames", Value::Count(stage.audio_frames)),
        ("batch_id", Value::Count(stage.batch.id)),
        ("batch_size", Value::Count(stage.batch.size)),
        ("num_tokens_in", Value::Count(stage.tokens.input)),
        ("num_tokens_out", Value::Count(stage.tokens.output)),
        ("postprocess_time_ms", milliseconds(stage.postprocess_time())),
        ("stage_gen_time_ms", milliseconds(stage.generation_time())),
    ]
}

/// The rows of `TransferEdgeStats`, in the order of their names.
pub fn edge_fields(edge: &EdgeAccount) -> [Field; 4] {
    [
        ("in_flight_time_ms", Value::Real(edge.in_flight_seconds * 1e3)),
        ("rx_decode_time_ms", Value::Real(edge.receive_seconds * 1e3)),
        ("size_kbytes", kbytes(edge.size_bytes)),
        ("tx_time_ms", Value::Real(edge.send_seconds * 1e3)),
    ]
}

/// The name of an edge: `0->1`.
pub fn edge_name(edge: &EdgeAccount) -> String {
    format!("{}->{}", edge.from, edge.to)
}

fn write_summary(summary: &Summary, text: &mut String) {
    let mut grid = Grid::of_one_column("Value");
    grid.row("e2e_requests", [Value::Count(summary.requests)]);
    grid.row("e2e_wall_time_ms", [milliseconds(summary.wall)]);
    grid.row("e2e_total_tokens", [Value::Count(summary.tokens)]);
    grid.row("e2e_avg_time_per_request_ms", [milliseconds(summary.average_time())]);
    grid.row("e2e_avg_tokens_per_s", [Value::Real(summary.tokens_per_second())]);
    for (stage, wall) in &summary.stage_walls {
        grid.row(&format!("e2e_stage_{stage}_wall_time_ms"), [milliseconds(*wall)]);
    }
    grid.write("Overall Summary", text);
}

fn write_request(request: &RequestAccount, text: &mut String) {
    let title = |table: &str| format!("{table} [request_id={}]", request.request_id);
    let mut grid = Grid::of_one_column("Value");
    for (name, value) in request_fields(request) {
        grid.row(name, [value]);
    }
    grid.write(&title("RequestE2EStats"), text);
    let stages = request.stages.iter().map(|stage| (stage.replica.stage.to_string(), stage_fields(stage)));
    Grid::of_columns(stages).write(&title("StageRequestStats"), text);
    let edges = request.edges().map(|edge| (edge_name(edge), edge_fields(edge)));
    Grid::of_columns(edges).write(&title("TransferEdgeStats"), text);
}

fn milliseconds(time: Duration) -> Value {
    Value::Real(time.as_secs_f64() * 1e3)
}

fn kbytes(bytes: u64) -> Value {
    Value::Real(bytes as f64 / 1024.0)
}
