//! `GET /v1/models` and `GET /v1/models/{id}`.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::errors::ApiError;
use crate::http::state::{AppState, ServedModel};

/// All served models.
#[derive(Debug, Serialize)]
struct ModelList<'a> {
    /// Always `list`.
    object: &'static str,
    /// One entry per served name.
    data: Vec<Model<'a>>,
}

/// A served model under one of its names.
#[derive(Debug, Serialize)]
struct Model<'a> {
    /// The name.
    id: &'a str,
    /// Always `model`.
    object: &'static str,
    /// When it was loaded, seconds since 1970.
    created: u64,
    /// Who serves it.
    owned_by: &'static str,
    /// Where it was loaded from.
    root: &'a str,
    /// Always null: there are no adapters.
    parent: Option<&'a str>,
    /// The most tokens of prompt and answer together; null where nothing is counted in tokens.
    max_model_len: Option<u32>,
    /// A plain statement about it, such as that it is a tiny demo.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

fn model<'a>(served: &'a ServedModel, name: &'a str) -> Model<'a> {
    Model {
        id: name,
        object: "model",
        created: served.created,
        owned_by: "omni-actors",
        root: &served.root,
        parent: None,
        max_model_len: served.max_model_len,
        description: served.notice.as_deref(),
    }
}

/// Lists the model under each of its names.
pub async fn list(state: web::Data<AppState>) -> HttpResponse {
    let served = &state.served;
    let data = served.names.iter().map(|name| model(served, name)).collect();
    HttpResponse::Ok().json(ModelList { object: "list", data })
}

/// Tells of one name.
pub async fn retrieve(name: web::Path<String>, state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let served = &state.served;
    let known = served.names.iter().find(|known| **known == *name);
    known
        .map(|known| HttpResponse::Ok().json(model(served, known)))
        .ok_or_else(|| ApiError::ModelNotFound { name: name.into_inner(), served: served.names.clone() })
}
