//! What names the content of a full block of the KV cache.
//!
//! Keys and values of a position depend on everything up to it, so a block's hash covers the block before it, and with
//! that the whole prefix: equal hashes mean that the blocks hold the same, and a prefix once found need not be compared.

use ring::digest::{Context, SHA256};

use crate::tensor::BLOCK_SIZE;

/// Names a full block and all that precedes it: the first half of a SHA-256, so that nobody can make two prefixes that
/// share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash([u8; 16]);

/// Positions of a prompt that stand for a picture, a sound or a film. Their token ids are all the same: what lies there
/// is named by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSpan {
    /// The first position.
    pub first: usize,
    /// How many positions.
    pub tokens: usize,
    /// A hash of what is there as the model sees it, of its dimensions too.
    pub content: [u8; 32],
}

/// Hashes the blocks of one sequence, in order.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    /// The hash of what precedes the present block: of the salt at first.
    previous: BlockHash,
    /// Tokens of the present block; those from `filled` on mean nothing.
    tokens: [u32; BLOCK_SIZE],
    /// How many it has yet.
    filled: usize,
    /// Its first position.
    first: usize,
    /// Media of the sequence.
    media: Vec<MediaSpan>,
}

impl BlockHasher {
    /// Begins a sequence. Sequences share blocks only with those of the same salt.
    pub fn new(salt: &[u8], media: Vec<MediaSpan>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[0]);
        context.update(salt);
        let previous = finish(context);
        Self { previous, tokens: [0; BLOCK_SIZE], filled: 0, first: 0, media }
    }

    /// Takes further tokens, and appends the hashes of the blocks that they fill.
    pub fn extend(&mut self, tokens: impl IntoIterator<Item = u32>, hashes: &mut Vec<BlockHash>) {
        for token in tokens {
            if let Some(slot) = self.tokens.get_mut(self.filled) {
                *slot = token;
                self.filled += 1;
            }
            if self.filled == BLOCK_SIZE {
                hashes.push(self.hash_block());
            }
        }
    }

    fn hash_block(&mut self) -> BlockHash {
        let end = self.first + BLOCK_SIZE;
        let mut context = Context::new(&SHA256);
        // No salt hashes like a block, whatever it is.
        context.update(&[1]);
        context.update(&self.previous.0);
        for token in &self.tokens {
            context.update(&token.to_le_bytes());
        }
        let here = self.media.iter().filter(|span| span.first < end && self.first < span.first + span.tokens);
        for span in here {
            // Where the span begins is part of what is meant: the same picture, two tokens later, is something else.
            context.update(&(span.first as u64).to_le_bytes());
            context.update(&(span.tokens as u64).to_le_bytes());
            context.update(&span.content);
        }
        self.previous = finish(context);
        self.first = end;
        self.filled = 0;
        self.previous
    }
}

/// What precedes and the tokens have a fixed length, so no two different contents give the same bytes.
fn finish(context: Context) -> BlockHash {
    let mut hash = [0; 16];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    BlockHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(salt: &str, media: &[MediaSpan], tokens: impl IntoIterator<Item = u32>) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        BlockHasher::new(salt.as_bytes(), media.to_vec()).extend(tokens, &mut hashes);
        hashes
    }

    fn shared(left: &[BlockHash], right: &[BlockHash]) -> usize {
        left.iter().zip(right).take_while(|(left, right)| left == right).count()
    }

    #[test]
    fn only_full_blocks_are_named_and_in_whatever_pieces_the_tokens_come() {
        let whole = hashes("", &[], 0..50);
        assert_eq!(whole.len(), 3);
        let (mut hasher, mut pieces) = (BlockHasher::new(b"", Vec::new()), Vec::new());
        for token in 0..50 {
            hasher.extend([token], &mut pieces);
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn one_different_token_makes_its_block_and_all_later_ones_different() {
        let left = hashes("", &[], 0..80);
        let right = hashes("", &[], (0..80).map(|token| if token == 35 { 7 } else { token }));
        assert_eq!(shared(&left, &right), 2);
        assert!(left[2..].iter().all(|hash| !right.contains(hash)));
    }

    #[test]
    fn the_same_tokens_after_different_ones_are_a_different_block() {
        let twice = hashes("", &[], (0..16).chain(0..16));
        assert_ne!(twice[0], twice[1]);
    }

    #[test]
    fn different_salts_share_nothing() {
        assert_eq!(shared(&hashes("a", &[], 0..32), &hashes("b", &[], 0..32)), 0);
    }

    #[test]
    fn different_media_at_the_same_place_share_nothing_from_there_on() {
        let picture = |content| MediaSpan { first: 20, tokens: 30, content: [content; 32] };
        let left = hashes("", &[picture(1)], 0..96);
        assert_eq!(shared(&left, &hashes("", &[picture(1)], 0..96)), 6);
        assert_eq!(shared(&left, &hashes("", &[picture(2)], 0..96)), 1);
        let moved = MediaSpan { first: 21, ..picture(1) };
        assert_eq!(shared(&left, &hashes("", &[moved], 0..96)), 1);
    }
}
