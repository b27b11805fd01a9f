//! `GET /metrics`.

use std::time::Duration;

use actix_web::http::header::{ACCEPT, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::http::errors::ApiError;
use crate::http::state::AppState;

/// How long the page may take; Prometheus itself waits 10 s by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes all metrics.
pub async fn metrics(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let page = tokio::time::timeout(PATIENCE, state.metrics.scrape(accept))
        .await
        .map_err(|_| ApiError::Internal("the metrics were not gathered in time".into()))?
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, page.content_type)).body(page.body))
}
