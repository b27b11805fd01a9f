//! The kernels' sources and the PTX generated from them, embedded in the binary.

use std::fs;
use std::path::{Path, PathBuf};

use super::nvrtc::{Nvrtc, NvrtcError};

/// A virtual architecture for which PTX is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Ampere and everything later: the required path.
    Compute80,
    /// Hopper alone, with the instructions that only it has.
    Compute90a,
}

impl Architecture {
    /// Every architecture for which PTX is kept.
    pub const ALL: [Self; 2] = [Self::Compute80, Self::Compute90a];

    /// The compiler's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute80 => "compute_80",
            Self::Compute90a => "compute_90a",
        }
    }

    /// The best one for a device of compute capability `major.minor`; None if the device is too old.
    pub fn for_capability(major: u32, minor: u32) -> Option<Self> {
        match (major, minor) {
            (9, 0) => Some(Self::Compute90a),
            (8.., _) => Some(Self::Compute80),
            _ => None,
        }
    }
}

/// The kernels of one source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Name of the source file without its extension.
    pub name: &'static str,
    /// CUDA C++.
    pub source: &'static str,
    /// PTX for [`Architecture::Compute80`].
    compute_80: &'static str,
    /// PTX for [`Architecture::Compute90a`].
    compute_90a: &'static str,
}

impl Family {
    /// The generated PTX.
    pub fn ptx(&self, architecture: Architecture) -> &'static str {
        match architecture {
            Architecture::Compute80 => self.compute_80,
            Architecture::Compute90a => self.compute_90a,
        }
    }

    /// Names of the entry points, in the order in which the PTX has them.
    pub fn entries(&self) -> impl Iterator<Item = &'static str> {
        self.compute_80
            .split(".visible .entry ")
            .skip(1)
            .filter_map(|text| text.split(|end: char| end == '(' || end.is_whitespace()).next())
    }
}

/// Embeds `kernels/<name>.cu` with its PTX.
macro_rules! family {
    ($name:literal) => {
        Family {
            name: $name,
            source: include_str!(concat!("../../../kernels/", $name, ".cu")),
            compute_80: include_str!(concat!("../../../kernels/ptx/", $name, ".compute_80.ptx")),
            compute_90a: include_str!(concat!("../../../kernels/ptx/", $name, ".compute_90a.ptx")),
        }
    };
}

/// Embeds a header.
macro_rules! header {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../kernels/", $name)))
    };
}

/// All families.
pub const FAMILIES: [Family; 13] = [
    family!("norm"),
    family!("activation"),
    family!("embedding"),
    family!("matvec"),
    family!("matmul"),
    family!("rotary_cache"),
    family!("attention_decode"),
    family!("attention_prefill"),
    family!("moe_routing"),
    family!("moe_decode"),
    family!("moe_prefill"),
    family!("sampling"),
    family!("dummy"),
];

/// The files that families include, by name.
pub const HEADERS: [(&str, &str); 4] = [
    header!("common.cuh"),
    header!("streamed_product.cuh"),
    header!("product_tile.cuh"),
    header!("attention_tile.cuh"),
];

/// Compiles a family for an architecture, such as `compute_80`. The result depends on nothing but the sources and
/// the compiler's version.
pub fn compile(nvrtc: &Nvrtc, family: &Family, architecture: &str) -> Result<String, NvrtcError> {
    let file = format!("{}.cu", family.name);
    let ptx = nvrtc.compile(
        family.source,
        &file,
        &HEADERS,
        &[&format!("--gpu-architecture={architecture}"), "--std=c++17"],
    )?;
    Ok(strip_comments(&ptx))
}

/// Writes the PTX of all families for all architectures into `kernels/ptx/` of the source tree at `root`, and
/// returns the files that changed.
pub fn write_ptx(nvrtc: &Nvrtc, root: &Path) -> Result<Vec<PathBuf>, NvrtcError> {
    let mut changed = Vec::new();
    for family in &FAMILIES {
        for architecture in Architecture::ALL {
            let ptx = compile(nvrtc, family, architecture.name())?;
            let path = root.join("kernels/ptx").join(format!("{}.{}.ptx", family.name, architecture.name()));
            if fs::read_to_string(&path).is_ok_and(|before| before == ptx) {
                continue;
            }
            fs::write(&path, ptx).map_err(|error| NvrtcError::Write { path: path.clone(), error })?;
            changed.push(path);
        }
    }
    Ok(changed)
}

/// Leaves out what the compiler says about itself, and empty lines.
fn strip_comments(ptx: &str) -> String {
    let mut kept: String = ptx
        .lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.trim().is_empty())
        .flat_map(|line| [line, "\n"])
        .collect();
    kept.shrink_to_fit();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_entries_and_both_architectures_have_the_same() {
        for family in &FAMILIES {
            assert!(family.entries().count() > 0, "{}", family.name);
            for entry in family.entries() {
                assert!(
                    family.ptx(Architecture::Compute90a).contains(&format!(".entry {entry}(")),
                    "{entry}"
                );
            }
        }
    }

    #[test]
    fn devices_take_the_newest_ptx_they_can() {
        assert_eq!(Architecture::for_capability(7, 5), None);
        assert_eq!(Architecture::for_capability(8, 6), Some(Architecture::Compute80));
        assert_eq!(Architecture::for_capability(9, 0), Some(Architecture::Compute90a));
        // What is for Hopper alone does not run on its successors.
        assert_eq!(Architecture::for_capability(10, 0), Some(Architecture::Compute80));
    }
}
