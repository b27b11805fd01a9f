//! From a checked request to the one that the orchestrator is given.

use std::sync::Arc;
use std::time::Instant;

use crate::actors::messages::OmniRequest;
use crate::http::errors::ApiError;
use crate::http::generation_fields::GenerationFields;
use crate::http::request_id::ExternalId;
use crate::http::state::AppState;
use crate::http::token_budget::answer_tokens;
use crate::metrics::{PipelineEvent, StatEvent};
use crate::stages::{Modality, Prompt};

/// Where a request comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// When its head had arrived.
    pub arrived: Instant,
    /// What it is called outside.
    pub external_id: ExternalId,
    /// The field that prompts stand in, for complaints about their length.
    pub prompt_param: &'static str,
}

/// Completes a request: settles how many tokens the answer may have, and fills in every stage's sampling.
pub fn omni_request(
    prompt: Prompt,
    generation: &GenerationFields,
    modalities: &[Modality],
    origin: &Origin,
    state: &AppState,
) -> Result<OmniRequest, ApiError> {
    let mut sampling = generation.sampling(&state.pipeline);
    if let Some(thinker) = sampling.first_mut() {
        // Without a tokenizer there is nothing to count, and what is asked for stands.
        if let Some(max_model_len) = state.served.max_model_len {
            thinker.max_tokens = answer_tokens(
                prompt.token_ids.len(),
                generation.max_tokens(),
                thinker.max_tokens,
                max_model_len,
                origin.prompt_param,
            )?;
        }
        if thinker.min_tokens > thinker.max_tokens {
            return Err(ApiError::Contradiction {
                param: "min_tokens".into(),
                message: format!(
                    "is {}, but the answer may have at most {} tokens",
                    thinker.min_tokens, thinker.max_tokens
                ),
            });
        }
    }
    Ok(OmniRequest {
        arrived: origin.arrived,
        external_id: origin.external_id.0.clone(),
        prompt: Arc::new(Prompt { cache_salt: generation.cache_salt.clone(), ..prompt }),
        choices: generation.choices,
        sampling,
        modalities: modalities.to_vec(),
        priority: generation.priority,
        streamed: generation.stream.is_some(),
        measured: generation.return_stage_metrics,
    })
}

impl AppState {
    /// Counts a generation request that was turned away before it reached the orchestrator, which counts its own.
    pub fn count_refusal<T>(&self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        if let Err(error) = &result {
            let reason = error.reason();
            self.statistics.send(|| StatEvent::Pipeline(PipelineEvent::Rejected { reason }));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sampling_fields::SamplingOverrides;
    use crate::http::testing::unconnected_state;

    fn complete(thinker: SamplingOverrides, prompt_tokens: usize) -> Result<OmniRequest, ApiError> {
        let generation = GenerationFields { choices: 1, thinker, ..GenerationFields::default() };
        let origin =
            Origin { arrived: Instant::now(), external_id: ExternalId("x".into()), prompt_param: "messages" };
        let prompt = Prompt { token_ids: vec![1; prompt_tokens], ..Prompt::default() };
        omni_request(prompt, &generation, &[Modality::Text], &origin, &unconnected_state(2))
    }

    #[test]
    fn every_stage_gets_parameters_and_the_answer_what_is_left() {
        let request = complete(SamplingOverrides::default(), 1000).unwrap();
        assert_eq!(request.sampling.len(), 2);
        assert_eq!(request.sampling[0].max_tokens, 24);
        assert_eq!(request.sampling[1].max_tokens, 2048);
    }

    #[test]
    fn min_tokens_must_fit_into_the_answer() {
        let thinker =
            SamplingOverrides { min_tokens: Some(9), max_tokens: Some(8), ..SamplingOverrides::default() };
        let error = complete(thinker, 10).unwrap_err();
        assert!(matches!(error, ApiError::Contradiction { param, .. } if param == "min_tokens"));
    }
}
