//! How far a download is: a bar on a terminal, elsewhere a line in the log now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::RepositoryId;

/// Time between two lines in the log.
const LINE: Duration = Duration::from_secs(10);
/// Time between two drawings of the bar while nothing comes.
const TICK: Duration = Duration::from_millis(500);
/// What the bar looks like.
const BAR: &str = "{msg} {wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta}";

/// The state of one download.
pub(super) struct Progress {
    repository: String,
    bar: Option<ProgressBar>,
    /// Bytes of all files that are known of.
    total: u64,
    /// Bytes of them that are there.
    there: u64,
    /// Bytes that came since the start.
    received: u64,
    start: Instant,
    last_line: Instant,
}

impl Progress {
    /// Begins with nothing to do.
    pub(super) fn new(repository: &RepositoryId) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        let now = Instant::now();
        let repository = repository.to_string();
        Self { repository, bar, total: 0, there: 0, received: 0, start: now, last_line: now }
    }

    /// There are so many bytes more to be fetched.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.total += bytes;
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
        }
    }

    /// Which file is next.
    pub(super) fn file(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(name.to_owned());
        }
    }

    /// So many bytes were there already.
    pub(super) fn found(&mut self, bytes: u64) {
        self.there += bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(self.there);
            // The speed is that of what comes.
            bar.reset_eta();
        }
    }

    /// So many bytes that were there are of no use.
    pub(super) fn lost(&mut self, bytes: u64) {
        self.there = self.there.saturating_sub(bytes);
        if let Some(bar) = &self.bar {
            bar.set_position(self.there);
        }
    }

    /// So many bytes came.
    pub(super) fn received(&mut self, bytes: u64) {
        self.there += bytes;
        self.received += bytes;
        match &self.bar {
            Some(bar) => bar.set_position(self.there),
            None if self.last_line.elapsed() >= LINE => {
                self.last_line = Instant::now();
                let speed = self.received as f64 / self.start.elapsed().as_secs_f64();
                let (there, total) = (DecimalBytes(self.there), DecimalBytes(self.total));
                let speed = DecimalBytes(speed as u64);
                tracing::info!("{}: {there} of {total}, {speed}/s", self.repository);
            }
            None => {}
        }
    }

    /// Writes to the log without spoiling the bar.
    pub(super) fn say(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
