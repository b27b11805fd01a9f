//! The kernels compile for every architecture that we name, and the committed PTX is what they compile to.
//!
//! Needs libnvrtc 13.0, which `OMNI_NVRTC` may name; without it the tests print a line and pass.
//! `OMNI_WRITE_PTX=1` writes the PTX anew.

#![allow(clippy::print_stdout, reason = "a skipped test says why")]

use std::env;
use std::path::Path;
use std::thread;

use omni_actors::tensor::cuda::kernels::{Architecture, FAMILIES, compile, write_ptx};
use omni_actors::tensor::cuda::nvrtc::Nvrtc;

/// The compiler, or None after saying that there is none.
fn nvrtc() -> Option<Nvrtc> {
    Nvrtc::load().map_err(|error| println!("skipped: {error}")).ok()
}

#[test]
fn committed_ptx_is_fresh() {
    let Some(nvrtc) = nvrtc() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if env::var_os("OMNI_WRITE_PTX").is_some() {
        for path in write_ptx(&nvrtc, root).unwrap() {
            println!("wrote {}", path.display());
        }
        return;
    }
    for family in &FAMILIES {
        for architecture in Architecture::ALL {
            let fresh = compile(&nvrtc, family, architecture.name()).unwrap();
            assert!(
                fresh == family.ptx(architecture),
                "kernels/ptx/{}.{}.ptx is not what kernels/{}.cu compiles to; OMNI_WRITE_PTX=1 cargo test --test cuda_ptx writes it",
                family.name,
                architecture.name(),
                family.name,
            );
        }
    }
}

#[test]
fn kernels_compile_for_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    thread::scope(|scope| {
        for architecture in ["compute_80", "compute_90a", "compute_100"] {
            let nvrtc = &nvrtc;
            scope.spawn(move || {
                for family in &FAMILIES {
                    let ptx = compile(nvrtc, family, architecture).unwrap();
                    for entry in family.entries() {
                        assert!(ptx.contains(&format!(".entry {entry}(")), "{entry} for {architecture}");
                    }
                }
            });
        }
    });
}
