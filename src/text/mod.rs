//! Text on its way in and out of a model: chat template, tokenizer, incremental detokenizer.

mod byte_alphabet;
pub mod tokenizer;

pub use tokenizer::{Tokenizer, TokenizerError};
