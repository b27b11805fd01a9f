//! The thinker: a Qwen3 language model under the names that an Omni checkpoint gives it.

use std::ops::Deref;

use super::config::OmniConfig;
use crate::models::LoadError;
use crate::models::qwen3::{LanguageModel, Names, TapPoint};
use crate::tensor::{Backend, Dtype, WeightStore};

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
        let names = Names { model: "thinker.model", head: "thinker.lm_head" };
        let model = LanguageModel::load(backend, names, config.thinker.decoder.clone(), store, dtype)?;
        let accept_point =
            config.talker.as_ref().map(|talker| TapPoint::hidden_state(talker.accept_hidden_layer));
        Ok(Self { model, accept_point })
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
