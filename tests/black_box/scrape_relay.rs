//! A relay between a Prometheus server and ours, which decides in which format the page is asked for.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Passes requests on, and responses back. Dropping it ends it.
pub(crate) struct ScrapeRelay {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    /// What requests are made to accept; `None` leaves what they do.
    accept: Option<&'static str>,
    /// The types of content that came back.
    content_types: Mutex<BTreeSet<String>>,
    over: AtomicBool,
}

impl ScrapeRelay {
    pub(crate) fn start(server: SocketAddr, accept: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (content_types, over) = Default::default();
        let shared = Arc::new(Shared { server, accept, content_types, over });
        let thread = thread::spawn({
            let shared = shared.clone();
            move || {
                for scraper in listener.incoming().map_while(Result::ok) {
                    if shared.over.load(Ordering::Relaxed) {
                        break;
                    }
                    // A scraper that lost patience has gone.
                    let _ = shared.relay(scraper);
                }
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// The types of content that came back so far.
    pub(crate) fn content_types(&self) -> BTreeSet<String> {
        self.shared.content_types.lock().expect("nobody panicked").clone()
    }
}

impl Shared {
    /// Passes one request without a body on, and its response back.
    fn relay(&self, mut scraper: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            scraper.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        let is_named = |line: &str, name: &str| {
            line.split_once(':').is_some_and(|(before, _)| before.eq_ignore_ascii_case(name))
        };
        let mut request: Vec<&str> = head.trim_end().split("\r\n").collect();
        request.retain(|line| !is_named(line, "connection"));
        let accept = self.accept.map(|accept| format!("accept: {accept}"));
        if let Some(accept) = &accept {
            request.retain(|line| !is_named(line, "accept"));
            request.push(accept);
        }
        request.push("connection: close");

        let mut server = TcpStream::connect(self.server)?;
        server.write_all(format!("{}\r\n\r\n", request.join("\r\n")).as_bytes())?;
        let mut response = Vec::new();
        server.read_to_end(&mut response)?;
        let head = String::from_utf8_lossy(&response);
        let content_type = head.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
        });
        self.content_types.lock().expect("nobody panicked").extend(content_type);
        scraper.write_all(&response)
    }
}

impl Drop for ScrapeRelay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the thread from waiting for the next scrape.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
