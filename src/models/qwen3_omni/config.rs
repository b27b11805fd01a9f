//! The `config.json` of a Qwen3-Omni checkpoint.
#![deny(clippy::indexing_slicing)]

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::models::LoadError;
use crate::models::qwen3::{DecoderConfig, TextConfig};

/// The name that stands in messages when the configuration does not come from a file.
const FILE: &str = "config.json";

/// A checkpoint's configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct OmniConfig {
    /// Ids that the whole pipeline shares.
    pub tokens: SharedTokens,
    /// The text model and the ids of its media tokens.
    pub thinker: ThinkerConfig,
    /// The speech model; none where the checkpoint has `enable_audio_output: false`.
    pub talker: Option<TalkerConfig>,
    /// The vocoder; none where there is no talker.
    pub code2wav: Option<Code2WavConfig>,
}

/// Token ids that the thinker and the talker agree on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SharedTokens {
    /// Begins a turn.
    pub im_start_token_id: u32,
    /// Ends a turn; the end-of-sequence token.
    pub im_end_token_id: u32,
    /// Fills the talker's text side.
    pub tts_pad_token_id: u32,
    /// Begins the talker's text.
    pub tts_bos_token_id: u32,
    /// Ends the talker's text.
    pub tts_eos_token_id: u32,
    /// The word that marks a system turn.
    pub system_token_id: u32,
    /// The word that marks a user turn.
    pub user_token_id: u32,
    /// The word that marks an assistant turn.
    pub assistant_token_id: u32,
}

/// The thinker.
#[derive(Debug, Clone, PartialEq)]
pub struct ThinkerConfig {
    /// Its decoder.
    pub decoder: DecoderConfig,
    /// The longest sequence that it was made for.
    pub max_position_embeddings: usize,
    /// Ids of media tokens.
    pub tokens: ThinkerTokens,
}

/// Ids of the tokens that stand for media in the thinker's input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ThinkerTokens {
    /// Stands for a row of audio.
    pub audio_token_id: u32,
    /// Stands for a row of an image.
    pub image_token_id: u32,
    /// Stands for a row of a video.
    pub video_token_id: u32,
    /// Begins audio.
    pub audio_start_token_id: u32,
    /// Ends audio, where the file gives it.
    pub audio_end_token_id: Option<u32>,
    /// Begins an image or a video.
    pub vision_start_token_id: u32,
    /// Ends an image or a video, where the file gives it.
    pub vision_end_token_id: Option<u32>,
    /// Positions on the time axis that make a second.
    pub position_id_per_seconds: f32,
}

/// The talker.
#[derive(Debug, Clone, PartialEq)]
pub struct TalkerConfig {
    /// Its decoder.
    pub decoder: DecoderConfig,
    /// The longest sequence that it was made for.
    pub max_position_embeddings: usize,
    /// Width of the two projections from the thinker: `text_config.intermediate_size`.
    pub projection_size: usize,
    /// Width of the thinker's hidden states.
    pub thinker_hidden_size: usize,
    /// It listens to the thinker's `hidden_states[accept_hidden_layer]`: the input of that layer.
    pub accept_hidden_layer: usize,
    /// Codes of a frame.
    pub num_code_groups: usize,
    /// Ids in its codec vocabulary.
    pub tokens: CodecTokens,
    /// Voices in the order of the file, with their codec ids.
    pub speakers: Vec<(String, u32)>,
    /// The model that completes a frame.
    pub code_predictor: DecoderConfig,
}

/// Ids in the talker's codec vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CodecTokens {
    /// Padding.
    pub codec_pad_id: u32,
    /// Begins speech.
    pub codec_bos_id: u32,
    /// Ends speech.
    pub codec_eos_token_id: u32,
    /// Says that no thinking follows.
    pub codec_nothink_id: u32,
    /// Begins thinking.
    pub codec_think_bos_id: u32,
    /// Ends thinking.
    pub codec_think_eos_id: u32,
}

/// The vocoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Code2WavConfig {
    /// Width of the pre-transformer.
    pub hidden_size: usize,
    /// Its layers.
    pub num_hidden_layers: usize,
    /// Its query heads.
    pub num_attention_heads: usize,
    /// Its key and value heads.
    pub num_key_value_heads: usize,
    /// Width of its feed-forward networks.
    pub intermediate_size: usize,
    /// Codes of one codebook.
    pub codebook_size: usize,
    /// Codebooks.
    pub num_quantizers: usize,
    /// Frames that a frame sees, itself included.
    pub sliding_window: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added under the root of RMS norms.
    pub rms_norm_eps: f32,
    /// Channels of the decoder's first convolution.
    pub decoder_dim: usize,
    /// Upsampling of the decoder's blocks.
    pub upsample_rates: Vec<usize>,
    /// Upsampling before the decoder.
    pub upsampling_ratios: Vec<usize>,
}

