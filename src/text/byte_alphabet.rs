//! The byte alphabet of byte-level BPE: every byte has a visible character that stands for it in a vocabulary.
//!
//! Bytes that print in Latin-1 stand for themselves; the other 68 are numbered upwards from U+0100.

/// The byte that a character stands for, if it is of the alphabet.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        // 0x00..=0x20, then 0x7F..=0xA0, then 0xAD, in this order.
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Appends the bytes that a token of the vocabulary stands for. A token with a character outside the alphabet, as
/// added tokens may have, stands for its own text.
pub(super) fn append_bytes_of(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let mut bytes: Vec<u8> = ('\0'..='\u{200}').filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
    }

    #[test]
    fn space_and_newline_have_their_well_known_characters() {
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn a_token_outside_the_alphabet_stands_for_its_text() {
        let mut bytes = Vec::new();
        append_bytes_of("<音>", &mut bytes);
        assert_eq!(bytes, "<音>".as_bytes());
    }
}
