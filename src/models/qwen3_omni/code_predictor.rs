//! The code predictor: completes a frame whose first code the talker has chosen, one code after the other.
//!
//! Its sequence is the talker's state, the embedding of the first code, and then the embedding of each code it has
//! given itself. Every code has a table and an output projection of its own. The sequence is as long as a frame
//! has codes and is forgotten after it, so the cache is small and has one fixed place for each frame of a step.

use super::config::TalkerConfig;
use crate::models::LoadError;
use crate::models::qwen3::{DecodeTraffic, EmbeddedDecoder, Loader, StepShape, Work, Workspace};
use crate::tensor::{
    BLOCK_SIZE, BatchLimits, DeviceError, Dtype, InputRows, SequenceSpan, StepBatch, WeightStore,
};

/// The code predictor.
pub struct CodePredictor<B: InputRows> {
    /// The device that holds it.
    backend: B,
    /// The layers.
    decoder: EmbeddedDecoder<B>,
    /// Tables of the codes after the first, each `[vocab, hidden]`.
    embeddings: Vec<B::Matrix>,
    /// Output projections of the codes after the first, each `[vocab, hidden]`.
    heads: Vec<B::Matrix>,
}

/// A frame whose first code is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameStart {
    /// The row of the talker's states that the code was chosen from.
    pub state_row: u32,
    /// The first code.
    pub code: u32,
}

/// The code predictor's memory, made once for the most frames of a step.
pub struct CodePredictorWorkspace<B: InputRows> {
    /// Frames that there is room for.
    max_frames: usize,
    /// For the decoder.
    decoder: Workspace<B>,
    /// Keys and values of the frames at work.
    cache: B::Cache,
    /// The step at work.
    step: StepBatch,
    /// Codes of the frames, `[frames, groups]`.
    codes: Vec<u32>,
}

impl<B: InputRows> CodePredictorWorkspace<B> {
    /// The codes of the frames of the last call, `[frames, groups]`.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }
}

impl<B: InputRows> CodePredictor<B> {
    /// Loads the weights under `talker.code_predictor.`.
    pub fn load(
        backend: &B,
        talker: &TalkerConfig,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        let loader = Loader { backend, store, dtype };
        let config = &talker.code_predictor;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let tables = |part: &str| {
            (0..talker.num_code_groups.saturating_sub(1))
                .map(|group| {
                    let name = format!("talker.code_predictor.{part}.{group}.weight");
                    loader.matrix(&[(&name, vocab)], hidden)
                })
                .collect::<Result<Vec<_>, LoadError>>()
        };
        Ok(Self {
            backend: backend.clone(),
            embeddings: tables("model.codec_embedding")?,
            heads: tables("lm_head")?,
            decoder: EmbeddedDecoder::load(&loader, "talker.code_predictor.model", config.clone())?,
        })
    }

    /// Tables of the codes after the first, each `[vocab, hidden]`.
    pub fn embeddings(&self) -> &[B::Matrix] {
        &self.embeddings
    }

    /// Codes of a frame, the first included.
    pub fn groups(&self) -> usize {
        self.heads.len() + 1
    }

    /// Ids of one code group.
    pub fn vocab_size(&self) -> usize {
        self.decoder.config().vocab_size
    }

    /// The work of completing frames together, with weights of so many bytes on average.
    pub fn work(&self, frames: usize, bytes_per_weight: f64) -> Work {
        let cache_bytes_per_token = self.decoder.kv_bytes_per_block() as f64 / BLOCK_SIZE as f64;
        let decoder =
            DecodeTraffic { config: self.decoder.config().clone(), bytes_per_weight, cache_bytes_per_token };
        let mut work = Work::default();
        for group in 0..self.heads.len() {
            // As `describe_step` has it.
            let (first, rows) = if group == 0 { (0, 2) } else { (group + 1, 1) };
            let frame = StepShape::span(first, rows, true);
            work += decoder.work(StepShape {
                rows: frames * frame.rows,
                logit_rows: frames,
                meetings: frames * frame.meetings,
                context: frames * frame.context,
            });
        }
        work
    }

    /// Memory for up to `max_frames` frames in a call.
    pub fn new_workspace(&self, max_frames: usize) -> Result<CodePredictorWorkspace<B>, DeviceError> {
        Ok(CodePredictorWorkspace {
            max_frames,
            decoder: self
                .decoder
                .new_workspace(BatchLimits { rows: 2 * max_frames, logit_rows: max_frames })?,
            cache: self.decoder.new_cache(max_frames * self.blocks_per_frame())?,
            step: StepBatch::default(),
            codes: Vec::with_capacity(max_frames * self.groups()),
        })
    }

