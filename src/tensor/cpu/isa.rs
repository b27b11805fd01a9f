//! Which vector instructions the processor has, and which of them to use.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::tensor::DeviceError;

/// Forces an instruction set; see [`Isa::from_environment`].
pub const ISA_VARIABLE: &str = "OMNI_CPU_ISA";

/// A set of vector instructions. Results differ between sets in the last bits, and only there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// No instructions beyond those the binary was compiled for.
    Plain,
    /// AVX2 and FMA: 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// AMX tiles for products with bf16 weights, whose activations are rounded to bf16; AVX-512 for all else.
    Amx,
}

impl Isa {
    /// The sets that this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Self::Avx2);
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if wide {
                    sets.push(Self::Avx512);
                    if amx::is_available() {
                        sets.push(Self::Amx);
                    }
                }
            }
        }
        sets
    }

    /// The sets among them that keep activations in f32.
    pub fn exact() -> Vec<Self> {
        Self::available().into_iter().filter(|isa| !isa.rounds_activations()).collect()
    }

    /// The set among `sets` that `OMNI_CPU_ISA` names, or the fastest one. One that is not among them is an error.
    pub(super) fn from_environment(sets: &[Self]) -> Result<Self, DeviceError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(asked) => Self::named(&asked, sets),
            Err(std::env::VarError::NotPresent) => Ok(sets.iter().max().copied().unwrap_or(Self::Plain)),
            Err(std::env::VarError::NotUnicode(asked)) => Self::named(&asked.to_string_lossy(), sets),
        }
    }

    /// Whether products with bf16 weights round activations to bf16 too.
    pub fn rounds_activations(self) -> bool {
        self == Self::Amx
    }

    /// The one of these sets that has this name.
    fn named(asked: &str, available: &[Self]) -> Result<Self, DeviceError> {
        available.iter().copied().find(|isa| isa.name() == asked).ok_or_else(|| DeviceError::InstructionSet {
            asked: asked.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// This set, if the processor has it.
    pub(super) fn require(self) -> Result<Self, DeviceError> {
        Self::named(self.name(), &Self::available())
    }

    /// Its name, as in `OMNI_CPU_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_set_is_an_error_that_names_those_there_are() {
        let error = Isa::named("avx1024", &Isa::available()).unwrap_err();
        assert_eq!(error.reason(), "instruction_set");
        assert!(error.to_string().contains("avx1024") && error.to_string().contains("plain"), "{error}");
    }

    #[test]
    fn a_set_that_rounds_activations_is_none_of_the_exact_ones() {
        assert!(Isa::exact().iter().all(|isa| !isa.rounds_activations()));
        assert!(Isa::named("amx", &Isa::exact()).is_err());
    }

    #[test]
    fn every_available_set_can_be_named() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name(), &Isa::available()), Ok(isa));
        }
    }
}
