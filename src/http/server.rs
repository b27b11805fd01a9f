//! The HTTP server: sockets, threads, and what holds for every connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};

use crate::http::routes::configure;
use crate::http::state::AppState;
use crate::http::{exchange, request_id};

/// How the server listens.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Name or address to listen at.
    pub host: String,
    /// Port to listen at; 0 lets the system choose one.
    pub port: u16,
    /// Threads that serve connections.
    pub workers: usize,
    /// How long a graceful stop waits for running responses.
    pub shutdown_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            workers: 1,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// Binds the sockets and starts the server; tells where it listens. Must be called within an actix system. The
/// server does not look at signals: whoever holds [`Server::handle`] stops it.
pub fn start(state: AppState, options: &ServerOptions) -> io::Result<(Server, Vec<SocketAddr>)> {
    let state = web::Data::new(state);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(request_id::carry))
            .wrap(from_fn(exchange::observe))
            .configure(configure)
    })
    .workers(options.workers.max(1))
    .disable_signals()
    .shutdown_timeout(options.shutdown_timeout.as_secs())
    // Every token of a stream is a small write that should leave at once.
    .tcp_nodelay(true)
    // A client that closes its side has gone. With this, the future of a handler that waits is dropped then, and
    // with it the guard that aborts the request; otherwise it would only be noticed when writing fails.
    .h1_allow_half_closed(false)
    .bind((options.host.as_str(), options.port))
    .map_err(|error| {
        let address = format!("{}:{}", options.host, options.port);
        io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
    })?;
    let addresses = server.addrs();
    Ok((server.run(), addresses))
}
