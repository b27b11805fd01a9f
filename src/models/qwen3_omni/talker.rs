//! The talker: hears the thinker's words and speaks the first code of every frame.

use std::sync::Arc;

use super::code_predictor::CodePredictor;
use super::config::{OmniConfig, TalkerConfig};
use super::projection::{Projection, ProjectionShape, ProjectionSpace};
use crate::models::LoadError;
use crate::models::qwen3::{EmbeddedDecoder, Loader, TapPoint, Taps, Workspace};
use crate::tensor::{BatchLimits, DeviceError, Dtype, InputRows, StepBatch, WeightStore};

/// Ids at the end of the codec vocabulary that are no codes. Of these only the end of speech is ever sampled.
const SPECIAL_CODES: usize = 1024;

/// The talker's decoder with everything that makes its input rows.
pub struct Talker<B: InputRows> {
    /// The device that holds it.
    backend: B,
    /// Its dimensions and ids.
    config: TalkerConfig,
    /// The thinker's token that fills the text side.
    pad_token: u32,
    /// The thinker's embedding table, `[thinker vocab, thinker hidden]`.
    thinker_embedding: B::Matrix,
    /// For embeddings of the thinker's tokens.
    text_projection: Projection<B>,
    /// For hidden states of the thinker.
    hidden_projection: Projection<B>,
    /// The projected padding token, `[hidden]`: most of the time speech goes on after the text has ended.
    pad_row: B::Buffer,
    /// First codes and special ids, `[codec vocab, hidden]`.
    codec_embedding: B::Matrix,
    /// `codec_embedding`, then the tables of the other codes of a frame.
    frame_embeddings: Vec<B::Matrix>,
    /// The layers.
    decoder: EmbeddedDecoder<B>,
    /// `[codec vocab, hidden]`.
    head: B::Matrix,
}

/// An input row.
#[derive(Debug, Clone, PartialEq)]
pub struct TalkerRow {
    /// The text side.
    pub text: TextSide,
    /// What is added to it.
    pub codec: CodecSide,
}

/// The text side of an input row.
#[derive(Debug, Clone, PartialEq)]
pub enum TextSide {
    /// The embedding of a token of the thinker, through the text projection.
    Token(u32),
    /// A hidden state of the thinker, `[thinker hidden]`, through the hidden projection.
    Hidden(Arc<[f32]>),
}

/// The codec side of an input row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodecSide {
    /// Nothing.
    None,
    /// The embedding of a codec token.
    Token(u32),
    /// The sum of the embeddings of a frame's codes, as many as there are code groups.
    Frame(Arc<[u32]>),
}

/// The talker's memory, made once for the largest step.
pub struct TalkerWorkspace<B: InputRows> {
    /// For the decoder; holds logits and states after a step.
    decoder: Workspace<B>,
    /// For the projections.
    projection: ProjectionSpace<B>,
}

impl<B: InputRows> TalkerWorkspace<B> {
    /// Waits for the last step and shows its logits, `[logit_rows, codec vocab]`.
    pub fn logits(&mut self) -> Result<&[f32], DeviceError> {
        self.decoder.logits()
    }

    /// The final-norm states of the rows whose logits were wanted, `[logit_rows, hidden]`: what the code predictor
    /// begins with.
    pub fn states(&self) -> &B::Buffer {
        self.decoder.logit_states()
    }
}

impl<B: InputRows> Talker<B> {
    /// Loads the weights under `talker.` but for those of the code predictor, whose embeddings are shared.
    pub fn load(
        backend: &B,
        config: &OmniConfig,
        talker: &TalkerConfig,
        thinker_embedding: B::Matrix,
        predictor: &CodePredictor<B>,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        let loader = Loader { backend, store, dtype };
        let (vocab, hidden) = (talker.decoder.vocab_size, talker.decoder.hidden_size);
        let shape = projection_shape(talker);
        let text_projection = Projection::load(&loader, "talker.text_projection", shape)?;
        let codec_embedding = loader.matrix(&[("talker.model.codec_embedding.weight", vocab)], hidden)?;
        let mut frame_embeddings = vec![codec_embedding.clone()];
        frame_embeddings.extend(predictor.embeddings().iter().cloned());
        let pad_token = config.tokens.tts_pad_token_id;
        let mut space = ProjectionSpace::new(backend, shape, 1)?;
        backend.add_embeddings(&[&thinker_embedding], &[pad_token], &[0], 1.0, &mut space.input)?;
        text_projection.forward(backend, 1, &mut space)?;
        Ok(Self {
            backend: backend.clone(),
            config: talker.clone(),
            pad_token,
            thinker_embedding,
            text_projection,
            hidden_projection: Projection::load(&loader, "talker.hidden_projection", shape)?,
            pad_row: space.output,
            codec_embedding,
            frame_embeddings,
            decoder: EmbeddedDecoder::load(&loader, "talker.model", talker.decoder.clone())?,
            head: loader.matrix(&[("talker.codec_head.weight", vocab)], hidden)?,
        })
    }

    /// Its dimensions and ids.
    pub fn config(&self) -> &TalkerConfig {
        &self.config
    }

    /// The table of first codes, `[codec vocab, hidden]`, which the code predictor reads too.
    pub fn codec_embedding(&self) -> &B::Matrix {
        &self.codec_embedding
    }

    /// A KV cache of `blocks` blocks of [`BLOCK_SIZE`](crate::tensor::BLOCK_SIZE) rows.
    pub fn new_cache(&self, blocks: usize) -> Result<B::Cache, DeviceError> {
        self.decoder.new_cache(blocks)
    }

    /// Bytes of one block of the KV cache, over all layers.
    pub fn kv_bytes_per_block(&self) -> usize {
        self.decoder.kv_bytes_per_block()
    }

