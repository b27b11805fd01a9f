//! A server put together: checkpoint, pipeline, actors, HTTP.

mod load;
mod signals;
mod text_frontend;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use self::load::LoadedModel;
use self::text_frontend::CheckpointText;
use crate::actors::runtime::{Runtime, RuntimeOptions};
use crate::cli::ServeArgs;
use crate::http::{self, AppState};
use crate::metrics::{MetricsError, OmniPrefix};

pub use load::LoadFailure;

/// How long a stage may take from the start of its thread to being ready.
const STAGE_START_DEADLINE: Duration = Duration::from_secs(120);
/// How long running requests may go on after the first signal.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Why a server does not start. Each message is one line for the user.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadFailure),
    /// An option of the metrics cannot be used.
    #[error("--metrics-omni-prefix: {0}")]
    Metrics(#[from] MetricsError),
    /// A stage did not come up.
    #[error("not every stage came up within {} s; the log says why", STAGE_START_DEADLINE.as_secs())]
    StagesDown,
    /// The port cannot be listened on.
    #[error("cannot listen on {host}:{port}: {cause}")]
    Listen {
        /// Address.
        host: String,
        /// Port.
        port: u16,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(std::io::Error),
}

/// A server that listens.
pub struct RunningServer {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its actors.
    pub runtime: Runtime,
    http: actix_web::dev::Server,
}
