//! Stop strings in a text that arrives in pieces.
//!
//! The text is cut at the first place where a stop string is complete; of several that are complete there, the
//! longest counts. What may be the beginning of one is held back until that is decided. Each string is followed by
//! the automaton of D. Knuth, J. Morris, V. Pratt, "Fast pattern matching in strings" (1977), so every byte is looked
//! at once and where the pieces begin and end makes no difference.

/// The stop strings of one choice, and how far the text so far agrees with each.
#[derive(Debug, Clone, Default)]
pub(super) struct StopStrings {
    /// One automaton per string.
    automata: Vec<Automaton>,
}

/// Follows one string.
#[derive(Debug, Clone)]
struct Automaton {
    /// What is looked for; not empty.
    pattern: String,
    /// For each length of a beginning of the pattern, counted from 1: the length of its longest proper ending that is
    /// also a beginning.
    borders: Vec<usize>,
    /// How many bytes at the end of the text so far agree with the beginning of the pattern.
    matched: usize,
}

/// A stop string that became complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Match {
    /// The string.
    pub(super) text: String,
    /// Where in the piece it is complete: the index behind its last byte.
    pub(super) end: usize,
}

impl StopStrings {
    /// Watches for these strings; empty ones are left out.
    pub(super) fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|string| !string.is_empty());
        Self { automata: strings.map(|string| Automaton::new(string)).collect() }
    }

    /// Follows a further piece of text. With `wanted`, stops at the first match.
    pub(super) fn push(&mut self, piece: &str, wanted: bool) -> Option<Match> {
        for (index, byte) in piece.bytes().enumerate() {
            let mut longest: Option<&str> = None;
            for automaton in &mut self.automata {
                let complete = automaton.push(byte);
                if complete && longest.is_none_or(|found| found.len() < automaton.pattern.len()) {
                    longest = Some(&automaton.pattern);
                }
            }
            if let Some(found) = longest.filter(|_| wanted) {
                return Some(Match { text: found.to_owned(), end: index + 1 });
            }
        }
        None
    }

    /// How many bytes at the end of the text may be the beginning of a stop string.
    pub(super) fn undecided(&self) -> usize {
        self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0)
    }
}

impl Automaton {
    /// Computes the borders.
    fn new(pattern: &str) -> Self {
        let mut automaton = Self { pattern: pattern.to_owned(), borders: vec![0], matched: 0 };
        // The border of a longer beginning is found by following the pattern through its own automaton.
        for byte in pattern.bytes().skip(1) {
            automaton.push(byte);
            automaton.borders.push(automaton.matched);
        }
        automaton.matched = 0;
        automaton
    }

    /// Follows one byte and says whether the pattern is complete with it.
    fn push(&mut self, byte: u8) -> bool {
        let pattern = self.pattern.as_bytes();
        while self.matched > 0 && pattern.get(self.matched) != Some(&byte) {
            self.matched = self.border_of(self.matched);
        }
        if pattern.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
        let complete = self.matched == pattern.len();
        if complete {
            // The end of a match may be the beginning of the next; a whole match is decided and holds nothing back.
            self.matched = self.border_of(self.matched);
        }
        complete
    }

    /// The border of the pattern's beginning of this length.
    fn border_of(&self, length: usize) -> usize {
        length.checked_sub(1).and_then(|index| self.borders.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> StopStrings {
        StopStrings::new(&list.iter().map(|string| (*string).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_beginning_of_a_stop_string_is_undecided() {
        let mut stop = strings(&["\nUser:", "###"]);
        assert_eq!(stop.push("one\nUs", true), None);
        assert_eq!(stop.undecided(), 3);
        assert_eq!(stop.push("e##", true), None);
        assert_eq!(stop.undecided(), 2);
    }

    #[test]
    fn a_match_is_found_across_pieces() {
        let mut stop = strings(&["abab"]);
        assert_eq!(stop.push("xaba", true), None);
        assert_eq!(stop.push("bc", true), Some(Match { text: "abab".to_owned(), end: 1 }));
    }

    #[test]
    fn a_mismatch_falls_back_to_the_longest_border() {
        let mut stop = strings(&["aabaaa"]);
        assert_eq!(stop.push("aabaabaaa", true), Some(Match { text: "aabaaa".to_owned(), end: 9 }));
    }

    #[test]
    fn of_strings_complete_at_one_place_the_longest_counts() {
        let mut stop = strings(&["c", "abc", "bc"]);
        assert_eq!(stop.push("abc", true).map(|found| found.text), Some("abc".to_owned()));
    }

    #[test]
    fn an_unwanted_match_is_passed_over() {
        let mut stop = strings(&["aa"]);
        assert_eq!(stop.push("aa", false), None);
        assert_eq!(stop.undecided(), 1);
        assert_eq!(stop.push("a", true), Some(Match { text: "aa".to_owned(), end: 1 }));
    }

    #[test]
    fn a_string_of_one_byte_and_an_empty_one() {
        let mut stop = strings(&["", "."]);
        assert_eq!(stop.push("a", true), None);
        assert_eq!(stop.undecided(), 0);
        assert_eq!(stop.push("b.c", true).map(|found| found.end), Some(2));
    }
}
