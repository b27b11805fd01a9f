//! The CUDA kernels, compiled by g++ and run on the CPU, against the operations' plain form.
//!
//! `emulation.h` says what is emulated and what it shows. Without g++ the tests print a line and pass.
#![allow(unsafe_code, reason = "emulated kernels are called with pointers, as on a GPU")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says so when it fails")]
#![allow(clippy::print_stdout, reason = "a skipped test says why")]

mod activation;
mod attention;
mod backend;
mod device;
mod driver;
mod embedding;
mod matmul;
mod matvec;
mod moe;
mod norm;
mod plain;
mod reports;
mod sampling;
mod steps;
mod values;
