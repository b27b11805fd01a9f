//! `POST /v1/completions`.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};

use crate::actors::messages::OmniRequest;
use crate::http::admission::{Origin, omni_request};
use crate::http::answer::{Head, gather};
use crate::http::body::read_json;
use crate::http::completions_request::CompletionsRequest;
use crate::http::completions_response::{CompletionsFormat, CompletionsStream, whole};
use crate::http::errors::ApiError;
use crate::http::request_id::ExternalId;
use crate::http::running::RunningRequests;
use crate::http::sse::EventStream;
use crate::http::state::AppState;
use crate::stages::Modality;

/// Completes one or several prompts, streamed or in one piece. Each prompt is a request of its own.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let origin =
        Origin { arrived: Instant::now(), external_id: ExternalId::of(&request), prompt_param: "prompt" };
    let head = Head::new("cmpl", &origin.external_id.0, state.served.name());
    let (asked, ready) = state.count_refusal(prepare(&request, payload, &state, origin).await)?;
    let generation = asked.generation;
    let format = CompletionsFormat {
        prompts: ready.iter().map(|request| request.prompt.token_ids.clone()).collect(),
        choices: generation.choices as usize,
        return_token_ids: generation.return_token_ids,
        logprobs: generation.thinker.logprobs.is_some(),
        metrics: generation.metrics_writer(&state.pipeline),
    };
    let mut running = RunningRequests::submit(&state, ready, generation.delivery()).await?;
    match generation.stream {
        Some(options) => EventStream::respond(running, CompletionsStream::new(head, format, options)).await,
        None => {
            let gathered = gather(&mut running, format.prompts.len(), format.choices).await?;
            Ok(HttpResponse::Ok().json(whole(&head, &format, gathered)))
        }
    }
}

/// Reads, checks and tokenises.
async fn prepare(
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<AppState>,
    origin: Origin,
) -> Result<(CompletionsRequest, Vec<OmniRequest>), ApiError> {
    let body = read_json(request, payload, &state.limits).await?;
    let state = state.clone();
    body.work(move |value| {
        let asked = CompletionsRequest::read(value, &state)?;
        let ready = asked
            .prompts
            .iter()
            .map(|prompt| {
                let prompt = prompt.prompt(state.text.as_ref(), asked.add_special_tokens)?;
                omni_request(prompt, &asked.generation, &[Modality::Text], &origin, &state)
            })
            .collect::<Result<_, _>>()?;
        Ok((asked, ready))
    })
    .await
}
