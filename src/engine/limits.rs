//! Which sampling parameters are possible.

use thiserror::Error;

use super::range::{LOGIT_BIAS, MIN_P, PENALTY, REPETITION_PENALTY, Range, TEMPERATURE, TOP_P};
use super::sampling::SamplingParams;

/// As many log probabilities may be asked for at each token.
pub const MAX_LOGPROBS: u32 = 20;

/// A sampling parameter that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{parameter}: {message}")]
pub struct SamplingError {
    /// The parameter, by its name in a request.
    pub parameter: &'static str,
    /// What it must be and what it is.
    pub message: String,
}

impl SamplingError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        "invalid_sampling_params"
    }
}

impl SamplingParams {
    /// Checks every parameter against what a model with this many tokens can do. The first that is out of range is
    /// named.
    pub fn validate(&self, vocabulary_size: usize) -> Result<(), SamplingError> {
        for (parameter, value, range) in [
            ("temperature", self.temperature, TEMPERATURE),
            ("top_p", self.top_p, TOP_P),
            ("min_p", self.min_p, MIN_P),
            ("repetition_penalty", self.repetition_penalty, REPETITION_PENALTY),
            ("presence_penalty", self.presence_penalty, PENALTY),
            ("frequency_penalty", self.frequency_penalty, PENALTY),
        ] {
            check_within(parameter, value, range)?;
        }
        for (&id, &bias) in &self.logit_bias {
            check_token("logit_bias", id, vocabulary_size)?;
            check_within("logit_bias", bias, LOGIT_BIAS)?;
        }
        for &id in &self.stop_token_ids {
            check_token("stop_token_ids", id, vocabulary_size)?;
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(error("stop", "a stop string must not be empty".to_owned()));
        }
        check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")?;
        if self.min_tokens > self.max_tokens {
            let (min, max) = (self.min_tokens, self.max_tokens);
            return Err(error(
                "min_tokens",
                format!("must be at most max_tokens, which is {max}; it is {min}"),
            ));
        }
        if let Some(count) = self.logprobs {
            check("logprobs", count, count <= MAX_LOGPROBS, "at most 20")?;
        }
        Ok(())
    }
}

/// Passes a value within its range.
fn check_within(parameter: &'static str, value: f32, range: Range) -> Result<(), SamplingError> {
    check(parameter, value, range.holds(value), range.words)
}

/// Passes a value that holds, and names one that does not.
fn check(
    parameter: &'static str,
    value: impl std::fmt::Display,
    holds: bool,
    range: &str,
) -> Result<(), SamplingError> {
    if holds { Ok(()) } else { Err(error(parameter, format!("must be {range}; it is {value}"))) }
}

/// Passes a token that the model has.
fn check_token(parameter: &'static str, id: u32, vocabulary_size: usize) -> Result<(), SamplingError> {
    let known = usize::try_from(id).is_ok_and(|id| id < vocabulary_size);
    if known {
        return Ok(());
    }
    Err(error(parameter, format!("token {id} does not exist; the model has {vocabulary_size} tokens")))
}

/// An error about a parameter.
fn error(parameter: &'static str, message: String) -> SamplingError {
    SamplingError { parameter, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_possible() {
        assert_eq!(SamplingParams::default().validate(10), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let default = SamplingParams::default;
        let cases = [
            ("temperature", SamplingParams { temperature: f32::NAN, ..default() }),
            ("temperature", SamplingParams { temperature: -0.1, ..default() }),
            ("top_p", SamplingParams { top_p: 0.0, ..default() }),
            ("top_p", SamplingParams { top_p: f32::NAN, ..default() }),
            ("min_p", SamplingParams { min_p: 1.1, ..default() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..default() }),
            ("presence_penalty", SamplingParams { presence_penalty: 2.1, ..default() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: -2.1, ..default() }),
            ("logit_bias", SamplingParams { logit_bias: [(10, 1.0)].into(), ..default() }),
            ("logit_bias", SamplingParams { logit_bias: [(1, 101.0)].into(), ..default() }),
            ("stop_token_ids", SamplingParams { stop_token_ids: vec![10], ..default() }),
            ("stop", SamplingParams { stop: vec![String::new()], ..default() }),
            ("max_tokens", SamplingParams { max_tokens: 0, ..default() }),
            ("min_tokens", SamplingParams { min_tokens: 5, max_tokens: 4, ..default() }),
            ("logprobs", SamplingParams { logprobs: Some(21), ..default() }),
        ];
        for (parameter, params) in cases {
            assert_eq!(params.validate(10).map_err(|error| error.parameter), Err(parameter));
        }
    }

    #[test]
    fn the_message_says_what_it_must_be_and_what_it_is() {
        let error = SamplingParams { top_p: 2.0, ..SamplingParams::default() }.validate(1).unwrap_err();
        assert_eq!(error.to_string(), "top_p: must be above 0 and at most 1; it is 2");
    }
}