    /// Completes frames, one for each of `starts`. `states` are the talker's, `[rows, hidden]`, and
    /// `first_embedding` is its table of first codes.
    ///
    /// `choose(group, logits, codes)` is called once for every group after the first, counted from 0: it reads
    /// logits `[frames, vocab]` and writes a code for each frame.
    pub fn predict(
        &self,
        states: &B::Buffer,
        first_embedding: &B::Matrix,
        starts: &[FrameStart],
        space: &mut CodePredictorWorkspace<B>,
        mut choose: impl FnMut(usize, &[f32], &mut [u32]) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let (frames, groups) = (starts.len(), self.groups());
        if frames > space.max_frames {
            return Err(DeviceError::Batch(format!(
                "{frames} frames where there is room for {}",
                space.max_frames
            )));
        }
        space.codes.clear();
        space.codes.resize(frames * groups, 0);
        let mut chosen: Vec<u32> = starts.iter().map(|start| start.code).collect();
        store(&mut space.codes, groups, 0, &chosen);
        let (backend, hidden) = (&self.backend, self.decoder.config().hidden_size);
        for (group, head) in self.heads.iter().enumerate() {
            self.describe_step(frames, group, &mut space.step);
            let rows = space.step.rows();
            let code_rows = space.step.logit_rows.clone();
            let table = match group.checked_sub(1) {
                None => first_embedding,
                Some(before) => self.embeddings.get(before).unwrap_or(first_embedding),
            };
            let fill = |out: &mut B::Buffer| {
                backend.write(&vec![0.0; rows * hidden], out)?;
                if group == 0 {
                    let pairs: Vec<(u32, u32)> = starts
                        .iter()
                        .zip(0u32..)
                        .map(|(start, frame)| (start.state_row, 2 * frame))
                        .collect();
                    backend.copy_rows(states, &pairs, hidden, out)?;
                }
                backend.add_embeddings(&[table], &chosen, &code_rows, 1.0, out)
            };
            self.decoder.forward(&space.step, fill, head, &mut space.cache, &mut space.decoder, None)?;
            choose(group, space.decoder.logits()?, &mut chosen)?;
            store(&mut space.codes, groups, group + 1, &chosen);
        }
        Ok(())
    }

    fn blocks_per_frame(&self) -> usize {
        self.groups().div_ceil(BLOCK_SIZE)
    }

    /// Describes the step that gives the logits of a group: two rows a frame at first, then one.
    fn describe_step(&self, frames: usize, group: usize, step: &mut StepBatch) {
        let blocks = self.blocks_per_frame() as u32;
        let (first, rows) = if group == 0 { (0, 2) } else { (group as u32 + 1, 1) };
        step.clear();
        for frame in 0..frames as u32 {
            let first_row = frame * rows;
            for position in first..first + rows {
                step.slot_mapping.push(frame * blocks * BLOCK_SIZE as u32 + position);
                step.positions.iter_mut().for_each(|axis| axis.push(position as f32));
            }
            step.sequences.push(SequenceSpan {
                first_row,
                rows,
                context: first + rows,
                block_table: (frame * blocks..(frame + 1) * blocks).collect(),
            });
            step.logit_rows.push(first_row + rows - 1);
        }
    }
}

/// Puts the codes of one group into their frames.
fn store(codes: &mut [u32], groups: usize, group: usize, chosen: &[u32]) {
    for (frame, code) in codes.chunks_exact_mut(groups).zip(chosen) {
        if let Some(place) = frame.get_mut(group) {
            *place = *code;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::qwen3_omni::OmniConfig;
    use crate::tensor::Backend;
    use crate::tensor::cpu::{Cpu, Isa};

    #[test]
    fn a_frame_alone_gives_the_codes_and_bits_that_it_gives_in_a_batch() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
        let talker = OmniConfig::read(&demo).unwrap().talker.unwrap();
        let store = WeightStore::open(&demo).unwrap();
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(isa, None).unwrap();
            let predictor = CodePredictor::load(&cpu, &talker, &store, Dtype::Auto).unwrap();
            let mut space = predictor.new_workspace(5).unwrap();
            let hidden = talker.decoder.hidden_size;
            let values: Vec<f32> = (0..5 * hidden).map(|at| ((at * 37 % 101) as f32 - 50.0) * 0.02).collect();
            let states = cpu.upload_values(&values).unwrap();
            let starts: Vec<FrameStart> =
                (0..5).map(|row| FrameStart { state_row: 4 - row, code: 10 * row }).collect();
            let mut run = |starts: &[FrameStart]| {
                let mut seen = vec![Vec::new(); starts.len()];
                let choose = |_: usize, logits: &[f32], codes: &mut [u32]| {
                    let rows = logits.chunks_exact(predictor.vocab_size());
                    for ((row, code), seen) in rows.zip(codes).zip(&mut seen) {
                        *code = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
                        seen.extend_from_slice(row);
                    }
                    Ok(())
                };
                let first = &predictor.embeddings()[0];
                predictor.predict(&states, first, starts, &mut space, choose).unwrap();
                (space.codes().to_vec(), seen)
            };
            let (together, logits) = run(&starts);
            for (index, start) in starts.iter().enumerate() {
                let (alone, own) = run(&[*start]);
                assert_eq!(alone, together[index * predictor.groups()..][..predictor.groups()], "{isa}");
                assert_eq!(own[0], logits[index], "{isa}");
                assert_eq!(alone[0], start.code);
            }
        }
    }

    #[test]
    fn more_frames_than_there_is_room_for_are_refused() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
        let talker = OmniConfig::read(&demo).unwrap().talker.unwrap();
        let cpu = Cpu::with_isa(Isa::Plain, None).unwrap();
        let store = WeightStore::open(&demo).unwrap();
        let predictor = CodePredictor::load(&cpu, &talker, &store, Dtype::Auto).unwrap();
        let mut space = predictor.new_workspace(1).unwrap();
        let states = cpu.buffer(talker.decoder.hidden_size).unwrap();
        let starts = [FrameStart { state_row: 0, code: 0 }; 2];
        let choose = |_: usize, _: &[f32], _: &mut [u32]| Ok(());
        let first = &predictor.embeddings()[0];
        let error = predictor.predict(&states, first, &starts, &mut space, choose).unwrap_err();
        assert!(error.to_string().contains("room for 1"), "{error}");
    }
}
