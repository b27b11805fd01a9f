//! What a pipeline takes of its devices, found by building it on outlines of them.

use super::{
    Builder, PipelineError, StageDevice, TALKER_CACHE_WEIGHT, TALKER_STEPS, THINKER_CACHE_WEIGHT,
    THINKER_STEPS, ThinkerDevice,
};
use crate::engine::BlockPool;
use crate::models::qwen3::LanguageModel;
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::StageSpec;
use crate::stages::memory_ledger::{CacheClaim, CacheGrant, MemoryLedger};
use crate::tensor::{Backend, Convolution, InputRows, Outline};

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
            Thinker::load_embedding(&second, config, self.store, self.options.dtype)
        };
        let outlined = Builder {
            checkpoint: self.checkpoint,
            store: self.store,
            thinker: ThinkerDevice { device: thinker.outline(&first), embedding: &embedding },
            speech: speech.outline(&second),
            tokenizer: self.tokenizer,
            options: self.options,
            config: self.config,
            defaults: self.defaults,
            max_model_len: self.max_model_len,
        };
        let mut ledgers = vec![thinker.ledger.clone()];
        if !together {
            ledgers.push(speech.ledger.clone());
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
        Ok((CacheBlocks { thinker: blocks("thinker"), talker: blocks("talker") }, lines))
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
        let talker_len = self.config.talker.as_ref().map_or(0, |talker| talker.max_position_embeddings);
        let blocks = CacheBlocks {
            thinker: BlockPool::blocks_for(self.max_model_len),
            talker: BlockPool::blocks_for(talker_len),
        };
        let thinker = self.load_thinker()?;
        let cache = self.cache("thinker", thinker.kv_bytes_per_block(), self.max_model_len);
        let spec = self.thinker(thinker.clone(), blocks)?;
        if let Some(ledger) = ledgers.first_mut() {
            self.enter_stage(ledger, self.thinker.device.backend, &spec, Some(cache))?;
        }
        let Some(ledger) = ledgers.last_mut() else { return Ok(()) };
        if let (Some(talker), Some(code2wav)) = (&self.config.talker, &self.config.code2wav) {
            let models = self.load_talker(talker, &thinker)?;
            let cache = self.cache("talker", models.talker.kv_bytes_per_block(), talker_len);
            self.enter_stage(ledger, self.speech.backend, &self.talker(models, blocks), Some(cache))?;
            let spec = self.code2wav(self.load_code2wav(code2wav)?);
            self.enter_stage(ledger, self.speech.backend, &spec, None)?;
        }
        Ok(())
    }

    fn cache(&self, stage: &str, bytes_per_block: usize, max_model_len: usize) -> CacheClaim {
        let (steps, weight) = match stage {
            "thinker" => (THINKER_STEPS, THINKER_CACHE_WEIGHT),
            _ => (TALKER_STEPS, TALKER_CACHE_WEIGHT),
        };
        CacheClaim {
            stage: stage.to_owned(),
            bytes_per_block: bytes_per_block as u64,
            max_model_len,
            max_num_seqs: steps.max_num_seqs,
            replicas: self.options.replicas,
            weight,
        }
    }

    /// Enters a stage whose model has just been loaded on `outline`. Its replica has a cache for one sequence.
    fn enter_stage(
        &self,
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
        let replicas = u64::from(self.options.replicas);
        ledger.claim(&format!("{} workspace", spec.name), model.buffers + replicas * space);
        Ok(())
    }
}
