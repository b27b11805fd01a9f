//! The cases `talker_*` without media: the talker and the code predictor in step, then the vocoder.

use std::path::Path;
use std::sync::Arc;

use omni_actors::models::qwen3::TapPoint;
use omni_actors::models::qwen3_omni::{
    CodePredictor, CodePredictorWorkspace, CodecSide, FrameStart, OmniConfig, PromptText, ReplyText, Talker,
    TalkerPrompt, TalkerRow, TalkerWorkspace, TextSide, Thinker,
};
use omni_actors::tensor::{
    BLOCK_SIZE, BatchLimits, Convolution, Dtype, InputRows, SequenceSpan, StepBatch, WeightStore,
};
use serde_json::Value;

use super::code2wav;
use super::golden::Golden;
use super::{Bound, Comparison, HIDDEN, LOGITS, WAVE};

/// The cases that need no media.
pub(crate) const CASES: [&str; 4] =
    ["talker_text", "talker_text_rep105", "talker_history", "talker_short_reply"];

/// The talker with its memory and one sequence.
struct Speaker<B: InputRows> {
    talker: Talker<B>,
    predictor: CodePredictor<B>,
    cache: B::Cache,
    space: TalkerWorkspace<B>,
    predictor_space: CodePredictorWorkspace<B>,
    fed: u32,
}

impl<B: InputRows> Speaker<B> {
    fn load(backend: &B, set: &Path, config: &OmniConfig, rows: usize) -> Self {
        let store = WeightStore::open(&set.join("checkpoint")).expect("weights");
        let own = config.talker.as_ref().expect("a talker");
        let thinker = Thinker::load(backend, config, &store, Dtype::Float32).expect("a thinker");
        let predictor = CodePredictor::load(backend, own, &store, Dtype::Float32).expect("a code predictor");
        let embedding = thinker.embedding().clone();
        let talker = Talker::load(backend, config, own, embedding, &predictor, &store, Dtype::Float32)
            .expect("a talker");
        Self {
            cache: talker.new_cache(rows.div_ceil(BLOCK_SIZE)).expect("a cache"),
            space: talker.new_workspace(BatchLimits { rows, logit_rows: 1 }).expect("memory"),
            predictor_space: predictor.new_workspace(1).expect("memory"),
            talker,
            predictor,
            fed: 0,
        }
    }

    /// Feeds rows; gives the input rows, the logits and the state of the last one.
    fn feed(&mut self, backend: &B, rows: &[TalkerRow]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (first, count) = (self.fed, rows.len() as u32);
        self.fed += count;
        let positions: Vec<f32> = (first..self.fed).map(|position| position as f32).collect();
        let step = StepBatch {
            token_ids: Vec::new(),
            positions: [positions.clone(), positions.clone(), positions],
            slot_mapping: (first..self.fed).collect(),
            sequences: vec![SequenceSpan {
                first_row: 0,
                rows: count,
                context: self.fed,
                block_table: (0..self.fed.div_ceil(BLOCK_SIZE as u32)).collect(),
            }],
            logit_rows: vec![count - 1],
        };
        let mut taps = self.talker.new_taps(&[TapPoint::Embeddings], rows.len()).expect("taps");
        self.talker
            .forward(&step, rows, &mut self.cache, &mut self.space, Some(&mut taps))
            .expect("a forward pass");
        let logits = self.space.logits().expect("logits").to_vec();
        let width = self.talker.config().decoder.hidden_size;
        let mut staging = Vec::new();
        let state = backend.read(self.space.states(), width, &mut staging).expect("a state").to_vec();
        (taps.read(TapPoint::Embeddings).expect("embeddings").to_vec(), logits, state)
    }

    /// Completes a frame greedily; gives its codes and all logits.
    fn complete(&mut self, code: u32) -> (Vec<u32>, Vec<f32>) {
        let mut seen = Vec::new();
        let start = FrameStart { state_row: 0, code };
        let choose = |_group: usize, logits: &[f32], codes: &mut [u32]| {
            seen.extend_from_slice(logits);
            codes[0] = greatest(logits);
            Ok(())
        };
        let (states, embedding) = (self.space.states(), self.talker.codec_embedding());
        self.predictor
            .predict(states, embedding, &[start], &mut self.predictor_space, choose)
            .expect("a frame");
        (self.predictor_space.codes().to_vec(), seen)
    }
}

fn greatest(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0) as u32
}

