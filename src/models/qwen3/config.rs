//! What `config.json` says of a decoder, and what follows from it.
#![deny(clippy::indexing_slicing)]

use serde::Deserialize;

use crate::models::LoadError;
use crate::tensor::{AttentionShape, KvShape, RotarySpec, RouteSpec};

/// The `text_config` of a decoder as it stands in the file. Fields that only training uses are not read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head; `hidden_size / num_attention_heads` where it is not given.
    pub head_dim: Option<usize>,
    /// Width of the feed-forward network in dense layers.
    pub intermediate_size: usize,
    /// Tokens of the embedding table.
    pub vocab_size: usize,
    /// Added under the root of RMS norms.
    pub rms_norm_eps: f32,
    /// The longest sequence that the model was made for.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies, in files of transformers 4.
    pub rope_theta: Option<f32>,
    /// Sections of the rotary embedding, in files of transformers 4.
    pub rope_scaling: Option<RopeParameters>,
    /// Both of the above, in files of transformers 5.
    pub rope_parameters: Option<RopeParameters>,
    /// Whether some layers see a window of tokens alone.
    #[serde(default)]
    pub use_sliding_window: bool,
    /// The tokens of that window; none where there is none.
    pub sliding_window: Option<usize>,
    /// The first layer with a window; all have one where the file does not say.
    pub max_window_layers: Option<usize>,
    /// What each layer sees, in files of transformers 5: `full_attention` or `sliding_attention`.
    pub layer_types: Option<Vec<String>>,
    /// The activation of the feed-forward network.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Whether attention projections have biases.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether the output projection is the embedding table.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Experts of a sparse layer; none or 0 for a dense model.
    #[serde(alias = "num_local_experts")]
    pub num_experts: Option<usize>,
    /// Experts that a token visits.
    pub num_experts_per_tok: Option<usize>,
    /// Width of an expert.
    pub moe_intermediate_size: Option<usize>,
    /// Whether the weights of the visited experts are made to sum to 1.
    #[serde(default)]
    pub norm_topk_prob: bool,
    /// Width of the expert that every token visits; none or 0 where there is none.
    pub shared_expert_intermediate_size: Option<usize>,
    /// Layers that are dense although the model is sparse.
    #[serde(default)]
    pub mlp_only_layers: Vec<usize>,
    /// Every how many layers one is sparse.
    #[serde(default = "one")]
    pub decoder_sparse_step: usize,
}

fn silu() -> String {
    "silu".to_owned()
}

fn one() -> usize {
    1
}

/// The rotary embedding as the file describes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies.
    pub rope_theta: Option<f32>,
    /// How frequencies are changed for long contexts; only `default` is supported.
    pub rope_type: Option<String>,
    /// The same under its older name; files may carry both.
    #[serde(rename = "type")]
    pub older_rope_type: Option<String>,
    /// Pairs for the time, height and width axis.
    pub mrope_section: Option<[usize; 3]>,
}

/// The dimensions of a decoder, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Tokens of the embedding table and width of the logits.
    pub vocab_size: usize,
    /// Heads of every layer.
    pub attention: AttentionShape,
    /// Added under the root of RMS norms.
    pub eps: f32,
    /// How positions turn queries and keys.
    pub rotary: RotarySpec,
    /// The feed-forward network of each layer.
    pub layers: Vec<FeedForwardConfig>,
    /// Whether the output projection is the embedding table.
    pub tied_embeddings: bool,
}

/// A layer's feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardConfig {
    /// One gated network.
    Dense {
        /// Its width.
        width: usize,
    },
    /// A mixture of gated networks.
    Sparse {
        /// How rows choose.
        route: RouteSpec,
        /// Width of an expert.
        width: usize,
        /// Width of the expert that every row visits, if there is one.
        shared: Option<usize>,
    },
}

impl DecoderConfig {
    /// The extents of the decoder's KV cache.
    pub fn kv_shape(&self) -> KvShape {
        KvShape {
            layers: self.layers.len(),
            kv_heads: self.attention.kv_heads,
            head_dim: self.attention.head_dim,
        }
    }
}

