//! Text on its way in and out of a model: chat template, tokenizer, incremental detokenizer.

mod byte_alphabet;
pub mod chat_template;
mod python_json;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, ChatTemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
