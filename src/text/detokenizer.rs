//! Tokens to text, one token at a time, giving out only what is certain.
//!
//! A token may end within a character, and a text may be about to end in a stop string. Either way the bytes in doubt
//! wait. Without a stop string, all that is given out, put together, is what [`Tokenizer::decode`] gives for all
//! tokens at once.

#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use super::stop_strings::StopStrings;
use super::tokenizer::Tokenizer;
use crate::engine::SamplingParams;

/// Turns the tokens of one choice into text.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    /// Knows the tokens' bytes.
    tokenizer: Arc<Tokenizer>,
    /// Leave special tokens out.
    skip_special_tokens: bool,
    /// Watches for the end of the text.
    stop: StopStrings,
    /// Stop strings that are complete within this many tokens do not count.
    min_tokens: u32,
    /// Give the stop string out, too.
    include_stop: bool,
    /// Tokens so far.
    tokens: u32,
    /// Bytes of all characters so far, those that are held back included.
    characters: usize,
    /// Bytes that do not make a character yet; at most three, once a push is done.
    incomplete: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    /// A stop string was met or the end was told: no more text will be given out.
    ended: bool,
}

/// What became certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertainText {
    /// The text; may be empty.
    pub text: String,
    /// The stop string that ended it. Nothing comes after.
    pub stopped_by: Option<String>,
}

impl Detokenizer {
    /// Begins a text.
    pub fn new(tokenizer: Arc<Tokenizer>, params: &SamplingParams) -> Self {
        Self {
            tokenizer,
            skip_special_tokens: params.skip_special_tokens,
            stop: StopStrings::new(&params.stop),
            min_tokens: params.min_tokens,
            include_stop: params.include_stop_str_in_output,
            tokens: 0,
            characters: 0,
            incomplete: Vec::new(),
            held: String::new(),
            ended: false,
        }
    }

    /// Takes a token. An end token that shall not be seen must not be pushed.
    pub fn push(&mut self, id: u32) -> CertainText {
        self.tokens = self.tokens.saturating_add(1);
        if !(self.skip_special_tokens && self.tokenizer.is_special(id)) {
            self.incomplete.extend_from_slice(self.tokenizer.token_bytes(id));
        }
        let characters = take_characters(&mut self.incomplete);
        self.characters += characters.len();
        self.give_out(&characters)
    }

    /// Where the text of the newest token ends, in bytes from the beginning, whether or not it was given out. Tokens
    /// that are left out of the text have none; the bytes of a character that is not complete lie beyond what can
    /// have been given out.
    pub fn text_end(&self) -> usize {
        self.characters + self.incomplete.len()
    }

    /// Ends the text: gives out what was held back. A character that stayed incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> CertainText {
        let incomplete = std::mem::take(&mut self.incomplete);
        let mut last = self.give_out(&String::from_utf8_lossy(&incomplete));
        if !self.ended {
            self.ended = true;
            last.text.push_str(&std::mem::take(&mut self.held));
        }
        last
    }

    /// Adds characters to the text and gives out what no stop string can contain any more.
    fn give_out(&mut self, characters: &str) -> CertainText {
        if self.ended {
            return CertainText::default();
        }
        let before = self.held.len();
        self.held.push_str(characters);
        if let Some(found) = self.stop.push(characters, self.tokens > self.min_tokens) {
            self.ended = true;
            let end = before + found.end;
            self.held.truncate(if self.include_stop { end } else { end - found.text.len() });
            return CertainText { text: std::mem::take(&mut self.held), stopped_by: Some(found.text) };
        }
        let certain = self.held.len() - self.stop.undecided();
        let rest = self.held.split_off(certain);
        CertainText { text: std::mem::replace(&mut self.held, rest), stopped_by: None }
    }
}

/// Takes all that is certain from the front of a sequence of bytes: characters, and U+FFFD for what cannot become
/// one. The beginning of a character at the end stays.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let at_the_end = taken + invalid.len() == bytes.len();
        if at_the_end && is_beginning_of_character(invalid) {
            break;
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
    }
    bytes.drain(..taken);
    text
}

