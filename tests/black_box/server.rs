//! Servers to be tested: the program as a process of its own, and the same server within this process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use omni_actors::Registry;
use omni_actors::actors::messages::Held;
use omni_actors::actors::runtime::Runtime;
use omni_actors::cli::{Cli, Command as Subcommand, ServeArgs};
use omni_actors::metrics::StatsSender;
use omni_actors::server::RunningServer;
use tokio::sync::oneshot;

/// What stands before the address in the log.
const READY: &str = "listening on http://";
/// A server that has not started, or not ended, after this long has failed the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_omni-actors");

/// A program of `examples/`. Cargo builds them for `cargo test`, but not if tests are chosen by their target.
pub(crate) fn example(name: &str) -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("the path of the test");
        let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--examples", "--quiet", "--offline", "--target-dir"]);
        cargo.arg(profile.parent().expect("a target directory"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        // What cargo says of this package to its tests. Build scripts of dependencies take it for a change, and all
        // that stands on them, this crate too, would be built again.
        let of_package = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        };
        std::env::vars_os().filter(|(name, _)| of_package(name)).for_each(|(name, _)| {
            cargo.env_remove(name);
        });
        assert!(cargo.status().expect("cargo can be run").success(), "the examples are built");
        profile.join("examples")
    });
    DIRECTORY.join(name)
}

/// A program that has not said where it listens.
fn spawn_program(
    program: impl AsRef<OsStr>,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Child, BufReader<ChildStderr>) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    let tuned = ["RUST_LOG", "OMNI_API_KEY", "OMNI_CPU_ISA", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"];
    for variable in tuned {
        command.env_remove(variable);
    }
    let mut child = command.envs(environment.iter().copied()).spawn().expect("the program can be run");
    let stderr = child.stderr.take().expect("standard error is a pipe");
    (child, BufReader::new(stderr))
}

/// `omni-actors serve …` that has not said where it listens.
fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> (Child, BufReader<ChildStderr>) {
    spawn_program(PROGRAM, &[&["serve"], arguments].concat(), environment)
}

/// Waits until a process ends; kills it if it does not.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("the process can be killed");
    child.wait().expect("the process can be waited for");
    None
}