    /// Memory for steps within `limits`.
    pub fn new_workspace(&self, limits: BatchLimits) -> Result<TalkerWorkspace<B>, DeviceError> {
        Ok(TalkerWorkspace {
            decoder: self.decoder.new_workspace(limits)?,
            projection: ProjectionSpace::new(&self.backend, projection_shape(&self.config), limits.rows)?,
        })
    }

    /// Room to keep hidden states; [`TapPoint::Embeddings`] are the input rows.
    pub fn new_taps(&self, points: &[TapPoint], max_rows: usize) -> Result<Taps<B>, DeviceError> {
        self.decoder.new_taps(points, max_rows)
    }

    /// Whether an id is never sampled: all of the last 1024 but the end of speech.
    pub fn is_suppressed(&self, id: u32) -> bool {
        let vocab = self.config.decoder.vocab_size;
        let special = vocab.saturating_sub(SPECIAL_CODES)..vocab;
        special.contains(&(id as usize)) && id != self.config.tokens.codec_eos_token_id
    }

    /// Runs one step over `rows`, which are described by `step` but for their content; `step.token_ids` is empty.
    ///
    /// Fails on ids that a table does not have, hidden states of another width and frames of another size.
    pub fn forward(
        &self,
        step: &StepBatch,
        rows: &[TalkerRow],
        cache: &mut B::Cache,
        space: &mut TalkerWorkspace<B>,
        taps: Option<&mut Taps<B>>,
    ) -> Result<(), DeviceError> {
        if rows.len() != step.rows() {
            return Err(DeviceError::Batch(format!("{} input rows for {} rows", rows.len(), step.rows())));
        }
        let TalkerWorkspace { decoder, projection } = space;
        let fill = |out: &mut B::Buffer| self.fill(rows, projection, out);
        self.decoder.forward(step, fill, &self.head, cache, decoder, taps)
    }

    /// Writes the input rows, `[rows, hidden]`.
    fn fill(
        &self,
        rows: &[TalkerRow],
        space: &mut ProjectionSpace<B>,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let (backend, width) = (&self.backend, self.config.decoder.hidden_size);
        let sorted = SortedRows::new(self, rows)?;

        let words = sorted.words.len();
        backend.write(&vec![0.0; words * self.config.thinker_hidden_size], &mut space.input)?;
        let places: Vec<u32> = (0..words as u32).collect();
        backend.add_embeddings(&[&self.thinker_embedding], &sorted.words, &places, 1.0, &mut space.input)?;
        self.text_projection.forward(backend, words, space)?;
        backend.copy_rows(&space.output, &sorted.word_rows, width, out)?;

        backend.write(&sorted.states, &mut space.input)?;
        self.hidden_projection.forward(backend, sorted.state_rows.len(), space)?;
        backend.copy_rows(&space.output, &sorted.state_rows, width, out)?;
        backend.copy_rows(&self.pad_row, &sorted.pad_rows, width, out)?;

        backend.add_embeddings(&[&self.codec_embedding], &sorted.codes, &sorted.code_rows, 1.0, out)?;
        let tables: Vec<&B::Matrix> = self.frame_embeddings.iter().collect();
        backend.add_embeddings(&tables, &sorted.frames, &sorted.frame_rows, 1.0, out)
    }
}

/// Input rows by what they are made of.
#[derive(Debug, Default)]
struct SortedRows {
    /// Tokens of the thinker.
    words: Vec<u32>,
    /// Their places among the words and the rows.
    word_rows: Vec<(u32, u32)>,
    /// Hidden states of the thinker, one after the other.
    states: Vec<f32>,
    /// Their places among the states and the rows.
    state_rows: Vec<(u32, u32)>,
    /// Rows whose text side is padding.
    pad_rows: Vec<(u32, u32)>,
    /// Codec tokens.
    codes: Vec<u32>,
    /// Their rows.
    code_rows: Vec<u32>,
    /// Codes of frames, one frame after the other.
    frames: Vec<u32>,
    /// Their rows.
    frame_rows: Vec<u32>,
}

impl SortedRows {
    fn new<B: InputRows>(talker: &Talker<B>, rows: &[TalkerRow]) -> Result<Self, DeviceError> {
        let mut sorted = Self::default();
        for (row, input) in (0u32..).zip(rows) {
            match &input.text {
                TextSide::Token(id) if *id == talker.pad_token => sorted.pad_rows.push((0, row)),
                TextSide::Token(id) => {
                    sorted.word_rows.push((sorted.words.len() as u32, row));
                    sorted.words.push(*id);
                }
                TextSide::Hidden(state) => {
                    let width = talker.config.thinker_hidden_size;
                    if state.len() != width {
                        let text =
                            format!("a hidden state of {} values where {width} are needed", state.len());
                        return Err(DeviceError::Batch(text));
                    }
                    sorted.state_rows.push((sorted.state_rows.len() as u32, row));
                    sorted.states.extend_from_slice(state);
                }
            }
            match &input.codec {
                CodecSide::None => {}
                CodecSide::Token(id) => {
                    sorted.codes.push(*id);
                    sorted.code_rows.push(row);
                }
                CodecSide::Frame(codes) => {
                    let groups = talker.config.num_code_groups;
                    if codes.len() != groups {
                        let text = format!("a frame of {} codes where {groups} are needed", codes.len());
                        return Err(DeviceError::Batch(text));
                    }
                    sorted.frames.extend_from_slice(codes);
                    sorted.frame_rows.push(row);
                }
            }
        }
        Ok(sorted)
    }
}

/// The widths of both projections.
fn projection_shape(config: &TalkerConfig) -> ProjectionShape {
    ProjectionShape {
        input: config.thinker_hidden_size,
        inner: config.projection_size,
        output: config.decoder.hidden_size,
    }
}
