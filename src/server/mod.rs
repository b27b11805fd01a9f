//! A server put together: checkpoint, pipeline, actors, HTTP.

mod check;
mod deployment;
mod device;
mod load;
mod model;
mod program;
mod signals;
mod started;
mod state;
mod text_frontend;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use thiserror::Error;
use tokio::task::JoinHandle;

pub use self::check::{AnswerReport, CheckError, CheckReport, StageReport, check};
pub(crate) use self::device::{gpu_ledger, open_gpu};
pub use self::load::{LoadFailure, effective_deploy};
pub(crate) use self::load::{ModelDevice, ModelText};
pub use self::program::Server;
use self::signals::EndSignals;
pub(crate) use self::started::StartedPipeline;
use crate::actors::runtime::Runtime;
use crate::cli::{ModalityArg, ServeArgs};
use crate::http;
use crate::ids::StageId;
use crate::metrics::{Inference, MetricsError};
use crate::stages::{Registry, StageError};

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
    /// Loading ended without a result.
    #[error("the model was not loaded: {0}")]
    NotLoaded(std::io::Error),
    /// An option of the metrics cannot be used.
    #[error("--metrics-omni-prefix: {0}")]
    Prefix(MetricsError),
    /// The families of the metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// `--default-modalities` names a kind that the model does not make.
    #[error("--default-modalities: this model makes no {0:?} output")]
    DefaultModality(ModalityArg),
    /// A stage cannot be built.
    #[error("stage {stage} ({name}) cannot be built: {cause}")]
    NotBuilt {
        /// Which stage.
        stage: StageId,
        /// What it is called.
        name: String,
        /// Why.
        cause: StageError,
    },
    /// A stage did not come up.
    #[error("not every stage came up within {} s; the log says why", STAGE_START_DEADLINE.as_secs())]
    StagesDown,
    /// The port cannot be listened on.
    #[error(transparent)]
    Listen(std::io::Error),
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(std::io::Error),
}

/// A server that listens.
pub struct RunningServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its actors.
    pub runtime: Runtime,
    /// Stops the HTTP server.
    handle: ServerHandle,
    /// Ends with the HTTP server.
    http: JoinHandle<std::io::Result<()>>,
}

impl RunningServer {
    /// Loads the model, places the custom stages of `registry`, starts the actors, waits until every stage is up, and
    /// listens. Must be called within an actix system.
    pub async fn start(args: &ServeArgs, registry: Registry) -> Result<Self, ServerError> {
        let began = Instant::now();
        let started = StartedPipeline::start(args, registry, Inference::Online).await?;
        let listen = http::ServerOptions {
            host: args.host.clone(),
            port: args.port,
            workers: usize::from(args.api_server_count),
            shutdown_timeout: DRAIN_PATIENCE,
        };
        let (names, pipeline) = (started.names.join(", "), started.pipeline.clone());
        let is_demo = started.model.is_demo;
        let (state, runtime) = started.into_state(args);
        let (http, addresses) = http::start(state, &listen).map_err(ServerError::Listen)?;
        let address = addresses.first().copied().ok_or_else(no_address)?;
        for (stage, spec) in pipeline.stages.iter().enumerate() {
            let (name, replicas, device) = (&spec.name, spec.replicas, &spec.device);
            tracing::info!("stage {stage}: {name}, {replicas} replica(s) on {device}");
        }
        if is_demo {
            tracing::info!("this is {}", state::DEMO_NOTICE);
        }
        let statistics = if args.log_stats { "on" } else { "off (--log-stats turns them on)" };
        let took = began.elapsed().as_millis();
        tracing::info!("serving {names} ({}); statistics {statistics}", pipeline.name);
        tracing::info!("listening on http://{address} after {took} ms");
        Ok(Self { address, runtime, handle: http.handle(), http: actix_rt::spawn(http) })
    }

    /// Serves until a signal comes, then takes no new requests and lets running ones end.
    async fn run_until_signal(mut self, signals: &mut EndSignals) -> Result<(), ServerError> {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            ended = &mut self.http => return http_ended(ended),
        };
        tracing::info!("{signal}: taking no new requests, letting running ones end; once more ends at once");
        let drained = async {
            self.runtime.drain(DRAIN_PATIENCE).await;
            self.handle.stop(true).await;
        };
        tokio::select! {
            () = drained => tracing::info!("ended"),
            signal = signals.next() => {
                tracing::warn!("{signal}: ending at once");
                self.handle.stop(false).await;
            }
        }
        Ok(())
    }

    /// Stops listening, aborts what is running, and ends the workers.
    pub async fn stop(self) {
        self.runtime.drain(Duration::ZERO).await;
        self.handle.stop(false).await;
        let _ = self.http.await;
    }
}

/// Serves on the calling thread until a signal comes.
pub fn run(args: &ServeArgs, registry: Registry) -> Result<(), ServerError> {
    let system = actix_rt::System::new();
    system.block_on(async {
        let mut signals = EndSignals::listen().map_err(ServerError::Http)?;
        let server = tokio::select! {
            server = RunningServer::start(args, registry) => server?,
            signal = signals.next() => {
                tracing::info!("{signal}: ended before the server was up");
                return Ok(());
            }
        };
        server.run_until_signal(&mut signals).await
    })
}

fn http_ended(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<(), ServerError> {
    ended.map_err(std::io::Error::other).flatten().map_err(ServerError::Http)
}

fn no_address() -> ServerError {
    ServerError::Listen(std::io::Error::other("the system gave the server no address"))
}
