//! The options that say how a model is deployed.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::DeviceArg;
use crate::config::deploy::{DeployOptions, MOST_REPLICAS};
use crate::tensor::Dtype;
use crate::transport::Connector;

/// How a model is deployed. What is given here wins over the deploy file, and `--stage-overrides` over everything.
#[derive(Debug, Clone, Args)]
pub struct DeployArgs {
    /// A file in YAML that says how each stage is deployed; see docs/deployment.md.
    #[arg(long, value_name = "FILE")]
    pub deploy_config: Option<PathBuf>,
    /// Keys of a deploy file for single stages, as JSON, such as '{"1": {"num_replicas": 2}}'.
    #[arg(long, value_name = "JSON")]
    pub stage_overrides: Option<String>,
    /// Type of weights and activations; by default as the checkpoint's weights.
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,
    /// Where the model runs: auto, cpu, cuda or cuda:N; by default on the CPU. On a GPU it is the language model that
    /// runs there, such as the thinker; what speaks runs on the CPU.
    #[arg(long)]
    pub device: Option<DeviceArg>,
    /// The most tokens of prompt and answer together; by default what the model was made for.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    pub max_model_len: Option<u32>,
    /// Replicas of each stage; by default 1.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_REPLICAS)), value_name = "N")]
    pub num_replicas: Option<u16>,
    /// Memory of all KV caches of a device together, such as 4GiB; by default a share of what is free.
    #[arg(long, value_name = "SIZE", alias = "kv-cache-memory-bytes")]
    pub kv_cache_memory: Option<ByteSize>,
    /// Share what is cached of common prefixes of requests, which is the default.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,
    /// Compute every prompt whole.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,
    /// How chunks go from stage to stage; by default in-process.
    #[arg(long, value_enum)]
    pub connector: Option<ConnectorArg>,
}

/// Values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// As the checkpoint's weights.
    Auto,
    /// 32-bit floats.
    Float32,
    /// Brain floats.
    Bfloat16,
}

/// Values of `--connector`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConnectorArg {
    /// As they are, without a copy.
    #[value(alias = "in_process")]
    InProcess,
    /// Encoded into bytes and decoded again, as between processes.
    Serialized,
}

impl DeployArgs {
    /// What was said of all stages.
    pub(crate) fn options(&self) -> DeployOptions {
        DeployOptions {
            num_replicas: self.num_replicas,
            max_model_len: self.max_model_len.map(|tokens| tokens as usize),
            kv_cache_memory: self.kv_cache_memory.map(|size| size.as_u64()),
            prefix_caching: (self.enable_prefix_caching || self.no_enable_prefix_caching)
                .then_some(self.enable_prefix_caching),
            connector: self.connector.map(|connector| match connector {
                ConnectorArg::InProcess => Connector::InProcess,
                ConnectorArg::Serialized => Connector::Serialized,
            }),
            dtype: self.dtype.map(|dtype| match dtype {
                DtypeArg::Auto => Dtype::Auto,
                DtypeArg::Float32 => Dtype::Float32,
                DtypeArg::Bfloat16 => Dtype::Bfloat16,
            }),
        }
    }
}
