//! The talker stage: words in, codec frames out.
//!
//! It is an engine like the thinker's, but for its input: rows are made of the thinker's words and of its own last
//! frame, so a request grows as words arrive, and waits while the next one is not known. The first code of a frame is
//! sampled from the talker's logits; the code predictor completes the frame.

mod speech;

use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;

use self::speech::Speech;
use crate::engine::{
    BlockPool, Draw, FinishReason, Sampler, ScheduledSpan, Scheduler, SchedulerConfig, SequenceKey,
};
use crate::ids::{RequestId, StageId};
use crate::metrics::{ReplicaStats, SchedulerSnapshot};
use crate::models::qwen3_omni::{
    CodePredictor, CodePredictorWorkspace, FrameStart, OmniConfig, ReplyText, Talker, TalkerConfig,
    TalkerPrompt, TalkerRow, TalkerWorkspace,
};
use crate::stages::engine_statistics::{EngineStatistics, snapshot};
use crate::stages::{
    EngineStatisticsOptions, Poll, Prompt, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput,
    StageRequest, Ticket,
};
use crate::tensor::{BatchLimits, InputRows, StepBatch};
use crate::transport::{Chunk, Payload};

/// The models of a talker stage; shared by its replicas.
pub struct TalkerModels<B: InputRows> {
    /// Configuration of the whole checkpoint.
    pub config: OmniConfig,
    /// The part of it that is the talker's.
    pub talker_config: TalkerConfig,
    /// Speaks the first code of a frame.
    pub talker: Talker<B>,
    /// Completes the frame.
    pub predictor: CodePredictor<B>,
}

/// How a [`TalkerStage`] works.
#[derive(Debug, Clone)]
pub struct TalkerSettings {
    /// Which stage of the pipeline it is; part of what random numbers depend on.
    pub stage: StageId,
    /// Bounds of a step.
    pub scheduler: SchedulerConfig,
    /// Blocks of the KV cache. They must hold at least one sequence of `max_model_len` rows.
    pub cache_blocks: usize,
    /// The most rows of prompt and speech together.
    pub max_model_len: usize,
    /// Seed of requests that bring none.
    pub seed: u64,
    /// Which statistics are kept.
    pub statistics: EngineStatisticsOptions,
}

/// Speaks.
pub struct TalkerStage<B: InputRows> {
    settings: TalkerSettings,
    models: Arc<TalkerModels<B>>,
    cache: B::Cache,
    workspace: TalkerWorkspace<B>,
    predictor_workspace: CodePredictorWorkspace<B>,
    scheduler: Scheduler,
    /// For first codes; it never chooses the ids that are no codes.
    sampler: Sampler,
    /// For the other codes.
    predictor_sampler: Sampler,
    speeches: HashMap<RequestId, Speech>,
    /// Whose sequence is whose.
    owners: HashMap<SequenceKey, RequestId>,
    /// The step that was planned last.
    spans: Vec<ScheduledSpan>,
    /// The same as rows, for the model.
    batch: StepBatch,
    rows: Vec<TalkerRow>,
    /// Logits of the step, for the sampler to work on.
    logits: Vec<f32>,
    /// Outputs that wait to be polled.
    outputs: Vec<StageOutput>,
    /// `None` when nobody counts.
    statistics: Option<EngineStatistics>,
    steps: u64,
}

/// A first code that was sampled and begins a frame.
struct Begun {
    request: RequestId,
    start: FrameStart,
}

