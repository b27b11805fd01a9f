//! `X-Request-Id`: taken from the client or made up, and sent back with every response.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, ResponseError};

use crate::http::errors::ApiError;

/// The header's name.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that a client may give.
const MAX_LENGTH: usize = 128;

/// The client's name for a request, or ours where it gave none. It names the request in responses and in the log;
/// inside the server requests have ids of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalId(pub String);

impl ExternalId {
    /// An id that no other request of this process has, and that is unlikely to be met elsewhere.
    pub fn generate() -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> =
            LazyLock::new(|| (RandomState::new(), RandomState::new()));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // The count itself is mixed in reversibly, so that ids of one process cannot meet.
        let low = KEYS.1.hash_one(0u8) ^ count;
        Self(format!("{:016x}{low:016x}", KEYS.0.hash_one(count)))
    }

    /// The id of a request that came through [`carry`].
    pub fn of(request: &HttpRequest) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(Self::generate)
    }

    /// Takes the header's value: 1 to 128 visible ASCII characters.
    fn parse(value: &HeaderValue) -> Result<Self, ApiError> {
        let bytes = value.as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_LENGTH || !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(ApiError::InvalidValue {
                param: "X-Request-Id".into(),
                message: format!("must be 1 to {MAX_LENGTH} visible ASCII characters"),
            });
        }
        Ok(Self(bytes.iter().copied().map(char::from).collect()))
    }
}

/// Middleware: finds or makes the id of a request and puts it on the response, whatever the response is.
pub async fn carry<B>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<BoxBody>, Error>
where
    B: MessageBody + 'static,
{
    let (id, mut response) = match request.headers().get(X_REQUEST_ID).map(ExternalId::parse).transpose() {
        Ok(given) => {
            let id = given.unwrap_or_else(ExternalId::generate);
            request.extensions_mut().insert(id.clone());
            (id, next.call(request).await?.map_into_boxed_body())
        }
        Err(error) => (ExternalId::generate(), request.into_response(error.error_response())),
    };
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_ascii_is_taken_as_it_is() {
        let value = HeaderValue::from_static("trace/42-a~b");
        assert_eq!(ExternalId::parse(&value).unwrap().0, "trace/42-a~b");
    }

    #[test]
    fn blanks_other_alphabets_and_long_ids_are_refused() {
        for value in [b"a b".as_slice(), "ü".as_bytes(), b"", &[b'x'; MAX_LENGTH + 1]] {
            assert!(ExternalId::parse(&HeaderValue::from_bytes(value).unwrap()).is_err());
        }
    }

    #[test]
    fn generated_ids_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| ExternalId::generate().0).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
