//! Holds talker, code predictor and vocoder against golden sets.

pub(crate) mod code2wav;
pub(crate) mod comparison;
pub(crate) mod talker;

pub(crate) use comparison::Comparison;
