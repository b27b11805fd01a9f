//! From layers to a deployment.

use super::edges::{check_listed, check_peers, connect, decide_async_chunk};
use super::error::{DeployError, Fault};
use super::keys::{CACHE_MEMORY_KEY, PREFIX_CACHING_KEY, SAMPLING, SUBTALKER};
use super::layer::{Layer, merge_stages};
use super::notes::Notes;
use super::placement::{ServerDevice, asked_gpu, place};
use super::row::{check_stages, compose};
use super::sampling::{SAMPLING_KEY, SUBTALKER_KEY, apply_sampling, apply_subtalker};
use super::{CUSTOM_PIPELINE, Deploy, MOST_REPLICAS, StageDeploy, StageKind};
use crate::config::Source;
use crate::config::document::{Entry, Mapping};
use crate::tensor::Dtype;
use crate::transport::Connector;

/// The most sequences at a time.
const MOST_SEQUENCES: u32 = 4096;
/// The most tokens of a step, and of a sequence.
const MOST_TOKENS: u32 = 1 << 24;
/// A step of more tokens than this takes a CPU so long that it is worth a word.
const LONG_STEP: usize = 4096;

/// The pipelines that a file may name.
const PIPELINES: [NamedPipeline; 5] = [
    NamedPipeline::of_model("qwen3_omni_moe"),
    NamedPipeline {
        name: "qwen3_omni_moe_thinker_only",
        of: "qwen3_omni_moe",
        choice: PipelineChoice::ThinkerOnly,
    },
    NamedPipeline::of_model("qwen3"),
    NamedPipeline::of_model("qwen3_moe"),
    NamedPipeline { name: CUSTOM_PIPELINE, of: CUSTOM_PIPELINE, choice: PipelineChoice::Custom },
];

/// A pipeline that a file may name.
#[derive(Clone, Copy)]
struct NamedPipeline {
    /// Its name.
    name: &'static str,
    /// The built-in pipeline that it is made from: the model's type, or [`CUSTOM_PIPELINE`].
    of: &'static str,
    /// What it takes of that.
    choice: PipelineChoice,
}

impl NamedPipeline {
    /// All stages of a type of model.
    const fn of_model(model_type: &'static str) -> Self {
        Self { name: model_type, of: model_type, choice: PipelineChoice::Model }
    }
}

/// Which pipeline is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineChoice {
    /// All stages that the model has.
    Model,
    /// Its first one alone.
    ThinkerOnly,
    /// No model at all.
    Custom,
}

/// What the command line says of all stages, as far as anything was said.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeployOptions {
    /// `--num-replicas`: of every stage.
    pub num_replicas: Option<u16>,
    /// `--max-model-len`: of the stage that reads the prompt.
    pub max_model_len: Option<usize>,
    /// `--kv-cache-memory`, in bytes.
    pub kv_cache_memory: Option<u64>,
    /// `--enable-prefix-caching` and its opposite.
    pub prefix_caching: Option<bool>,
    /// `--connector`: of every edge.
    pub connector: Option<Connector>,
    /// `--dtype`.
    pub dtype: Option<Dtype>,
}

/// All that is said of a deployment.
#[derive(Debug, Clone, Default)]
pub struct DeployLayers {
    /// The deploy file.
    pub file: Layer,
    /// `--stage-overrides`.
    pub overrides: Layer,
    /// Options.
    pub options: DeployOptions,
}

impl DeployLayers {
    /// Which pipeline is wanted.
    ///
    /// # Errors
    ///
    /// A pipeline that nobody knows.
    pub fn pipeline(&self) -> Result<PipelineChoice, DeployError> {
        match self.file.top.get("pipeline") {
            Some(entry) => Ok(named_pipeline(entry)?.choice),
            None => Ok(PipelineChoice::Model),
        }
    }

    /// The GPU that the overrides or the file ask for by `devices: cuda:N`, and where they do. With `asked`, which says that `--device` was
    /// given, the file's do not count.
    ///
    /// # Errors
    ///
    /// `devices` that cannot be read.
    pub fn gpu(&self, asked: bool) -> Result<Option<(usize, Source)>, DeployError> {
        let layers: &[&Layer] = if asked { &[&self.overrides] } else { &[&self.overrides, &self.file] };
        asked_gpu(layers)
    }
}

