//! The fields that chat and completions have in common.

use crate::engine::SamplingParams;
use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::plain_text::refuse_token_fields;
use crate::http::sampling_fields::{SAMPLING_FIELDS, SamplingOverrides};
use crate::http::speech_account::Delivery;
use crate::http::stage_metrics::RequestMetricsWriter;
use crate::http::state::{AppState, PipelineShape, ServedModel};
use crate::http::subtalker_fields::{SUBTALKER_FIELDS, SubtalkerOverrides};
use crate::stages::Modality;

/// The fields that [`GenerationFields::read`] understands, beside [`SAMPLING_FIELDS`].
pub const GENERATION_FIELDS: &[&str] = &[
    "model",
    "n",
    "stream",
    "stream_options",
    "return_token_ids",
    "priority",
    "cache_salt",
    "sampling_params_list",
    "return_stage_metrics",
];

/// How the answer is to be made and written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationFields {
    /// Independent choices per prompt.
    pub choices: u32,
    /// Whether the answer comes as events, and what they carry.
    pub stream: Option<StreamOptions>,
    /// Whether the token ids of prompt and answer are wanted, too.
    pub return_token_ids: bool,
    /// Whether the answer tells what it took.
    pub return_stage_metrics: bool,
    /// More urgent requests have lower values.
    pub priority: i32,
    /// Requests share what is cached of their prompts with those of the same salt alone.
    pub cache_salt: Option<String>,
    /// The sampling fields at the top level; they concern the thinker alone.
    pub thinker: SamplingOverrides,
    /// `sampling_params_list`: one entry per stage, as far as it goes; comes after the top level.
    pub stages: Vec<SamplingOverrides>,
}

/// What a stream carries beside the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk with the usage of the whole request.
    pub include_usage: bool,
    /// The usage so far on every chunk.
    pub continuous_usage_stats: bool,
}

impl GenerationFields {
    /// Reads and checks the common fields.
    pub fn read(body: &Fields<'_>, state: &AppState) -> Result<Self, ApiError> {
        check_model(body, &state.served)?;
        refuse_token_fields(body, state)?;
        let vocab_size = Some(state.text.vocab_size());
        Ok(Self {
            choices: read_choices(body, state)?,
            stream: read_stream(body)?,
            return_token_ids: body.boolean("return_token_ids")?.unwrap_or(false),
            return_stage_metrics: body.boolean("return_stage_metrics")?.unwrap_or(false),
            priority: body.integer_within("priority", i64::from(i32::MIN), i64::from(i32::MAX))?.unwrap_or(0)
                as i32,
            cache_salt: read_cache_salt(body)?,
            thinker: SamplingOverrides::read(body, vocab_size)?,
            stages: read_stages(body, state, vocab_size)?,
        })
    }

    /// The parameters of every stage: the pipeline's own, then the top level, then `sampling_params_list`.
    pub fn sampling(&self, pipeline: &PipelineShape) -> Vec<SamplingParams> {
        let mut all: Vec<SamplingParams> =
            pipeline.stages.iter().map(|stage| stage.default_sampling.clone()).collect();
        if let Some(thinker) = all.first_mut() {
            self.thinker.apply(thinker);
        }
        for (params, overrides) in all.iter_mut().zip(&self.stages) {
            overrides.apply(params);
        }
        all
    }

    /// What writes what the answer took, if it is to tell that.
    pub fn metrics_writer(&self, pipeline: &PipelineShape) -> Option<RequestMetricsWriter> {
        self.return_stage_metrics.then(|| RequestMetricsWriter::new(pipeline))
    }

    /// How the answer goes to the client.
    pub fn delivery(&self) -> Delivery {
        if self.stream.is_some() { Delivery::Streamed } else { Delivery::Whole }
    }

    /// `max_tokens` for the thinker, if the request gives it.
    pub fn max_tokens(&self) -> Option<u32> {
        self.stages.first().and_then(|stage| stage.max_tokens).or(self.thinker.max_tokens)
    }
}

/// A model need not be named, but if it is, it must be served.
pub fn check_model(body: &Fields<'_>, served: &ServedModel) -> Result<(), ApiError> {
    match body.string("model")? {
        Some(name) if !served.names.iter().any(|known| known == name) => {
            Err(ApiError::ModelNotFound { name: name.to_owned(), served: served.names.clone() })
        }
        _ => Ok(()),
    }
}

fn read_choices(body: &Fields<'_>, state: &AppState) -> Result<u32, ApiError> {
    let choices = body.integer_within("n", 1, i64::from(state.limits.max_choices))?.unwrap_or(1) as u32;
    if choices > 1 && !state.pipeline.text_has_tokens {
        let message = format!("is {choices}, but a custom stage makes the text, in one choice");
        return Err(body.unsupported("n", message));
    }
    Ok(choices)
}

fn read_cache_salt(body: &Fields<'_>) -> Result<Option<String>, ApiError> {
    match body.string("cache_salt")? {
        Some("") => Err(body.invalid("cache_salt", "must not be empty")),
        salt => Ok(salt.map(str::to_owned)),
    }
}

fn read_stream(body: &Fields<'_>) -> Result<Option<StreamOptions>, ApiError> {
    let stream = body.boolean("stream")?.unwrap_or(false);
    let Some(options) = body.object("stream_options")? else {
        return Ok(stream.then(StreamOptions::default));
    };
    if !stream {
        return Err(body.contradiction("stream_options", "is only possible with `stream: true`"));
    }
    options.only(&[&["include_usage", "continuous_usage_stats", "include_obfuscation"]])?;
    if options.boolean("include_obfuscation")? == Some(true) {
        return Err(options.unsupported("include_obfuscation", "is not supported yet"));
    }
    Ok(Some(StreamOptions {
        include_usage: options.boolean("include_usage")?.unwrap_or(false),
        continuous_usage_stats: options.boolean("continuous_usage_stats")?.unwrap_or(false),
    }))
}

