//! `omni-actors serve`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::logging::{self, LogFormat, LogLevel};
use super::{DeployArgs, GpuArgs};
use crate::http::AudioDelta;
use crate::server;
use crate::stages::{Registry, StatisticsOptions};

/// What `serve` can be told.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// A model directory in Hugging Face layout, or the name of a repository on the hub, such as
    /// Qwen/Qwen3-Omni-30B-A3B-Instruct, which is downloaded into the cache if it is not there; without one the built-in
    /// demo is served.
    pub model: Option<PathBuf>,
    /// The branch, tag or commit of a repository on the hub; by default main.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Name or address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_parser = NonEmptyStringValueParser::new())]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names by which requests may ask for the model; the first one stands in responses and on /metrics.
    #[arg(long, num_args = 1.., value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub served_model_name: Vec<String>,
    /// How the model is deployed.
    #[command(flatten)]
    pub deploy: DeployArgs,
    /// How a GPU is used.
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// Where weights come from.
    #[arg(long, value_enum, default_value = "auto")]
    pub load_format: LoadFormat,
    /// The kinds of output that a request gets which asks for none in particular.
    #[arg(long, value_enum, num_args = 1.., default_value = "text", value_name = "KIND")]
    pub default_modalities: Vec<ModalityArg>,
    /// Keep statistics: all families on /metrics populate.
    #[arg(long)]
    pub log_stats: bool,
    /// Keep statistics of how long blocks of KV caches keep their content, and how often it is used.
    #[arg(long, requires = "log_stats")]
    pub kv_cache_metrics: bool,
    /// The share of blocks of which these are kept, above 0 and up to 1; by default 0.01.
    #[arg(long, requires = "kv_cache_metrics", value_parser = share, value_name = "SHARE")]
    pub kv_cache_metrics_sample: Option<f64>,
    /// Estimate the operations and bytes of all steps, from the model's dimensions.
    #[arg(long, requires = "log_stats")]
    pub enable_mfu_metrics: bool,
    /// What the names of pipeline metrics begin with.
    #[arg(long, default_value = "vllm:omni_", value_name = "PREFIX")]
    pub metrics_omni_prefix: String,
    /// HTTP worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub api_server_count: u16,
    /// Keys of which a request must bring one as `Authorization: Bearer KEY`. An empty one is refused: it would leave
    /// the server open to everyone.
    #[arg(long, num_args = 1.., env = "OMNI_API_KEY", hide_env_values = true, value_name = "KEY")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Vec<String>,
    /// Where streamed speech stands in a chunk of a chat answer.
    #[arg(long, value_enum, default_value = "content", value_name = "PLACE")]
    pub audio_delta: AudioDeltaArg,
    /// Threads for model arithmetic; by default one per core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub cpu_threads: Option<u16>,
    /// Seed of requests that bring none, and of `--load-format dummy`.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Which log lines are written.
    #[arg(long, value_enum, default_value = "info")]
    pub log_level: LogLevel,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Accepted for compatibility; every model is served this way.
    #[arg(long)]
    pub omni: bool,
}

/// The share of blocks that are watched when nobody says which.
const DEFAULT_BLOCK_SHARE: f64 = 0.01;

impl ServeArgs {
    /// What the stages count.
    pub(crate) fn statistics(&self) -> StatisticsOptions {
        let share = self.kv_cache_metrics_sample.unwrap_or(DEFAULT_BLOCK_SHARE);
        StatisticsOptions {
            kept: self.log_stats,
            kv_block_share: self.kv_cache_metrics.then_some(share),
            work: self.enable_mfu_metrics,
        }
    }
}

/// Reads a share of something that is not nothing.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("it must be a number above 0 and up to 1".to_owned()),
    }
}

/// Values of `--default-modalities`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModalityArg {
    /// Text.
    Text,
    /// Speech.
    Audio,
}

/// Values of `--load-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// From the safetensors files of the model directory.
    Auto,
    /// The same as `auto`.
    Safetensors,
    /// Seeded random weights; the directory needs configuration and tokenizer only.
    Dummy,
}

/// Values of `--audio-delta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AudioDeltaArg {
    /// In `delta.content`, with `modality` saying that it is sound.
    Content,
    /// In `delta.audio`, as OpenAI does.
    Openai,
}

impl From<AudioDeltaArg> for AudioDelta {
    fn from(argument: AudioDeltaArg) -> Self {
        match argument {
            AudioDeltaArg::Content => Self::Content,
            AudioDeltaArg::Openai => Self::OpenAi,
        }
    }
}

/// Serves until a signal comes.
pub(super) fn run(args: ServeArgs, registry: Registry) -> Result<(), String> {
    let _log = logging::init(args.log_level, args.log_format);
    server::run(&args, registry).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn serve(arguments: &[&str]) -> Result<super::ServeArgs, clap::Error> {
        let words = ["omni-actors", "serve"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_empty_key_name_or_host_is_refused() {
        for option in ["--api-key", "--served-model-name", "--host"] {
            let message = serve(&[option, ""]).unwrap_err().to_string();
            assert!(message.contains(option), "{message}");
        }
    }

    #[test]
    fn statistics_of_blocks_and_work_need_statistics_and_a_share_that_is_one() {
        for (arguments, named) in [
            (&["--kv-cache-metrics"][..], "--log-stats"),
            (&["--enable-mfu-metrics"], "--log-stats"),
            (&["--log-stats", "--kv-cache-metrics-sample", "0.5"], "--kv-cache-metrics"),
            (&["--log-stats", "--kv-cache-metrics", "--kv-cache-metrics-sample", "0"], "above 0"),
            (&["--log-stats", "--kv-cache-metrics", "--kv-cache-metrics-sample", "nan"], "above 0"),
        ] {
            let message = serve(arguments).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        let asked =
            serve(&["--log-stats", "--kv-cache-metrics", "--enable-mfu-metrics"]).unwrap().statistics();
        assert_eq!((asked.kept, asked.kv_block_share, asked.work), (true, Some(0.01), true));
        assert_eq!(serve(&["--log-stats"]).unwrap().statistics().kv_block_share, None);
    }

    #[test]
    fn a_host_may_be_a_name() {
        assert_eq!(serve(&["--host", "localhost"]).unwrap().host, "localhost");
    }
}
