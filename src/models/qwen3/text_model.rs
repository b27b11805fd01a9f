//! A plain text model: a checkpoint that is one decoder, such as Qwen3-0.6B or Qwen3-30B-A3B.
#![deny(clippy::indexing_slicing)]

use serde::Deserialize;
use serde_json::Value;

use super::config::{DecoderConfig, TextConfig};
use super::language_model::Names;
use crate::models::LoadError;

/// What checkpoints call the parts of a plain text model.
pub const TEXT_MODEL_NAMES: Names<'static> = Names { model: "model", head: "lm_head" };

/// `model_type` of dense text models.
pub const DENSE: &str = "qwen3";
/// `model_type` of text models with mixtures of experts.
pub const SPARSE: &str = "qwen3_moe";

/// What `config.json` says of a plain text model, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TextModelConfig {
    /// [`DENSE`] or [`SPARSE`].
    pub model_type: &'static str,
    /// Its decoder.
    pub decoder: DecoderConfig,
    /// The longest sequence that it was made for.
    pub max_position_embeddings: usize,
    /// Tokens that end a text; none where the file does not say.
    pub eos_token_ids: Vec<u32>,
}

/// Fields of the file that say which model it is and what the decoder does not know of.
#[derive(Debug, Deserialize)]
struct Fields {
    model_type: String,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    eos_token_id: Option<TokenIds>,
    quantization_config: Option<Value>,
}

/// A token id, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TextModelConfig {
    /// Reads a `config.json`; `file` is for messages.
    ///
    /// # Errors
    ///
    /// A field that is missing, contradicts another, or asks for what is not supported. Each error names the field.
    pub fn parse(root: &Value, file: &str) -> Result<Self, LoadError> {
        let unreadable =
            |error: serde_json::Error| LoadError::Config { file: file.to_owned(), cause: error.to_string() };
        let wrong = |field: &str, cause: String| LoadError::Field {
            file: file.to_owned(),
            field: field.to_owned(),
            cause,
        };
        let fields = Fields::deserialize(root).map_err(unreadable)?;
        let text = TextConfig::deserialize(root).map_err(unreadable)?;
        let experts = text.num_experts.unwrap_or(0);
        let (model_type, architecture) = match fields.model_type.as_str() {
            DENSE if experts > 0 => {
                let cause = format!("is {experts}, and a model of model_type {DENSE} has none");
                return Err(wrong("num_experts", cause));
            }
            DENSE => (DENSE, "Qwen3ForCausalLM"),
            SPARSE if experts == 0 => return Err(wrong("num_experts", "is missing or 0".to_owned())),
            SPARSE => (SPARSE, "Qwen3MoeForCausalLM"),
            other => {
                return Err(wrong("model_type", format!("is {other}; {DENSE} and {SPARSE} are text models")));
            }
        };
        let named = fields.architectures.iter().flatten().next();
        if let Some(other) = named.filter(|named| *named != architecture) {
            return Err(wrong("architectures", format!("names {other}; {architecture} is supported")));
        }
        if fields.quantization_config.is_some() {
            let cause = "is there: quantized weights are not supported".to_owned();
            return Err(wrong("quantization_config", cause));
        }
        Ok(Self {
            model_type,
            decoder: text.decoder(file, "")?,
            max_position_embeddings: text.max_position_embeddings,
            eos_token_ids: match fields.eos_token_id {
                None => Vec::new(),
                Some(TokenIds::One(id)) => vec![id],
                Some(TokenIds::Several(ids)) => ids,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::qwen3::FeedForwardConfig;

    fn dense() -> Value {
        json!({
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 32, "intermediate_size": 96, "vocab_size": 100, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 40960, "rope_theta": 1000000, "rope_scaling": null,
            "sliding_window": null, "use_sliding_window": false, "max_window_layers": 2,
            "tie_word_embeddings": true, "attention_bias": false, "eos_token_id": 7
        })
    }

    fn sparse() -> Value {
        let mut config = dense();
        for (key, value) in [
            ("model_type", json!("qwen3_moe")),
            ("architectures", json!(["Qwen3MoeForCausalLM"])),
            ("num_experts", json!(8)),
            ("num_experts_per_tok", json!(2)),
            ("moe_intermediate_size", json!(32)),
            ("eos_token_id", json!([7, 8])),
            ("mlp_only_layers", json!([0])),
        ] {
            config[key] = value;
        }
        config
    }

    fn parse(config: &Value) -> Result<TextModelConfig, LoadError> {
        TextModelConfig::parse(config, "dir/config.json")
    }

    #[test]
    fn a_dense_and_a_sparse_model_are_read_whole() {
        let read = parse(&dense()).unwrap();
        assert_eq!((read.model_type, read.max_position_embeddings), ("qwen3", 40960));
        assert_eq!(read.eos_token_ids, [7]);
        assert!(read.decoder.tied_embeddings);
        assert_eq!(read.decoder.layers, [FeedForwardConfig::Dense { width: 96 }; 2]);
        let read = parse(&sparse()).unwrap();
        assert_eq!((read.model_type, read.eos_token_ids.as_slice()), ("qwen3_moe", &[7, 8][..]));
        let kinds = read.decoder.layers.iter().map(|layer| matches!(layer, FeedForwardConfig::Sparse { .. }));
        assert_eq!(kinds.collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_is_not_supported_names_file_and_field() {
        for (base, field, value, part) in [
            (dense(), "model_type", json!("llama"), "model_type is llama"),
            (dense(), "architectures", json!(["Qwen3ForSequenceClassification"]), "architectures names"),
            (dense(), "num_experts", json!(4), "num_experts is 4"),
            (sparse(), "num_experts", json!(null), "num_experts is missing"),
            (dense(), "quantization_config", json!({"quant_method": "fp8"}), "quantization_config is there"),
            (dense(), "attention_bias", json!(true), "attention_bias is true"),
            (dense(), "eos_token_id", json!("end"), "data did not match"),
        ] {
            let mut config = base;
            config[field] = value;
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.starts_with("dir/config.json: ") && error.contains(part), "{error}");
        }
    }
}
