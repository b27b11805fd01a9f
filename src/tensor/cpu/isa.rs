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
    /// All sets, slowest first.
    const ALL: [Self; 4] = [Self::Plain, Self::Avx2, Self::Avx512, Self::Amx];

    /// The sets that this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The sets among them that keep activations in f32. Nothing is asked of the others.
    pub fn exact() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| !isa.rounds_activations() && isa.is_available()).collect()
    }

    /// The set that `OMNI_CPU_ISA` names, or the fastest one; one that keeps activations in f32 if they must be `exact`.
    /// No other set is tried. One that the processor does not have, or that may not be, is an error.
    pub(super) fn from_environment(exact: bool) -> Result<Self, DeviceError> {
        let asked = match std::env::var(ISA_VARIABLE) {
            Ok(asked) => asked,
            Err(std::env::VarError::NotUnicode(asked)) => asked.to_string_lossy().into_owned(),
            Err(std::env::VarError::NotPresent) => {
                let mut sets = Self::ALL.into_iter().rev().filter(|isa| !(exact && isa.rounds_activations()));
                return Ok(sets.find(|isa| isa.is_available()).unwrap_or(Self::Plain));
            }
        };
        let isa = Self::named(&asked)?;
        if exact && isa.rounds_activations() {
            return Err(DeviceError::RoundsActivations { asked });
        }
        Ok(isa)
    }

    /// Whether the processor has it. AMX is tried, once, before it is said to be there.
    fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            match self {
                Self::Plain => true,
                Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Self::Avx512 => {
                    Self::Avx2.is_available()
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                }
                Self::Amx => Self::Avx512.is_available() && amx::is_available(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Plain
        }
    }

    /// Whether products with bf16 weights round activations to bf16 too.
    pub fn rounds_activations(self) -> bool {
        self == Self::Amx
    }

    /// This set, or for one that rounds activations the set that stands in for it where they must not be.
    pub(super) fn exact_counterpart(self) -> Self {
        if self.rounds_activations() { Self::Avx512 } else { self }
    }

    /// The set that has this name, if the processor has it.
    fn named(asked: &str) -> Result<Self, DeviceError> {
        let named = Self::ALL.into_iter().find(|isa| isa.name() == asked && isa.is_available());
        named.ok_or_else(|| DeviceError::InstructionSet {
            asked: asked.to_owned(),
            available: Self::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// This set, if the processor has it.
    pub(super) fn require(self) -> Result<Self, DeviceError> {
        Self::named(self.name())
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
        let error = Isa::named("avx1024").unwrap_err();
        assert_eq!(error.reason(), "instruction_set");
        assert!(error.to_string().contains("avx1024") && error.to_string().contains("plain"), "{error}");
    }

    #[test]
    fn a_set_that_rounds_activations_is_none_of_the_exact_ones() {
        assert!(Isa::exact().iter().all(|isa| !isa.rounds_activations()));
    }

    #[test]
    fn every_available_set_can_be_named() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
    }
}
