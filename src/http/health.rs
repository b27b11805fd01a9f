//! `GET /health`, `/ping` and `/version`.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::actors::messages::{GetHealth, Health};
use crate::http::state::{AppState, PipelineShape};

/// How long the orchestrator may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// 200 when every stage has a live replica and new requests are taken, else 503 with the reason.
pub async fn health(state: web::Data<AppState>) -> HttpResponse {
    let reason = match state.orchestrator.health.send(GetHealth).timeout(PATIENCE).await {
        Ok(health) => complaint(&health, &state.pipeline),
        Err(_) => Some("the orchestrator does not answer".to_owned()),
    };
    match reason {
        None => HttpResponse::Ok().json(json!({ "status": "healthy" })),
        Some(reason) => {
            HttpResponse::ServiceUnavailable().json(json!({ "status": "unhealthy", "reason": reason }))
        }
    }
}

/// The version of the server.
pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// What is wrong with the pipeline, if anything is.
fn complaint(health: &Health, pipeline: &PipelineShape) -> Option<String> {
    if health.draining {
        return Some("the server is shutting down".to_owned());
    }
    let down: Vec<String> = health
        .stages_down
        .iter()
        .map(|stage| match pipeline.stages.get(usize::from(stage.0)) {
            Some(shape) => format!("{stage} ({})", shape.name),
            None => stage.to_string(),
        })
        .collect();
    (!down.is_empty()).then(|| format!("no live replica of stage {}", down.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::unconnected_state;
    use crate::ids::StageId;

    #[test]
    fn a_stage_without_replicas_is_named() {
        let pipeline = unconnected_state(2).pipeline;
        let health = Health { stages_down: vec![StageId(1)], not_built: Vec::new(), draining: false };
        assert_eq!(complaint(&health, &pipeline).unwrap(), "no live replica of stage 1 (stage-1)");
        let well = Health { stages_down: Vec::new(), not_built: Vec::new(), draining: false };
        assert_eq!(complaint(&well, &pipeline), None);
    }
}