fn read_stages(
    body: &Fields<'_>,
    state: &AppState,
    vocab_size: Option<u32>,
) -> Result<Vec<SamplingOverrides>, ApiError> {
    /// Whether text is made of the tokens is settled by the stage, whatever this says.
    const DETOKENIZE: &[&str] = &["detokenize"];
    let pipeline = &state.pipeline;
    let entries = body.list("sampling_params_list")?.unwrap_or_default();
    if entries.len() > pipeline.stages.len() {
        let names: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
        let message = format!("has {} entries, but the stages are: {}", entries.len(), names.join(", "));
        return Err(body.invalid("sampling_params_list", message));
    }
    entries
        .iter()
        .zip(&pipeline.stages)
        .enumerate()
        .map(|(stage, (entry, shape))| {
            if entry.is_null() {
                return Ok(SamplingOverrides::default());
            }
            let entry = Fields::new(entry, body.path_of(&format!("sampling_params_list[{stage}]")))?;
            entry.only(&[SAMPLING_FIELDS, SUBTALKER_FIELDS, DETOKENIZE])?;
            entry.boolean("detokenize")?;
            refuse_token_fields(&entry, state)?;
            // Only the thinker's tokens are those of the tokenizer; later stages have vocabularies of their own.
            let overrides = SamplingOverrides::read(&entry, vocab_size.filter(|_| stage == 0))?;
            if shape.output != Some(Modality::Text)
                && overrides.stop.as_ref().is_some_and(|it| !it.is_empty())
            {
                let message = format!("is for stages that make text, which `{}` does not", shape.name);
                return Err(entry.unsupported("stop", message));
            }
            Ok(SamplingOverrides { subtalker: SubtalkerOverrides::read(&entry, shape)?, ..overrides })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{speaking_state, unconnected_state};
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<GenerationFields, ApiError> {
        GenerationFields::read(&Fields::new(&value, "").unwrap(), &unconnected_state(2))
    }

    #[test]
    fn later_settings_win_and_only_the_thinker_hears_the_top_level() {
        let fields = read(json!({"temperature": 0.3, "top_k": 5, "max_tokens": 9,
                                 "sampling_params_list": [{"temperature": 0.7}, {"max_tokens": 3}]}))
        .unwrap();
        let pipeline = unconnected_state(2).pipeline;
        let sampling = fields.sampling(&pipeline);
        assert_eq!((sampling[0].temperature, sampling[0].top_k, sampling[0].max_tokens), (0.7, 5, 9));
        assert_eq!((sampling[1].temperature, sampling[1].max_tokens), (0.0, 3));
        assert_eq!(fields.max_tokens(), Some(9));
    }

    #[test]
    fn a_missing_tail_of_the_list_is_default() {
        let fields = read(json!({"sampling_params_list": [null]})).unwrap();
        let pipeline = unconnected_state(2).pipeline;
        assert_eq!(fields.sampling(&pipeline)[1], pipeline.stages[1].default_sampling);
    }

    #[test]
    fn unknown_keys_of_the_list_and_too_long_lists_are_named() {
        let error = read(json!({"sampling_params_list": [{}, {"temprature": 1}]})).unwrap_err();
        assert_eq!(
            error,
            ApiError::UnknownField {
                param: "sampling_params_list[1].temprature".into(),
                nearest: Some("temperature")
            }
        );
        let error = read(json!({"sampling_params_list": [{}, {}, {}]})).unwrap_err();
        assert!(error.to_string().contains("has 3 entries"), "{error}");
    }

    #[test]
    fn stop_strings_are_for_stages_that_make_text() {
        let read = |entries: Value| {
            let body = json!({"sampling_params_list": entries});
            GenerationFields::read(&Fields::new(&body, "").unwrap(), &speaking_state())
        };
        let complaint = read(json!([{}, {"stop": ["."]}])).unwrap_err().to_string();
        assert!(
            complaint.contains("`sampling_params_list[1].stop` is for stages that make text"),
            "{complaint}"
        );
        assert!(read(json!([{"stop": ["."]}, {"stop": [], "stop_token_ids": [2150]}])).is_ok());
    }

    #[test]
    fn stream_options_need_a_stream() {
        assert!(read(json!({"stream_options": {"include_usage": true}})).is_err());
        let fields = read(json!({"stream": true, "stream_options": {"include_usage": true}})).unwrap();
        assert_eq!(fields.stream, Some(StreamOptions { include_usage: true, continuous_usage_stats: false }));
        assert!(read(json!({"stream": true, "stream_options": {"include_usages": true}})).is_err());
    }

    #[test]
    fn the_model_must_be_served_if_it_is_named() {
        assert!(read(json!({"model": "fake"})).is_ok());
        assert!(read(json!({"model": "fake-alias"})).is_ok());
        assert!(matches!(read(json!({"model": "gpt"})), Err(ApiError::ModelNotFound { .. })));
    }

    #[test]
    fn a_salt_is_a_string_and_not_empty() {
        assert_eq!(read(json!({"cache_salt": "a"})).unwrap().cache_salt.as_deref(), Some("a"));
        assert!(read(json!({"cache_salt": ""})).is_err());
        assert!(read(json!({"cache_salt": 5})).is_err());
    }

    #[test]
    fn the_number_of_choices_is_bounded() {
        assert!(read(json!({"n": 0})).is_err());
        assert!(read(json!({"n": 129})).is_err());
        assert_eq!(read(json!({"n": 3})).unwrap().choices, 3);
    }
}
