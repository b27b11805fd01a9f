//! Sampling parameters in a request: which fields there are, and what values they may have.
//!
//! The ranges are those of [`crate::engine::range`].

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::SamplingParams;
use crate::engine::range::{LOGIT_BIAS, MIN_P, PENALTY, REPETITION_PENALTY, Range, TEMPERATURE, TOP_P};
use crate::http::errors::ApiError;
use crate::http::fields::{Fields, as_integer, kind_of};
use crate::http::subtalker_fields::SubtalkerOverrides;

/// The fields that [`SamplingOverrides::read`] understands.
pub const SAMPLING_FIELDS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
];

/// The most stop strings of a request: each is looked for in every output.
const MAX_STOP_STRINGS: usize = 64;
/// The most likely tokens that may be reported for a position.
pub const MAX_LOGPROBS: i64 = crate::engine::MAX_LOGPROBS as i64;

/// What a request says about sampling in one stage; the rest stays as the pipeline has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOverrides {
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams::top_k`].
    pub top_k: Option<u32>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingParams::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// See [`SamplingParams::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// See [`SamplingParams::logit_bias`].
    pub logit_bias: Option<BTreeMap<u32, f32>>,
    /// See [`SamplingParams::seed`]; the inner `None` asks for a seed of the server's choice.
    pub seed: Option<Option<u64>>,
    /// See [`SamplingParams::max_tokens`].
    pub max_tokens: Option<u32>,
    /// See [`SamplingParams::min_tokens`].
    pub min_tokens: Option<u32>,
    /// See [`SamplingParams::ignore_eos`].
    pub ignore_eos: Option<bool>,
    /// See [`SamplingParams::stop`].
    pub stop: Option<Vec<String>>,
    /// See [`SamplingParams::stop_token_ids`].
    pub stop_token_ids: Option<Vec<u32>>,
    /// See [`SamplingParams::include_stop_str_in_output`].
    pub include_stop_str_in_output: Option<bool>,
    /// See [`SamplingParams::skip_special_tokens`].
    pub skip_special_tokens: Option<bool>,
    /// See [`SamplingParams::subtalker`]; set for entries of `sampling_params_list`, the only place for it.
    pub subtalker: SubtalkerOverrides,
    /// See [`SamplingParams::logprobs`]; set by the endpoints, which spell it differently.
    pub logprobs: Option<u32>,
}

impl SamplingOverrides {
    /// Reads all of [`SAMPLING_FIELDS`]. Token ids must be below `vocab_size`, where one is known for the stage.
    pub fn read(fields: &Fields<'_>, vocab_size: Option<u32>) -> Result<Self, ApiError> {
        let within = |name, range| read_within(fields, name, range);
        Ok(Self {
            temperature: within("temperature", TEMPERATURE)?,
            top_p: within("top_p", TOP_P)?,
            top_k: read_top_k(fields, "top_k")?,
            min_p: within("min_p", MIN_P)?,
            repetition_penalty: within("repetition_penalty", REPETITION_PENALTY)?,
            presence_penalty: within("presence_penalty", PENALTY)?,
            frequency_penalty: within("frequency_penalty", PENALTY)?,
            logit_bias: read_logit_bias(fields, vocab_size)?,
            // -1 means "any seed", as in vLLM; other negative seeds stand for their two's complement.
            seed: fields.integer("seed")?.map(|seed| (seed != -1).then_some(seed as u64)),
            max_tokens: read_count(fields, "max_tokens", 1)?,
            min_tokens: read_count(fields, "min_tokens", 0)?,
            ignore_eos: fields.boolean("ignore_eos")?,
            stop: read_stop(fields)?,
            stop_token_ids: fields
                .get("stop_token_ids")
                .map(|value| read_token_ids(value, &fields.path_of("stop_token_ids"), vocab_size))
                .transpose()?,
            include_stop_str_in_output: fields.boolean("include_stop_str_in_output")?,
            skip_special_tokens: fields.boolean("skip_special_tokens")?,
            subtalker: SubtalkerOverrides::default(),
            logprobs: None,
        })
    }

