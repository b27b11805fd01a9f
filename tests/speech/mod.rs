//! Holds talker, code predictor and vocoder against golden sets.

pub mod code2wav;
pub mod comparison;
pub mod talker;

pub use comparison::Comparison;
