//! A deployment written out: as a deploy file that gives the same deployment again, each value with where it came from.

use std::fmt::{self, Display, Write};

use super::edges::{CLASSES, codec_keys};
use super::keys::{CACHE_MEMORY_KEY, PREFIX_CACHING_KEY};
use super::{Deploy, StageDeploy, StageKind};
use crate::config::{Source, Sources};
use crate::engine::SamplingParams;
use crate::tensor::Dtype;

impl Deploy {
    /// The deployment as YAML.
    pub fn to_yaml(&self) -> String {
        let mut page = Page(String::new());
        // Writing to a string does not fail.
        let _ = self.write(&mut page);
        page.0
    }

    fn write(&self, page: &mut Page) -> fmt::Result {
        page.value(0, "pipeline", quoted(&self.pipeline), self.sources.of("pipeline"))?;
        page.value(0, "dtype", dtype_name(self.dtype), self.sources.of("dtype"))?;
        page.value(0, "async_chunk", self.async_chunk, self.sources.of("async_chunk"))?;
        if let Some(bytes) = self.kv_cache_memory {
            page.value(0, CACHE_MEMORY_KEY, bytes, self.sources.of(CACHE_MEMORY_KEY))?;
        }
        let edges = || (0..).zip(&self.stages).skip(1).map(|(to, stage)| (edge_name(to), stage));
        if self.stages.len() > 1 {
            page.head(0, "connectors")?;
        }
        for (name, stage) in edges() {
            page.head(1, &name)?;
            write_connector(page, stage)?;
        }
        page.head(0, "stages")?;
        for (id, stage) in (0..).zip(&self.stages) {
            write_stage(page, id, stage)?;
        }
        Ok(())
    }
}

/// The name of the connector that leads to a stage.
fn edge_name(to: u16) -> String {
    format!("to_{to}")
}

fn write_connector(page: &mut Page, stage: &StageDeploy) -> fmt::Result {
    let name = CLASSES.iter().find(|(_, connector)| *connector == stage.input.connector);
    let name = name.map_or("in_process", |(name, _)| name);
    page.value(2, "name", name, stage.sources.of("connector"))?;
    if stage.kind == StageKind::Vocoder {
        page.head(2, "extra")?;
        for (key, frames, ..) in codec_keys(&mut stage.input.codec.clone()) {
            page.value(3, key, *frames, stage.sources.of(key))?;
        }
    }
    Ok(())
}

fn write_stage(page: &mut Page, id: u16, stage: &StageDeploy) -> fmt::Result {
    let from = |key: &str| stage.sources.of(key);
    writeln!(page.0, "  - stage_id: {id}  # {}", stage.name)?;
    let engine = stage.kind.is_engine();
    let mut custom = false;
    if let StageKind::Custom { settings } = &stage.kind {
        custom = true;
        page.value(2, "custom_stage", quoted(&stage.name), from("custom_stage"))?;
        if !settings.is_null() {
            page.value(2, "settings", settings, from("settings"))?;
        }
    }
    page.value(2, "devices", quoted(&stage.device.to_string()), from("devices"))?;
    page.value(2, "num_replicas", stage.num_replicas, from("num_replicas"))?;
    if engine || custom {
        let bounds = stage.scheduler;
        page.value(2, "max_num_seqs", bounds.max_num_seqs, from("max_num_seqs"))?;
        let tokens = bounds.max_num_batched_tokens;
        page.value(2, "max_num_batched_tokens", tokens, from("max_num_batched_tokens"))?;
        if let Some(bytes) = stage.kv_cache_memory {
            page.value(2, CACHE_MEMORY_KEY, bytes, from(CACHE_MEMORY_KEY))?;
        }
        if stage.kind.reads_prompts() {
            page.value(2, PREFIX_CACHING_KEY, stage.prefix_caching, from(PREFIX_CACHING_KEY))?;
        }
        if let Some(tokens) = stage.max_model_len {
            page.value(2, "max_model_len", tokens, from("max_model_len"))?;
        }
    }
    if let Some(async_chunk) = stage.async_chunk {
        page.value(2, "async_chunk", async_chunk, from("async_chunk"))?;
    }
    if engine || custom {
        page.head(2, "default_sampling_params")?;
        write_sampling(page, &stage.sampling, &stage.sources)?;
    }
    if stage.kind == StageKind::Talker || custom {
        page.head(2, "subtalker_sampling_params")?;
        let from = |key: &str| stage.sources.of(&format!("subtalker_sampling_params.{key}")).clone();
        let subtalker = stage.sampling.subtalker;
        page.value(3, "temperature", subtalker.temperature, &from("temperature"))?;
        page.value(3, "top_k", subtalker.top_k, &from("top_k"))?;
        page.value(3, "top_p", subtalker.top_p, &from("top_p"))?;
    }
    if let Some(before) = id.checked_sub(1) {
        page.head(2, "input_connectors")?;
        writeln!(page.0, "      from_stage_{before}: {}", edge_name(id))?;
    }
    Ok(())
}

fn write_sampling(page: &mut Page, params: &SamplingParams, sources: &Sources) -> fmt::Result {
    let mut write = |key: &str, value: String| {
        page.value(3, key, value, sources.of(&format!("default_sampling_params.{key}")))
    };
    write("temperature", params.temperature.to_string())?;
    write("top_p", params.top_p.to_string())?;
    write("top_k", params.top_k.to_string())?;
    write("min_p", params.min_p.to_string())?;
    write("repetition_penalty", params.repetition_penalty.to_string())?;
    write("presence_penalty", params.presence_penalty.to_string())?;
    write("frequency_penalty", params.frequency_penalty.to_string())?;
    write("seed", params.seed.map_or("-1".to_owned(), |seed| seed.to_string()))?;
    write("max_tokens", params.max_tokens.to_string())?;
    write("min_tokens", params.min_tokens.to_string())?;
    write("ignore_eos", params.ignore_eos.to_string())?;
    let stop: Vec<String> = params.stop.iter().map(|stop| quoted(stop)).collect();
    write("stop", format!("[{}]", stop.join(", ")))?;
    write("stop_token_ids", format!("{:?}", params.stop_token_ids))?;
    let bias: Vec<String> = params.logit_bias.iter().map(|(id, bias)| format!("{id}: {bias}")).collect();
    write("logit_bias", format!("{{{}}}", bias.join(", ")))?;
    write("include_stop_str_in_output", params.include_stop_str_in_output.to_string())?;
    write("skip_special_tokens", params.skip_special_tokens.to_string())
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Auto => "auto",
        Dtype::Float32 => "float32",
        Dtype::Bfloat16 => "bfloat16",
    }
}

/// A string as JSON has it, which is YAML too; without quotes where none are needed.
fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !matches!(text, "null" | "true" | "false")
    {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// Lines of YAML.
struct Page(String);

impl Page {
    /// A key with its value, and where that came from.
    fn value(&mut self, depth: usize, key: &str, value: impl Display, source: &Source) -> fmt::Result {
        let indent = "  ".repeat(depth);
        let kind = if matches!(source, Source::Option(_)) { "command line, " } else { "" };
        writeln!(self.0, "{indent}{key}: {value}  # {kind}{source}")
    }

    /// A key whose value follows in deeper lines.
    fn head(&mut self, depth: usize, key: &str) -> fmt::Result {
        let indent = "  ".repeat(depth);
        writeln!(self.0, "{indent}{key}:")
    }
}
