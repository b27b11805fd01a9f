//! Sampling parameters in a deployment.

use super::error::{DeployError, Fault};
use crate::config::Sources;
use crate::config::document::{DocumentError, Entry, Mapping, Value};
use crate::engine::SamplingParams;
use crate::engine::sampling::SubtalkerParams;

/// The key under which a stage's sampling parameters stand.
pub(super) const SAMPLING_KEY: &str = "default_sampling_params";
/// The key under which those of a code predictor stand.
pub(super) const SUBTALKER_KEY: &str = "subtalker_sampling_params";

/// Puts what a mapping says in the place of what `params` holds.
pub(super) fn apply_sampling(
    params: &mut SamplingParams,
    mapping: &Mapping,
    sources: &mut Sources,
) -> Result<(), DeployError> {
    for entry in mapping.entries() {
        set(params, entry)?;
        sources.note(format!("{SAMPLING_KEY}.{}", entry.key), entry.source.clone());
    }
    params.validate(usize::MAX).map_err(|error| {
        let at = sources.of(&format!("{SAMPLING_KEY}.{}", error.parameter));
        Fault::Sampling(error).at(at)
    })
}

fn set(params: &mut SamplingParams, entry: &Entry) -> Result<(), DocumentError> {
    let number = || entry.number().map(|value| value as f32);
    match entry.key.as_str() {
        "temperature" => params.temperature = number()?,
        "top_p" => params.top_p = number()?,
        "top_k" => params.top_k = top_k(entry)?,
        "min_p" => params.min_p = number()?,
        "repetition_penalty" => params.repetition_penalty = number()?,
        "presence_penalty" => params.presence_penalty = number()?,
        "frequency_penalty" => params.frequency_penalty = number()?,
        "logit_bias" => {
            params.logit_bias.clear();
            for bias in entry.mapping()?.entries() {
                let id = bias.key.parse().map_err(|_| entry.expected("a mapping of token ids to numbers"))?;
                params.logit_bias.insert(id, bias.number()? as f32);
            }
        }
        // -1 asks for any seed, as in a request.
        "seed" => params.seed = u64::try_from(entry.integer(-1..=i128::from(u64::MAX))?).ok(),
        "max_tokens" => params.max_tokens = entry.count(1..=i32::MAX.unsigned_abs())?,
        "min_tokens" => params.min_tokens = entry.count(0..=i32::MAX.unsigned_abs())?,
        "ignore_eos" => params.ignore_eos = entry.boolean()?,
        "stop" => {
            params.stop = match &entry.node.value {
                Value::Text(one) => vec![one.clone()],
                _ => strings(entry)?,
            }
        }
        "stop_token_ids" => params.stop_token_ids = token_ids(entry)?,
        "include_stop_str_in_output" => params.include_stop_str_in_output = entry.boolean()?,
        "skip_special_tokens" => params.skip_special_tokens = entry.boolean()?,
        // A key without effect, which was noted.
        _ => {}
    }
    Ok(())
}

/// The same for a code predictor.
pub(super) fn apply_subtalker(
    params: &mut SamplingParams,
    mapping: &Mapping,
    sources: &mut Sources,
) -> Result<(), DeployError> {
    let SubtalkerParams { mut temperature, mut top_k, mut top_p } = params.subtalker;
    for entry in mapping.entries() {
        match entry.key.as_str() {
            "temperature" => temperature = entry.number()? as f32,
            "top_k" => top_k = self::top_k(entry)?,
            "top_p" => top_p = entry.number()? as f32,
            _ => drop(entry.boolean()?),
        }
        sources.note(format!("{SUBTALKER_KEY}.{}", entry.key), entry.source.clone());
    }
    if let Some(sample) = mapping.get("do_sample")
        && !sample.boolean()?
    {
        temperature = 0.0;
        sources.note(format!("{SUBTALKER_KEY}.temperature"), sample.source.clone());
    }
    params.subtalker = SubtalkerParams { temperature, top_k, top_p };
    // The ranges are those of the stage's own parameters.
    let alike = SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() };
    alike.validate(usize::MAX).map_err(|error| {
        let at = sources.of(&format!("{SUBTALKER_KEY}.{}", error.parameter));
        Fault::Sampling(error).at(at)
    })
}

/// 0 and -1 keep all.
fn top_k(entry: &Entry) -> Result<u32, DocumentError> {
    Ok(entry.integer(-1..=i128::from(u32::MAX))?.max(0) as u32)
}

fn strings(entry: &Entry) -> Result<Vec<String>, DocumentError> {
    let string = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
    let items = entry.list().map(|items| items.iter().map(|item| string(&item.value)).collect());
    items.ok().flatten().ok_or_else(|| entry.expected("a string or a list of strings"))
}

fn token_ids(entry: &Entry) -> Result<Vec<u32>, DocumentError> {
    let id = |value: &Value| if let Value::Integer(id) = value { u32::try_from(*id).ok() } else { None };
    let ids: Option<Vec<u32>> = entry.list()?.iter().map(|item| id(&item.value)).collect();
    ids.ok_or_else(|| entry.expected("a list of token ids"))
}
