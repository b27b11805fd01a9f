//! The server seen from outside: requests over sockets, the page of `/metrics`, exit statuses and standard error.
//!
//! Most tests run the program itself. Those that must look at what the actors hold run a server in this process.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

mod account;
mod api_workers;
mod bench;
mod check;
mod checkpoint_copy;
mod client;
mod client_requests;
mod conservation;
mod custom_stages;
mod demo;
mod deploy;
mod disconnects;
mod every_family;
mod gate;
#[path = "../compare/sets.rs"]
mod golden_sets;
mod goldens_over_http;
mod hub;
mod metrics_page;
mod models_by_name;
mod page;
mod prometheus;
mod prometheus_server;
mod replica_states;
mod request_accounts;
mod scrape_relay;
mod selftest;
mod server;
mod shutdown;
mod speech;
mod startup;
mod surrounded;
mod tables;
mod text_models;
mod tiny_cache;
mod troubled;
