//! `GET /metrics`.

use std::io::{self, Write};
use std::time::Duration;

use actix_web::http::header::{
    ACCEPT, AcceptEncoding, CONTENT_ENCODING, CONTENT_TYPE, Encoding, Header, Preference, Quality, VARY,
};
use actix_web::{HttpRequest, HttpResponse, web};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::errors::ApiError;
use crate::http::state::AppState;

/// How long the page may take; Prometheus itself waits 10 s by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes all metrics, in the format and with the encoding that the client prefers.
pub async fn metrics(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let page = tokio::time::timeout(PATIENCE, state.metrics.scrape(accept))
        .await
        .map_err(|_| ApiError::Internal("the metrics were not gathered in time".into()))?
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, page.content_type))
        .insert_header((VARY, "Accept, Accept-Encoding"));
    if !takes_gzip(&request) {
        return Ok(response.body(page.body));
    }
    let compressed = web::block(move || gzip(page.body.as_bytes()))
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))?
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(response.insert_header((CONTENT_ENCODING, "gzip")).body(compressed))
}

/// Whether the client names gzip among the encodings that it takes.
fn takes_gzip(request: &HttpRequest) -> bool {
    let Ok(accepted) = AcceptEncoding::parse(request) else { return false };
    accepted.iter().any(|item| {
        let is_gzip = matches!(&item.item, Preference::Specific(encoding) if *encoding == Encoding::gzip());
        is_gzip && item.quality > Quality::ZERO
    })
}

/// Compresses quickly rather than well: the page is sent again in some seconds.
fn gzip(page: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}
