//! Every way in which the HTTP layer says no, and how it is written: the OpenAI error object.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use thiserror::Error;

use crate::actors::messages::{AbortCause, Rejection, RequestError};
use crate::media::EncodeError;

/// Seconds after which a client that was turned away may try again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A request that was not, or not wholly, answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {message} (line {line}, column {column})")]
    InvalidJson {
        /// What the parser found.
        message: String,
        /// Line of the body, from 1.
        line: usize,
        /// Column in that line, from 1.
        column: usize,
    },
    /// A field has a value of the wrong kind.
    #[error("`{param}` must be {expected}, not {found}")]
    WrongType {
        /// Path of the field.
        param: String,
        /// The kind that it takes.
        expected: &'static str,
        /// The kind that was given.
        found: &'static str,
    },
    /// A field has the right kind, but a value that is not possible.
    #[error("`{param}` {message}")]
    InvalidValue {
        /// Path of the field.
        param: String,
        /// What is wrong with the value; continues the field's name.
        message: String,
    },
    /// A field that must be there is not.
    #[error("`{param}` is required")]
    MissingField {
        /// Path of the field.
        param: String,
    },
    /// A field that nobody knows.
    #[error("`{param}` is not a known field{}", suggestion(.nearest))]
    UnknownField {
        /// Path of the field.
        param: String,
        /// The known field that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A field or value of the OpenAI API that this server does not implement.
    #[error("`{param}` {message}")]
    Unsupported {
        /// Path of the field.
        param: String,
        /// What is not supported; continues the field's name.
        message: String,
    },
    /// Two fields contradict each other.
    #[error("`{param}` {message}")]
    Contradiction {
        /// Path of one of the fields.
        param: String,
        /// What does not agree; continues the field's name.
        message: String,
    },
    /// Prompt and answer do not fit into the model's length.
    #[error("{message}")]
    ContextLength {
        /// Path of the field to change.
        param: &'static str,
        /// All numbers.
        message: String,
    },
    /// The chat template refused the messages.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The text could not be turned into tokens or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// No API key, or a wrong one.
    #[error("a valid API key is required: `Authorization: Bearer <key>`")]
    Unauthorized,
    /// The request names a model that is not served.
    #[error("the model `{name}` does not exist; this server serves {}", quoted(.served))]
    ModelNotFound {
        /// The name in the request.
        name: String,
        /// The names that exist.
        served: Vec<String>,
    },
    /// No such path.
    #[error("there is nothing at `{path}`")]
    RouteNotFound {
        /// The path of the request.
        path: String,
    },
    /// The path exists, but not with this method.
    #[error("`{path}` does not take {method}; it takes {allowed}")]
    MethodNotAllowed {
        /// The path of the request.
        path: String,
        /// The method of the request.
        method: String,
        /// The methods that the path takes, as in the `Allow` header.
        allowed: &'static str,
    },
    /// The body did not come in time.
    #[error("the body was not complete after {seconds} s")]
    BodyTimeout {
        /// How long the server waited.
        seconds: u64,
    },
    /// The connection broke while the body was read.
    #[error("the body could not be read: {0}")]
    BodyUnreadable(String),
    /// The body is larger than the server reads.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The bound.
        limit: usize,
    },
    /// The body is not declared as JSON.
    #[error("`Content-Type` must be application/json, not {found}")]
    MediaType {
        /// What was declared.
        found: String,
    },
    /// The orchestrator did not admit the request.
    #[error("{0}")]
    Rejected(Rejection),
    /// The request was admitted and failed in a stage.
    #[error("{error}")]
    Failed {
        /// Where and why.
        error: RequestError,
        /// The id in the response's `X-Request-Id`.
        request_id: String,
    },
    /// The request was aborted while the client still waited for it.
    #[error("the request was aborted by the server: {}", cause.reason())]
    Aborted {
        /// Why.
        cause: AbortCause,
        /// The id in the response's `X-Request-Id`.
        request_id: String,
    },
    /// Nothing came for too long.
    #[error("the request gave no output for {seconds} s and was given up")]
    Timeout {
        /// How long the server waited.
        seconds: u64,
        /// The id in the response's `X-Request-Id`.
        request_id: String,
    },
    /// The orchestrator is gone.
    #[error("the server is not able to take requests")]
    Unavailable,
    /// The request's stream ended without saying how.
    #[error("the request was lost")]
    Lost {
        /// The id in the response's `X-Request-Id`.
        request_id: String,
    },
    /// The speech that was made could not be written in the format that was asked for.
    #[error("the speech could not be written: {0}")]
    Encode(EncodeError),
    /// Something failed that should not have.
    #[error("internal error: {0}")]
    Internal(String),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl ApiError {
    /// A stable word for the kind of error: `reason` in the body, and the label on `/metrics`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid_json",
            Self::WrongType { .. } => "wrong_type",
            Self::InvalidValue { .. } => "invalid_value",
            Self::MissingField { .. } => "missing_field",
            Self::UnknownField { .. } => "unknown_field",
            Self::Unsupported { .. } => "unsupported",
            Self::Contradiction { .. } => "contradiction",
            Self::ContextLength { .. } => "context_length",
            Self::Template(_) => "template_error",
            Self::Tokenizer(_) => "tokenizer_error",
            Self::Unauthorized => "unauthorized",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::RouteNotFound { .. } => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::BodyUnreadable(_) => "body_unreadable",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::MediaType { .. } => "media_type",
            Self::Rejected(rejection) => rejection.reason(),
            Self::Failed { error, .. } => error.reason,
            Self::Aborted { cause, .. } => cause.reason(),
            Self::Timeout { .. } => "timeout",
            Self::Unavailable => "unavailable",
            Self::Lost { .. } => "lost",
            Self::Encode(error) => error.reason(),
            Self::Internal(_) => "internal_error",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidJson { .. }
            | Self::WrongType { .. }
            | Self::InvalidValue { .. }
            | Self::MissingField { .. }
            | Self::UnknownField { .. }
            | Self::Unsupported { .. }
            | Self::Contradiction { .. }
            | Self::ContextLength { .. }
            | Self::Template(_)
            | Self::Tokenizer(_)
            | Self::BodyUnreadable(_)
            | Self::Rejected(Rejection::UnsupportedModality(_)) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ModelNotFound { .. } | Self::RouteNotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Rejected(Rejection::Overloaded { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Rejected(Rejection::StageUnavailable { .. } | Rejection::Draining)
            | Self::Aborted { .. }
            | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed { error, .. } if error.client_fault => StatusCode::BAD_REQUEST,
            // The hand-over between two stages broke: to the client that is a fault behind the gateway.
            Self::Failed { error, .. } if error.reason == "stage_protocol" => StatusCode::BAD_GATEWAY,
            Self::Failed { .. } | Self::Lost { .. } | Self::Encode(_) | Self::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `type` of the OpenAI error object; one for each status.
    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::BAD_REQUEST => "BadRequestError",
            StatusCode::UNAUTHORIZED => "AuthenticationError",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowedError",
            StatusCode::REQUEST_TIMEOUT => "RequestTimeoutError",
            StatusCode::PAYLOAD_TOO_LARGE => "PayloadTooLargeError",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaTypeError",
            StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
            StatusCode::BAD_GATEWAY => "BadGatewayError",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
            StatusCode::GATEWAY_TIMEOUT => "GatewayTimeoutError",
            _ => "InternalServerError",
        }
    }

    /// The path of the field that is at fault, if one is.
    fn param(&self) -> Option<&str> {
        match self {
            Self::WrongType { param, .. }
            | Self::InvalidValue { param, .. }
            | Self::MissingField { param }
            | Self::UnknownField { param, .. }
            | Self::Unsupported { param, .. }
            | Self::Contradiction { param, .. } => Some(param),
            Self::ContextLength { param, .. } => Some(param),
            Self::Template(_) => Some("messages"),
            Self::ModelNotFound { .. } => Some("model"),
            Self::Rejected(Rejection::UnsupportedModality(_)) => Some("modalities"),
            _ => None,
        }
    }

    /// The error object, as it stands in a response and in a stream.
    pub fn body(&self) -> ErrorBody {
        let (request_id, error_stage_id) = match self {
            Self::Failed { error, request_id } => (Some(request_id.clone()), Some(error.stage.0)),
            Self::Aborted { request_id, .. }
            | Self::Timeout { request_id, .. }
            | Self::Lost { request_id } => (Some(request_id.clone()), None),
            _ => (None, None),
        };
        ErrorBody {
            error: ErrorObject {
                message: self.to_string(),
                kind: self.kind(),
                param: self.param().map(str::to_owned),
                code: self.status().as_u16(),
                reason: self.reason(),
                request_id,
                error_stage_id,
            },
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status()).json(self.body());
        let headers = response.headers_mut();
        match self {
            Self::Rejected(Rejection::Overloaded { .. } | Rejection::StageUnavailable { .. })
            | Self::Rejected(Rejection::Draining)
            | Self::Unavailable
            | Self::Aborted { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::MethodNotAllowed { allowed, .. } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        response
    }
}

/// What an error response consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The only member.
    pub error: ErrorObject,
}

/// The OpenAI error object, with additions of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// One word for each status.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the field that is at fault.
    pub param: Option<String>,
    /// The HTTP status; in a stream the only place where it can be read.
    pub code: u16,
    /// A stable word for the kind of error, the same as on `/metrics`.
    pub reason: &'static str,
    /// The request's id, when it had been admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The stage that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_stage_id: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StageId;

    fn failed(reason: &'static str, client_fault: bool) -> ApiError {
        ApiError::Failed {
            error: RequestError { reason, stage: StageId(1), message: "gone".into(), client_fault },
            request_id: "req-1".into(),
        }
    }

    #[test]
    fn a_failure_names_request_and_stage() {
        let body = serde_json::to_value(failed("device_error", false).body()).unwrap();
        assert_eq!(body["error"]["request_id"], "req-1");
        assert_eq!(body["error"]["error_stage_id"], 1);
        assert_eq!(body["error"]["reason"], "device_error");
        assert_eq!(body["error"]["code"], 500);
    }

    #[test]
    fn the_fault_decides_the_status_of_a_failure() {
        assert_eq!(failed("invalid_input", true).status(), StatusCode::BAD_REQUEST);
        assert_eq!(failed("stage_protocol", false).status(), StatusCode::BAD_GATEWAY);
        assert_eq!(failed("stage_error", false).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let response = ApiError::Rejected(Rejection::Overloaded { limit: 4 }).error_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        let response = ApiError::Rejected(Rejection::StageUnavailable { stage: StageId(0) }).error_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn an_unknown_field_suggests_the_nearest() {
        let error = ApiError::UnknownField { param: "temprature".into(), nearest: Some("temperature") };
        assert!(error.to_string().contains("did you mean `temperature`?"));
    }
}
