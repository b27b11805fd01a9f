//! Handles to the families of the process, which read themselves from `/proc`.

use std::fs;

use prometheus::{Counter, Gauge};

use crate::metrics::MetricsError;
use crate::metrics::definitions::process;
use crate::metrics::families::Catalogue;

/// Ticks of a second in `/proc`: `USER_HZ`, which is 100 on every architecture that Rust's standard library has Linux
/// for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes of the unit of `/proc/self/status`.
const KIBIBYTE: f64 = 1024.0;

/// What the process takes of the machine.
#[derive(Debug)]
pub struct ProcessSeries {
    virtual_memory: Gauge,
    resident_memory: Gauge,
    cpu: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl ProcessSeries {
    /// Registers the families of [`process::ALL`]; `None` where there is no `/proc` to read them from.
    pub fn register(catalogue: &mut Catalogue) -> Result<Option<Self>, MetricsError> {
        let Some(start_time) = start_time() else { return Ok(None) };
        let virtual_memory = catalogue.register(&process::VIRTUAL_MEMORY)?.series(&[])?;
        let resident_memory = catalogue.register(&process::RESIDENT_MEMORY)?.series(&[])?;
        let start: Gauge = catalogue.register(&process::START_TIME)?.series(&[])?;
        start.set(start_time);
        let series = Self {
            virtual_memory,
            resident_memory,
            cpu: catalogue.register(&process::CPU)?.series(&[])?,
            open_fds: catalogue.register(&process::OPEN_FDS)?.series(&[])?,
            max_fds: catalogue.register(&process::MAX_FDS)?.series(&[])?,
        };
        series.update();
        Ok(Some(series))
    }

    /// Reads what is so now. What cannot be read keeps its value.
    pub fn update(&self) {
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            for (gauge, key) in [(&self.virtual_memory, "VmSize:"), (&self.resident_memory, "VmRSS:")] {
                if let Some(kibibytes) = number_after(&status, key) {
                    gauge.set(kibibytes * KIBIBYTE);
                }
            }
        }
        if let Some(seconds) = cpu_seconds() {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
            self.max_fds.set(number_after(&limits, "Max open files").unwrap_or(f64::INFINITY));
        }
    }
}

/// The first word after `key` at the beginning of a line, if it is a number.
fn number_after(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Fields of `/proc/self/stat`, counted from the state, which is the first behind the name of the program; that may
/// hold anything.
fn stat_fields<const N: usize>(indices: [usize; N]) -> Option<[f64; N]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut values = [0.0; N];
    for (value, index) in values.iter_mut().zip(indices) {
        *value = fields.split_whitespace().nth(index)?.parse().ok()?;
    }
    Some(values)
}

/// Seconds of CPU time: fields 14 and 15 of proc(5), in user and in system mode.
fn cpu_seconds() -> Option<f64> {
    let [user, system] = stat_fields([11, 12])?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// When the process began, in seconds since 1970: field 22 of proc(5) counts from the start of the machine.
fn start_time() -> Option<f64> {
    let machine = number_after(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    let [start] = stat_fields([19])?;
    Some(machine + start / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::metrics::OmniPrefix;

    #[test]
    fn what_is_shown_is_what_the_process_takes() {
        let mut catalogue = Catalogue::new(OmniPrefix::default(), "m".to_owned());
        let Some(series) = ProcessSeries::register(&mut catalogue).unwrap() else { return };
        let memory = vec![1_u8; 64 << 20];
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let before = series.open_fds.get();
        series.update();
        assert!(series.resident_memory.get() >= memory.iter().map(|&byte| f64::from(byte)).sum::<f64>());
        assert!(series.virtual_memory.get() >= series.resident_memory.get());
        assert!(series.open_fds.get() >= files.len() as f64 && series.max_fds.get() >= series.open_fds.get());
        assert!(before > 0.0);
        let started = UNIX_EPOCH + Duration::from_secs_f64(start_time().unwrap());
        assert!(started <= SystemTime::now());
        let cpu = series.cpu.get();
        series.update();
        assert!(series.cpu.get() >= cpu);
    }

    #[test]
    fn numbers_are_found_behind_their_key_at_the_beginning_of_a_line() {
        let text = "VmPeak:  12 kB\nVmSize:\t  34 kB\nMax open files   unlimited  1 files\n";
        assert_eq!(number_after(text, "VmSize:"), Some(34.0));
        assert_eq!(number_after(text, "Max open files"), None);
        assert_eq!(number_after(text, "Size:"), None);
    }
}
