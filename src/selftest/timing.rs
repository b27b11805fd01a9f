//! How long work takes on a device that carries it out later than it is asked to.

use std::time::{Duration, Instant};

/// How often work is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// How often at most.
    pub most: u32,
    /// How often before the device is waited for.
    pub together: u32,
    /// No more is begun after so long.
    pub patience: Duration,
}

impl Repeats {
    /// Seconds that one piece of work on `subject` takes on average. It is carried out once before, to warm up; `wait`
    /// waits for all of it.
    pub fn mean_seconds<S, E>(
        self,
        subject: &mut S,
        mut work: impl FnMut(&mut S) -> Result<(), E>,
        mut wait: impl FnMut(&mut S) -> Result<(), E>,
    ) -> Result<f64, E> {
        work(subject)?;
        wait(subject)?;
        let (mut done, start) = (0, Instant::now());
        // Work that is carried out at once is not begun after the patience has ended either.
        let goes_on = |done: u32| done < self.most && start.elapsed() < self.patience;
        loop {
            for _ in 0..self.together.max(1) {
                work(subject)?;
                done += 1;
                if !goes_on(done) {
                    break;
                }
            }
            wait(subject)?;
            if !goes_on(done) {
                return Ok(start.elapsed().as_secs_f64() / f64::from(done));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often there was work, and how often it was waited for.
    fn counted(repeats: Repeats) -> (u32, u32) {
        let mut counts = (0, 0);
        let work = |counts: &mut (u32, u32)| {
            counts.0 += 1;
            Ok::<(), ()>(())
        };
        let wait = |counts: &mut (u32, u32)| {
            counts.1 += 1;
            Ok(())
        };
        assert!(repeats.mean_seconds(&mut counts, work, wait).unwrap() >= 0.0);
        counts
    }

    #[test]
    fn the_device_is_waited_for_once_for_several_pieces_of_work() {
        let patience = Duration::from_secs(3600);
        assert_eq!(counted(Repeats { most: 12, together: 4, patience }), (1 + 12, 1 + 3));
        assert_eq!(counted(Repeats { most: 2, together: 4, patience }), (1 + 2, 1 + 1));
    }

    #[test]
    fn nothing_is_begun_after_the_patience_has_ended() {
        assert_eq!(counted(Repeats { most: 1000, together: 3, patience: Duration::ZERO }), (1 + 1, 1 + 1));
    }
}
