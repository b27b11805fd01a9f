//! Would streamed sound have played without a gap? The formula of the reference, section 6.1.
//!
//! The server's metrics and the bench client ask the same question of the same numbers, so there is one answer.

/// A piece of sound that came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// When, in seconds since any moment that is the same for all pieces.
    pub seconds: f64,
    /// How much: samples per channel, or bytes. It must be the unit of the rate that it is judged by.
    pub size: u64,
}

/// How pieces of sound would have played.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Continuity {
    /// The longest time that the player would have lagged behind its clock, in seconds.
    pub underrun_seconds: f64,
    /// Pieces that came too late.
    pub underruns: u64,
}

impl Continuity {
    /// Whether the player lagged behind by no more than `threshold_seconds`; exactly as much is allowed.
    pub fn is_continuous(&self, threshold_seconds: f64) -> bool {
        self.underrun_seconds <= threshold_seconds
    }
}

/// Plays pieces of sound, in the order in which they came, at `rate` units of [`Arrival::size`] per second.
///
/// The ideal player begins with the first piece and keeps its clock: a gap is not forgiven, so that every piece is
/// judged against what came before it and the time since the first. Nothing, or a rate that is not above 0, plays
/// without a gap.
pub fn continuity(arrivals: &[Arrival], rate: f64) -> Continuity {
    let mut found = Continuity::default();
    let Some((first, later)) = arrivals.split_first() else { return found };
    if rate.is_nan() || rate <= 0.0 {
        return found;
    }
    let mut received = first.size as f64;
    for arrival in later {
        let deficit = (arrival.seconds - first.seconds) * rate - received;
        if deficit > 0.0 {
            found.underrun_seconds = found.underrun_seconds.max(deficit / rate);
            found.underruns += 1;
        }
        received += arrival.size as f64;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 24 kHz, 16 bits, mono: bytes per second.
    const BYTES: f64 = 48_000.0;

    /// Pieces of half a second that come at these times.
    fn half_seconds(times: &[f64]) -> Vec<Arrival> {
        times.iter().map(|seconds| Arrival { seconds: *seconds, size: 24_000 }).collect()
    }

    #[test]
    fn the_worst_lag_counts_and_every_late_piece() {
        // The reference's example.
        let found = continuity(&half_seconds(&[0.2, 0.5, 1.4, 1.5]), BYTES);
        assert!((found.underrun_seconds - 0.2).abs() < 1e-9, "{found:?}");
        assert_eq!(found.underruns, 1);
        assert!(!found.is_continuous(0.1));
    }

    #[test]
    fn a_gap_of_a_tenth_is_judged_by_the_floats_as_they_are() {
        // The reference's example: (0.8 - 0.2) seconds are a little more than 0.6.
        let found = continuity(&half_seconds(&[0.2, 0.8]), BYTES);
        assert_eq!(found.underrun_seconds, 0.100_000_000_000_000_07);
        assert!(!found.is_continuous(0.1));
        let exact = Continuity { underrun_seconds: 0.1, underruns: 1 };
        assert!(exact.is_continuous(0.1));
    }

    #[test]
    fn a_lag_is_not_forgiven_by_what_comes_later() {
        let found = continuity(&half_seconds(&[0.0, 1.0, 1.5]), BYTES);
        assert_eq!((found.underrun_seconds, found.underruns), (0.5, 2));
    }

    #[test]
    fn a_piece_is_judged_by_what_came_before_it() {
        let arrivals = [Arrival { seconds: 0.0, size: 0 }, Arrival { seconds: 0.3, size: 1_000_000 }];
        assert_eq!(continuity(&arrivals, BYTES).underrun_seconds, 0.3);
    }

    #[test]
    fn frames_and_bytes_give_the_same() {
        let bytes = half_seconds(&[0.2, 0.5, 1.4, 1.5]);
        let frames: Vec<Arrival> =
            bytes.iter().map(|arrival| Arrival { size: arrival.size / 2, ..*arrival }).collect();
        assert_eq!(continuity(&frames, BYTES / 2.0), continuity(&bytes, BYTES));
    }

    #[test]
    fn nothing_and_no_rate_are_continuous() {
        for (arrivals, rate) in [
            (vec![], BYTES),
            (half_seconds(&[0.0, 9.0]), 0.0),
            (half_seconds(&[0.0, 9.0]), -1.0),
            (half_seconds(&[0.0, 9.0]), f64::NAN),
            (half_seconds(&[5.0]), BYTES),
        ] {
            assert_eq!(continuity(&arrivals, rate), Continuity::default());
        }
    }
}
