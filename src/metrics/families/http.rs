//! Handles to the families of the HTTP server.

use prometheus::{Counter, Histogram};

use super::steps::observe_measured;
use crate::metrics::definitions::http;
use crate::metrics::families::{Catalogue, Family};
use crate::metrics::{HttpExchange, MetricsError};

/// The route of a request for which there is none.
const NO_ROUTE: &str = "none";

/// What was asked and answered. Series appear when a route is first used.
#[derive(Debug)]
pub struct HttpFamilies {
    /// Requests, by method, class of the status and route.
    requests: Family<Counter>,
    /// Bytes of requests.
    request_size: Family<Histogram>,
    /// Bytes of responses.
    response_size: Family<Histogram>,
    /// Seconds of all exchanges.
    duration_fine: Histogram,
    /// Seconds by method and route.
    duration: Family<Histogram>,
}

impl HttpFamilies {
    /// Registers the families of [`http::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: catalogue.register(&http::REQUESTS)?,
            request_size: catalogue.register(&http::REQUEST_SIZE)?,
            response_size: catalogue.register(&http::RESPONSE_SIZE)?,
            duration_fine: catalogue.register(&http::DURATION_FINE)?.series(&[])?,
            duration: catalogue.register(&http::DURATION)?,
        })
    }

    /// Takes in a request that was answered.
    pub fn observe(&self, exchange: &HttpExchange) -> Result<(), MetricsError> {
        let route = exchange.route.as_deref().unwrap_or(NO_ROUTE);
        let class = format!("{}xx", exchange.status / 100);
        self.requests.series(&[exchange.method, &class, route])?.inc();
        self.request_size.series(&[route])?.observe(exchange.request_bytes as f64);
        self.response_size.series(&[route])?.observe(exchange.response_bytes as f64);
        observe_measured(&self.duration_fine, exchange.seconds);
        observe_measured(&self.duration.series(&[exchange.method, route])?, exchange.seconds);
        Ok(())
    }
}
