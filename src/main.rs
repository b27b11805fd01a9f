//! The `omni-actors` program: the server without custom stages.

use std::process::ExitCode;

use omni_actors::{Registry, Server};

fn main() -> ExitCode {
    Server::new(Registry::new()).run(std::env::args_os())
}