/// Whether further bytes may complete these to a character.
fn is_beginning_of_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Checkpoint;

    fn tokenizer() -> Arc<Tokenizer> {
        Arc::new(Tokenizer::from_files(&Checkpoint::demo().tokenizer_files().unwrap()).unwrap())
    }

    fn stopping_at(stop: &[&str]) -> SamplingParams {
        SamplingParams {
            stop: stop.iter().map(|string| (*string).to_owned()).collect(),
            ..SamplingParams::default()
        }
    }

    /// Everything that is given out, and what ended it.
    fn all(detokenizer: &mut Detokenizer, ids: &[u32]) -> CertainText {
        let mut whole = CertainText::default();
        for &id in ids {
            let piece = detokenizer.push(id);
            whole.text.push_str(&piece.text);
            whole.stopped_by = whole.stopped_by.or(piece.stopped_by);
        }
        let last = detokenizer.finish();
        whole.text.push_str(&last.text);
        whole.stopped_by = whole.stopped_by.or(last.stopped_by);
        whole
    }

    /// Where the first stop string is complete in a text: (beginning, end, string), found the plain way.
    fn first_stop(text: &str, stop: &[String]) -> Option<(usize, usize, String)> {
        let found =
            |string: &String| text.find(string.as_str()).map(|at| (at, at + string.len(), string.clone()));
        stop.iter().filter_map(found).min_by_key(|(begin, end, _)| (*end, *begin))
    }

    #[test]
    fn tokens_that_are_left_out_do_not_move_the_end_of_the_text() {
        let tokenizer = tokenizer();
        let special = tokenizer.token_id("<|im_start|>").unwrap();
        for skip_special_tokens in [true, false] {
            let params = SamplingParams { skip_special_tokens, ..SamplingParams::default() };
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), &params);
            let mut given_out = 0;
            for id in tokenizer.encode("ab").unwrap().into_iter().chain([special, special]) {
                given_out += detokenizer.push(id).text.len();
                assert_eq!(detokenizer.text_end(), given_out);
            }
        }
    }

    #[test]
    fn the_text_of_a_token_within_a_character_ends_beyond_what_was_given_out() {
        let tokenizer = tokenizer();
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), &SamplingParams::default());
        let ids = tokenizer.encode("\u{1F600}!").unwrap();
        assert!(ids.len() > 2, "a character of several tokens");
        let ends: Vec<(usize, usize)> = ids
            .iter()
            .scan(0, |given_out, id| {
                *given_out += detokenizer.push(*id).text.len();
                Some((detokenizer.text_end(), *given_out))
            })
            .collect();
        let (last, before) = ends.split_last().unwrap();
        assert_eq!(*last, (5, 5));
        assert!(before.iter().all(|(end, given_out)| end > given_out || *end == 4), "{ends:?}");
    }

    #[test]
    fn an_incomplete_character_waits() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("😀").unwrap();
        assert!(ids.len() > 1, "the test needs a character of several tokens");
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), &SamplingParams::default());
        let (last, first) = ids.split_last().unwrap();
        for id in first {
            assert_eq!(detokenizer.push(*id).text, "");
        }
        assert_eq!(detokenizer.push(*last).text, "😀");
    }

    #[test]
    fn a_character_that_stays_incomplete_becomes_a_replacement() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("a😀").unwrap();
        let mut detokenizer = Detokenizer::new(tokenizer, &SamplingParams::default());
        let text = all(&mut detokenizer, &ids[..ids.len() - 1]).text;
        assert_eq!(text, "a\u{FFFD}");
    }

    #[test]
    fn the_text_is_cut_before_the_stop_string_or_behind_it() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("one two three").unwrap();
        let mut params = stopping_at(&["wo th"]);
        let cut = all(&mut Detokenizer::new(Arc::clone(&tokenizer), &params), &ids);
        assert_eq!(cut, CertainText { text: "one t".to_owned(), stopped_by: Some("wo th".to_owned()) });
        params.include_stop_str_in_output = true;
        assert_eq!(all(&mut Detokenizer::new(tokenizer, &params), &ids).text, "one two th");
    }

    #[test]
    fn stop_strings_do_not_count_before_min_tokens() {
        let tokenizer = tokenizer();
        let ids: Vec<u32> = "xxxx".chars().flat_map(|x| tokenizer.encode(&x.to_string()).unwrap()).collect();
        let params = SamplingParams { min_tokens: 2, ..stopping_at(&["x"]) };
        assert_eq!(all(&mut Detokenizer::new(tokenizer, &params), &ids).text, "xx");
    }

    #[test]
    fn special_tokens_are_left_out_unless_wanted() {
        let tokenizer = tokenizer();
        let end = tokenizer.eos_id().unwrap();
        let mut params = SamplingParams::default();
        assert_eq!(Detokenizer::new(Arc::clone(&tokenizer), &params).push(end).text, "");
        params.skip_special_tokens = false;
        assert_eq!(Detokenizer::new(tokenizer, &params).push(end).text, "<|im_end|>");
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(ids in proptest::collection::vec(0..1050_u32, 0..60), skip in any::<bool>()) {
            let tokenizer = tokenizer();
            let params = SamplingParams { skip_special_tokens: skip, ..SamplingParams::default() };
            let whole = tokenizer.decode(&ids, skip);
            prop_assert_eq!(all(&mut Detokenizer::new(tokenizer, &params), &ids).text, whole);
        }

        #[test]
        fn bytes_in_any_pieces_become_what_they_become_at_once(
            pieces in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![any::<u8>(), 0x80..0xF8_u8, Just(0xE4), Just(0xBD), Just(0xA0), Just(0xF0), Just(0x9F)],
                0..5,
            ), 0..20),
        ) {
            let whole: Vec<u8> = pieces.concat();
            let (mut waiting, mut text) = (Vec::new(), String::new());
            for piece in pieces {
                waiting.extend_from_slice(&piece);
                text.push_str(&take_characters(&mut waiting));
                prop_assert!(waiting.len() <= 3);
            }
            text.push_str(&String::from_utf8_lossy(&waiting));
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }

        #[test]
        fn a_stopped_text_is_the_whole_cut(
            words in proptest::collection::vec("[ab]{1,3}|é|😀", 1..30),
            stop in proptest::collection::vec("[ab]{1,4}|bé|é😀|\u{FFFD}", 1..4),
            include in any::<bool>(),
            cut in 0..3_usize,
        ) {
            let tokenizer = tokenizer();
            let mut ids: Vec<u32> = words.iter().flat_map(|word| tokenizer.encode(word).unwrap()).collect();
            ids.truncate(ids.len() - cut.min(ids.len()));
            let params = SamplingParams {
                stop: stop.clone(),
                include_stop_str_in_output: include,
                ..SamplingParams::default()
            };
            let whole = tokenizer.decode(&ids, true);
            let expected = match first_stop(&whole, &stop) {
                Some((begin, end, text)) => CertainText {
                    text: whole[..if include { end } else { begin }].to_owned(),
                    stopped_by: Some(text),
                },
                None => CertainText { text: whole, stopped_by: None },
            };
            prop_assert_eq!(all(&mut Detokenizer::new(tokenizer, &params), &ids), expected);
        }
    }
}
