//! API keys.
//!
//! The check is attached to the guarded routes themselves, not to a comparison of paths: the router decodes
//! percent signs before it matches, so a comparison with the path as it was sent could be walked around.

use std::fmt;
use std::hint::black_box;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};

use crate::http::errors::ApiError;
use crate::http::state::AppState;

/// The keys that open the guarded routes. Without any, everyone may ask.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// Takes the keys from the command line; empty ones are no keys.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self(keys.into_iter().filter(|key| !key.is_empty()).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request with this `Authorization` header may pass.
    ///
    /// Compares with every key to its end, so that the time taken tells nothing of how much of a key was right.
    fn admit(&self, authorization: Option<&[u8]>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(token) = authorization.and_then(bearer_token) else { return false };
        self.0.iter().fold(false, |found, key| found | equal_in_constant_time(key.as_bytes(), token))
    }
}

impl fmt::Debug for ApiKeys {
    /// The number of keys; never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

/// The token of `Bearer <token>`; the scheme's name in any case (RFC 7235, section 2.1).
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether two strings are equal, in a time that depends on the length of the token given alone.
fn equal_in_constant_time(key: &[u8], token: &[u8]) -> bool {
    let mut difference = usize::from(key.len() != token.len());
    let endless_key = key.iter().chain(std::iter::repeat(&0));
    for (given, right) in token.iter().zip(endless_key) {
        difference |= usize::from(black_box(given ^ right));
    }
    black_box(difference) == 0
}

/// Middleware: lets a request pass that carries a key, and answers 401 otherwise.
pub async fn require_key<B>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<BoxBody>, Error>
where
    B: MessageBody + 'static,
{
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let admitted =
        request.app_data::<web::Data<AppState>>().is_some_and(|state| state.api_keys.admit(authorization));
    if admitted {
        Ok(next.call(request).await?.map_into_boxed_body())
    } else {
        Ok(request.into_response(ApiError::Unauthorized.error_response()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ApiKeys {
        ApiKeys::new(["first".to_owned(), "second".to_owned(), String::new()])
    }

    #[test]
    fn any_of_the_keys_opens() {
        assert!(keys().admit(Some(b"Bearer first")));
        assert!(keys().admit(Some(b"bearer second")));
    }

    #[test]
    fn nothing_else_opens() {
        for header in [
            None,
            Some(b"Bearer ".as_slice()),
            Some(b"Bearer firs"),
            Some(b"Bearer firstt"),
            Some(b"first"),
            Some(b"Basic first"),
            Some(b""),
        ] {
            assert!(!keys().admit(header), "{header:?}");
        }
    }

    #[test]
    fn without_keys_everyone_may_ask() {
        assert!(ApiKeys::default().admit(None));
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", keys()), "ApiKeys(2)");
    }
}
