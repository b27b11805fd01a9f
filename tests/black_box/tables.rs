//! The tables of requests, read back from a log.

use std::collections::BTreeMap;

/// What a table has in each row.
pub(crate) type Table = BTreeMap<String, Vec<String>>;

/// The table with this title, read back from the log; none if it has not been written.
pub(crate) fn table(log: &[String], title: &str) -> Option<Table> {
    let start = log.iter().position(|line| line.ends_with(title))?;
    let lines = log[start + 1..].iter().take_while(|line| line.starts_with(['+', '|']));
    let mut cells = lines.filter(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        (cells[0].clone(), cells[1..].to_vec())
    });
    let rows: Table = cells.by_ref().collect();
    (!rows.is_empty()).then_some(rows)
}
