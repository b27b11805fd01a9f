//! A hub on loopback: the part of the Hugging Face hub's HTTP interface that a download uses. Weights are kept by a
//! second server, to which it redirects, as the real one does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use ring::digest;
use serde_json::json;

/// The one repository that it has.
pub(crate) const REPOSITORY: &str = "golden/tiny";
/// The name that the repository had before.
pub(crate) const OLD_NAME: &str = "silver/tiny";
/// The commit that its branch `main` is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct HubRequest {
    /// `GET` or `HEAD`.
    pub(crate) method: String,
    /// With the slash at its beginning.
    pub(crate) path: String,
    /// `Range`.
    pub(crate) range: Option<String>,
    /// `Authorization`.
    pub(crate) authorization: Option<String>,
}

/// What it does instead of answering as it should.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mischief {
    /// Answers every request with this status and this `X-Error-Code`.
    pub(crate) refusal: Option<(u16, &'static str)>,
    /// Closes the connection after so many bytes of weights, once.
    pub(crate) break_off: Option<usize>,
    /// Sends so many bytes of weights and then nothing, once.
    pub(crate) stall: Option<usize>,
    /// Sends other weights than it says.
    pub(crate) spoil: bool,
    /// Sends all of a file whatever part is asked for.
    pub(crate) ignore_ranges: bool,
}

/// What both servers know.
struct Shared {
    /// The files of the repository.
    files: PathBuf,
    requests: Mutex<Vec<HubRequest>>,
    mischief: Mutex<Mischief>,
}

/// The hub. Its threads end with the test.
pub(crate) struct Hub {
    /// Its address.
    pub(crate) endpoint: String,
    shared: Arc<Shared>,
}

impl Hub {
    /// A hub whose repository has the files of a directory.
    pub(crate) fn start(files: &Path) -> Self {
        let shared = Arc::new(Shared {
            files: files.to_owned(),
            requests: Mutex::default(),
            mischief: Mutex::default(),
        });
        let store = listen(&shared, |request, socket, shared| shared.give_weights(request, socket));
        // By another name, so that the two are told apart.
        let store = format!("http://localhost:{store}");
        let port = listen(&shared, move |request, socket, shared| shared.answer(request, socket, &store));
        Self { endpoint: format!("http://127.0.0.1:{port}"), shared }
    }

    /// The variables that have a server use this hub and a cache of its own.
    pub(crate) fn environment<'a>(&'a self, home: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![("HF_ENDPOINT", &self.endpoint), ("HF_HOME", home), ("NO_PROXY", "127.0.0.1,localhost")]
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<HubRequest> {
        std::mem::take(&mut *lock(&self.shared.requests))
    }

    /// What it does instead of answering as it should.
    pub(crate) fn misbehave(&self, mischief: Mischief) {
        *lock(&self.shared.mischief) = mischief;
    }
}

/// Answers requests on a port of its own, one a connection.
fn listen(
    shared: &Arc<Shared>,
    answer: impl Fn(&HubRequest, &mut TcpStream, &Shared) -> std::io::Result<()> + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (shared, answer) = (shared.clone(), Arc::new(answer));
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (shared, answer) = (shared.clone(), answer.clone());
            thread::spawn(move || {
                let mut socket = socket;
                let Some(request) = read_request(&socket) else { return };
                lock(&shared.requests).push(request.clone());
                // Whoever asked may be gone.
                let _ = answer(&request, &mut socket, &shared);
                let _ = socket.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked")
}

fn read_request(socket: &TcpStream) -> Option<HubRequest> {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut request = HubRequest { method, path, range: None, authorization: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

/// In hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Shared {
    fn answer(&self, request: &HubRequest, socket: &mut TcpStream, store: &str) -> std::io::Result<()> {
        if let Some((status, code)) = lock(&self.mischief).refusal {
            return write!(
                socket,
                "HTTP/1.1 {status} No\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if request.path.contains(OLD_NAME) {
            let location = format!("Location: {}\r\n", request.path.replace(OLD_NAME, REPOSITORY));
            return send(socket, request, "307 Temporary Redirect", &location, b"");
        }
        if let Some(revision) = request.path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/")) {
            return match revision {
                "main" | COMMIT => send(socket, request, "200 OK", "", self.listing().as_bytes()),
                _ => send(socket, request, "404 Not Found", "X-Error-Code: RevisionNotFound\r\n", b""),
            };
        }
        let Some(file) = request.path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/")) else {
            return send(socket, request, "404 Not Found", "X-Error-Code: RepoNotFound\r\n", b"");
        };
        let Ok(bytes) = fs::read(self.files.join(file)) else {
            return send(socket, request, "404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"");
        };
        let sum = sha256(&bytes);
        if file.ends_with(".safetensors") {
            let size = bytes.len();
            let headers = format!(
                "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{sum}\"\r\nX-Linked-Size: {size}\r\n\
                 ETag: \"pointer\"\r\nLocation: {store}/{file}\r\n"
            );
            return send(socket, request, "302 Found", &headers, b"");
        }
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"\r\n", &sum[..40]);
        send(socket, request, "200 OK", &headers, &bytes)
    }

    fn listing(&self) -> String {
        let names = fs::read_dir(&self.files).expect("the files are there").map(|file| {
            let name = file.expect("a file").file_name();
            json!({"rfilename": name.to_str().expect("UTF-8")})
        });
        let others = ["README.md", "pytorch_model.bin", "original/params.json", "../evil.json"];
        let siblings: Vec<_> = names.chain(others.map(|name| json!({"rfilename": name}))).collect();
        json!({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).to_string()
    }

    fn give_weights(&self, request: &HubRequest, socket: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = fs::read(self.files.join(request.path.trim_start_matches('/')))?;
        let (mischief, stop) = {
            let mut mischief = lock(&self.mischief);
            let stop = mischief.break_off.take().or(mischief.stall);
            (mischief.clone(), stop)
        };
        lock(&self.mischief).stall = None;
        if mischief.spoil {
            *bytes.last_mut().expect("weights are not empty") ^= 1;
        }
        let range = request.range.as_deref().filter(|_| !mischief.ignore_ranges);
        let begin = range.map(|range| {
            let begin = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            begin.and_then(|begin| begin.parse::<usize>().ok()).expect("a range that is open at its end")
        });
        let (status, headers) = match begin {
            None => ("200 OK", String::new()),
            Some(begin) => {
                let (last, size) = (bytes.len() - 1, bytes.len());
                ("206 Partial Content", format!("Content-Range: bytes {begin}-{last}/{size}\r\n"))
            }
        };
        let part = &bytes[begin.unwrap_or(0)..];
        let Some(stop) = stop else { return send(socket, request, status, &headers, part) };
        let length = part.len();
        write!(
            socket,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        socket.write_all(&part[..stop])?;
        socket.flush()?;
        if mischief.stall.is_some() {
            // Until whoever asked is gone.
            let _ = std::io::Read::read(socket, &mut [0]);
        }
        Ok(())
    }
}

/// Sends a whole answer; its body only if it was asked for.
fn send(
    socket: &mut TcpStream,
    request: &HubRequest,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(socket, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if request.method == "GET" {
        socket.write_all(body)?;
    }
    socket.flush()
}
