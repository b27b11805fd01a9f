//! What a pipeline takes of its devices, found by building it on outlines of them.

use super::{
    Builder, PipelineError, StageDevice, TALKER_CACHE_WEIGHT, THINKER_CACHE_WEIGHT, ThinkerDevice, bounds,
};
use crate::config::StageDeploy;
use crate::config::deploy::StageKind;
use crate::engine::BlockPool;
use crate::models::qwen3::LanguageModel;
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::StageSpec;
use crate::stages::llm::{DeviceSampling, HostSampling};
use crate::stages::memory_ledger::{CacheClaim, CacheGrant, MemoryLedger};
use crate::tensor::{Backend, Convolution, InputRows, Outline, Outlined};

/// Blocks of the KV cache of each replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CacheBlocks {
    /// Of the thinker.
    pub(super) thinker: usize,
    /// Of the talker; 0 where there is none.
    pub(super) talker: usize,
}

impl<T: Backend, S: Backend + InputRows + Convolution> Builder<'_, T, S> {
    /// Makes up the accounts of the devices: what the caches get, and a line for each device. Nothing is loaded.
    pub(super) fn measure(&self) -> Result<(CacheBlocks, Vec<String>), PipelineError> {
        let (thinker, speech) = (&self.thinker.device, &self.speech);
        let (first, second) = (Outline::of(thinker.outlined), Outline::of(speech.outlined));
        let together = thinker.ledger.device() == speech.ledger.device();
        let embedding = |_: &LanguageModel<Outline>, config: &OmniConfig| {
            // On one device the talker reads the thinker's own table.
            if together {
                return Ok(());
            }
            Thinker::load_embedding(&second, config, self.store, self.options.deploy.dtype)
        };
        let model = match thinker.outlined {
            Outlined::Process => HostSampling::boxed,
            Outlined::Gpu(_) => DeviceSampling::boxed,
        };
        let outlined = Builder {
            checkpoint: self.checkpoint,
            store: self.store,
            thinker: ThinkerDevice { device: thinker.outline(&first), model, embedding: &embedding },
            speech: speech.outline(&second),
            tokenizer: self.tokenizer,
            options: self.options,
            config: self.config,
        };
        let mut ledgers = vec![thinker.ledger.clone()];
        if !together {
            ledgers.push(speech.ledger.clone());
        }
        if let Some(bytes) = self.options.deploy.kv_cache_memory {
            ledgers.iter_mut().for_each(|ledger| ledger.give_caches(bytes));
        }
        outlined.enter(&mut ledgers)?;
        let (mut grants, mut lines) = (Vec::new(), Vec::new());
        for ledger in ledgers {
            let own = ledger.settle()?;
            lines.push(ledger.summary(&own));
            grants.extend(own);
        }
        let blocks = |stage: &str| {
            let grant = grants.iter().find(|grant: &&CacheGrant| grant.stage == stage);
            grant.map_or(0, |grant| grant.blocks)
        };
        let talker = self.options.deploy.stage_of(&StageKind::Talker);
        let blocks = CacheBlocks {
            thinker: blocks(&self.thinker_stage().name),
            talker: talker.map_or(0, |stage| blocks(&stage.name)),
        };
        Ok((blocks, lines))
    }
}

impl<B> StageDevice<'_, B> {
    /// The same with an outline in the place of the device.
    fn outline<'a>(&self, outline: &'a Outline) -> StageDevice<'a, Outline> {
        StageDevice { backend: outline, outlined: self.outlined, ledger: self.ledger.clone() }
    }
}

impl Builder<'_, Outline, Outline> {
    /// Builds every stage and a replica of it, and enters what that took: the thinker in the first ledger, what speaks
    /// in the last.
    fn enter(&self, ledgers: &mut [MemoryLedger]) -> Result<(), PipelineError> {
        let deploy = &self.options.deploy;
        let thinker = self.load_thinker()?;
        let stage = self.thinker_stage();
        let max_model_len = self.max_model_len(&stage, self.config.thinker.max_position_embeddings)?;
        let cache = claim(&stage, thinker.0.kv_bytes_per_block(), max_model_len, THINKER_CACHE_WEIGHT);
        let spec = self.thinker(thinker.clone(), CacheBlocks::for_one(max_model_len))?;
        if let Some(ledger) = ledgers.first_mut() {
            enter_stage(ledger, self.thinker.device.backend, &spec, Some(cache))?;
        }
        let Some(ledger) = ledgers.last_mut() else { return Ok(()) };
        if let (Some(config), Some(stage)) = (&self.config.talker, deploy.stage_of(&StageKind::Talker)) {
            let talker = self.load_talker(config, &thinker.0)?;
            let max_model_len = self.max_model_len(stage, config.max_position_embeddings)?;
            let bytes_per_block = talker.0.talker.kv_bytes_per_block();
            let cache = claim(stage, bytes_per_block, max_model_len, TALKER_CACHE_WEIGHT);
            let spec = self.talker(talker, stage, CacheBlocks::for_one(max_model_len))?;
            enter_stage(ledger, self.speech.backend, &spec, Some(cache))?;
        }
        if let (Some(config), Some(stage)) = (&self.config.code2wav, deploy.stage_of(&StageKind::Vocoder)) {
            let spec = self.code2wav(self.load_code2wav(config)?, stage);
            enter_stage(ledger, self.speech.backend, &spec, None)?;
        }
        Ok(())
    }
}

impl CacheBlocks {
    /// For one sequence of so many tokens, whichever stage has it.
    fn for_one(max_model_len: usize) -> Self {
        let blocks = BlockPool::blocks_for(max_model_len);
        Self { thinker: blocks, talker: blocks }
    }
}

fn claim(stage: &StageDeploy, bytes_per_block: usize, max_model_len: usize, weight: f64) -> CacheClaim {
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
fn enter_stage(
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
