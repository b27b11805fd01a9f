//! What the HTTP layer needs of tokenizer and chat template.

use serde_json::{Map, Value};
use thiserror::Error;

/// Messages on their way into the chat template.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Checked messages: each an object with `role`, and `content` as the client gave it, a string or a list of
    /// `{"type": "text", "text": …}`. The role `developer` has become `system`, and the arguments of tool calls
    /// are objects where the client sent them as JSON text.
    pub messages: Vec<Value>,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables for the template, from `chat_template_kwargs`.
    pub variables: Map<String, Value>,
}

/// Tokenizer and chat template of the served model.
///
/// Called on the threads of the HTTP server, long texts on its blocking pool.
pub trait TextFrontend: Send + Sync {
    /// Whether there is a tokenizer. Without one, the other methods are errors, and the first stage reads text.
    fn has_tokenizer(&self) -> bool {
        true
    }

    /// Writes a conversation as the model wants to read it.
    fn render_chat(&self, conversation: &Conversation) -> Result<String, FrontendError>;

    /// Text to token ids. With `add_special_tokens`, those that the tokenizer itself puts around a text are added;
    /// special tokens that are spelt out in the text are recognised in either case.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, FrontendError>;

    /// Token ids to text, invalid UTF-8 replaced. Ids are below [`vocab_size`](Self::vocab_size).
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, FrontendError>;

    /// The entry of the vocabulary for a token, as the tokenizer writes it.
    fn token_text(&self, id: u32) -> Option<String>;

    /// Token ids that the model takes are below this.
    fn vocab_size(&self) -> u32;
}

/// Why text was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrontendError {
    /// The template refused the conversation, with its own words where it has some.
    #[error("{0}")]
    Template(String),
    /// The model has no chat template.
    #[error("this model has no chat template")]
    NoTemplate,
    /// The pipeline has no tokenizer.
    #[error("this pipeline has no tokenizer")]
    NoTokenizer,
    /// The text is longer than any prompt can be.
    #[error("the text has {bytes} bytes; a prompt that the model takes has at most {limit}")]
    TooLong {
        /// Bytes that it has.
        bytes: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// The tokenizer failed.
    #[error("{0}")]
    Tokenizer(String),
}

impl FrontendError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Template(_) | Self::NoTemplate => "template_error",
            Self::TooLong { .. } => "context_length",
            Self::NoTokenizer | Self::Tokenizer(_) => "tokenizer_error",
        }
    }
}

impl From<FrontendError> for crate::http::errors::ApiError {
    fn from(error: FrontendError) -> Self {
        match error {
            FrontendError::Template(message) => Self::Template(message),
            FrontendError::NoTemplate => Self::Template(error.to_string()),
            FrontendError::TooLong { .. } => {
                Self::ContextLength { param: "messages", message: error.to_string() }
            }
            FrontendError::NoTokenizer => Self::Tokenizer(error.to_string()),
            FrontendError::Tokenizer(message) => Self::Tokenizer(message),
        }
    }
}
