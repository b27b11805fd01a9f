//! The log: to standard error, as text or JSON, on a thread of its own.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// What may need a look.
    Warn,
    /// The life of the server.
    Info,
    /// Every request.
    Debug,
    /// Everything.
    Trace,
}

/// Messages that wait for whoever reads the log. Further ones are dropped: a log that nobody reads holds nothing up.
const WAITING_MESSAGES: usize = 4096;

/// Sets the process's log up. `RUST_LOG` wins over `level`. Does nothing if that was done before. What was logged is written
/// by the time that the guard is dropped, unless nobody reads it.
pub(super) fn init(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let default = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{default},actix_server=warn")));
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_MESSAGES)
        .thread_name("log")
        .finish(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second server in the same process finds the log set up already.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    guard
}
