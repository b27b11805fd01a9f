//! What is told to the metrics of every request that is answered: how long it took, and how much was written.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use bytes::Bytes;

use crate::http::state::AppState;
use crate::metrics::{HttpExchange, StatEvent, StatsSender};

/// Routes for the people who run the server, of which nothing is told.
const UNTOLD: [&str; 5] = ["/health", "/metrics", "/ping", "/stats", "/version"];

/// Middleware: tells the metrics of the request when the last byte of its response is written, or its client is gone.
pub async fn observe<B>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<BoxBody>, Error>
where
    B: MessageBody + 'static,
{
    let account = Account::open(&request);
    let response = match next.call(request).await {
        Ok(response) => response.map_into_boxed_body(),
        Err(error) => {
            if let Some(mut account) = account {
                account.exchange.status = error.as_response_error().status_code().as_u16();
            }
            return Err(error);
        }
    };
    let Some(mut account) = account else { return Ok(response) };
    account.exchange.status = response.status().as_u16();
    Ok(response.map_body(|_, body| BoxBody::new(ObservedBody { body, account })))
}

/// Keeps account of one exchange, and tells of it when dropped.
struct Account {
    statistics: StatsSender,
    began: Instant,
    exchange: HttpExchange,
}

impl Account {
    /// An account of a request; `None` when nobody keeps statistics, or the route is one of which nothing is told.
    fn open(request: &ServiceRequest) -> Option<Self> {
        let state = request.app_data::<web::Data<AppState>>()?;
        let route = request.match_pattern();
        let is_untold = route.as_deref().is_some_and(|route| UNTOLD.contains(&route));
        if !state.statistics.is_on() || is_untold {
            return None;
        }
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let exchange = HttpExchange {
            method: method_label(request.method()),
            route,
            status: 0,
            // More than this is never read, whatever a client says.
            request_bytes: length.unwrap_or(0).min(state.limits.body_bytes as u64),
            response_bytes: 0,
            seconds: 0.0,
        };
        Some(Self { statistics: state.statistics.clone(), began: Instant::now(), exchange })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Without a status there was no response: the client left while the request was read or worked on.
        if self.exchange.status > 0 {
            let exchange =
                HttpExchange { seconds: self.began.elapsed().as_secs_f64(), ..self.exchange.clone() };
            self.statistics.send(|| StatEvent::Http(exchange));
        }
    }
}

/// The method as the metrics have it, so that no client can make up label values.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "OTHER",
    }
}

/// A body of which is counted what is written.
struct ObservedBody {
    body: BoxBody,
    account: Account,
}

impl MessageBody for ObservedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let Self { body, account } = self.get_mut();
        let polled = Pin::new(body).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            account.exchange.response_bytes += bytes.len() as u64;
        }
        polled
    }
}