    /// Puts what is set here in the place of what `params` holds.
    pub fn apply(&self, params: &mut SamplingParams) {
        fn set<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        set(&mut params.temperature, &self.temperature);
        set(&mut params.top_p, &self.top_p);
        set(&mut params.top_k, &self.top_k);
        set(&mut params.min_p, &self.min_p);
        set(&mut params.repetition_penalty, &self.repetition_penalty);
        set(&mut params.presence_penalty, &self.presence_penalty);
        set(&mut params.frequency_penalty, &self.frequency_penalty);
        set(&mut params.logit_bias, &self.logit_bias);
        set(&mut params.seed, &self.seed);
        set(&mut params.max_tokens, &self.max_tokens);
        set(&mut params.min_tokens, &self.min_tokens);
        set(&mut params.ignore_eos, &self.ignore_eos);
        set(&mut params.stop, &self.stop);
        set(&mut params.stop_token_ids, &self.stop_token_ids);
        set(&mut params.include_stop_str_in_output, &self.include_stop_str_in_output);
        set(&mut params.skip_special_tokens, &self.skip_special_tokens);
        self.subtalker.apply(&mut params.subtalker);
        if self.logprobs.is_some() {
            params.logprobs = self.logprobs;
        }
    }
}

/// A number within a range.
pub fn read_within(fields: &Fields<'_>, name: &str, range: Range) -> Result<Option<f32>, ApiError> {
    match fields.number(name)? {
        // Judged in the type that the sampler uses: a number that becomes 0 there is 0.
        Some(value) if !range.holds(value as f32) => {
            Err(fields.invalid(name, format!("must be {}, not {value}", range.words)))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// How many tokens to keep; -1 and 0 keep all.
pub fn read_top_k(fields: &Fields<'_>, name: &str) -> Result<Option<u32>, ApiError> {
    Ok(fields.integer_within(name, -1, i64::from(u32::MAX))?.map(|k| k.max(0) as u32))
}

fn read_count(fields: &Fields<'_>, name: &str, least: i64) -> Result<Option<u32>, ApiError> {
    Ok(fields.integer_within(name, least, i64::from(i32::MAX))?.map(|value| value as u32))
}

/// A string or a list of strings, none of them empty.
fn read_stop(fields: &Fields<'_>) -> Result<Option<Vec<String>>, ApiError> {
    let strings = match fields.get("stop") {
        None => return Ok(None),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many
            .iter()
            .enumerate()
            .map(|(index, value)| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| fields.wrong_type(&format!("stop[{index}]"), "a string", value))
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(fields.wrong_type("stop", "a string or a list of strings", other)),
    };
    if strings.len() > MAX_STOP_STRINGS {
        return Err(fields.invalid("stop", format!("must have at most {MAX_STOP_STRINGS} strings")));
    }
    if strings.iter().any(String::is_empty) {
        return Err(fields.invalid("stop", "must not have empty strings"));
    }
    Ok(Some(strings))
}

/// An object from token ids, written as strings, to numbers.
fn read_logit_bias(
    fields: &Fields<'_>,
    vocab_size: Option<u32>,
) -> Result<Option<BTreeMap<u32, f32>>, ApiError> {
    let Some(entries) = fields.object("logit_bias")? else { return Ok(None) };
    let mut bias = BTreeMap::new();
    for (key, value) in entries.map() {
        let id: u32 = key.parse().map_err(|_| entries.invalid(key, "is not a token id"))?;
        check_token_id(i64::from(id), &entries.path_of(key), vocab_size)?;
        let value = value.as_f64().ok_or_else(|| entries.wrong_type(key, "a number", value))?;
        if !LOGIT_BIAS.holds(value as f32) {
            return Err(entries.invalid(key, format!("must be {}, not {value}", LOGIT_BIAS.words)));
        }
        bias.insert(id, value as f32);
    }
    Ok(Some(bias))
}

/// A list of token ids at `path`.
pub fn read_token_ids(value: &Value, path: &str, vocab_size: Option<u32>) -> Result<Vec<u32>, ApiError> {
    let wrong_type =
        |param: String, expected, value| ApiError::WrongType { param, expected, found: kind_of(value) };
    let list = value.as_array().ok_or_else(|| wrong_type(path.to_owned(), "a list of token ids", value))?;
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            let path = format!("{path}[{index}]");
            let id = as_integer(value).ok_or_else(|| wrong_type(path.clone(), "a token id", value))?;
            check_token_id(id, &path, vocab_size)
        })
        .collect()
}

/// Token ids are not negative and below the size of the vocabulary.
fn check_token_id(id: i64, path: &str, vocab_size: Option<u32>) -> Result<u32, ApiError> {
    let bound = i64::from(vocab_size.unwrap_or(u32::MAX));
    match u32::try_from(id) {
        Ok(token) if id < bound => Ok(token),
        _ => Err(ApiError::InvalidValue {
            param: path.to_owned(),
            message: format!("is {id}, but token ids are from 0 to {}", bound - 1),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<SamplingOverrides, ApiError> {
        SamplingOverrides::read(&Fields::new(&value, "").unwrap(), Some(100))
    }

    fn param_of(value: Value) -> String {
        match read(value.clone()) {
            Err(ApiError::InvalidValue { param, .. } | ApiError::WrongType { param, .. }) => param,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn what_is_not_set_stays_as_it_is() {
        let mut params = SamplingParams { top_k: 7, seed: Some(42), ..SamplingParams::default() };
        let before = params.clone();
        read(json!({})).unwrap().apply(&mut params);
        assert_eq!(params, before);
        read(json!({"temperature": 0.5, "seed": -1})).unwrap().apply(&mut params);
        assert_eq!((params.temperature, params.top_k, params.seed), (0.5, 7, None));
    }

    #[test]
    fn values_outside_the_range_name_the_field() {
        for (name, value) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!(1e300)),
            ("top_p", json!(0)),
            ("top_p", json!(1e-300)),
            ("top_p", json!(1.01)),
            ("top_k", json!(-2)),
            ("min_p", json!(-0.5)),
            ("repetition_penalty", json!(0)),
            ("presence_penalty", json!(2.5)),
            ("frequency_penalty", json!(-3)),
            ("max_tokens", json!(0)),
            ("min_tokens", json!(-1)),
            ("seed", json!("x")),
            ("ignore_eos", json!(1)),
            ("stop", json!([""])),
            ("stop", json!(3)),
            ("stop_token_ids", json!("x")),
        ] {
            assert_eq!(param_of(json!({name: value})), name);
        }
    }

    #[test]
    fn top_k_of_minus_one_keeps_all() {
        assert_eq!(read(json!({"top_k": -1})).unwrap().top_k, Some(0));
    }

    #[test]
    fn token_ids_out_of_the_vocabulary_are_refused() {
        assert_eq!(param_of(json!({"stop_token_ids": [1, 100]})), "stop_token_ids[1]");
        assert_eq!(param_of(json!({"logit_bias": {"100": 1}})), "logit_bias.100");
        assert_eq!(param_of(json!({"logit_bias": {"x": 1}})), "logit_bias.x");
        assert_eq!(param_of(json!({"logit_bias": {"5": 101}})), "logit_bias.5");
        assert_eq!(read(json!({"logit_bias": {"5": -100}})).unwrap().logit_bias.unwrap()[&5], -100.0);
    }

    #[test]
    fn stop_takes_one_string_or_many() {
        assert_eq!(read(json!({"stop": "a"})).unwrap().stop.unwrap(), ["a"]);
        assert_eq!(read(json!({"stop": ["a", "b"]})).unwrap().stop.unwrap(), ["a", "b"]);
        assert_eq!(param_of(json!({"stop": ["a", 1]})), "stop[1]");
    }
}