/// Fields of `talker_config` that stand beside its parts.
#[derive(Debug, Deserialize)]
struct TalkerFields {
    thinker_hidden_size: usize,
    accept_hidden_layer: usize,
    num_code_groups: usize,
    speaker_id: Map<String, Value>,
}

impl OmniConfig {
    /// Reads `config.json` in a checkpoint directory.
    pub fn read(directory: &Path) -> Result<Self, LoadError> {
        let path = directory.join(FILE);
        let file = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| LoadError::Unreadable { file: file.clone(), cause: error.to_string() })?;
        Self::parse(&text, &file)
    }

    /// Reads the text of a `config.json`; `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, LoadError> {
        let root: Value = serde_json::from_str(text)
            .map_err(|error| LoadError::Config { file: file.to_owned(), cause: error.to_string() })?;
        let document = Document { file, root: &root };
        let thinker = document.thinker()?;
        let audio = root.get("enable_audio_output").and_then(Value::as_bool).unwrap_or(true);
        let (talker, code2wav) = match audio && root.get("talker_config").is_some() {
            true => {
                let talker = document.talker(&thinker)?;
                let code2wav = document.code2wav(&talker)?;
                (Some(talker), Some(code2wav))
            }
            false => (None, None),
        };
        Ok(Self { tokens: document.part("")?, thinker, talker, code2wav })
    }
}

/// The file while it is read.
struct Document<'a> {
    /// For messages.
    file: &'a str,
    /// Its content.
    root: &'a Value,
}

