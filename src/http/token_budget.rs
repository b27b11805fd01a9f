//! How many tokens an answer may have: prompt and answer share the model's length.

use crate::http::errors::ApiError;

/// The most tokens of an answer to a prompt of `prompt_tokens`.
///
/// `asked` is what the request says; it must fit. `default` is what the pipeline says where the request is silent;
/// it shrinks to what is left. `param` names the field that the prompt came from.
pub fn answer_tokens(
    prompt_tokens: usize,
    asked: Option<u32>,
    default: u32,
    max_model_len: u32,
    param: &'static str,
) -> Result<u32, ApiError> {
    if prompt_tokens == 0 {
        return Err(ApiError::InvalidValue { param: param.into(), message: "has no tokens".into() });
    }
    let left = usize::try_from(max_model_len)
        .ok()
        .and_then(|length| length.checked_sub(prompt_tokens))
        .and_then(|left| u32::try_from(left).ok())
        .filter(|left| *left > 0)
        .ok_or_else(|| ApiError::ContextLength {
            param,
            message: format!(
                "the prompt has {prompt_tokens} tokens, but the model's length is {max_model_len}, answer included"
            ),
        })?;
    match asked {
        Some(asked) if asked > left => Err(ApiError::ContextLength {
            param: "max_tokens",
            message: format!(
                "the prompt has {prompt_tokens} tokens and `max_tokens` is {asked}, together {}, but the model's \
                 length is {max_model_len}",
                prompt_tokens.saturating_add(asked as usize)
            ),
        }),
        Some(asked) => Ok(asked),
        None => Ok(default.min(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_shrinks_to_what_is_left() {
        assert_eq!(answer_tokens(90, None, 64, 100, "messages"), Ok(10));
        assert_eq!(answer_tokens(10, None, 64, 100, "messages"), Ok(64));
    }

    #[test]
    fn what_is_asked_for_must_fit() {
        assert_eq!(answer_tokens(90, Some(10), 64, 100, "messages"), Ok(10));
        let error = answer_tokens(90, Some(11), 64, 100, "messages").unwrap_err().to_string();
        assert!(error.contains("90") && error.contains("11") && error.contains("100"), "{error}");
    }

    #[test]
    fn a_prompt_that_leaves_no_room_is_refused_with_both_numbers() {
        for length in [100, 101, usize::MAX] {
            let error = answer_tokens(length, None, 64, 100, "prompt").unwrap_err().to_string();
            assert!(error.contains(&length.to_string()) && error.contains("100"), "{error}");
        }
        assert!(answer_tokens(0, None, 64, 100, "prompt").is_err());
    }
}