impl TextConfig {
    /// Checks the fields against each other. `file` and `path` (`thinker_config.text_config`) are for messages.
    pub fn decoder(&self, file: &str, path: &str) -> Result<DecoderConfig, LoadError> {
        let wrong = |field: &str, cause: String| LoadError::Field {
            file: file.to_owned(),
            field: if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") },
            cause,
        };
        let positive = |field: &str, value: usize| {
            if value == 0 { Err(wrong(field, "is 0".to_owned())) } else { Ok(value) }
        };
        let hidden_size = positive("hidden_size", self.hidden_size)?;
        let vocab_size = positive("vocab_size", self.vocab_size)?;
        let heads = positive("num_attention_heads", self.num_attention_heads)?;
        let kv_heads = positive("num_key_value_heads", self.num_key_value_heads)?;
        positive("num_hidden_layers", self.num_hidden_layers)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(wrong(
                "num_key_value_heads",
                format!("is {kv_heads}, which does not divide {heads} heads"),
            ));
        }
        let head_dim = positive("head_dim", self.head_dim.unwrap_or(hidden_size / heads))?;
        if !head_dim.is_multiple_of(2) {
            return Err(wrong("head_dim", format!("is {head_dim}; it must be even")));
        }
        if self.hidden_act != "silu" {
            return Err(wrong("hidden_act", format!("is {}; silu is supported", self.hidden_act)));
        }
        if self.attention_bias {
            return Err(wrong("attention_bias", "is true, which is not supported".to_owned()));
        }
        self.check_windows(&wrong)?;
        let layers = (0..self.num_hidden_layers)
            .map(|layer| self.feed_forward(layer, &wrong))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(DecoderConfig {
            hidden_size,
            vocab_size,
            attention: AttentionShape { heads, kv_heads, head_dim },
            eps: self.rms_norm_eps,
            rotary: self.rotary(head_dim, &wrong)?,
            layers,
            tied_embeddings: self.tie_word_embeddings,
        })
    }

    /// Refuses layers that do not see every token before them.
    fn check_windows(&self, wrong: &impl Fn(&str, String) -> LoadError) -> Result<(), LoadError> {
        if let Some(types) = &self.layer_types {
            return match types.iter().find(|kind| *kind != "full_attention") {
                Some(kind) => Err(wrong("layer_types", format!("has {kind}; full_attention is supported"))),
                None => Ok(()),
            };
        }
        let first = self.max_window_layers.unwrap_or(0);
        match self.sliding_window {
            Some(window) if self.use_sliding_window && first < self.num_hidden_layers => {
                Err(wrong("sliding_window", format!("is {window}, which is not supported")))
            }
            _ => Ok(()),
        }
    }

    /// The rotary embedding, from whichever of the two spellings the file has.
    fn rotary(
        &self,
        head_dim: usize,
        wrong: &impl Fn(&str, String) -> LoadError,
    ) -> Result<RotarySpec, LoadError> {
        let newer = self.rope_parameters.as_ref().map(|rope| ("rope_parameters", rope));
        let found = newer.or(self.rope_scaling.as_ref().map(|rope| ("rope_scaling", rope)));
        let (key, rope) = found.map_or(("", None), |(key, rope)| (key, Some(rope)));
        let kind = rope.and_then(|rope| rope.rope_type.as_ref().or(rope.older_rope_type.as_ref()));
        if let Some(kind) = kind.filter(|kind| *kind != "default" && *kind != "mrope") {
            return Err(wrong(&format!("{key}.rope_type"), format!("is {kind}; default is supported")));
        }
        let theta = rope
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_theta)
            .ok_or_else(|| wrong("rope_theta", "is missing, also from rope_parameters".to_owned()))?;
        if theta.is_nan() || theta <= 0.0 {
            return Err(wrong("rope_theta", format!("is {theta}; it must be positive")));
        }
        let sections = rope.and_then(|rope| rope.mrope_section).unwrap_or_default();
        let pairs: usize = sections.iter().sum();
        if pairs != 0 && pairs != head_dim / 2 {
            return Err(wrong(
                &format!("{key}.mrope_section"),
                format!("is {sections:?}, whose sum is not half of head_dim {head_dim}"),
            ));
        }
        Ok(RotarySpec::new(theta, head_dim, sections))
    }

    /// The feed-forward network of one layer.
    fn feed_forward(
        &self,
        layer: usize,
        wrong: &impl Fn(&str, String) -> LoadError,
    ) -> Result<FeedForwardConfig, LoadError> {
        let experts = self.num_experts.unwrap_or(0);
        let step = self.decoder_sparse_step;
        if step == 0 {
            return Err(wrong("decoder_sparse_step", "is 0".to_owned()));
        }
        if experts == 0 || self.mlp_only_layers.contains(&layer) || !(layer + 1).is_multiple_of(step) {
            return match self.intermediate_size {
                0 => Err(wrong("intermediate_size", format!("is 0, and layer {layer} is dense"))),
                width => Ok(FeedForwardConfig::Dense { width }),
            };
        }
        let given = |field: &str, value: Option<usize>| match value {
            Some(value) if value > 0 => Ok(value),
            _ => Err(wrong(field, format!("is missing or 0, and there are {experts} experts"))),
        };
        let top_k = given("num_experts_per_tok", self.num_experts_per_tok)?;
        if top_k > experts {
            return Err(wrong("num_experts_per_tok", format!("is {top_k}, and there are {experts} experts")));
        }
        Ok(FeedForwardConfig::Sparse {
            route: RouteSpec { experts, top_k, normalize: self.norm_topk_prob },
            width: given("moe_intermediate_size", self.moe_intermediate_size)?,
            shared: self.shared_expert_intermediate_size.filter(|width| *width > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sparse() -> Value {
        json!({
            "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 32, "intermediate_size": 96, "vocab_size": 100, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 1000, "num_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "norm_topk_prob": true, "rope_theta": 1e6,
            "rope_scaling": {"mrope_section": [6, 5, 5], "rope_type": "default", "type": "default"}
        })
    }

    fn decoder(value: Value) -> Result<DecoderConfig, LoadError> {
        serde_json::from_value::<TextConfig>(value).unwrap().decoder("config.json", "text_config")
    }

    fn with(field: &str, value: Value) -> Value {
        let mut config = sparse();
        config[field] = value;
        config
    }

    #[test]
    fn both_spellings_of_the_rotary_embedding_mean_the_same() {
        let mut newer = sparse();
        let object = newer.as_object_mut().unwrap();
        object.remove("rope_theta");
        object.remove("rope_scaling");
        object.insert("rope_parameters".into(), json!({"rope_theta": 1e6, "mrope_section": [6, 5, 5]}));
        assert_eq!(decoder(sparse()).unwrap(), decoder(newer).unwrap());
    }

    #[test]
    fn num_local_experts_is_another_name_of_num_experts() {
        let mut renamed = sparse();
        let object = renamed.as_object_mut().unwrap();
        object.remove("num_experts");
        object.insert("num_local_experts".into(), json!(8));
        assert_eq!(decoder(sparse()).unwrap(), decoder(renamed).unwrap());
    }

    #[test]
    fn layers_are_dense_where_the_file_says_so() {
        let kinds = |config: Value| -> Vec<bool> {
            let layers = decoder(config).unwrap().layers;
            layers.iter().map(|layer| matches!(layer, FeedForwardConfig::Dense { .. })).collect()
        };
        assert_eq!(kinds(with("mlp_only_layers", json!([1]))), [false, true, false, false]);
        assert_eq!(kinds(with("decoder_sparse_step", json!(2))), [true, false, true, false]);
        assert_eq!(kinds(with("num_experts", json!(0))), [true; 4]);
    }

    #[test]
    fn a_window_is_refused_where_a_layer_has_it() {
        let mut windowed = with("sliding_window", json!(16));
        assert!(decoder(windowed.clone()).is_ok(), "it is not in use");
        windowed["use_sliding_window"] = json!(true);
        windowed["max_window_layers"] = json!(4);
        assert!(decoder(windowed.clone()).is_ok(), "no layer has it");
        windowed["max_window_layers"] = json!(3);
        let error = decoder(windowed).unwrap_err().to_string();
        assert_eq!(error, "config.json: text_config.sliding_window is 16, which is not supported");
    }

    #[test]
    fn contradictions_name_file_and_field() {
        for (field, value, part) in [
            ("num_key_value_heads", json!(3), "does not divide"),
            ("head_dim", json!(31), "even"),
            ("head_dim", json!(16), "mrope_section"),
            ("num_experts_per_tok", json!(9), "8 experts"),
            ("moe_intermediate_size", json!(null), "missing"),
            ("hidden_act", json!("gelu"), "silu"),
            ("vocab_size", json!(0), "is 0"),
            ("rope_theta", json!(null), "missing"),
            ("decoder_sparse_step", json!(0), "is 0"),
            (
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "layer_types has sliding_attention",
            ),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "rope_scaling.rope_type is yarn"),
            ("rope_parameters", json!({"rope_type": "yarn"}), "rope_parameters.rope_type is yarn"),
        ] {
            let error = decoder(with(field, value)).unwrap_err().to_string();
            assert!(error.starts_with("config.json: text_config.") && error.contains(part), "{error}");
        }
    }
}