impl<B: InputRows> TalkerStage<B> {
    /// A stage without requests.
    pub fn new(models: Arc<TalkerModels<B>>, settings: TalkerSettings) -> Result<Self, StageError> {
        let SchedulerConfig { max_num_batched_tokens: rows, max_num_seqs: logit_rows } = settings.scheduler;
        let pool = BlockPool::new(settings.cache_blocks).sampling(settings.statistics.kv_block_share);
        let scheduler = Scheduler::new(settings.scheduler, pool);
        if scheduler.longest_sequence() < settings.max_model_len {
            return Err(StageError::OutOfCapacity(format!(
                "the talker's KV cache holds {} rows, less than one sequence of {}",
                scheduler.longest_sequence(),
                settings.max_model_len
            )));
        }
        let talker = &models.talker;
        let vocabulary = models.talker_config.decoder.vocab_size as u32;
        let suppressed = (0..vocabulary).filter(|&id| talker.is_suppressed(id)).collect();
        let end_of_speech = models.talker_config.tokens.codec_eos_token_id;
        Ok(Self {
            cache: talker.new_cache(settings.cache_blocks)?,
            workspace: talker.new_workspace(BatchLimits { rows, logit_rows })?,
            predictor_workspace: models.predictor.new_workspace(logit_rows)?,
            scheduler,
            sampler: Sampler::new(vec![end_of_speech], suppressed),
            predictor_sampler: Sampler::new(Vec::new(), Vec::new()),
            speeches: HashMap::default(),
            owners: HashMap::default(),
            spans: Vec::new(),
            batch: StepBatch::default(),
            rows: Vec::new(),
            logits: Vec::new(),
            outputs: Vec::new(),
            // Its input is no tokens, which could be looked up.
            statistics: EngineStatistics::new(&settings.statistics, false),
            settings,
            models,
            steps: 0,
        })
    }

    fn prompt_of(&self, prompt: &Prompt) -> Result<TalkerPrompt, StageError> {
        let TalkerModels { config, talker_config, .. } = &*self.models;
        let speakers = &talker_config.speakers;
        let speaker = match &prompt.voice {
            Some(voice) => speakers.iter().find(|(name, _)| name.eq_ignore_ascii_case(voice)),
            None => speakers.first(),
        };
        let Some((_, speaker)) = speaker else {
            return Err(StageError::InvalidInput("the checkpoint has no such voice".into()));
        };
        let rows = TalkerPrompt::new(config, talker_config, *speaker, &prompt.token_ids)
            .map_err(|error| StageError::InvalidInput(error.to_string()))?;
        if let Some(position) = rows.hidden_positions().next() {
            return Err(StageError::InvalidInput(format!(
                "token {position} of the prompt stands for media, and the request has none"
            )));
        }
        if rows.len() >= self.settings.max_model_len {
            return Err(StageError::InvalidInput(format!(
                "speaking needs {} rows of prompt, and the talker takes {}",
                rows.len(),
                self.settings.max_model_len
            )));
        }
        Ok(rows)
    }

    /// Gives the scheduler the rows of a request that have become complete; ends it if it has nothing to say.
    fn advance(&mut self, id: RequestId) {
        let Some(speech) = self.speeches.get_mut(&id) else { return };
        let rows = speech.advance();
        if rows > 0 {
            self.scheduler.extend(speech.key, rows);
        } else if speech.is_silent() {
            self.finish(id, FinishReason::Stop);
        }
    }

    fn finish(&mut self, id: RequestId, reason: FinishReason) {
        let Some(speech) = self.speeches.remove(&id) else { return };
        let preemptions = self.scheduler.remove(speech.key);
        self.owners.remove(&speech.key);
        if let Some(statistics) = &mut self.statistics {
            statistics.finished(id, reason, preemptions);
        }
        for event in [StageEvent::Counted(speech.tokens()), StageEvent::Finished(reason)] {
            self.outputs.push(StageOutput { request: id, event });
        }
    }

    /// Gives up a request for which no code could be chosen.
    fn fail(&mut self, id: RequestId, error: StageError) {
        if let Some(statistics) = &mut self.statistics {
            statistics.corrupted();
        }
        self.remove(id);
        self.outputs.push(StageOutput { request: id, event: StageEvent::Failed(error) });
    }

