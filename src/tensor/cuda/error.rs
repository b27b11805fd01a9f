//! Why a GPU cannot be used. Each message is one line with what was found and what is needed.

use thiserror::Error;

/// The oldest CUDA version of a driver that reads the PTX in the binary, major and minor.
pub const NEEDED_DRIVER: (u32, u32) = (13, 0);

/// A GPU that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CudaError {
    /// The driver's library is not there.
    #[error(
        "no NVIDIA driver was found (libcuda.so.1); one for CUDA {}.{} or newer is needed",
        NEEDED_DRIVER.0,
        NEEDED_DRIVER.1
    )]
    NoDriver,
    /// The driver is too old to read the kernels.
    #[error(
        "the NVIDIA driver is for CUDA {}.{}; one for CUDA {}.{} or newer (580 or later) is needed",
        found.0,
        found.1,
        NEEDED_DRIVER.0,
        NEEDED_DRIVER.1
    )]
    DriverTooOld {
        /// The driver's CUDA version.
        found: (u32, u32),
    },
    /// There is no device of this number.
    #[error("there is no GPU {asked}: the NVIDIA driver sees {found}, numbered from 0")]
    NoDevice {
        /// The number that was asked for.
        asked: usize,
        /// Devices that there are.
        found: usize,
    },
    /// The device lacks instructions that the kernels use.
    #[error(
        "GPU {ordinal} ({name}) has compute capability {}.{}; 8.0 or newer is needed",
        found.0,
        found.1
    )]
    DeviceTooOld {
        /// Its number.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
    },
    /// A call of the driver failed.
    #[error("the NVIDIA driver failed to {what}: {cause}")]
    Call {
        /// What it was to do.
        what: &'static str,
        /// What it says.
        cause: String,
    },
}

impl CudaError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoDriver => "no_driver",
            Self::DriverTooOld { .. } => "driver_too_old",
            Self::NoDevice { .. } => "no_such_device",
            Self::DeviceTooOld { .. } => "device_too_old",
            Self::Call { .. } => "driver_call",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_a_line_with_what_was_found_and_what_is_needed() {
        let old = || CudaError::DeviceTooOld { ordinal: 1, name: "a GPU".to_owned(), found: (7, 5) };
        for (error, found, needed) in [
            (CudaError::NoDriver, "no NVIDIA driver", "CUDA 13.0 or newer"),
            (CudaError::DriverTooOld { found: (12, 8) }, "CUDA 12.8", "CUDA 13.0 or newer (580 or later)"),
            (CudaError::NoDevice { asked: 3, found: 2 }, "no GPU 3", "sees 2, numbered from 0"),
            (old(), "GPU 1 (a GPU) has compute capability 7.5", "8.0 or newer"),
        ] {
            let line = error.to_string();
            assert!(line.contains(found) && line.contains(needed) && !line.contains('\n'), "{line}");
        }
    }
}
