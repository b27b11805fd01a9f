//! Text on its way in and out of a model: chat template, tokenizer, incremental detokenizer.

mod byte_alphabet;
pub mod chat_template;
pub mod detokenizer;
mod python_json;
mod stop_strings;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, ChatTemplateError};
pub use detokenizer::{CertainText, Detokenizer};
pub use tokenizer::{Tokenizer, TokenizerError};
