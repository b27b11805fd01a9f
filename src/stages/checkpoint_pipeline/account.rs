//! What stages take of their devices, found by building them on outlines of those.

use super::{PipelineError, bounds};
use crate::config::StageDeploy;
use crate::stages::StageSpec;
use crate::stages::memory_ledger::{CacheClaim, CacheGrant, MemoryLedger};
use crate::tensor::Outline;

/// What a stage's KV caches ask for; `weight` is how much of what is left they want, in proportion to other stages'.
pub(in crate::stages) fn cache_claim(
    stage: &StageDeploy,
    bytes_per_block: usize,
    max_model_len: usize,
    weight: f64,
) -> CacheClaim {
    CacheClaim {
        stage: stage.name.clone(),
        bytes_per_block: bytes_per_block as u64,
        max_model_len,
        max_num_seqs: bounds(stage, max_model_len).max_num_seqs,
        replicas: stage.num_replicas,
        weight,
        memory: stage.kv_cache_memory,
    }
}

/// Enters a stage whose model has just been loaded on `outline`. Its replica has a cache for one sequence.
pub(in crate::stages) fn enter_stage(
    ledger: &mut MemoryLedger,
    outline: &Outline,
    spec: &StageSpec,
    cache: Option<CacheClaim>,
) -> Result<(), PipelineError> {
    let model = outline.take();
    let one = cache.as_ref().map_or(0, CacheClaim::bytes_of_one);
    ledger.claim(&format!("{} weights", spec.name), model.weights);
    ledger.map(model.in_files);
    cache.into_iter().for_each(|cache| ledger.claim_cache(cache));
    // A replica that cannot fit is not made, not even in outline.
    ledger.settle()?;
    drop((spec.factory)()?);
    let replica = outline.take();
    let space = replica.weights + replica.buffers + replica.caches.saturating_sub(one);
    let replicas = u64::from(spec.replicas);
    ledger.claim(&format!("{} workspace", spec.name), model.buffers + replicas * space);
    Ok(())
}

/// Blocks of the KV cache of each of a stage's replicas; 0 where the stage has none.
pub(in crate::stages) fn granted_blocks(grants: &[CacheGrant], stage: &str) -> usize {
    grants.iter().find(|grant| grant.stage == stage).map_or(0, |grant| grant.blocks)
}