/// Puts together what is said of a deployment. `built_in` has the stages of the model, if there is one, with the values
/// that are built in and those of the checkpoint.
///
/// # Errors
///
/// Values that are of the wrong kind, out of range, or contradict each other. Each error names the place.
pub fn resolve(
    built_in: Deploy,
    layers: &DeployLayers,
    server: ServerDevice,
    notes: &mut Notes,
) -> Result<Deploy, DeployError> {
    let mut deploy = built_in;
    apply_top(&mut deploy, &layers.file.top)?;
    compose(&mut deploy, &layers.file)?;
    let mut stages = layers.file.stages_on(server.gpu.is_some());
    merge_stages(&mut stages, layers.overrides.stages.clone());
    check_stages(&deploy, &stages)?;
    check_listed(&deploy, &layers.file)?;
    check_peers(&deploy, &stages)?;
    for (id, stage) in (0..).zip(&mut deploy.stages) {
        if let Some(entry) = stages.get(&id) {
            apply_stage((id, stage), &entry.keys, notes)?;
        }
        place((id, stage), &stages, server, notes)?;
    }
    connect(&mut deploy, &layers.file, &stages, notes)?;
    apply_options(&mut deploy, layers.options);
    decide_async_chunk(&mut deploy)?;
    note_long_steps(&deploy, notes);
    Ok(deploy)
}

fn named_pipeline(entry: &Entry) -> Result<NamedPipeline, DeployError> {
    let name = entry.text()?;
    let known = PIPELINES.into_iter().find(|known| known.name == name);
    Ok(known.ok_or_else(|| entry.expected(one_of(&PIPELINES.map(|known| known.name))))?)
}

fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}

fn apply_top(deploy: &mut Deploy, top: &Mapping) -> Result<(), DeployError> {
    if let Some(entry) = top.get("pipeline") {
        let named = named_pipeline(entry)?;
        if named.of != deploy.pipeline {
            let fault = Fault::OtherPipeline { named: named.name, model: deploy.pipeline.clone() };
            return Err(fault.at(&entry.source));
        }
        deploy.pipeline = named.name.to_owned();
        deploy.sources.note("pipeline", entry.source.clone());
    }
    if let Some(entry) = top.get("async_chunk") {
        deploy.async_chunk = entry.boolean()?;
        deploy.sources.note("async_chunk", entry.source.clone());
    }
    if let Some(entry) = top.get("dtype") {
        deploy.dtype = match entry.text()? {
            "auto" => Dtype::Auto,
            "float32" | "float" => Dtype::Float32,
            "bfloat16" => Dtype::Bfloat16,
            _ => return Err(entry.expected(one_of(&["auto", "float32", "bfloat16"])).into()),
        };
        deploy.sources.note("dtype", entry.source.clone());
    }
    if let Some(entry) = top.get(CACHE_MEMORY_KEY) {
        deploy.kv_cache_memory = Some(cache_memory(entry)?);
        deploy.sources.note(CACHE_MEMORY_KEY, entry.source.clone());
    }
    if let Some(entry) = top.get(PREFIX_CACHING_KEY) {
        let prefix_caching = entry.boolean()?;
        for stage in &mut deploy.stages {
            stage.prefix_caching = prefix_caching;
            stage.sources.note(PREFIX_CACHING_KEY, entry.source.clone());
        }
    }
    Ok(())
}

/// Puts what an entry says in the place of what a stage has.
fn apply_stage(
    (id, stage): (u16, &mut StageDeploy),
    keys: &Mapping,
    notes: &mut Notes,
) -> Result<(), DeployError> {
    let engine = stage.kind.is_engine() || matches!(stage.kind, StageKind::Custom { .. });
    for entry in keys.entries() {
        let mut taken = true;
        match entry.key.as_str() {
            "num_replicas" => stage.num_replicas = entry.count(1..=u32::from(MOST_REPLICAS))? as u16,
            "max_num_seqs" => {
                stage.scheduler.max_num_seqs = entry.count(1..=MOST_SEQUENCES)? as usize;
                taken = engine;
            }
            "max_num_batched_tokens" => {
                stage.scheduler.max_num_batched_tokens = entry.count(1..=MOST_TOKENS)? as usize;
                taken = engine;
            }
            CACHE_MEMORY_KEY => {
                stage.kv_cache_memory = Some(cache_memory(entry)?);
                taken = stage.kind.is_engine();
            }
            PREFIX_CACHING_KEY => {
                stage.prefix_caching = entry.boolean()?;
                taken = stage.kind.reads_prompts();
            }
            "max_model_len" => {
                stage.max_model_len = Some(entry.count(2..=MOST_TOKENS)? as usize);
                taken = engine;
            }
            "async_chunk" => stage.async_chunk = Some(entry.boolean()?),
            "settings" => {
                stage.kind = StageKind::Custom { settings: entry.node.value.to_json() };
            }
            SAMPLING_KEY => {
                taken = engine;
                let mapping = checked(entry, &SAMPLING, notes)?;
                apply_sampling(&mut stage.sampling, mapping, &mut stage.sources)?;
            }
            SUBTALKER_KEY => {
                taken = stage.kind != StageKind::Llm && engine;
                let mapping = checked(entry, &SUBTALKER, notes)?;
                apply_subtalker(&mut stage.sampling, mapping, &mut stage.sources)?;
            }
            // Placement and edges are decided elsewhere, and the rest has no effect.
            _ => continue,
        }
        stage.sources.note(&entry.key, entry.source.clone());
        if !taken {
            let name = &stage.name;
            notes.once(&format!("{name} {}", entry.key), || {
                format!("{}: key \"{}\" has no effect on stage {id} ({name})", entry.source, entry.key)
            });
        }
    }
    Ok(())
}

