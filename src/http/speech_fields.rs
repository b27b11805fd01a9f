//! How an answer is to be spoken: `audio`, `voice` and `speaker`.
//!
//! They are only possible in a request for speech. Elsewhere they would do nothing, and a client that sends them
//! has most likely forgotten `modalities`.

use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::state::PipelineShape;
use crate::media::AudioFormat;

/// The fields that [`SpeechFields::read`] understands.
pub const SPEECH_FIELDS: &[&str] = &["audio", "voice", "speaker"];

/// How speech is made and written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpeechFields {
    /// What the samples are written as.
    pub format: AudioFormat,
    /// One of the pipeline's voices, lower-case; `None` for its first.
    pub voice: Option<String>,
}

impl SpeechFields {
    /// Reads and checks the fields of a request for speech.
    pub fn read(body: &Fields<'_>, streamed: bool, pipeline: &PipelineShape) -> Result<Self, ApiError> {
        let audio = body.object("audio")?;
        let mut format = AudioFormat::default();
        let mut voices = Vec::new();
        if let Some(audio) = &audio {
            audio.only(&[&["format", "voice"]])?;
            format = read_format(audio, streamed)?;
            voices.extend(read_voice(audio, "voice", pipeline)?);
        }
        voices.extend(read_voice(body, "voice", pipeline)?);
        voices.extend(read_voice(body, "speaker", pipeline)?);
        let mut voices = voices.into_iter();
        let chosen = voices.next();
        if let Some((first, voice)) = &chosen
            && let Some((second, other)) = voices.find(|(_, other)| other != voice)
        {
            return Err(ApiError::Contradiction {
                param: second,
                message: format!("is `{other}`, but `{first}` is `{voice}`; give one of them"),
            });
        }
        Ok(Self { format, voice: chosen.map(|(_, voice)| voice) })
    }

    /// Complains about the first of the fields in a request that does not ask for speech.
    pub fn refuse(body: &Fields<'_>) -> Result<(), ApiError> {
        match SPEECH_FIELDS.iter().find(|name| body.get(name).is_some()) {
            Some(name) => {
                Err(body.contradiction(name, "is only possible with `audio` among the `modalities`"))
            }
            None => Ok(()),
        }
    }
}

fn read_format(audio: &Fields<'_>, streamed: bool) -> Result<AudioFormat, ApiError> {
    let Some(asked) = audio.string("format")? else { return Ok(AudioFormat::default()) };
    let words = |formats: &mut dyn Iterator<Item = AudioFormat>| {
        formats.map(AudioFormat::word).collect::<Vec<_>>().join(", ")
    };
    let format = AudioFormat::from_word(asked).ok_or_else(|| {
        let known = words(&mut AudioFormat::ALL.into_iter());
        audio.unsupported("format", format!("is `{asked}`, but this server writes: {known}"))
    })?;
    if streamed && !format.joins() {
        let joining = words(&mut AudioFormat::ALL.into_iter().filter(|format| format.joins()));
        return Err(audio.unsupported(
            "format",
            format!(
                "is `{asked}`, which does not play on from piece to piece; these can be streamed: {joining}"
            ),
        ));
    }
    Ok(format)
}

/// A voice by its name in any case, with the path that it stands at.
fn read_voice(
    fields: &Fields<'_>,
    name: &str,
    pipeline: &PipelineShape,
) -> Result<Option<(String, String)>, ApiError> {
    let Some(asked) = fields.string(name)? else { return Ok(None) };
    let voice = asked.to_lowercase();
    if pipeline.voices.contains(&voice) {
        return Ok(Some((fields.path_of(name), voice)));
    }
    let known = match pipeline.voices.as_slice() {
        [] => "this pipeline has no voices to choose from".to_owned(),
        voices => format!("the voices are: {}", voices.join(", ")),
    };
    Err(fields.invalid(name, format!("is `{asked}`, but {known}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::speaking_state;
    use serde_json::{Value, json};

    fn read(body: Value, streamed: bool) -> Result<SpeechFields, String> {
        SpeechFields::read(&Fields::new(&body, "").unwrap(), streamed, &speaking_state().pipeline)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn wav_and_the_first_voice_are_what_nobody_has_to_ask_for() {
        assert_eq!(read(json!({}), true), Ok(SpeechFields { format: AudioFormat::Wav, voice: None }));
        assert_eq!(read(json!({"audio": {}, "voice": null}), false), Ok(SpeechFields::default()));
    }

    #[test]
    fn a_format_that_is_not_written_is_answered_with_those_that_are() {
        for (word, format) in [("pcm", AudioFormat::Pcm16), ("opus", AudioFormat::Opus)] {
            assert_eq!(read(json!({"audio": {"format": word}}), false).unwrap().format, format);
        }
        for word in ["mp3", "aac", "WAV", ""] {
            let complaint = read(json!({"audio": {"format": word}}), false).unwrap_err();
            assert!(complaint.starts_with(&format!("`audio.format` is `{word}`")), "{complaint}");
            assert!(complaint.ends_with("writes: wav, pcm16, flac, opus"), "{complaint}");
        }
    }

    #[test]
    fn formats_whose_pieces_do_not_join_are_not_streamed() {
        for word in ["flac", "opus"] {
            let complaint = read(json!({"audio": {"format": word}}), true).unwrap_err();
            assert!(complaint.ends_with("these can be streamed: wav, pcm16"), "{complaint}");
        }
        assert!(read(json!({"audio": {"format": "pcm16"}}), true).is_ok());
    }

    #[test]
    fn a_voice_has_three_names_and_any_case() {
        for body in
            [json!({"audio": {"voice": "Ember"}}), json!({"voice": "EMBER"}), json!({"speaker": "ember"})]
        {
            assert_eq!(read(body, false).unwrap().voice.as_deref(), Some("ember"));
        }
        assert!(read(json!({"audio": {"voice": "Ember"}, "speaker": "ember"}), false).is_ok());
        let complaint = read(json!({"audio": {"voice": "ember"}, "speaker": "tiny"}), false).unwrap_err();
        assert_eq!(complaint, "`speaker` is `tiny`, but `audio.voice` is `ember`; give one of them");
    }

    #[test]
    fn unknown_voices_and_fields_are_named_with_the_known_ones() {
        let complaint = read(json!({"audio": {"voice": "Chelsie"}}), false).unwrap_err();
        assert_eq!(complaint, "`audio.voice` is `Chelsie`, but the voices are: tiny, ember");
        assert!(
            read(json!({"audio": {"formats": "wav"}}), false).unwrap_err().contains("did you mean `format`?")
        );
        assert!(read(json!({"audio": "wav"}), false).unwrap_err().contains("`audio` must be an object"));
    }

    #[test]
    fn without_speech_the_fields_would_do_nothing_and_are_refused() {
        for name in SPEECH_FIELDS {
            let body = json!({*name: {}});
            let error = SpeechFields::refuse(&Fields::new(&body, "").unwrap()).unwrap_err();
            assert!(matches!(error, ApiError::Contradiction { param, .. } if param == *name));
        }
        assert!(SpeechFields::refuse(&Fields::new(&json!({"audio": null}), "").unwrap()).is_ok());
    }
}
