//! The example of the field's guide, number by number, and the formulas that hold between them.

use std::time::Instant;

use super::*;
use crate::engine::FinishReason;
use crate::ids::{Epoch, ReplicaId, ReplicaKey, StageId};
use crate::metrics::{Batch, TokenCounts};

fn after(start: Instant, ms: f64) -> Instant {
    start + Duration::from_secs_f64(ms / 1e3)
}

/// A stage that was handed the request at `queued`, worked for so long and took so long to hand its last chunk over.
/// Times are in milliseconds.
fn stage(
    start: Instant,
    stage: u16,
    queued: f64,
    wall: f64,
    generation: f64,
    postprocess: f64,
) -> StageAccount {
    let released = after(start, queued + wall);
    let done = released - Duration::from_secs_f64(postprocess / 1e3);
    StageAccount {
        replica: ReplicaKey { stage: StageId(stage), replica: ReplicaId(0), epoch: Epoch(0) },
        queued: after(start, queued),
        started: Some(done - Duration::from_secs_f64(generation / 1e3)),
        first_output: Some(done),
        last_output: Some(done),
        outputs: 1,
        done,
        released,
        reason: Some(FinishReason::Stop),
        batch: Batch { id: 0, size: 1 },
        tokens: TokenCounts::default(),
        audio_frames: 0,
        audio_sample_rate: 0,
        input: None,
    }
}

fn edge(from: u16, kbytes: f64, tx: f64, rx: f64, in_flight: f64) -> Option<EdgeAccount> {
    Some(EdgeAccount {
        from: StageId(from),
        to: StageId(from + 1),
        size_bytes: (kbytes * 1024.0).round() as u64,
        send_seconds: tx / 1e3,
        in_flight_seconds: in_flight / 1e3,
        receive_seconds: rx / 1e3,
    })
}

/// The request of the guide's example.
fn example(start: Instant) -> RequestAccount {
    let thinker = StageAccount {
        batch: Batch { id: 38, size: 1 },
        tokens: TokenCounts { input: 4_860, output: 67 },
        ..stage(start, 0, 0.0, 10_192.289, 9_910.007, 256.158)
    };
    let talker = StageAccount {
        batch: Batch { id: 274, size: 1 },
        tokens: TokenCounts { input: 4_826, output: 275 },
        input: edge(0, 109_277.349, 78.701, 111.865, 2.015),
        ..stage(start, 1, 10_300.0, 30_541.409, 30_379.198, 0.491)
    };
    let vocoder = StageAccount {
        tokens: TokenCounts { input: 4_384, output: 0 },
        audio_frames: 525_525,
        audio_sample_rate: 24_000,
        input: edge(1, 28_812.591, 18.790, 31.706, 2.819),
        ..stage(start, 2, 41_000.0, 207.496, 160.745, 0.0)
    };
    RequestAccount {
        request_id: "r".into(),
        arrived: start,
        ended: after(start, 41_299.133),
        reason: FinishReason::Stop,
        stages: vec![thinker, talker, vocoder],
    }
}

/// The cells of the row with this name, in the table with this title.
fn cells<'a>(tables: &'a str, title: &str, name: &str) -> Vec<&'a str> {
    let mut lines = tables.lines().skip_while(|line| *line != format!("[{title}]")).skip(1);
    let table = lines.by_ref().take_while(|line| !line.starts_with('['));
    let rows = table.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let mut named = rows.filter(|cells| cells.get(1) == Some(&name));
    let cells = named.next().unwrap_or_default();
    cells.get(2..cells.len().saturating_sub(1)).unwrap_or_default().to_vec()
}