impl Document<'_> {
    /// Reads the object at a path of names joined by dots; the root for an empty path.
    fn part<T: DeserializeOwned>(&self, path: &str) -> Result<T, LoadError> {
        let mut value = self.root;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            value = value.get(name).ok_or_else(|| self.error(path, "is missing"))?;
        }
        T::deserialize(value).map_err(|error| {
            let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
            LoadError::Config { file: self.file.to_owned(), cause: format!("{place}{error}") }
        })
    }

    fn error(&self, field: &str, cause: &str) -> LoadError {
        LoadError::Field { file: self.file.to_owned(), field: field.to_owned(), cause: cause.to_owned() }
    }

    fn thinker(&self) -> Result<ThinkerConfig, LoadError> {
        const TEXT: &str = "thinker_config.text_config";
        let text: TextConfig = self.part(TEXT)?;
        Ok(ThinkerConfig {
            decoder: text.decoder(self.file, TEXT)?,
            max_position_embeddings: text.max_position_embeddings,
            tokens: self.part("thinker_config")?,
        })
    }

    fn talker(&self, thinker: &ThinkerConfig) -> Result<TalkerConfig, LoadError> {
        const TEXT: &str = "talker_config.text_config";
        const PREDICTOR: &str = "talker_config.code_predictor_config";
        let text: TextConfig = self.part(TEXT)?;
        let predictor: TextConfig = self.part(PREDICTOR)?;
        let fields: TalkerFields = self.part("talker_config")?;
        if fields.thinker_hidden_size != thinker.decoder.hidden_size {
            let cause = format!(
                "is {} where thinker_config.text_config.hidden_size is {}",
                fields.thinker_hidden_size, thinker.decoder.hidden_size
            );
            return Err(self.error("talker_config.thinker_hidden_size", &cause));
        }
        if fields.accept_hidden_layer > thinker.decoder.layers.len() {
            let cause = format!(
                "is {} where the thinker has {} layers",
                fields.accept_hidden_layer,
                thinker.decoder.layers.len()
            );
            return Err(self.error("talker_config.accept_hidden_layer", &cause));
        }
        let decoder = text.decoder(self.file, TEXT)?;
        let code_predictor = predictor.decoder(self.file, PREDICTOR)?;
        if code_predictor.hidden_size != decoder.hidden_size {
            let cause =
                format!("is {} where the talker's is {}", code_predictor.hidden_size, decoder.hidden_size);
            return Err(self.error(&format!("{PREDICTOR}.hidden_size"), &cause));
        }
        let speakers = fields
            .speaker_id
            .into_iter()
            .map(|(name, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) => Ok((name, id)),
                None => Err(self.error(&format!("talker_config.speaker_id.{name}"), "is not a token id")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TalkerConfig {
            decoder,
            max_position_embeddings: text.max_position_embeddings,
            projection_size: text.intermediate_size,
            thinker_hidden_size: fields.thinker_hidden_size,
            accept_hidden_layer: fields.accept_hidden_layer,
            num_code_groups: fields.num_code_groups,
            tokens: self.part("talker_config")?,
            speakers,
            code_predictor,
        })
    }

    fn code2wav(&self, talker: &TalkerConfig) -> Result<Code2WavConfig, LoadError> {
        let config: Code2WavConfig = self.part("code2wav_config")?;
        let wrong = |field: &str, cause: &str| self.error(&format!("code2wav_config.{field}"), cause);
        for (field, value) in [
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads),
            ("intermediate_size", config.intermediate_size),
            ("codebook_size", config.codebook_size),
            ("num_quantizers", config.num_quantizers),
            ("sliding_window", config.sliding_window),
        ] {
            if value == 0 {
                return Err(wrong(field, "is 0"));
            }
        }
        if !config.hidden_size.is_multiple_of(2 * config.num_attention_heads) {
            return Err(wrong("hidden_size", "does not give its heads an even width"));
        }
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            return Err(wrong("num_key_value_heads", "does not divide num_attention_heads"));
        }
        if config.upsample_rates.contains(&0) || config.upsampling_ratios.contains(&0) {
            return Err(wrong("upsample_rates", "or upsampling_ratios holds a 0"));
        }
        let halvings = 1usize.checked_shl(config.upsample_rates.len() as u32).unwrap_or(0);
        if config.decoder_dim == 0 || halvings == 0 || !config.decoder_dim.is_multiple_of(halvings) {
            return Err(wrong("decoder_dim", "cannot be halved once for each of upsample_rates"));
        }
        if config.num_quantizers != talker.num_code_groups {
            let cause = format!(
                "is {} where talker_config.num_code_groups is {}",
                config.num_quantizers, talker.num_code_groups
            );
            return Err(wrong("num_quantizers", &cause));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = include_str!("../../../assets/demo/config.json");

    fn changed(change: impl FnOnce(&mut Value)) -> Result<OmniConfig, LoadError> {
        let mut root: Value = serde_json::from_str(DEMO).unwrap();
        change(&mut root);
        OmniConfig::parse(&root.to_string(), "dir/config.json")
    }

    #[test]
    fn the_demo_is_read_whole() {
        let config = OmniConfig::parse(DEMO, "config.json").unwrap();
        let talker = config.talker.unwrap();
        assert_eq!(talker.thinker_hidden_size, config.thinker.decoder.hidden_size);
        assert!(!talker.speakers.is_empty());
        assert_eq!(config.code2wav.unwrap().num_quantizers, talker.num_code_groups);
    }

    #[test]
    fn a_missing_field_is_named_with_file_and_place() {
        let error = changed(|root| {
            root["thinker_config"]["text_config"].as_object_mut().unwrap().remove("hidden_size");
        });
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("dir/config.json: thinker_config.text_config: "), "{error}");
        assert!(error.contains("hidden_size"), "{error}");
    }

    #[test]
    fn a_missing_part_is_named() {
        let error = changed(|root| {
            root.as_object_mut().unwrap().remove("thinker_config");
        });
        assert!(error.unwrap_err().to_string().contains("thinker_config"), "names the part");
    }

    #[test]
    fn a_talker_for_another_thinker_is_refused() {
        let error =
            changed(|root| root["talker_config"]["thinker_hidden_size"] = Value::from(7)).unwrap_err();
        assert!(error.to_string().contains("talker_config.thinker_hidden_size is 7"), "{error}");
    }

    #[test]
    fn without_audio_output_there_is_no_talker() {
        let config = changed(|root| root["enable_audio_output"] = Value::from(false)).unwrap();
        assert!(config.talker.is_none() && config.code2wav.is_none());
    }

    #[test]
    fn a_vocoder_that_cannot_be_is_refused_by_field() {
        for (field, value, part) in [
            ("num_attention_heads", serde_json::json!(0), "is 0"),
            ("num_attention_heads", serde_json::json!(128), "even width"),
            ("num_key_value_heads", serde_json::json!(3), "does not divide"),
            ("upsample_rates", serde_json::json!([8, 0]), "holds a 0"),
            ("decoder_dim", serde_json::json!(24), "halved"),
            ("num_quantizers", serde_json::json!(5), "num_code_groups"),
        ] {
            let error = changed(|root| root["code2wav_config"][field] = value).unwrap_err().to_string();
            assert!(error.contains("code2wav_config.") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_code_predictor_of_another_width_is_refused() {
        let error = changed(|root| {
            root["talker_config"]["code_predictor_config"]["hidden_size"] = Value::from(64);
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("code_predictor_config.hidden_size is 64"), "{error}");
    }

    #[test]
    fn speakers_keep_the_order_of_the_file() {
        let config = changed(|root| {
            root["talker_config"]["speaker_id"] = serde_json::json!({"zoe": 3, "adam": 1});
        });
        let speakers = config.unwrap().talker.unwrap().speakers;
        assert_eq!(speakers, [("zoe".to_owned(), 3), ("adam".to_owned(), 1)]);
    }
}
