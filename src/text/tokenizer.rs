//! Text to token ids and back, by the checkpoint's byte-level BPE.
//!
//! Encoding is the `tokenizers` crate's. Decoding is a table: byte-level tokens are pieces of bytes, so a text is
//! the concatenation of its tokens' bytes, and what is no UTF-8 in it becomes U+FFFD.

#![deny(clippy::indexing_slicing)]

use serde_json::{Value, json};
use thiserror::Error;
use tokenizers::DecoderWrapper;

use super::byte_alphabet::append_bytes_of;
use crate::config::TokenizerFiles;
use crate::config::checkpoint::TokenizerModel;

/// How text is cut into pieces before merges are applied: contractions, words with the character before them, single
/// digits, punctuation, line ends, spaces. It is part of the Qwen tokenizers, whose `vocab.json` does not carry it.
const PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A checkpoint's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Encodes.
    encoder: tokenizers::Tokenizer,
    /// Decodes.
    vocabulary: Vocabulary,
    /// The end-of-sequence token that the tokenizer's configuration names.
    eos_id: Option<u32>,
}

/// The bytes of every token, one after the other.
#[derive(Debug, Clone, Default)]
struct Vocabulary {
    /// All tokens' bytes.
    bytes: Vec<u8>,
    /// Where each token's bytes end in `bytes`; they begin where the one before ends.
    ends: Vec<usize>,
    /// Which tokens are special: left out of text when asked for.
    special: Vec<bool>,
}

/// Why a tokenizer cannot be made, or a text not be encoded.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The files are not what the `tokenizers` crate reads.
    #[error("{file} cannot be read as a tokenizer: {message}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// It is no byte-level BPE, and ids could not be turned into bytes.
    #[error("tokenizer.json: only byte-level tokenizers are served, this one decodes in another way")]
    NotByteLevel,
    /// An added token has another id than the configuration says.
    #[error(
        "tokenizer_config.json gives token {token} the id {configured}, the vocabulary gives it {actual}"
    )]
    TokenIdMismatch {
        /// The token.
        token: String,
        /// Its id in `tokenizer_config.json`.
        configured: u32,
        /// The id it would get.
        actual: u32,
    },
    /// The text could not be encoded.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}

impl TokenizerError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "invalid_tokenizer",
            Self::NotByteLevel => "unsupported_tokenizer",
            Self::TokenIdMismatch { .. } => "contradictory_tokenizer",
            Self::Encode(_) => "tokenization_failed",
        }
    }
}

impl Tokenizer {
    /// Makes the tokenizer from a checkpoint's files.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let mut encoder = match &files.model {
            TokenizerModel::Complete(contents) => from_json("tokenizer.json", contents)?,
            TokenizerModel::VocabAndMerges { vocab, merges } => from_vocab_and_merges(vocab, merges)?,
        };
        if !matches!(encoder.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(TokenizerError::NotByteLevel);
        }
        if let Some(config) = &files.config {
            add_configured_tokens(&mut encoder, config)?;
        }
        let eos_token = files.config.as_ref().and_then(|config| special_token(config, "eos_token"));
        let eos_id = eos_token.and_then(|token| encoder.token_to_id(token));
        let vocabulary = Vocabulary::of(&encoder);
        Ok(Self { encoder, vocabulary, eos_id })
    }

    /// Token ids of a text. Added tokens are recognised in it; none is added before or after.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false)
    }

    /// The same, with the tokens that the tokenizer itself puts around a text, if they are asked for.
    pub fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .encoder
            .encode_fast(text, add_special_tokens)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Bytes of the longest token.
    pub fn longest_token(&self) -> usize {
        (0..self.vocabulary_size() as u32).map(|id| self.token_bytes(id).len()).max().unwrap_or(0)
    }

    /// The text of token ids. Ids beyond the vocabulary are nothing; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special_tokens && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; none for an id beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes_of(id)
    }

    /// One token alone as text; bytes that are no UTF-8 become U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Whether a token is left out of text when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        usize::try_from(id).ok().and_then(|id| self.vocabulary.special.get(id)).copied().unwrap_or(false)
    }

    /// The id of a token given as it stands in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.encoder.token_to_id(token)
    }

    /// Number of ids that the tokenizer knows, added tokens included: the highest id plus one. A model's own
    /// vocabulary may be larger.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.ends.len()
    }

    /// The end-of-sequence token that the tokenizer's configuration names.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }
}

impl Vocabulary {
    /// Writes down the bytes of every token.
    fn of(encoder: &tokenizers::Tokenizer) -> Self {
        let added = encoder.get_added_tokens_decoder();
        let size = encoder.get_vocab(true).values().max().map_or(0, |highest| highest + 1);
        let mut vocabulary = Self::default();
        for id in 0..size {
            let token = encoder.id_to_token(id);
            append_bytes_of(token.as_deref().unwrap_or_default(), &mut vocabulary.bytes);
            vocabulary.ends.push(vocabulary.bytes.len());
            vocabulary.special.push(added.get(&id).is_some_and(|token| token.special));
        }
        vocabulary
    }

    /// The bytes of one token.
    fn bytes_of(&self, id: u32) -> &[u8] {
        let range = usize::try_from(id).ok().and_then(|id| {
            let start = if id == 0 { 0 } else { *self.ends.get(id - 1)? };
            Some(start..*self.ends.get(id)?)
        });
        range.and_then(|range| self.bytes.get(range)).unwrap_or_default()
    }
}

/// A token that a tokenizer's configuration names, such as `eos_token`: a string, or an object with its content.
pub(super) fn special_token<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Reads the form that holds everything.
fn from_json(file: &'static str, contents: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    tokenizers::Tokenizer::from_bytes(contents)
        .map_err(|error| TokenizerError::Unreadable { file, message: error.to_string() })
}

