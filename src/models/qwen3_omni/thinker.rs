//! The thinker: a Qwen3 language model under the names that an Omni checkpoint gives it.

use std::ops::Deref;

use super::config::OmniConfig;
use crate::models::LoadError;
use crate::models::qwen3::{LanguageModel, Loader, Names, TapPoint};
use crate::tensor::{Backend, Dtype, WeightStore};

/// What checkpoints call the thinker's parts.
const NAMES: Names<'_> = Names { model: "thinker.model", head: "thinker.lm_head" };

/// The thinker's text path. What a language model can do, it can: it dereferences to one.
pub struct Thinker<B: Backend> {
    /// Embeddings, layers and output projection.
    model: LanguageModel<B>,
    /// Where the talker listens; none for a checkpoint without a talker.
    accept_point: Option<TapPoint>,
}

impl<B: Backend> Thinker<B> {
    /// Loads the weights under `thinker.`.
    pub fn load(
        backend: &B,
        config: &OmniConfig,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        let model = LanguageModel::load(backend, NAMES, config.thinker.decoder.clone(), store, dtype)?;
        let accept_point =
            config.talker.as_ref().map(|talker| TapPoint::hidden_state(talker.accept_hidden_layer));
        Ok(Self { model, accept_point })
    }

    /// The embedding table alone, `[vocab, hidden]`, for a device that does not hold the rest.
    pub fn load_embedding(
        backend: &B,
        config: &OmniConfig,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<B::Matrix, LoadError> {
        let decoder = &config.thinker.decoder;
        let name = format!("{}.embed_tokens.weight", NAMES.model);
        Loader { backend, store, dtype }.matrix(&[(&name, decoder.vocab_size)], decoder.hidden_size)
    }

    /// The language model alone.
    pub fn into_language_model(self) -> LanguageModel<B> {
        self.model
    }

    /// Where the talker takes the thinker's hidden states, if there is a talker.
    pub fn accept_point(&self) -> Option<TapPoint> {
        self.accept_point
    }
}

impl<B: Backend> Deref for Thinker<B> {
    type Target = LanguageModel<B>;

    fn deref(&self) -> &LanguageModel<B> {
        &self.model
    }
}
