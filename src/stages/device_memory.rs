//! How much memory a device has, and how much of it may be taken.

use std::fmt;

/// The share of what is left of the process's memory that KV caches may take. The rest is for mapped weights, which
/// the system keeps in memory while there is room, and for other programs.
const PROCESS_CACHE_SHARE: f64 = 0.35;

/// The share that they may take where less does not hold one sequence of full length: more is better than none. Memory is
/// taken as blocks are touched.
const PROCESS_CACHE_SHARE_AT_MOST: f64 = 0.8;

/// The memory of a device, as it was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeviceMemory {
    /// The memory of a GPU.
    Gpu {
        /// All there is, in bytes.
        total: u64,
        /// What is free.
        free: u64,
        /// What this process has taken already and the ledger counts too.
        held: u64,
        /// The share of all there is that may be taken.
        utilization: f64,
    },
    /// The memory that the process shares with others.
    Process {
        /// What is free.
        free: u64,
    },
}

impl DeviceMemory {
    /// The memory of the process as it is now.
    pub fn of_process() -> Self {
        Self::Process { free: free_memory() }
    }

    /// Bytes that may be taken.
    pub fn usable(self) -> u64 {
        match self {
            Self::Gpu { total, free, held, utilization } => {
                ((total as f64 * utilization) as u64).min(free.saturating_add(held))
            }
            Self::Process { free } => free,
        }
    }

    /// The share of what is left after everything else that KV caches may take.
    pub(super) fn cache_share(self) -> f64 {
        match self {
            Self::Gpu { .. } => 1.0,
            Self::Process { .. } => PROCESS_CACHE_SHARE,
        }
    }

    /// The share that they may take if they do not hold one sequence each otherwise.
    pub(super) fn cache_share_at_most(self) -> f64 {
        match self {
            Self::Gpu { .. } => 1.0,
            Self::Process { .. } => PROCESS_CACHE_SHARE_AT_MOST,
        }
    }
}

impl fmt::Display for DeviceMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usable = Bytes(self.usable());
        match self {
            Self::Gpu { total, free, utilization, .. } => {
                let (total, free) = (Bytes(*total), Bytes(*free));
                write!(
                    formatter,
                    "{usable} may be used (--gpu-memory-utilization {utilization} of {total}, {free} free)"
                )
            }
            Self::Process { .. } => write!(formatter, "{usable} are free"),
        }
    }
}

/// A number of bytes, written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 as f64 / f64::from(1 << 20);
        if mebibytes < 1024.0 {
            write!(formatter, "{mebibytes:.1} MiB")
        } else {
            write!(formatter, "{:.1} GiB", mebibytes / 1024.0)
        }
    }
}

/// Bytes of memory that are free, as Linux estimates it; 4 GiB where it does not say.
fn free_memory() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return UNKNOWN };
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kibibytes.map_or(UNKNOWN, |kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gives_its_share_or_what_others_have_left() {
        let gpu = |free, held| DeviceMemory::Gpu { total: 1000, free, held, utilization: 0.9 };
        assert_eq!(gpu(990, 0).usable(), 900);
        assert_eq!(gpu(500, 0).usable(), 500, "another process has the rest");
        assert_eq!(gpu(500, 30).usable(), 530, "what is held is counted again by the ledger");
        assert_eq!(gpu(980, 30).usable(), 900);
    }

    #[test]
    fn bytes_are_written_in_the_unit_that_suits_them() {
        assert_eq!(Bytes(3 << 19).to_string(), "1.5 MiB");
        assert_eq!(Bytes(5 << 29).to_string(), "2.5 GiB");
    }

    #[test]
    fn the_process_has_some_memory_left() {
        assert!(free_memory() > 1 << 20);
    }
}