/// Completes a vocabulary and its merges with what the Qwen tokenizers have in code instead of files.
fn from_vocab_and_merges(vocab: &[u8], merges: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let vocab: Value = serde_json::from_slice(vocab)
        .map_err(|error| TokenizerError::Unreadable { file: "vocab.json", message: error.to_string() })?;
    let merges = std::str::from_utf8(merges)
        .map_err(|error| TokenizerError::Unreadable { file: "merges.txt", message: error.to_string() })?;
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let complete = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    from_json("vocab.json with merges.txt", complete.to_string().as_bytes())
}

/// Adds the tokens of `added_tokens_decoder`, in order of id, and checks that each gets the id it has there.
fn add_configured_tokens(encoder: &mut tokenizers::Tokenizer, config: &Value) -> Result<(), TokenizerError> {
    let unreadable = |message: String| TokenizerError::Unreadable { file: "tokenizer_config.json", message };
    let Some(configured) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Ok(());
    };
    let mut tokens = Vec::with_capacity(configured.len());
    for (id, token) in configured {
        let id: u32 =
            id.parse().map_err(|_| unreadable(format!("added_tokens_decoder: {id:?} is no token id")))?;
        let token: tokenizers::AddedToken = serde_json::from_value(token.clone())
            .map_err(|error| unreadable(format!("added_tokens_decoder: token {id}: {error}")))?;
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    encoder
        .add_tokens(tokens.iter().map(|(_, token)| token.clone()))
        .map_err(|error| unreadable(error.to_string()))?;
    for (configured, token) in tokens {
        let actual = encoder.token_to_id(&token.content);
        if let Some(actual) = actual.filter(|actual| *actual != configured) {
            return Err(TokenizerError::TokenIdMismatch { token: token.content, configured, actual });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::config::Checkpoint;

    /// Bytes as the first 256 ids, one merge, a special and an ordinary added token.
    fn files() -> TokenizerFiles {
        let mut vocab = serde_json::Map::new();
        let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
        for (id, character) in printable.chain('\u{100}'..='\u{143}').enumerate() {
            vocab.insert(character.to_string(), id.into());
        }
        vocab.insert("hi".to_owned(), 256.into());
        let config = json!({
            "eos_token": "<|end|>",
            "added_tokens_decoder": {
                "258": {"content": "<think>", "special": false, "normalized": false,
                        "lstrip": false, "rstrip": false, "single_word": false},
                "257": {"content": "<|end|>", "special": true, "normalized": false,
                        "lstrip": false, "rstrip": false, "single_word": false},
            },
        });
        TokenizerFiles {
            model: TokenizerModel::VocabAndMerges {
                vocab: Cow::Owned(Value::Object(vocab).to_string().into_bytes()),
                merges: Cow::Borrowed(b"#version: 0.2\nh i\n"),
            },
            config: Some(config),
        }
    }

    #[test]
    fn special_tokens_are_skipped_and_ordinary_added_ones_kept() {
        let tokenizer = Tokenizer::from_files(&files()).unwrap();
        let ids = tokenizer.encode("hi<think><|end|>").unwrap();
        assert_eq!(ids, [256, 258, 257]);
        assert_eq!(tokenizer.decode(&ids, true), "hi<think>");
        assert_eq!(tokenizer.decode(&ids, false), "hi<think><|end|>");
        assert_eq!(tokenizer.eos_id(), Some(257));
    }

    #[test]
    fn an_id_beyond_the_vocabulary_decodes_to_nothing() {
        let tokenizer = Tokenizer::from_files(&files()).unwrap();
        assert_eq!(tokenizer.vocabulary_size(), 259);
        assert_eq!(tokenizer.decode(&[256, 259, u32::MAX, 256], true), "hihi");
        assert!(tokenizer.token_bytes(259).is_empty());
    }

    #[test]
    fn an_added_token_with_another_id_is_refused() {
        let mut files = files();
        if let Some(token) =
            files.config.as_mut().and_then(|config| config.pointer_mut("/added_tokens_decoder"))
        {
            let think = token["258"].clone();
            *token = json!({"300": think});
        }
        let error = Tokenizer::from_files(&files).unwrap_err();
        assert_eq!(error.reason(), "contradictory_tokenizer");
    }

    #[test]
    fn a_broken_file_is_named() {
        let broken = TokenizerFiles { model: TokenizerModel::Complete(Cow::Borrowed(b"{")), config: None };
        assert!(Tokenizer::from_files(&broken).unwrap_err().to_string().starts_with("tokenizer.json"));
    }

    #[test]
    fn a_tokenizer_that_is_not_byte_level_is_refused() {
        let wordlevel =
            br#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
        let files =
            TokenizerFiles { model: TokenizerModel::Complete(Cow::Borrowed(wordlevel)), config: None };
        assert!(matches!(Tokenizer::from_files(&files), Err(TokenizerError::NotByteLevel)));
    }

    #[test]
    fn the_table_decodes_as_the_tokenizers_crate_does() {
        let files = Checkpoint::demo().tokenizer_files().unwrap();
        let tokenizer = Tokenizer::from_files(&files).unwrap();
        let ids: Vec<u32> = (0..4000).map(|step: u32| step.wrapping_mul(2_654_435_761) >> 22).collect();
        for skip in [true, false] {
            for piece in ids.chunks(9) {
                assert_eq!(tokenizer.decode(piece, skip), tokenizer.encoder.decode(piece, skip).unwrap());
            }
        }
    }
}