    /// Lays the planned spans out as rows, and reports the requests that are taken up for the first time.
    fn fill_batch(&mut self) {
        self.batch.clear();
        self.rows.clear();
        for span in &self.spans {
            let Some(id) = self.owners.get(&span.key) else { continue };
            let Some(speech) = self.speeches.get_mut(id) else { continue };
            self.rows.extend_from_slice(speech.rows(span.start, span.len));
            self.batch.push_rows(
                span.len,
                span.start,
                self.scheduler.block_table(span.key),
                span.reaches_end,
            );
            if !std::mem::replace(&mut speech.started, true) {
                self.outputs.push(StageOutput { request: *id, event: StageEvent::Started });
                if let Some(statistics) = &mut self.statistics {
                    statistics.scheduled(*id);
                }
            }
        }
    }

    /// Samples the first codes of the next frames, and ends what ends with them.
    fn sample_first_codes(&mut self) -> Result<Vec<Begun>, StageError> {
        self.logits.clear();
        self.logits.extend_from_slice(self.workspace.logits()?);
        let end_of_speech = self.models.talker_config.tokens.codec_eos_token_id;
        let vocabulary = self.models.talker_config.decoder.vocab_size;
        let ends: Vec<SequenceKey> =
            self.spans.iter().filter(|span| span.reaches_end).map(|span| span.key).collect();
        let mut logits = std::mem::take(&mut self.logits);
        let (mut begun, now) = (Vec::new(), Instant::now());
        for ((key, logits), state_row) in ends.into_iter().zip(logits.chunks_exact_mut(vocabulary)).zip(0..) {
            let Some(&id) = self.owners.get(&key) else { continue };
            let Some(speech) = self.speeches.get_mut(&id) else { continue };
            if speech.params.ignore_eos
                && let Some(logit) = logits.get_mut(end_of_speech as usize)
            {
                *logit = f32::NEG_INFINITY;
            }
            let draw = Draw {
                seed: speech.seed,
                stage: self.settings.stage.0,
                choice: 0,
                step: speech.history.generated(),
                within_step: 0,
            };
            let code = match self.sampler.sample(logits, &speech.params, &speech.history, draw) {
                Ok(sampled) => sampled.id,
                Err(error) => {
                    self.fail(id, StageError::Failed(error.to_string()));
                    continue;
                }
            };
            speech.history.push(code);
            if let Some(statistics) = &mut self.statistics {
                statistics.token(id, 0, now);
            }
            match speech.ending(code, end_of_speech, self.settings.max_model_len) {
                Some(reason) => self.finish(id, reason),
                None => begun.push(Begun { request: id, start: FrameStart { state_row, code } }),
            }
        }
        self.logits = logits;
        Ok(begun)
    }

    /// Completes the frames that were begun, sends them on, and makes the rows that follow them.
    fn complete_frames(&mut self, begun: &[Begun]) -> Result<(), StageError> {
        let TalkerModels { talker, predictor, .. } = &*self.models;
        let starts: Vec<FrameStart> = begun.iter().map(|begun| begun.start).collect();
        let vocabulary = predictor.vocab_size();
        let (speeches, sampler) = (&self.speeches, &mut self.predictor_sampler);
        let (stage, scratch) = (self.settings.stage.0, &mut self.logits);
        let mut failed = Vec::new();
        let choose = |group: usize, logits: &[f32], codes: &mut [u32]| {
            scratch.clear();
            scratch.extend_from_slice(logits);
            for ((row, code), begun) in scratch.chunks_exact_mut(vocabulary).zip(codes).zip(begun) {
                let Some(speech) = speeches.get(&begun.request) else { continue };
                let draw = Draw {
                    seed: speech.seed,
                    stage,
                    choice: 0,
                    step: speech.history.generated() - 1,
                    within_step: group as u32 + 1,
                };
                match sampler.sample(row, &speech.predictor_params, &Default::default(), draw) {
                    Ok(sampled) => *code = sampled.id,
                    // The frames of the others go on; this one's codes are of no use, whatever they are.
                    Err(error) => {
                        failed.push((begun.request, error));
                        *code = 0;
                    }
                }
            }
            Ok(())
        };
        predictor.predict(
            self.workspace.states(),
            talker.codec_embedding(),
            &starts,
            &mut self.predictor_workspace,
            choose,
        )?;
        let groups = predictor.groups();
        for (id, error) in failed {
            if self.speeches.contains_key(&id) {
                self.fail(id, StageError::Failed(error.to_string()));
            }
        }
        let frames = self.predictor_workspace.codes().chunks_exact(groups);
        for (begun, codes) in begun.iter().zip(frames) {
            let Some(speech) = self.speeches.get_mut(&begun.request) else { continue };
            speech.push_frame(codes);
            let payload = Payload::Codes { groups: groups as u32, codes: codes.to_vec() };
            self.outputs.push(StageOutput { request: begun.request, event: StageEvent::Next(payload) });
        }
        for begun in begun {
            self.advance(begun.request);
        }
        Ok(())
    }
}