fn send_signal(process: &Child, name: &str) {
    let kill = format!("kill -s {name} {}", process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
}

/// Runs `omni-actors serve …`, sends it a signal when `ready` says so, and gives its exit status. It must not listen
/// before, and must end soon after.
pub(crate) fn serve_until(
    ready: impl Fn() -> bool,
    signal: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> ExitStatus {
    let (mut child, stderr) = spawn(&[&["--port", "0"], arguments].concat(), environment);
    let lines = thread::spawn(move || stderr.lines().map_while(Result::ok).collect());
    let until = Instant::now() + PATIENCE;
    while !ready() && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    send_signal(&child, signal);
    let status = wait(&mut child, Duration::from_secs(5));
    let lines: Vec<String> = lines.join().expect("the lines are read");
    assert!(Instant::now() < until && !lines.concat().contains(READY), "{lines:#?}");
    status.unwrap_or_else(|| panic!("the server goes on: {lines:#?}"))
}

/// Runs `omni-actors serve …`, which must end by itself with a failure. Returns its exit status and the lines that it
/// wrote to standard error.
pub(crate) fn serve_in_vain(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    run_in_vain(spawn(arguments, environment))
}

/// The same with a program of `examples/` and all of its arguments.
pub(crate) fn example_in_vain(name: &str, arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    run_in_vain(spawn_program(example(name), arguments, &[]))
}

fn run_in_vain((mut child, stderr): (Child, BufReader<ChildStderr>)) -> (Option<i32>, Vec<String>) {
    let lines = thread::spawn(move || stderr.lines().map_while(Result::ok).collect());
    let status = wait(&mut child, PATIENCE);
    let lines: Vec<String> = lines.join().expect("the lines are read");
    let status = status.unwrap_or_else(|| panic!("the server goes on: {lines:#?}"));
    (status.code(), lines)
}

/// The program, serving. Dropping it kills it.
pub(crate) struct ServerProcess {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it wrote to standard error until it listened.
    pub(crate) startup_log: Vec<String>,
    /// What it wrote since.
    later_log: Arc<Mutex<Vec<String>>>,
    /// Reads that, and ends with it.
    reader: Option<JoinHandle<()>>,
    /// Its standard error, if nobody reads it. Dropped, it would be a closed pipe.
    _unread: Option<BufReader<ChildStderr>>,
    /// The process.
    child: Child,
}

impl ServerProcess {
    /// Starts `omni-actors serve --port 0 …` and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(arguments, &[])
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_in(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::listening(spawn(&[&["--port", "0"], arguments].concat(), environment))
    }

    /// Starts `EXAMPLE serve --port 0 …`.
    pub(crate) fn start_example(name: &str, arguments: &[&str]) -> Self {
        let arguments = [&["serve", "--port", "0"], arguments].concat();
        Self::listening(spawn_program(example(name), &arguments, &[]))
    }

    /// Starts `omni-actors serve --port 0 …`, whose log nobody reads from when it listens.
    pub(crate) fn start_unread(arguments: &[&str]) -> Self {
        let (child, mut stderr) = spawn(&[&["--port", "0"], arguments].concat(), &[]);
        let (address, startup_log) = Self::await_listening(&mut stderr);
        let later_log = Arc::default();
        Self { address, startup_log, later_log, reader: None, _unread: Some(stderr), child }
    }

    /// Waits until it listens: where, and what it wrote until then.
    fn await_listening(stderr: &mut BufReader<ChildStderr>) -> (SocketAddr, Vec<String>) {
        let mut startup_log = Vec::new();
        loop {
            let mut line = String::new();
            let count = stderr.read_line(&mut line).expect("standard error can be read");
            assert!(count > 0, "the server ended before it listened: {startup_log:#?}");
            let address = line.split(READY).nth(1).and_then(|rest| rest.split_whitespace().next());
            let address = address.map(|address| address.parse().expect("an address"));
            startup_log.push(line);
            if let Some(address) = address {
                return (address, startup_log);
            }
        }
    }

    fn listening((child, mut stderr): (Child, BufReader<ChildStderr>)) -> Self {
        let (address, startup_log) = Self::await_listening(&mut stderr);
        let later_log: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = later_log.clone();
        let reader = thread::spawn(move || {
            let keep = |line| log.lock().expect("nobody panics with the log in hand").push(line);
            stderr.lines().map_while(Result::ok).for_each(keep);
        });
        Self { address, startup_log, later_log, reader: Some(reader), _unread: None, child }
    }

    /// What it wrote to standard error since it listens.
    pub(crate) fn later_log(&self) -> Vec<String> {
        self.later_log.lock().expect("nobody panics with the log in hand").clone()
    }

    /// Has it end, and gives all that it wrote to standard error since it listened.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.signal("TERM");
        wait(&mut self.child, PATIENCE);
        let ended = self.reader.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the log is read to its end");
        self.later_log()
    }

    /// Sends it a signal, by name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(&self.child, name);
    }

    /// Waits until it ends; none if it does not within this time.
    pub(crate) fn exit_status(mut self, patience: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, patience)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Fails for one that has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line `omni-actors serve --port 0 …`, read.
fn serve_arguments(arguments: &[&str]) -> Box<ServeArgs> {
    let line = [&["omni-actors", "serve", "--port", "0"], arguments].concat();
    let command = Cli::try_parse_from(line).expect("a command line").command;
    let Subcommand::Serve(arguments) = command else { panic!("{command:?}") };
    arguments
}

/// The server on a thread of this process, so that a test can ask its actors what they hold. Dropping it stops it.
pub(crate) struct ServerThread {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its actors.
    runtime: Runtime,
    /// Dropped, it stops the server.
    stop: Option<oneshot::Sender<()>>,
    /// Ends when the server has ended.
    thread: Option<JoinHandle<()>>,
}

impl ServerThread {
    /// Starts what `omni-actors serve --port 0 …` would serve.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(Registry::new(), arguments)
    }

    /// The same with custom stages.
    pub(crate) fn start_with(registry: Registry, arguments: &[&str]) -> Self {
        let arguments = serve_arguments(arguments);
        let (started, start) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = RunningServer::start(&arguments, registry).await.expect("the server starts");
                started.send((server.address, server.runtime.clone())).expect("the test waits for it");
                let _ = stopped.await;
                server.stop().await;
            });
        });
        let (address, runtime) = start.recv_timeout(PATIENCE).expect("the server starts");
        Self { address, runtime, stop: Some(stop), thread: Some(thread) }
    }

    /// Why it does not start with these custom stages.
    pub(crate) fn refusal(registry: Registry, arguments: &[&str]) -> String {
        let arguments = serve_arguments(arguments);
        let started = actix_rt::System::new().block_on(RunningServer::start(&arguments, registry));
        started.err().expect("it does not start").to_string()
    }

    /// How its actors tell what they count.
    pub(crate) fn statistics(&self) -> &StatsSender {
        &self.runtime.statistics
    }

    /// What its actors hold of requests.
    pub(crate) fn held(&self) -> Held {
        let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
        executor.block_on(self.runtime.held()).expect("the orchestrator is there")
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
