//! A small HTTP client: one connection a request, which can be left at any point.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Route of chat.
pub(crate) const CHAT: &str = "/v1/chat/completions";
/// Route of completions.
pub(crate) const COMPLETIONS: &str = "/v1/completions";

/// A server that is silent for longer than this has failed the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole response.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, without the framing of its transfer.
    pub(crate) body: String,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The values of the server-sent events; the last event must be `[DONE]`, which is left out.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        let mut events: Vec<&str> = self.body.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{self:?}");
        let value = |event: &str| {
            let data = event.strip_prefix("data: ").expect("an event has data");
            serde_json::from_str(data).expect("an event's data is JSON")
        };
        events.into_iter().map(value).collect()
    }
}

/// A request that was sent, and as much of the response as was read. Dropping it closes the connection.
pub(crate) struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Sends a whole request. The server is asked to close the connection after its response.
    fn send(server: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes())?;
        Ok(Self { socket, received: Vec::new() })
    }

    /// Reads until this many events were received.
    pub(crate) fn read_events(&mut self, count: usize) {
        let all = self.read_up_to(count);
        assert!(all, "less than {count} events in {}", String::from_utf8_lossy(&self.received));
    }

    /// Reads until this many events were received, or all that there are. Says if there were so many.
    pub(crate) fn read_up_to(&mut self, count: usize) -> bool {
        let mut buffer = [0; 4096];
        while self.received.windows(6).filter(|bytes| bytes == b"data: ").count() < count {
            let length = self.socket.read(&mut buffer).expect("the server goes on");
            if length == 0 {
                return false;
            }
            self.received.extend_from_slice(&buffer[..length]);
        }
        true
    }

    /// Reads to the end; none if the response was cut off.
    pub(crate) fn finish(mut self) -> Option<Reply> {
        self.socket.read_to_end(&mut self.received).ok()?;
        let text = String::from_utf8(self.received).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let head = head.to_ascii_lowercase();
        let body = if head.contains("transfer-encoding: chunked") {
            joined_chunks(body)?
        } else {
            let length = head.split("content-length: ").nth(1)?.lines().next()?;
            assert_eq!(length.parse(), Ok(body.len()), "{text}");
            body.to_owned()
        };
        Some(Reply { status, body })
    }
}

/// Takes the framing of a chunked body away; none if its last chunk is not there.
fn joined_chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Sends a `POST` and does not wait for the response.
pub(crate) fn begin(server: SocketAddr, path: &str, body: &Value) -> Connection {
    Connection::send(server, "POST", path, &body.to_string()).expect("the server takes requests")
}

/// Sends a `POST` and reads the whole response.
pub(crate) fn post(server: SocketAddr, path: &str, body: &Value) -> Reply {
    begin(server, path, body).finish().expect("a whole response")
}

/// Sends a `GET` and reads the whole response.
pub(crate) fn get(server: SocketAddr, path: &str) -> Reply {
    let connection = Connection::send(server, "GET", path, "").expect("the server takes requests");
    connection.finish().expect("a whole response")
}

/// The texts of a streamed chat answer's choice 0, put together.
pub(crate) fn streamed_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}
