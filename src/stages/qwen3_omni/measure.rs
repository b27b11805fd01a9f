//! What a pipeline takes of its devices, found by building it on outlines of them.

use super::{Builder, PipelineError, TALKER_CACHE_WEIGHT, THINKER_CACHE_WEIGHT, ThinkerDevice};
use crate::config::deploy::StageKind;
use crate::engine::BlockPool;
use crate::models::qwen3::LanguageModel;
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::checkpoint_pipeline::{cache_claim, enter_stage, granted_blocks};
use crate::stages::memory_ledger::MemoryLedger;
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
        let (thinker, speech) = (&self.thinker.device.device, &self.speech);
        let (first, second) = (Outline::of(thinker.outlined), Outline::of(speech.outlined));
        let together = thinker.ledger.device() == speech.ledger.device();
        let embedding = |_: &LanguageModel<Outline>, config: &OmniConfig| {
            // On one device the talker reads the thinker's own table.
            if together {
                return Ok(());
            }
            Thinker::load_embedding(&second, config, self.source.store, self.source.options.deploy.dtype)
        };
        let outlined = Builder {
            source: self.source,
            thinker: ThinkerDevice { device: self.thinker.device.outline(&first), embedding: &embedding },
            speech: speech.outline(&second),
            config: self.config,
            thinker_deploy: self.thinker_deploy,
        };
        let mut ledgers = vec![self.source.account(thinker)];
        if !together {
            ledgers.push(self.source.account(speech));
        }
        outlined.enter(&mut ledgers)?;
        let (mut grants, mut lines) = (Vec::new(), Vec::new());
        for ledger in ledgers {
            let own = ledger.settle()?;
            lines.push(ledger.summary(&own));
            grants.extend(own);
        }
        let talker = self.source.options.deploy.stage_of(&StageKind::Talker);
        let blocks = CacheBlocks {
            thinker: granted_blocks(&grants, &self.thinker_deploy.name),
            talker: talker.map_or(0, |stage| granted_blocks(&grants, &stage.name)),
        };
        Ok((blocks, lines))
    }
}

impl Builder<'_, Outline, Outline> {
    /// Builds every stage and a replica of it, and enters what that took: the thinker in the first ledger, what speaks
    /// in the last.
    fn enter(&self, ledgers: &mut [MemoryLedger]) -> Result<(), PipelineError> {
        let deploy = &self.source.options.deploy;
        let thinker = self.load_thinker()?;
        if let Some(ledger) = ledgers.first_mut() {
            self.thinker().enter(ledger, thinker.clone(), THINKER_CACHE_WEIGHT)?;
        }
        let Some(ledger) = ledgers.last_mut() else { return Ok(()) };
        if let (Some(config), Some(stage)) = (&self.config.talker, deploy.stage_of(&StageKind::Talker)) {
            let talker = self.load_talker(config, &thinker.0)?;
            let max_model_len = self.source.max_model_len(stage, config.max_position_embeddings)?;
            let bytes_per_block = talker.0.talker.kv_bytes_per_block();
            let cache = cache_claim(stage, bytes_per_block, max_model_len, TALKER_CACHE_WEIGHT);
            let spec = self.talker(talker, stage, BlockPool::blocks_for(max_model_len))?;
            enter_stage(ledger, self.speech.backend, &spec, Some(cache))?;
        }
        if let (Some(config), Some(stage)) = (&self.config.code2wav, deploy.stage_of(&StageKind::Vocoder)) {
            let spec = self.code2wav(self.load_code2wav(config)?, stage);
            enter_stage(ledger, self.speech.backend, &spec, None)?;
        }
        Ok(())
    }
}
