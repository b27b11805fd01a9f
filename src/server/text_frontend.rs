//! Tokenizer and chat template of a checkpoint, as the HTTP layer wants them.

use std::sync::Arc;

use serde_json::Value;

use crate::http::frontend::{Conversation, FrontendError, TextFrontend};
use crate::text::{ChatTemplate, ChatTemplateError, Tokenizer};

/// The served checkpoint's text side.
#[derive(Debug)]
pub(super) struct CheckpointText {
    /// Text to token ids and back.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Messages to text; base models have none.
    pub(super) template: Option<ChatTemplate>,
    /// Token ids that the model takes are below this; it may be more than the tokenizer has.
    pub(super) vocabulary_size: u32,
    /// A longer text cannot be a prompt, and is not tokenised to find that out.
    pub(super) max_bytes: usize,
}

impl TextFrontend for CheckpointText {
    fn render_chat(&self, conversation: &Conversation) -> Result<String, FrontendError> {
        let template = self.template.as_ref().ok_or(FrontendError::NoTemplate)?;
        let Conversation { messages, add_generation_prompt, variables } = conversation;
        template
            .render(&Value::Array(messages.clone()), *add_generation_prompt, None, variables)
            .map_err(|error: ChatTemplateError| FrontendError::Template(error.to_string()))
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, FrontendError> {
        if text.len() > self.max_bytes {
            return Err(FrontendError::TooLong { bytes: text.len(), limit: self.max_bytes });
        }
        self.tokenizer
            .encode_with(text, add_special_tokens)
            .map_err(|error| FrontendError::Tokenizer(error.to_string()))
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, FrontendError> {
        Ok(self.tokenizer.decode(ids, skip_special_tokens))
    }

    fn token_text(&self, id: u32) -> Option<String> {
        Some(self.tokenizer.token_text(id))
    }

    fn vocab_size(&self) -> u32 {
        self.vocabulary_size
    }
}
