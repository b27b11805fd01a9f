//! What somebody may have meant who wrote a name that nobody knows.

/// Names less alike than this (Jaro-Winkler, 1 is equal) are not suggested.
const LEAST_LIKENESS: f64 = 0.75;

/// The name that is spelt most like `name`, if one is like it at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_like_nothing_gets_no_suggestion() {
        assert_eq!(nearest("zzz", ["temperature", "n"]), None);
    }

    #[test]
    fn the_most_similar_name_is_suggested() {
        assert_eq!(nearest("max_token", ["max_tokens", "min_tokens"]), Some("max_tokens"));
    }
}
