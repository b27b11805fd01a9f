//! The kinds of output that a chat answer carries.

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::state::PipelineShape;
use crate::stages::Modality;

/// The kinds of output that a chat answer can carry.
const WRITABLE: &[Modality] = &[Modality::Text, Modality::Audio];

/// The word for a kind of output in requests and on chunks.
pub fn word(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Audio => "audio",
        Modality::Image => "image",
    }
}

/// Reads `modalities`: the kinds of output wanted, each once; those of the pipeline that an answer can carry.
pub fn read_modalities(body: &Fields<'_>, pipeline: &PipelineShape) -> Result<Vec<Modality>, ApiError> {
    let offered = || WRITABLE.iter().copied().filter(|modality| pipeline.modalities.contains(modality));
    let words = || offered().map(word).collect::<Vec<_>>().join(", ");
    let mut wanted = Vec::new();
    for (index, value) in body.list("modalities")?.unwrap_or_default().iter().enumerate() {
        let name = format!("modalities[{index}]");
        let asked = value.as_str().ok_or_else(|| body.wrong_type(&name, "a string", value))?;
        let modality = offered().find(|modality| word(*modality) == asked).ok_or_else(|| {
            body.unsupported(&name, format!("is `{asked}`, but this server makes: {}", words()))
        })?;
        if !wanted.contains(&modality) {
            wanted.push(modality);
        }
    }
    if wanted.is_empty() {
        if body.get("modalities").is_some() {
            return Err(body.invalid("modalities", "must not be empty"));
        }
        wanted = offered().filter(|modality| pipeline.default_modalities.contains(modality)).collect();
    }
    if wanted.is_empty() {
        return Err(body.unsupported("modalities", format!("must be given; this server makes: {}", words())));
    }
    Ok(wanted)
}

/// What the pipeline is asked to make for an answer of these kinds: speech needs its text, too, for the transcript.
pub fn to_be_made(wanted: &[Modality], pipeline: &PipelineShape) -> Vec<Modality> {
    let mut made = wanted.to_vec();
    let spoken = made.contains(&Modality::Audio) && pipeline.modalities.contains(&Modality::Text);
    if spoken && !made.contains(&Modality::Text) {
        made.insert(0, Modality::Text);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{speaking_state, unconnected_state};
    use Modality::{Audio, Text};
    use serde_json::{Value, json};

    fn read(body: Value, pipeline: &PipelineShape) -> Result<Vec<Modality>, String> {
        read_modalities(&Fields::new(&body, "").unwrap(), pipeline).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kind_of_output_that_is_not_made_is_refused_with_what_is() {
        let pipeline = unconnected_state(1).pipeline;
        assert_eq!(read(json!({"modalities": ["text", "text"]}), &pipeline), Ok(vec![Text]));
        assert_eq!(read(json!({}), &pipeline), Ok(vec![Text]));
        let complaint = |body| read(body, &pipeline).unwrap_err();
        assert!(complaint(json!({"modalities": ["text", "audio"]})).contains("this server makes: text"));
        assert!(complaint(json!({"modalities": []})).contains("must not be empty"));
        assert!(complaint(json!({"modalities": "text"})).contains("must be a list"));
    }

    #[test]
    fn a_pipeline_that_speaks_does_so_only_when_asked() {
        let pipeline = speaking_state().pipeline;
        assert_eq!(read(json!({}), &pipeline), Ok(vec![Text]));
        assert_eq!(read(json!({"modalities": ["text", "audio"]}), &pipeline), Ok(vec![Text, Audio]));
        assert_eq!(read(json!({"modalities": ["audio"]}), &pipeline), Ok(vec![Audio]));
        let complaint = read(json!({"modalities": ["image"]}), &pipeline).unwrap_err();
        assert!(complaint.contains("`image`, but this server makes: text, audio"), "{complaint}");
    }

    #[test]
    fn speech_is_made_together_with_its_text() {
        let mut pipeline = speaking_state().pipeline;
        assert_eq!(to_be_made(&[Audio], &pipeline), [Text, Audio]);
        assert_eq!(to_be_made(&[Text], &pipeline), [Text]);
        pipeline.modalities = vec![Audio];
        assert_eq!(to_be_made(&[Audio], &pipeline), [Audio]);
    }
}
