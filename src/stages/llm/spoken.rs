//! Which generated tokens go on to be spoken.

use std::collections::VecDeque;

/// Holds tokens back until it is certain that they are to be spoken.
///
/// All are but the last one, which ends the answer and was never fed to the model, and those whose text a stop string
/// cuts off. So a token waits for the next one, and for its text to be certain.
#[derive(Debug, Default)]
pub(super) struct SpokenTokens {
    /// Tokens that wait, each with the length of the text up to its end.
    waiting: VecDeque<(u32, usize)>,
    /// Bytes of text that are certain.
    certain: usize,
}

impl SpokenTokens {
    /// A token was generated whose text ends `text_end` bytes after the beginning of the answer; `certain` further
    /// bytes of text became certain. Gives the tokens that are to be spoken from now on.
    pub(super) fn push(&mut self, token: u32, text_end: usize, certain: usize) -> Vec<u32> {
        self.certain += certain;
        self.waiting.push_back((token, text_end));
        self.release(self.certain)
    }

    /// The answer ended with the newest token. Gives what is left to be spoken: with `cut`, which says that a stop
    /// string ended it, tokens whose text was given out; else all but the newest.
    pub(super) fn finish(&mut self, cut: bool) -> Vec<u32> {
        self.release(if cut { self.certain } else { usize::MAX })
    }

    /// Takes the tokens whose text ends within `certain` bytes, but for the newest one.
    fn release(&mut self, certain: usize) -> Vec<u32> {
        let older = self.waiting.len().saturating_sub(1);
        let ready = self.waiting.iter().take(older).take_while(|(_, end)| *end <= certain).count();
        self.waiting.drain(..ready).map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_waits_for_the_next_one_and_the_last_is_not_spoken() {
        let mut spoken = SpokenTokens::default();
        assert!(spoken.push(10, 2, 2).is_empty());
        assert_eq!(spoken.push(11, 4, 2), [10]);
        assert_eq!(spoken.push(12, 6, 2), [11]);
        assert!(spoken.finish(false).is_empty());
    }

    #[test]
    fn a_single_token_is_not_spoken() {
        let mut spoken = SpokenTokens::default();
        assert!(spoken.push(10, 2, 2).is_empty());
        assert!(spoken.finish(false).is_empty());
    }

    #[test]
    fn text_that_is_held_back_is_not_spoken_yet() {
        let mut spoken = SpokenTokens::default();
        assert!(spoken.push(10, 2, 2).is_empty());
        assert_eq!(spoken.push(11, 4, 0), [10]);
        assert!(spoken.push(12, 6, 0).is_empty());
        assert_eq!(spoken.push(13, 8, 6), [11, 12]);
    }

    #[test]
    fn what_a_stop_string_cuts_off_is_not_spoken() {
        let mut spoken = SpokenTokens::default();
        spoken.push(10, 2, 2);
        assert_eq!(spoken.push(11, 4, 0), [10]);
        assert!(spoken.push(12, 6, 1).is_empty());
        assert!(spoken.finish(true).is_empty());
    }
}