/// Bytes for KV caches.
fn cache_memory(entry: &Entry) -> Result<u64, DeployError> {
    let bytes = entry.integer(1..=i128::from(u64::MAX))?;
    Ok(u64::try_from(bytes).map_err(|_| entry.expected("a number of bytes"))?)
}

/// The keys of an inner mapping, all of them known.
fn checked<'a>(
    entry: &'a Entry,
    keys: &super::keys::KeySet,
    notes: &mut Notes,
) -> Result<&'a Mapping, DeployError> {
    let mapping = entry.mapping()?;
    keys.check(mapping, notes)?;
    Ok(mapping)
}

/// The command line wins over files, and `--stage-overrides` over both.
fn apply_options(deploy: &mut Deploy, options: DeployOptions) {
    let overridden =
        |stage: &StageDeploy, key: &str| matches!(stage.sources.of(key), Source::InOption { .. });
    if let Some(dtype) = options.dtype {
        deploy.dtype = dtype;
        deploy.sources.note("dtype", Source::Option("--dtype"));
    }
    if let Some(bytes) = options.kv_cache_memory {
        deploy.kv_cache_memory = Some(bytes);
        deploy.sources.note(CACHE_MEMORY_KEY, Source::Option("--kv-cache-memory"));
    }
    for (id, stage) in deploy.stages.iter_mut().enumerate() {
        if options.kv_cache_memory.is_some() && !overridden(stage, CACHE_MEMORY_KEY) {
            stage.kv_cache_memory = None;
        }
        if let Some(replicas) = options.num_replicas
            && !overridden(stage, "num_replicas")
        {
            stage.num_replicas = replicas;
            stage.sources.note("num_replicas", Source::Option("--num-replicas"));
        }
        if let Some(tokens) = options.max_model_len
            && id == 0
            && !overridden(stage, "max_model_len")
        {
            stage.max_model_len = Some(tokens);
            stage.sources.note("max_model_len", Source::Option("--max-model-len"));
        }
        if let Some(prefix_caching) = options.prefix_caching
            && stage.kind.reads_prompts()
            && !overridden(stage, PREFIX_CACHING_KEY)
        {
            stage.prefix_caching = prefix_caching;
            let option =
                if prefix_caching { "--enable-prefix-caching" } else { "--no-enable-prefix-caching" };
            stage.sources.note(PREFIX_CACHING_KEY, Source::Option(option));
        }
        if let Some(connector) = options.connector
            && !overridden(stage, "connector")
        {
            stage.input.connector = connector;
            stage.sources.note("connector", Source::Option("--connector"));
        }
    }
}

fn note_long_steps(deploy: &Deploy, notes: &mut Notes) {
    for (id, stage) in deploy.stages.iter().enumerate() {
        let tokens = stage.scheduler.max_num_batched_tokens;
        if stage.kind.is_engine() && stage.device == super::Placement::Cpu && tokens > LONG_STEP {
            let (name, at) = (&stage.name, stage.sources.of("max_num_batched_tokens"));
            notes.once(&format!("long steps of {id}"), || {
                format!(
                    "{at}: a step of {tokens} tokens takes a large {name} minutes on a CPU, and nothing can be aborted \
                     while it runs"
                )
            });
        }
    }
}