/// All comparisons of one case.
pub(crate) fn compare<B: Convolution + InputRows>(backend: &B, set: &Path, case: &str) -> Vec<Comparison> {
    let golden = Golden::read(set, case).expect("a golden file");
    let text = std::fs::read_to_string(set.join("golden/meta.json")).expect("meta.json");
    let meta: Value = serde_json::from_str(&text).expect("JSON");
    let settings = &meta["cases"][case];
    let penalty = settings["repetition_penalty"].as_f64().expect("a penalty") as f32;
    let voice = settings["speaker"].as_str().expect("a speaker").to_lowercase();
    let words = settings["thinker_new_ids"].as_array().expect("ids").len();

    let config = OmniConfig::read(&set.join("checkpoint")).expect("a configuration");
    let own = config.talker.as_ref().expect("a talker");
    let speaker = own.speakers.iter().find(|(name, _)| *name == voice).expect("the speaker").1;
    let ids = golden.ids("thinker_sequence").expect("ids");
    let (prompt_ids, reply) = ids.split_at(ids.len() - words);
    let prompt = TalkerPrompt::new(&config, own, speaker, prompt_ids).expect("a prompt");
    let mut text = ReplyText::new(&config, prompt.begun());
    // The last token that the thinker generated is not spoken.
    let spoken = reply.split_last().expect("a reply").1;
    text.extend(spoken.iter().copied());
    text.finish();
    let first_word = text.take_first_word().expect("a word");
    let rows: Vec<TalkerRow> = prompt
        .rows(first_word)
        .into_iter()
        .map(|row| TalkerRow {
            text: match row.text {
                PromptText::Token(id) => TextSide::Token(id),
                PromptText::Hidden { .. } => panic!("{case} has media"),
            },
            codec: row.codec.map_or(CodecSide::None, CodecSide::Token),
        })
        .collect();

    let mut found = Vec::new();
    let mut compare = |tensor: &str, ours: &[f32], golden: &[f32], bound: Bound| {
        found.push(Comparison::numbers(case, tensor, ours, golden, bound));
    };
    let steps = golden.shape("layer0_tokens")[0];
    let mut voice = Speaker::load(backend, set, &config, rows.len() + steps);
    let (inputs, mut logits, mut state) = voice.feed(backend, &rows);
    compare("talker_inputs_embeds", &inputs, &golden.numbers("talker_inputs_embeds"), HIDDEN);
    let positions: Vec<f32> = (0..3).flat_map(|_| (0..rows.len()).map(|row| row as f32)).collect();
    compare("talker_position_ids", &positions, &golden.numbers("talker_position_ids"), Bound::Exact);
    compare("first_step_logits", &logits, &golden.numbers("first_step_logits"), LOGITS);
    let suppressed: Vec<f32> =
        (0..logits.len() as u32).map(|id| f32::from(u8::from(voice.talker.is_suppressed(id)))).collect();
    compare("suppress_mask", &suppressed, &golden.numbers("suppress_mask"), Bound::Exact);

    let (mut tokens, mut frames): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    let (mut all_logits, mut all_states) = (Vec::new(), Vec::new());
    loop {
        all_logits.extend_from_slice(&logits);
        all_states.extend_from_slice(&state);
        for token in tokens.iter().collect::<std::collections::BTreeSet<_>>() {
            let logit = &mut logits[*token as usize];
            *logit = if *logit >= 0.0 { *logit / penalty } else { *logit * penalty };
        }
        for (id, logit) in (0u32..).zip(&mut logits) {
            if voice.talker.is_suppressed(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        tokens.push(greatest(&logits));
        if tokens.len() == steps {
            break;
        }
        let (codes, seen) = voice.complete(tokens[tokens.len() - 1]);
        if tokens.len() == 1 {
            let expected = golden.numbers("code_predictor_logits_frame0");
            compare("code_predictor_logits_frame0", &seen, &expected, LOGITS);
        }
        let word = text.take().expect("text");
        frames.extend_from_slice(&codes);
        let row = TalkerRow { text: TextSide::Token(word), codec: CodecSide::Frame(Arc::from(codes)) };
        (_, logits, state) = voice.feed(backend, &[row]);
    }
    let floats = |ids: &[u32]| ids.iter().map(|id| *id as f32).collect::<Vec<f32>>();
    compare("step_logits", &all_logits, &golden.numbers("step_logits"), LOGITS);
    compare("step_last_hidden", &all_states, &golden.numbers("step_last_hidden"), HIDDEN);
    compare("layer0_tokens", &floats(&tokens), &golden.numbers("layer0_tokens"), Bound::Exact);
    compare("codes", &floats(&frames), &golden.numbers("codes"), Bound::Exact);

    // The text rows, seen as input rows without a codec side. They are fed last: they leave the cache changed.
    let mut trailing = ReplyText::new(&config, prompt.begun());
    trailing.extend(spoken.iter().copied());
    trailing.finish();
    trailing.take_first_word();
    let words = golden.shape("trailing_text_hidden")[0];
    let mut text_rows: Vec<TalkerRow> = std::iter::from_fn(|| trailing.take())
        .take(words + 1)
        .map(|id| TalkerRow { text: TextSide::Token(id), codec: CodecSide::None })
        .collect();
    let pad = text_rows.split_off(words);
    voice.fed = 0;
    let (rows, ..) = voice.feed(backend, &text_rows);
    compare("trailing_text_hidden", &rows, &golden.numbers("trailing_text_hidden"), HIDDEN);
    let (row, ..) = voice.feed(backend, &pad);
    compare("tts_pad_embed", &row, &golden.numbers("tts_pad_embed"), HIDDEN);

    let count = frames.len() / own.num_code_groups;
    let mut vocoder = code2wav::load(backend, set, count).expect("a vocoder");
    let wave = code2wav::decode(&mut vocoder, &frames, 0);
    compare("wav_hf_chunked", &wave, &golden.numbers("wav_hf_chunked"), WAVE);
    found
}
