//! `--device`, and what else is said of GPUs.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// On the first GPU if it can be used, else on the CPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On the GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "it must be auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
        }
    }
}

/// How a GPU is used.
#[derive(Debug, Clone, Args)]
pub struct GpuArgs {
    /// The share of a GPU's memory that may be taken, caches included.
    #[arg(long, default_value_t = 0.9, value_parser = share, value_name = "SHARE")]
    pub gpu_memory_utilization: f64,
    /// Do without a library although it is there.
    #[arg(long, value_enum, value_name = "LIBRARY")]
    pub without: Vec<LibraryArg>,
}

impl GpuArgs {
    /// Whether a library may be used.
    pub fn wants(&self, library: LibraryArg) -> bool {
        !self.without.contains(&library)
    }
}

/// A library that is used where it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LibraryArg {
    /// NVIDIA's matrix products.
    Cublaslt,
}

/// A share: more than 0 and at most 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("it must be a number above 0 and at most 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_above_zero_and_at_most_one() {
        assert_eq!((share("0.9"), share("1")), (Ok(0.9), Ok(1.0)));
        for text in ["0", "-0.1", "1.01", "90%", "NaN", ""] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_are_named_and_numbered() {
        assert_eq!("auto".parse(), Ok(DeviceArg::Auto));
        assert_eq!("cuda".parse(), Ok(DeviceArg::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceArg::Cuda(3)));
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""] {
            assert!(text.parse::<DeviceArg>().is_err(), "{text}");
        }
        for device in [DeviceArg::Auto, DeviceArg::Cpu, DeviceArg::Cuda(2)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
    }
}
