//! One request while it is spoken.

use std::sync::Arc;

use crate::engine::{FinishReason, SamplingParams, SequenceKey, TokenHistory};
use crate::metrics::TokenCounts;
use crate::models::qwen3_omni::{
    CodecSide, PromptRow, PromptText, ReplyText, TalkerPrompt, TalkerRow, TextSide,
};

/// A reply on its way from words to codec frames.
pub(super) struct Speech {
    /// The sequence of its input rows.
    pub(super) key: SequenceKey,
    /// The rows before the first frame, but for the reply's first word.
    prompt: TalkerPrompt,
    /// The words that are to be spoken.
    pub(super) words: ReplyText,
    /// All input rows so far; kept so that they can be computed again after a preemption.
    rows: Vec<TalkerRow>,
    /// A frame that waits for the word that goes with it.
    waiting_frame: Option<Arc<[u32]>>,
    /// How the first code of a frame is sampled.
    pub(super) params: SamplingParams,
    /// How the others are.
    pub(super) predictor_params: SamplingParams,
    /// First codes sampled.
    pub(super) history: TokenHistory,
    /// Seed of all draws.
    pub(super) seed: u64,
    pub(super) started: bool,
}

impl Speech {
    pub(super) fn new(
        key: SequenceKey,
        prompt: TalkerPrompt,
        words: ReplyText,
        params: SamplingParams,
        seed: u64,
    ) -> Self {
        let subtalker = params.subtalker;
        Self {
            key,
            prompt,
            words,
            rows: Vec::new(),
            waiting_frame: None,
            predictor_params: SamplingParams {
                temperature: subtalker.temperature,
                top_k: subtalker.top_k,
                top_p: subtalker.top_p,
                ..SamplingParams::default()
            },
            // The penalty looks at the speech alone, not at the prompt.
            history: TokenHistory::new(&params, &[]),
            params,
            seed,
            started: false,
        }
    }

    /// Appends the input rows that have become complete and says how many. A row needs the word that is spoken with
    /// it; the rows of the prompt need the reply's first word.
    pub(super) fn advance(&mut self) -> usize {
        let before = self.rows.len();
        if self.rows.is_empty() {
            if let Some(first) = self.words.take_first_word() {
                self.rows = self.prompt.rows(first).into_iter().filter_map(prompt_row).collect();
            }
        } else if self.waiting_frame.is_some()
            && let Some(word) = self.words.take()
            && let Some(frame) = self.waiting_frame.take()
        {
            self.rows.push(TalkerRow { text: TextSide::Token(word), codec: CodecSide::Frame(frame) });
        }
        self.rows.len() - before
    }

    /// A frame was spoken; its row follows when its word is known.
    pub(super) fn push_frame(&mut self, codes: &[u32]) {
        self.waiting_frame = Some(codes.into());
    }

    /// Rows from `start` on.
    pub(super) fn rows(&self, start: usize, len: usize) -> &[TalkerRow] {
        self.rows.get(start..start + len).unwrap_or_default()
    }

    /// Number of rows so far.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows of its prompt and first codes sampled; neither if it has no words to speak.
    pub(super) fn tokens(&self) -> TokenCounts {
        let output = u64::from(self.history.generated());
        TokenCounts { input: if output > 0 { self.prompt.len() as u64 } else { 0 }, output }
    }

    /// There are no words: nothing will ever be spoken.
    pub(super) fn is_silent(&self) -> bool {
        self.rows.is_empty() && self.words.is_silent()
    }

    /// Why the speech ends with this first code, if it does. The frame of the code is not completed then.
    pub(super) fn ending(&self, code: u32, end_of_speech: u32, max_rows: usize) -> Option<FinishReason> {
        if code == end_of_speech || self.params.stop_token_ids.contains(&code) {
            Some(FinishReason::Stop)
        } else if self.history.generated() >= self.params.max_tokens || self.len() >= max_rows {
            Some(FinishReason::Length)
        } else {
            None
        }
    }
}

/// A row of the prompt as the talker takes it. Rows that stand for media come with the thinker's hidden states, which
/// are not sent to this stage: a prompt of text has none.
fn prompt_row(row: PromptRow) -> Option<TalkerRow> {
    let codec = row.codec.map_or(CodecSide::None, CodecSide::Token);
    match row.text {
        PromptText::Token(id) => Some(TalkerRow { text: TextSide::Token(id), codec }),
        PromptText::Hidden { .. } => None,
    }
}
