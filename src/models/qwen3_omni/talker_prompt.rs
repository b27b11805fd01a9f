//! What the talker is fed with: first the user's turns and the beginning of the reply, then a word of the reply
//! with every frame.
//!
//! The talker needs the ids of the thinker's tokens, whose embeddings it looks up itself, and the thinker's hidden
//! states only where audio, images or video stand in a user's turn.

use std::collections::VecDeque;

use thiserror::Error;

use super::config::{OmniConfig, TalkerConfig};

/// Rows of the talker's prompt at the beginning of the reply, behind the user's turns: three of its header, four of
/// padding, and two more.
pub const REPLY_ROWS: usize = 9;
/// Tokens of a turn's header: its beginning, the role and a line break.
const HEADER: usize = 3;

/// Where the text side of an input row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptText {
    /// The embedding of a token of the thinker, through the text projection.
    Token(u32),
    /// The thinker's accepted hidden state at a position of its prompt, through the hidden projection.
    Hidden {
        /// Index into the thinker's prompt.
        position: usize,
    },
}

/// An input row of the talker's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptRow {
    /// The text side.
    pub text: PromptText,
    /// A codec token whose embedding is added.
    pub codec: Option<u32>,
}

/// A prompt that cannot be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TalkerPromptError {
    /// The thinker's prompt does not end with the header of an assistant's turn.
    #[error("the prompt does not end with the beginning of an assistant's turn")]
    NoReply,
}

impl TalkerPromptError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoReply => "no_assistant_turn",
        }
    }
}

/// The talker's prompt, complete but for the first word of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TalkerPrompt {
    /// The rows of the user's turns.
    user: Vec<PromptRow>,
    /// The header of the reply, as token ids of the thinker.
    header: [u32; HEADER],
    /// Words of the reply that the thinker's prompt already has.
    begun: Vec<u32>,
    /// The codec tokens that are added to the last rows.
    codec: [u32; 6],
    /// Fills the text side.
    pad: u32,
    /// Begins the text side.
    begin: u32,
}

impl TalkerPrompt {
    /// From the thinker's prompt and the codec id of a speaker.
    ///
    /// Of the turns before the reply only the user's count; system turns and earlier replies are left out.
    pub fn new(
        config: &OmniConfig,
        talker: &TalkerConfig,
        speaker: u32,
        prompt: &[u32],
    ) -> Result<Self, TalkerPromptError> {
        let shared = &config.tokens;
        let media = [
            config.thinker.tokens.audio_token_id,
            config.thinker.tokens.image_token_id,
            config.thinker.tokens.video_token_id,
        ];
        let starts: Vec<usize> = prompt
            .iter()
            .enumerate()
            .filter(|(_, id)| **id == shared.im_start_token_id)
            .map(|(position, _)| position)
            .collect();
        let (reply, turns) = starts.split_last().ok_or(TalkerPromptError::NoReply)?;
        let reply_tokens = prompt.get(*reply..).unwrap_or_default();
        let (header, begun) = reply_tokens.split_first_chunk::<HEADER>().ok_or(TalkerPromptError::NoReply)?;
        if header.get(1) != Some(&shared.assistant_token_id) {
            return Err(TalkerPromptError::NoReply);
        }
        let mut user = Vec::new();
        for (turn, start) in turns.iter().enumerate() {
            let end = turns.get(turn + 1).unwrap_or(reply);
            let tokens = prompt.get(*start..*end).unwrap_or_default();
            if tokens.get(1) != Some(&shared.user_token_id) {
                continue;
            }
            user.extend(tokens.iter().zip(*start..).map(|(id, position)| PromptRow {
                text: match media.contains(id) {
                    true => PromptText::Hidden { position },
                    false => PromptText::Token(*id),
                },
                codec: None,
            }));
        }
        let codec = &talker.tokens;
        Ok(Self {
            user,
            header: *header,
            begun: begun.to_vec(),
            codec: [
                codec.codec_nothink_id,
                codec.codec_think_bos_id,
                codec.codec_think_eos_id,
                speaker,
                codec.codec_pad_id,
                codec.codec_bos_id,
            ],
            pad: shared.tts_pad_token_id,
            begin: shared.tts_bos_token_id,
        })
    }

    /// Words of the reply that the thinker's prompt already has; the first of them, if any, is the reply's first.
    pub fn begun(&self) -> &[u32] {
        &self.begun
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.user.len() + REPLY_ROWS
    }

    /// Never: a prompt has at least the rows of the reply.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The positions of the thinker's prompt whose accepted hidden states are needed.
    pub fn hidden_positions(&self) -> impl Iterator<Item = usize> {
        self.user.iter().filter_map(|row| match row.text {
            PromptText::Hidden { position } => Some(position),
            PromptText::Token(_) => None,
        })
    }

    /// All rows, once the first word of the reply is known.
    pub fn rows(&self, first_word: u32) -> Vec<PromptRow> {
        let [start, role, line_break] = self.header;
        let (pad, begin) = (self.pad, self.begin);
        let text = [start, role, line_break, pad, pad, pad, pad, begin, first_word];
        let codec = std::iter::repeat_n(None, HEADER).chain(self.codec.map(Some));
        let reply = text.into_iter().zip(codec);
        let mut rows = self.user.clone();
        rows.extend(reply.map(|(id, codec)| PromptRow { text: PromptText::Token(id), codec }));
        rows
    }
}

