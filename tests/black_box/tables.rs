//! The tables of requests, read back from a log.

use std::collections::BTreeMap;

/// What a table has in each row.
pub(crate) type Table = BTreeMap<String, Vec<String>>;

/// The table with this title, read back from the log; none if it has not been written.
pub(crate) fn table(log: &[String], title: &str) -> Option<Table> {
    let start = log.iter().position(|line| line.ends_with(title))?;
    let mut rules = 0;
    // The third rule ends it.
    let lines = log[start + 1..].iter().take_while(|line| {
        rules += usize::from(line.starts_with('+'));
        rules < 3
    });
    let lines: Vec<&String> = lines.collect();
    if rules < 3 {
        return None;
    }
    let cells = lines.into_iter().filter(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        (cells[0].clone(), cells[1..].to_vec())
    });
    Some(cells.collect())
}
