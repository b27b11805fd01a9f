//! From the bytes of a request to a JSON value.

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, web};
use serde_json::Value;

use crate::http::errors::ApiError;
use crate::http::state::Limits;

/// A body that was read and parsed.
#[derive(Debug)]
pub struct JsonBody {
    /// What it says.
    pub value: Value,
    /// Its length as it came, by which is decided where it is worked on.
    pub bytes: usize,
}

/// Bodies up to this length are worked on where they arrive; a longer one would keep the other connections of the
/// same thread waiting while it is tokenised.
const INLINE_BYTES: usize = 16 << 10;

impl JsonBody {
    /// Does `work`, which includes tokenising, with the body: at once, or on the blocking pool if it is long.
    pub async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Value) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if self.bytes <= INLINE_BYTES {
            return work(&self.value);
        }
        web::block(move || work(&self.value)).await.map_err(|error| ApiError::Internal(error.to_string()))?
    }
}

/// Reads a body that is declared as JSON, within the bounds on size and time.
pub async fn read_json(
    request: &HttpRequest,
    payload: web::Payload,
    limits: &Limits,
) -> Result<JsonBody, ApiError> {
    require_json(request)?;
    let limit = limits.body_bytes;
    let declared =
        request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let bytes = tokio::time::timeout(limits.body_timeout, payload.to_bytes_limited(limit))
        .await
        .map_err(|_| ApiError::BodyTimeout { seconds: limits.body_timeout.as_secs() })?
        .map_err(|_| ApiError::BodyTooLarge { limit })?
        .map_err(|error| ApiError::BodyUnreadable(error.to_string()))?;
    Ok(JsonBody { value: parse(&bytes)?, bytes: bytes.len() })
}

/// Insists on `application/json`. A browser asks the server's leave before it sends that type to another origin,
/// so that no web page can talk to a server on its visitor's own machine.
fn require_json(request: &HttpRequest) -> Result<(), ApiError> {
    let declared =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else if media_type.is_empty() {
        Err(ApiError::MediaType { found: "absent".into() })
    } else {
        Err(ApiError::MediaType { found: media_type.to_owned() })
    }
}

/// Parses a body.
fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let written = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let message = written.strip_suffix(&place).unwrap_or(&written).to_owned();
        ApiError::InvalidJson { message, line: error.line(), column: error.column() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = parse(b"{\n  \"model\": oops\n}").unwrap_err();
        assert!(matches!(&error, ApiError::InvalidJson { line: 2, column: 12, .. }), "{error:?}");
    }

    #[test]
    fn nesting_without_end_is_an_error() {
        let deep = "[".repeat(100_000);
        assert!(matches!(parse(deep.as_bytes()), Err(ApiError::InvalidJson { .. })));
    }

    #[test]
    fn numbers_beyond_floats_and_bytes_that_are_no_text_are_errors() {
        assert!(parse(b"1e999").is_err());
        assert!(parse(b"NaN").is_err());
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse(b"").is_err());
    }
}
