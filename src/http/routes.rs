//! Which path leads where.

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError, Route, web};

use crate::http::auth::require_key;
use crate::http::errors::ApiError;
use crate::http::{chat, completions, health, models, scrape, stats, tokenize};

/// Registers all routes. Those that use the model or tell of it need a key; those for the people who run the
/// server do not.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::scope("/v1")
                .wrap(from_fn(require_key))
                .service(post("/chat/completions", web::post().to(chat::create)))
                .service(post("/completions", web::post().to(completions::create)))
                .service(get("/models", web::get().to(models::list)))
                .service(get("/models/{name:.+}", web::get().to(models::retrieve)))
                .default_service(web::to(not_found)),
        )
        .service(post("/tokenize", web::post().to(tokenize::tokenize)).wrap(from_fn(require_key)))
        .service(post("/detokenize", web::post().to(tokenize::detokenize)).wrap(from_fn(require_key)))
        .service(get("/health", web::get().to(health::health)))
        .service(get("/ping", web::get().to(health::health)))
        .service(get("/version", web::get().to(health::version)))
        .service(get("/stats", web::get().to(stats::stats)))
        .service(get("/metrics", web::get().to(scrape::metrics)))
        .default_service(web::to(not_found));
}

/// A resource that takes GET alone.
fn get(path: &str, route: Route) -> Resource {
    let refuse = |request: HttpRequest| async move { method_not_allowed(&request, "GET") };
    web::resource(path).route(route).default_service(web::to(refuse))
}

/// A resource that takes POST alone.
fn post(path: &str, route: Route) -> Resource {
    let refuse = |request: HttpRequest| async move { method_not_allowed(&request, "POST") };
    web::resource(path).route(route).default_service(web::to(refuse))
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    ApiError::RouteNotFound { path: request.path().to_owned() }.error_response()
}

fn method_not_allowed(request: &HttpRequest, allowed: &'static str) -> HttpResponse {
    let (path, method) = (request.path().to_owned(), request.method().to_string());
    ApiError::MethodNotAllowed { path, method, allowed }.error_response()
}
