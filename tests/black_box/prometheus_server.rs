//! A real Prometheus server that scrapes ours, and is asked over its own HTTP API.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client;

/// A Prometheus server that is not ready, or does not come to know something, after this long has failed the test.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is asked again that is not so yet.
const POLL: Duration = Duration::from_millis(20);
/// How many ports are tried: one that was free a moment ago may be taken.
const TRIES: usize = 5;

/// Prometheus, serving. Dropping it kills it.
pub(crate) struct PrometheusServer {
    address: SocketAddr,
    child: Child,
    /// Its configuration and data.
    directory: TempDir,
}

impl PrometheusServer {
    /// Starts one that scrapes `/metrics` of each job's address twice a second; `None` if it is not installed.
    pub(crate) fn start(jobs: &[(&str, SocketAddr)]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config =
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n".to_owned();
        for (job, address) in jobs {
            let _ = writeln!(config, "- {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}");
        }
        fs::write(directory.path().join("prometheus.yml"), config).expect("the file can be written");
        let (address, child) = Self::spawn(&directory)?;
        let mut server = Self { address, child, directory };
        for _ in 0..TRIES {
            if server.becomes_ready() {
                return Some(server);
            }
            // Its port was taken by someone else meanwhile.
            let (address, child) = Self::spawn(&server.directory)?;
            (server.address, server.child) = (address, child);
        }
        panic!("prometheus ends at once: {}", server.log());
    }

    fn spawn(directory: &TempDir) -> Option<(SocketAddr, Child)> {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let at = |name: &str| directory.path().join(name).display().to_string();
        let log = fs::File::create(at("log")).expect("a file");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", at("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", at("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            child => Some((address, child.expect("prometheus can be run"))),
        }
    }

    /// Waits until it answers; says if it ended instead.
    fn becomes_ready(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.child.try_wait().expect("the process can be waited for").is_some() {
                return false;
            }
            let ready = std::net::TcpStream::connect(self.address).is_ok()
                && client::get(self.address, "/-/ready").status == 200;
            if ready {
                return true;
            }
            thread::sleep(POLL);
        }
        panic!("prometheus is not ready: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What a route of its API answers.
    pub(crate) fn api(&self, path: &str) -> Value {
        let reply = client::get(self.address, &format!("/api/v1/{path}"));
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.json()["data"].clone()
    }

    /// The values of a query by the job of each series, of which a job must not have two.
    pub(crate) fn query(&self, query: &str) -> BTreeMap<String, f64> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            let _ = write!(encoded, "%{byte:02x}");
        }
        let data = self.api(&format!("query?query={encoded}"));
        let mut values = BTreeMap::new();
        for series in data["result"].as_array().expect("a vector") {
            let job = series["metric"]["job"].as_str().unwrap_or_else(|| panic!("no job in {series}"));
            let value = series["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a number");
            assert!(values.insert(job.to_owned(), value).is_none(), "{query} has two values for {job}");
        }
        values
    }

    /// Waits until a query has a value for both jobs that is as it should be, and gives the values.
    pub(crate) fn await_query(
        &self,
        query: &str,
        jobs: usize,
        is_right: impl Fn(f64) -> bool,
    ) -> BTreeMap<String, f64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let values = self.query(query);
            if values.len() == jobs && values.values().all(|&value| is_right(value)) {
                return values;
            }
            assert!(Instant::now() < until, "{query} stays at {values:?}; {}", self.log());
            thread::sleep(POLL);
        }
    }
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        // Fails for one that has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
