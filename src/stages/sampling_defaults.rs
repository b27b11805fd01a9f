//! The sampling defaults that a checkpoint brings along in `generation_config.json`.

use serde_json::Value;

use crate::config::CheckpointError;
use crate::engine::SamplingParams;

/// Puts what `generation_config` says about a stage's sampling in the place of what `params` holds. The stage's keys
/// begin with `prefix`, such as `talker_`; the first stage's have none. Other keys are left alone, and so is what does
/// not concern sampling. Returns the names of what was set.
///
/// # Errors
///
/// A value of the wrong kind or out of range. `path` names the file.
pub fn apply_generation_config(
    params: &mut SamplingParams,
    generation_config: &Value,
    prefix: &str,
    path: &str,
) -> Result<Vec<&'static str>, CheckpointError> {
    let mut set = Vec::new();
    let invalid = |message: String| CheckpointError::Invalid { path: path.to_owned(), message };
    let get = |key: &str| generation_config.get(format!("{prefix}{key}")).filter(|value| !value.is_null());
    for (key, target) in [
        ("temperature", &mut params.temperature),
        ("top_p", &mut params.top_p),
        ("min_p", &mut params.min_p),
        ("repetition_penalty", &mut params.repetition_penalty),
    ] {
        if let Some(value) = get(key) {
            *target =
                value.as_f64().ok_or_else(|| invalid(format!("\"{prefix}{key}\" must be a number")))? as f32;
            set.push(key);
        }
    }
    for (key, name, target) in
        [("top_k", "top_k", &mut params.top_k), ("max_new_tokens", "max_tokens", &mut params.max_tokens)]
    {
        if let Some(value) = get(key) {
            let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
            *target = count
                .ok_or_else(|| invalid(format!("\"{prefix}{key}\" must be a whole number from 0 on")))?;
            set.push(name);
        }
    }
    // Without sampling the most likely token is taken, whatever temperature stands beside it.
    if get("do_sample").and_then(Value::as_bool) == Some(false) {
        params.temperature = 0.0;
        set.push("temperature");
    }
    params.validate(usize::MAX).map_err(|error| invalid(error.to_string()))?;
    Ok(set)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(config: Value) -> Result<SamplingParams, CheckpointError> {
        let mut params = SamplingParams::default();
        apply_generation_config(&mut params, &config, "", "generation_config.json").map(|_| params)
    }

    #[test]
    fn what_the_checkpoint_says_wins_over_what_is_built_in() {
        let config = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
                            "repetition_penalty": 1.05, "max_new_tokens": 100, "eos_token_id": [1, 2]});
        let expected = SamplingParams {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            repetition_penalty: 1.05,
            max_tokens: 100,
            ..SamplingParams::default()
        };
        assert_eq!(applied(config).unwrap(), expected);
    }

    #[test]
    fn keys_of_other_stages_and_null_change_nothing() {
        let config = json!({"talker_temperature": 0.9, "talker_max_new_tokens": 300, "temperature": null});
        assert_eq!(applied(config).unwrap(), SamplingParams::default());
    }

    #[test]
    fn a_prefix_picks_the_keys_of_another_stage() {
        let mut params = SamplingParams::default();
        let config = json!({"talker_temperature": 0.9, "talker_max_new_tokens": 300, "temperature": 0.1});
        let set = apply_generation_config(&mut params, &config, "talker_", "generation_config.json").unwrap();
        assert_eq!((params.temperature, params.max_tokens), (0.9, 300));
        assert_eq!(set, ["temperature", "max_tokens"]);
    }

    #[test]
    fn a_model_that_does_not_sample_is_greedy() {
        assert_eq!(applied(json!({"do_sample": false, "temperature": 0.6})).unwrap().temperature, 0.0);
    }

    #[test]
    fn a_value_that_is_not_possible_names_file_and_key() {
        for (key, value) in [("temperature", json!("warm")), ("top_p", json!(2)), ("top_k", json!(-1))] {
            let message = applied(json!({key: value})).unwrap_err().to_string();
            assert!(message.contains("generation_config.json") && message.contains(key), "{message}");
        }
    }
}
