//! The mathematics of the models, written against the operations of [`crate::tensor`].
//!
//! [`qwen3`] is the decoder that the models share; [`qwen3_omni`] builds a thinker of it.

pub mod error;
pub mod qwen3;
pub mod qwen3_omni;

pub use error::LoadError;
