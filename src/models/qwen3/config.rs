//! What `config.json` says of a decoder, and what follows from it.
#![deny(clippy::indexing_slicing)]

use serde::Deserialize;

use crate::models::LoadError;
use crate::tensor::{AttentionShape, KvShape, RotarySpec};

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
    #[serde(alias = "type")]
    rope_type: Option<String>,
    /// The same under its older name; files may carry both.
    #[serde(rename = "type")]
    #[serde(skip)]
    _older_name: (),
    /// Pairs for the time, height and width axis.
    pub mrope_section: Option<[usize; 3]>,
}