/// The words of a reply on their way to the talker.
///
/// Whoever feeds it leaves out the last token that the thinker generated, normally the end of the turn: it is not
/// spoken. After the words the end-of-text token comes once, and padding from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyText {
    /// Words that have not been taken.
    words: VecDeque<u32>,
    /// Whether there will be no more.
    finished: bool,
    /// Whether the end of the text has been taken.
    ended: bool,
    /// The token that ends the text.
    end: u32,
    /// The token that fills the time after it.
    pad: u32,
}

impl ReplyText {
    /// No word yet. `begun` are words of the reply that the thinker's prompt already has.
    pub fn new(config: &OmniConfig, begun: &[u32]) -> Self {
        Self {
            words: begun.iter().copied().collect(),
            finished: false,
            ended: false,
            end: config.tokens.tts_eos_token_id,
            pad: config.tokens.tts_pad_token_id,
        }
    }

    /// Further words.
    pub fn extend(&mut self, words: impl IntoIterator<Item = u32>) {
        self.words.extend(words);
    }

    /// There will be no more words.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The first word, which completes the prompt; none while it is not known, or if there will be none.
    pub fn take_first_word(&mut self) -> Option<u32> {
        self.words.pop_front()
    }

    /// Whether there will be no first word: the reply is too short to be spoken.
    pub fn is_silent(&self) -> bool {
        self.finished && self.words.is_empty() && !self.ended
    }

    /// The token for the text side of the next frame's row; none while it is not known.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(word) = self.words.pop_front() {
            return Some(word);
        }
        self.finished.then(|| match std::mem::replace(&mut self.ended, true) {
            false => self.end,
            true => self.pad,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = include_str!("../../../assets/demo/config.json");

    fn config() -> OmniConfig {
        OmniConfig::parse(DEMO, "config.json").unwrap()
    }

    fn turn(config: &OmniConfig, role: u32, words: &[u32]) -> Vec<u32> {
        let mut tokens = vec![config.tokens.im_start_token_id, role, 10];
        tokens.extend(words);
        tokens
    }

    #[test]
    fn system_turns_and_earlier_replies_are_left_out() {
        let config = config();
        let tokens = &config.tokens;
        let mut prompt = turn(&config, tokens.system_token_id, &[1, 2]);
        prompt.extend(turn(&config, tokens.user_token_id, &[3]));
        prompt.extend(turn(&config, tokens.assistant_token_id, &[4]));
        prompt.extend(turn(&config, tokens.user_token_id, &[5]));
        prompt.extend(turn(&config, tokens.assistant_token_id, &[]));
        let talker = config.talker.as_ref().unwrap();
        let rows = TalkerPrompt::new(&config, talker, 7, &prompt).unwrap().rows(6);
        let text: Vec<PromptText> = rows.iter().map(|row| row.text).collect();
        let expected = [turn(&config, tokens.user_token_id, &[3]), turn(&config, tokens.user_token_id, &[5])];
        let expected: Vec<PromptText> = expected.concat().into_iter().map(PromptText::Token).collect();
        assert_eq!(text[..8], expected);
        assert_eq!(rows.len(), 8 + REPLY_ROWS);
        assert_eq!(rows.last().unwrap().text, PromptText::Token(6));
        assert_eq!(rows.iter().filter(|row| row.codec == Some(7)).count(), 1);
    }

    #[test]
    fn hidden_states_are_wanted_at_media_positions_of_user_turns_alone() {
        let config = config();
        let media = config.thinker.tokens.audio_token_id;
        let mut prompt = turn(&config, config.tokens.system_token_id, &[media]);
        prompt.extend(turn(&config, config.tokens.user_token_id, &[media, 5, media]));
        prompt.extend(turn(&config, config.tokens.assistant_token_id, &[]));
        let prompt = TalkerPrompt::new(&config, config.talker.as_ref().unwrap(), 7, &prompt).unwrap();
        assert_eq!(prompt.hidden_positions().collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn a_prompt_that_does_not_begin_a_reply_is_refused() {
        let config = config();
        let talker = config.talker.as_ref().unwrap();
        let user = turn(&config, config.tokens.user_token_id, &[1]);
        for prompt in [&[][..], &[1, 2, 3], &user] {
            let error = TalkerPrompt::new(&config, talker, 7, prompt).unwrap_err();
            assert_eq!(error.reason(), "no_assistant_turn");
        }
    }

    #[test]
    fn words_come_in_order_then_the_end_once_then_padding() {
        let config = config();
        let (end, pad) = (config.tokens.tts_eos_token_id, config.tokens.tts_pad_token_id);
        let mut text = ReplyText::new(&config, &[]);
        assert_eq!(text.take_first_word(), None);
        text.extend([1]);
        assert_eq!(text.take_first_word(), Some(1));
        assert_eq!(text.take(), None);
        text.extend([2]);
        assert_eq!(text.take(), Some(2));
        text.finish();
        assert_eq!([text.take(), text.take(), text.take()], [Some(end), Some(pad), Some(pad)]);
    }

    #[test]
    fn a_reply_without_words_is_silent() {
        let mut text = ReplyText::new(&config(), &[]);
        assert!(!text.is_silent());
        text.finish();
        assert!(text.is_silent() && text.take_first_word().is_none());
    }
}