#[test]
fn the_tables_of_the_guides_example_have_its_numbers() {
    let tables = of_request(&example(Instant::now()));
    let overall = [
        ("e2e_requests", "1"),
        ("e2e_wall_time_ms", "41,299.133"),
        ("e2e_total_tokens", "5,202"),
        ("e2e_avg_time_per_request_ms", "41,299.133"),
        ("e2e_avg_tokens_per_s", "125.959"),
        ("e2e_stage_0_wall_time_ms", "10,192.289"),
        ("e2e_stage_1_wall_time_ms", "30,541.409"),
        ("e2e_stage_2_wall_time_ms", "207.496"),
    ];
    for (name, value) in overall {
        assert_eq!(cells(&tables, "Overall Summary", name), [value], "{name}\n{tables}");
    }
    let request = [
        ("e2e_total_ms", "41,299.133"),
        ("e2e_total_tokens", "5,202"),
        // The guide shows 245.895, the sum of numbers that it shows rounded.
        ("transfers_total_time_ms", "245.896"),
        ("transfers_total_kbytes", "138,089.939"),
    ];
    for (name, value) in request {
        assert_eq!(cells(&tables, "RequestE2EStats [request_id=r]", name), [value], "{name}\n{tables}");
    }
    let stages = [
        ("audio_generated_frames", ["0", "0", "525,525"]),
        ("batch_id", ["38", "274", "0"]),
        ("batch_size", ["1", "1", "1"]),
        ("num_tokens_in", ["4,860", "4,826", "4,384"]),
        ("num_tokens_out", ["67", "275", "0"]),
        ("postprocess_time_ms", ["256.158", "0.491", "0.000"]),
        ("stage_gen_time_ms", ["9,910.007", "30,379.198", "160.745"]),
    ];
    assert_eq!(cells(&tables, "StageRequestStats [request_id=r]", "Field"), ["0", "1", "2"]);
    for (name, values) in stages {
        assert_eq!(cells(&tables, "StageRequestStats [request_id=r]", name), values, "{name}\n{tables}");
    }
    let edges = [
        ("size_kbytes", ["109,277.349", "28,812.591"]),
        ("tx_time_ms", ["78.701", "18.790"]),
        ("rx_decode_time_ms", ["111.865", "31.706"]),
        ("in_flight_time_ms", ["2.015", "2.819"]),
    ];
    assert_eq!(cells(&tables, "TransferEdgeStats [request_id=r]", "Field"), ["0->1", "1->2"]);
    for (name, values) in edges {
        assert_eq!(cells(&tables, "TransferEdgeStats [request_id=r]", name), values, "{name}\n{tables}");
    }
}

#[test]
fn the_formulas_of_the_guide_hold() {
    let request = example(Instant::now());
    // What stage 0 took in and all stages gave out.
    assert_eq!(request.total_tokens(), 4_860 + 67 + 275);
    // Sending, decoding and flight of every edge.
    let edges = [78.701 + 111.865 + 2.015, 18.790 + 31.706 + 2.819];
    assert!((edges[0] - 192.581_f64).abs() < 1e-9 && (edges[1] - 53.315_f64).abs() < 1e-9);
    assert!((request.transfers_total_seconds() * 1e3 - 245.896).abs() < 1e-9);
    let summary = Summary::of([&request]).unwrap();
    assert_eq!(summary.average_time(), summary.wall);
    let per_second = summary.tokens as f64 * 1e3 / (summary.wall.as_secs_f64() * 1e3);
    assert!((summary.tokens_per_second() - per_second).abs() < 1e-9);
}

#[test]
fn the_summary_of_a_batch_spans_all_of_its_requests() {
    let start = Instant::now();
    let second = example(after(start, 10_000.0));
    let summary = Summary::of([&second, &example(start)]).unwrap();
    assert_eq!((summary.requests, summary.tokens), (2, 10_404));
    let near = |time: Duration, ms: f64| (time.as_secs_f64() * 1e3 - ms).abs() < 1e-3;
    assert!(near(summary.wall, 51_299.133) && near(summary.average_time(), 25_649.566_5));
    // From the first request that a stage was handed to the last that it let go of.
    let walls: Vec<Duration> = summary.stage_walls.values().copied().collect();
    assert!(near(walls[0], 20_192.289) && near(walls[1], 40_541.409) && near(walls[2], 10_207.496));
    let table = of_batch(&summary);
    assert_eq!(cells(&table, "Overall Summary", "e2e_requests"), ["2"]);
    assert_eq!(cells(&table, "Overall Summary", "e2e_avg_tokens_per_s"), ["202.810"]);
    assert_eq!(Summary::of([]), None);
}

#[test]
fn rows_of_a_table_are_sorted_but_for_the_summary() {
    let request = example(Instant::now());
    let names = |fields: &[Field]| fields.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert!(names(&request_fields(&request)).is_sorted());
    assert!(names(&stage_fields(&request.stages[0])).is_sorted());
    assert!(names(&edge_fields(&request.edges().next().copied().unwrap())).is_sorted());
}

#[test]
fn a_request_without_edges_has_no_table_of_them() {
    let mut request = example(Instant::now());
    request.stages.truncate(1);
    let tables = of_request(&request);
    assert!(tables.contains("[StageRequestStats [request_id=r]]") && !tables.contains("TransferEdgeStats"));
    assert!(!tables.contains("audio_generated_frames"), "no column has any");
    assert!(!of_request_in_batch(&request).contains("Overall Summary"));
}
