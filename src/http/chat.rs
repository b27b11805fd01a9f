//! `POST /v1/chat/completions`.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};

use crate::actors::messages::OmniRequest;
use crate::http::admission::{Origin, omni_request};
use crate::http::answer::{Head, gather};
use crate::http::body::read_json;
use crate::http::chat_request::ChatRequest;
use crate::http::chat_response::{ChatCompletion, ChatFormat};
use crate::http::chat_stream::ChatStream;
use crate::http::errors::ApiError;
use crate::http::modalities::to_be_made;
use crate::http::request_id::ExternalId;
use crate::http::running::RunningRequests;
use crate::http::sse::EventStream;
use crate::http::state::AppState;
use crate::stages::Modality;

/// Answers a chat request, streamed or in one piece.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let origin =
        Origin { arrived: Instant::now(), external_id: ExternalId::of(&request), prompt_param: "messages" };
    let head = Head::new("chatcmpl", &origin.external_id.0, state.served.name());
    let (asked, ready) = state.count_refusal(prepare(&request, payload, &state, origin).await)?;
    let generation = asked.generation;
    let format = ChatFormat {
        prompt_token_ids: ready.prompt.token_ids.clone(),
        return_token_ids: generation.return_token_ids,
        logprobs: ready.sampling.first().is_some_and(|thinker| thinker.logprobs.is_some()),
        text: asked.modalities.contains(&Modality::Text),
        speech: asked.speech.map(|speech| speech.format),
        audio_delta: state.audio_delta,
        metrics: generation.metrics_writer(&state.pipeline),
    };
    let mut running = RunningRequests::submit(&state, vec![ready], generation.delivery()).await?;
    match generation.stream {
        Some(options) => {
            EventStream::respond(running, ChatStream::new(head, format, options, generation.choices)).await
        }
        None => {
            let gathered = gather(&mut running, 1, generation.choices as usize).await?;
            Ok(HttpResponse::Ok().json(ChatCompletion::write(head, format, gathered).await?))
        }
    }
}

/// Reads, checks, renders and tokenises.
async fn prepare(
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<AppState>,
    origin: Origin,
) -> Result<(ChatRequest, OmniRequest), ApiError> {
    let body = read_json(request, payload, &state.limits).await?;
    let state = state.clone();
    body.work(move |value| {
        let asked = ChatRequest::read(value, &state)?;
        let prompt = asked.prompt(state.text.as_ref())?;
        let made = to_be_made(&asked.modalities, &state.pipeline);
        let ready = omni_request(prompt, &asked.generation, &made, &origin, &state)?;
        Ok((asked, ready))
    })
    .await
}
