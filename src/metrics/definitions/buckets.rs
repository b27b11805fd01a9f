//! Bucket bounds of histograms: the lists of vLLM and vLLM-Omni, so that their dashboards and queries fit.
//!
//! Bounds are the finite ones; the `+Inf` bucket is implied.

/// How a histogram's bucket bounds are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Buckets {
    /// The same for every child.
    Fixed(&'static [f64]),
    /// 1, 2, 5, 10, 20, 50, … up to the `max_model_len` of the stage that the child belongs to.
    OneTwoFive,
}

/// Seconds that a whole request takes, in pipeline families.
pub const SECONDS: Buckets =
    Buckets::Fixed(&[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]);

/// Seconds that a request spends in an engine or in a phase of it.
pub const REQUEST_LATENCY: Buckets = Buckets::Fixed(&[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
]);

/// Seconds to the first token.
pub const TIME_TO_FIRST_TOKEN: Buckets = Buckets::Fixed(&[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
]);

/// Seconds between tokens.
pub const INTER_TOKEN_LATENCY: Buckets = Buckets::Fixed(&[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
]);

/// Tokens of one engine step.
pub const ITERATION_TOKENS: Buckets = Buckets::Fixed(&[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
]);

/// Seconds of what is over within a blink, in pipeline families.
pub const FAST: Buckets =
    Buckets::Fixed(&[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]);

/// Seconds that a chunk takes over an edge: [`FAST`] begun at a microsecond, because a chunk that is handed over
/// within the process takes a few.
pub const TRANSFER_SECONDS: Buckets = Buckets::Fixed(&[
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
]);

/// Bytes of a chunk.
pub const BYTES: Buckets = Buckets::Fixed(&[
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262144.0,
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
]);

/// Seconds to make audio over the seconds that it plays.
pub const REAL_TIME_FACTOR: Buckets =
    Buckets::Fixed(&[0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 5.0, 10.0]);

/// Denoising steps of a request.
pub const INFERENCE_STEPS: Buckets =
    Buckets::Fixed(&[1.0, 2.0, 4.0, 8.0, 9.0, 12.0, 16.0, 20.0, 30.0, 50.0, 100.0, 200.0]);

/// Pixels of an image: the powers of 2 from 128 by 128 to 4096 by 4096.
pub const PIXELS: Buckets = Buckets::Fixed(&[
    16384.0, 32768.0, 65536.0, 131072.0, 262144.0, 524288.0, 1048576.0, 2097152.0, 4194304.0, 8388608.0,
    16777216.0,
]);

/// Seconds that a block of the KV cache keeps its content.
pub const RESIDENCY: Buckets = Buckets::Fixed(&[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1200.0, 1800.0,
]);

/// Seconds of an HTTP exchange.
pub const HTTP_SECONDS: Buckets = Buckets::Fixed(&[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0,
    30.0, 60.0,
]);

/// The same where there are many series.
pub const HTTP_SECONDS_COARSE: Buckets = Buckets::Fixed(&[0.1, 0.5, 1.0]);

/// The parameter `n`.
pub const CHOICES: Buckets = Buckets::Fixed(&[1.0, 2.0, 5.0, 10.0, 20.0]);

/// Preemptions of one request.
pub const PREEMPTIONS: Buckets = Buckets::Fixed(&[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0]);

impl Buckets {
    /// The finite bounds, increasing, for a stage with this `max_model_len`.
    pub fn bounds(self, max_model_len: u64) -> Vec<f64> {
        match self {
            Self::Fixed(bounds) => bounds.to_vec(),
            Self::OneTwoFive => one_two_five(max_model_len),
        }
    }
}

/// m · 10^k for m in 1, 2, 5 and k = 0, 1, …, up to and including `max`.
fn one_two_five(max: u64) -> Vec<f64> {
    let decades = std::iter::successors(Some(1_u64), |decade| decade.checked_mul(10));
    decades
        .flat_map(|decade| [1, 2, 5].map(|mantissa| decade.saturating_mul(mantissa)))
        .take_while(|&bound| bound <= max)
        .map(|bound| bound as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_two_five_series_ends_at_the_greatest_bound_within_the_model_length() {
        let bounds = Buckets::OneTwoFive.bounds(32768);
        let expected =
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0];
        assert_eq!(bounds, expected);
        assert_eq!(Buckets::OneTwoFive.bounds(20), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(Buckets::OneTwoFive.bounds(0).is_empty());
    }

    #[test]
    fn every_fixed_list_increases() {
        for buckets in [
            SECONDS,
            REQUEST_LATENCY,
            TIME_TO_FIRST_TOKEN,
            INTER_TOKEN_LATENCY,
            ITERATION_TOKENS,
            FAST,
            TRANSFER_SECONDS,
            BYTES,
            REAL_TIME_FACTOR,
            INFERENCE_STEPS,
            PIXELS,
            RESIDENCY,
            HTTP_SECONDS,
            HTTP_SECONDS_COARSE,
            CHOICES,
            PREEMPTIONS,
        ] {
            assert!(buckets.bounds(0).is_sorted_by(|a, b| a < b), "{buckets:?}");
        }
    }
}
