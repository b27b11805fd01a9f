//! How subcommands give their results: one JSON object or a table, on standard output.

use std::io::{self, StdoutLock, Write};

use serde::Serialize;

/// Writes a result as one JSON object, or as `table` does.
pub(super) fn print<R: Serialize>(
    result: &R,
    json: bool,
    table: impl FnOnce(&R, &mut StdoutLock<'static>) -> io::Result<()>,
) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = match json {
        true => serde_json::to_writer(&mut out, result).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => table(result, &mut out),
    };
    written.map_err(|error| error.to_string())
}