impl<B: InputRows> Stage for TalkerStage<B> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        let StageInput::Upstream(prompt) = &request.input else {
            return Err(StageError::Protocol("a talker takes its words as chunks".into()));
        };
        let rows = self.prompt_of(prompt)?;
        request
            .sampling
            .validate(self.models.talker_config.decoder.vocab_size)
            .map_err(|error| StageError::InvalidInput(error.to_string()))?;
        let words = ReplyText::new(&self.models.config, rows.begun());
        let key = self.scheduler.add(0, request.priority);
        let seed = request.sampling.seed.unwrap_or(self.settings.seed);
        if let Some(statistics) = &mut self.statistics {
            statistics.queued(&request, rows.len());
        }
        self.owners.insert(key, request.id);
        self.speeches.insert(request.id, Speech::new(key, rows, words, request.sampling, seed));
        self.advance(request.id);
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        let Some(speech) = self.speeches.get_mut(&chunk.request) else { return Ok(()) };
        match chunk.payload {
            Payload::End => {}
            Payload::Tokens(words) => speech.words.extend(words),
            other => {
                return Err(StageError::Protocol(format!(
                    "a talker takes tokens, not {}",
                    other.kind_name()
                )));
            }
        }
        if chunk.last {
            speech.words.finish();
        }
        self.advance(chunk.request);
        Ok(())
    }

    fn remove(&mut self, request: RequestId) {
        let Some(speech) = self.speeches.remove(&request) else { return };
        self.scheduler.remove(speech.key);
        self.owners.remove(&speech.key);
        if let Some(statistics) = &mut self.statistics {
            statistics.removed(request);
        }
    }

    fn plan(&mut self) -> Readiness {
        self.spans.clear();
        self.scheduler.plan(&mut self.spans);
        if self.spans.is_empty() && self.outputs.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        if !self.spans.is_empty() {
            self.fill_batch();
            if let Some(statistics) = &mut self.statistics {
                statistics.launched(&self.spans);
            }
            self.models.talker.forward(
                &self.batch,
                &self.rows,
                &mut self.cache,
                &mut self.workspace,
                None,
            )?;
            let begun = self.sample_first_codes()?;
            if !begun.is_empty() {
                self.complete_frames(&begun)?;
                if let Some(statistics) = &mut self.statistics {
                    let predictor = &self.models.predictor;
                    statistics.worked(|bytes_per_weight| predictor.work(begun.len(), bytes_per_weight));
                }
            }
            if let Some(statistics) = &mut self.statistics {
                statistics.step();
            }
        }
        self.steps += 1;
        Ok(Ticket(self.steps - 1))
    }

    fn poll(&mut self, _: Ticket, _: bool, outputs: &mut Vec<StageOutput>) -> Result<Poll, StageError> {
        outputs.append(&mut self.outputs);
        Ok(Poll::Complete)
    }

    fn scheduler(&self) -> Option<SchedulerSnapshot> {
        Some(snapshot(&self.scheduler))
    }

    fn report(&mut self, stats: &mut ReplicaStats) {
        if let Some(statistics) = &mut self.statistics {
            statistics.report(&mut self.scheduler, stats);
        }
    }
}

#[cfg(test)]
mod tests;
