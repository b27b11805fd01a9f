//! What lies in a model directory in Hugging Face layout, found without reading weights.
//!
//! The built-in demo is a checkpoint like any other: the same files, read from the binary instead of a directory.

#![deny(clippy::indexing_slicing)]

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use super::demo;

/// A model directory, or the demo in the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where its files are read from.
    source: Source,
}

/// Where the files of a checkpoint are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// In a directory.
    Directory(PathBuf),
    /// In this binary.
    Embedded,
}

/// Which model a checkpoint holds, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// `model_type` of `config.json`, or `_class_name` of `model_index.json`: it decides which pipeline serves the model.
    pub model_type: String,
    /// The first of `architectures`, which tells variants of one type apart.
    pub architecture: Option<String>,
}

/// The files that a tokenizer is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// What kind of files, with their contents.
    pub model: TokenizerModel,
    /// `tokenizer_config.json`, where there is one: added tokens, end-of-sequence token, chat template.
    pub config: Option<Value>,
}

/// The part of a tokenizer's files that holds its vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerModel {
    /// The contents of `tokenizer.json`, which is complete.
    Complete(Cow<'static, [u8]>),
    /// The contents of `vocab.json` and `merges.txt`; added tokens are in the tokenizer's configuration.
    VocabAndMerges {
        /// Token → id.
        vocab: Cow<'static, [u8]>,
        /// One merge a line, most important first.
        merges: Cow<'static, [u8]>,
    },
}

/// Why a checkpoint cannot be used. Every message names the file.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The path is not a directory.
    #[error("{path} is not a directory; a model is a directory with a config.json in it")]
    NotADirectory {
        /// What was given.
        path: String,
    },
    /// A file that must be there is not.
    #[error("{path} does not exist")]
    Missing {
        /// The file.
        path: String,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not JSON.
    #[error("{path} is not valid JSON: {message} at line {line}, column {column}")]
    InvalidJson {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
    },
    /// A file holds something else than it should.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong and where.
        message: String,
    },
    /// There is no tokenizer.
    #[error("{directory} has neither tokenizer.json nor vocab.json with merges.txt")]
    NoTokenizer {
        /// The model directory.
        directory: String,
    },
}

impl CheckpointError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotADirectory { .. } => "not_a_directory",
            Self::Missing { .. } => "missing_file",
            Self::Unreadable { .. } => "unreadable_file",
            Self::InvalidJson { .. } => "invalid_json",
            Self::Invalid { .. } => "invalid_file",
            Self::NoTokenizer { .. } => "no_tokenizer",
        }
    }
}

impl Checkpoint {
    /// The tiny model that is built into the binary.
    pub fn demo() -> Self {
        Self { source: Source::Embedded }
    }

    /// A model directory. It must be a directory with a `config.json`, or with a `model_index.json` that lists the
    /// components of a diffusion pipeline.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let directory = directory.into();
        if !directory.is_dir() {
            return Err(CheckpointError::NotADirectory { path: directory.display().to_string() });
        }
        let checkpoint = Self { source: Source::Directory(directory) };
        if !checkpoint.has("config.json") && !checkpoint.has("model_index.json") {
            return Err(CheckpointError::Missing { path: checkpoint.path_of("config.json") });
        }
        Ok(checkpoint)
    }

    /// The weights of the built-in demo, a safetensors file. They begin at a multiple of 64 bytes.
    pub fn demo_weights() -> &'static [u8] {
        demo::weights()
    }

    /// Whether it is the built-in demo.
    pub fn is_demo(&self) -> bool {
        self.source == Source::Embedded
    }

    /// The name under which it is served unless another is given: the directory's, or `omni-demo`.
    pub fn default_name(&self) -> String {
        let Source::Directory(directory) = &self.source else {
            return demo::NAME.to_owned();
        };
        // "." and ".." have no name of their own.
        let named = directory.file_name().map(PathBuf::from).or_else(|| {
            directory.canonicalize().ok().and_then(|absolute| absolute.file_name().map(PathBuf::from))
        });
        named.unwrap_or_else(|| directory.clone()).display().to_string()
    }

    /// A component with files of its own, such as `text_encoder` or `tokenizer` in a diffusion pipeline.
    pub fn component(&self, name: &str) -> Result<Self, CheckpointError> {
        match &self.source {
            Source::Directory(directory) if directory.join(name).is_dir() => {
                Ok(Self { source: Source::Directory(directory.join(name)) })
            }
            _ => Err(CheckpointError::NotADirectory { path: self.path_of(name) }),
        }
    }

    /// `config.json`.
    pub fn config(&self) -> Result<Value, CheckpointError> {
        self.required_object("config.json")
    }

    /// `generation_config.json`: the sampling defaults that the model's makers chose. Many checkpoints have none.
    pub fn generation_config(&self) -> Result<Option<Value>, CheckpointError> {
        self.object("generation_config.json")
    }

    /// `preprocessor_config.json`: how audio and images become features.
    pub fn preprocessor_config(&self) -> Result<Option<Value>, CheckpointError> {
        self.object("preprocessor_config.json")
    }

    /// Which model this is.
    pub fn identity(&self) -> Result<ModelIdentity, CheckpointError> {
        let (file, field) = if self.has("config.json") {
            ("config.json", "model_type")
        } else {
            ("model_index.json", "_class_name")
        };
        let config = self.required_object(file)?;
        let model_type =
            config.get(field).and_then(Value::as_str).ok_or_else(|| CheckpointError::Invalid {
                path: self.path_of(file),
                message: format!("the string \"{field}\" is missing"),
            })?;
        let architecture = config.pointer("/architectures/0").and_then(Value::as_str);
        Ok(ModelIdentity { model_type: model_type.to_owned(), architecture: architecture.map(str::to_owned) })
    }

    /// The tokenizer's files: `tokenizer.json` if there is one, else `vocab.json` and `merges.txt`.
    pub fn tokenizer_files(&self) -> Result<TokenizerFiles, CheckpointError> {
        let config = self.tokenizer_config()?;
        if let Some(complete) = self.read("tokenizer.json")? {
            return Ok(TokenizerFiles { model: TokenizerModel::Complete(complete), config });
        }
        match (self.read("vocab.json")?, self.read("merges.txt")?) {
            (Some(vocab), Some(merges)) => {
                Ok(TokenizerFiles { model: TokenizerModel::VocabAndMerges { vocab, merges }, config })
            }
            (Some(_), None) => Err(CheckpointError::Missing { path: self.path_of("merges.txt") }),
            (None, Some(_)) => Err(CheckpointError::Missing { path: self.path_of("vocab.json") }),
            (None, None) => Err(CheckpointError::NoTokenizer { directory: self.location() }),
        }
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Result<Option<Value>, CheckpointError> {
        self.object("tokenizer_config.json")
    }

    /// The chat template as the checkpoint gives it: a string, or several named ones. It is looked for in
    /// `chat_template.jinja`, `chat_template.json` and `tokenizer_config.json`, in this order.
    pub fn chat_template(&self) -> Result<Option<Value>, CheckpointError> {
        if let Some(bytes) = self.read("chat_template.jinja")? {
            let text = String::from_utf8(bytes.into_owned()).map_err(|_| CheckpointError::Invalid {
                path: self.path_of("chat_template.jinja"),
                message: "it is not UTF-8".to_owned(),
            })?;
            return Ok(Some(Value::String(text)));
        }
        for file in [self.object("chat_template.json")?, self.tokenizer_config()?].into_iter().flatten() {
            if let Some(template) = file.get("chat_template").filter(|template| !template.is_null()) {
                return Ok(Some(template.clone()));
            }
        }
        Ok(None)
    }

    /// The contents of a file, if it is there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, CheckpointError> {
        match &self.source {
            Source::Embedded => Ok(demo::file(name).map(Cow::Borrowed)),
            Source::Directory(directory) => match std::fs::read(directory.join(name)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(CheckpointError::Unreadable { path: self.path_of(name), source }),
            },
        }
    }

    /// A file that holds a JSON object, if it is there.
    pub(super) fn object(&self, name: &str) -> Result<Option<Value>, CheckpointError> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| invalid_json(self.path_of(name), &error))?;
        if !value.is_object() {
            return Err(CheckpointError::Invalid {
                path: self.path_of(name),
                message: "it must hold a JSON object".to_owned(),
            });
        }
        Ok(Some(value))
    }

    /// A file that must be there and holds a JSON object.
    fn required_object(&self, name: &str) -> Result<Value, CheckpointError> {
        self.object(name)?.ok_or_else(|| CheckpointError::Missing { path: self.path_of(name) })
    }

    /// Whether a file is there.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Embedded => demo::file(name).is_some(),
            Source::Directory(directory) => directory.join(name).is_file(),
        }
    }

    /// The directory, unless it is the demo.
    pub fn directory(&self) -> Option<&Path> {
        match &self.source {
            Source::Directory(directory) => Some(directory),
            Source::Embedded => None,
        }
    }

    /// Where the checkpoint is, for messages.
    pub fn location(&self) -> String {
        match &self.source {
            Source::Directory(directory) => directory.display().to_string(),
            Source::Embedded => format!("built-in {}", demo::NAME),
        }
    }

    /// Where a file is or would be, for messages.
    pub fn path_of(&self, name: &str) -> String {
        match &self.source {
            Source::Directory(directory) => directory.join(name).display().to_string(),
            Source::Embedded => format!("{}/{name}", self.location()),
        }
    }
}

/// Takes the position out of the parser's message and into fields.
fn invalid_json(path: String, error: &serde_json::Error) -> CheckpointError {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let message =
        message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message).to_owned();
    CheckpointError::InvalidJson { path, message, line, column }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            fs::write(directory.path().join(name), contents).unwrap();
        }
        directory
    }

    fn checkpoint(files: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
        let directory = directory(files);
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        (directory, checkpoint)
    }

    #[test]
    fn the_demo_is_complete() {
        let demo = Checkpoint::demo();
        assert_eq!(demo.default_name(), "omni-demo");
        assert_eq!(demo.identity().unwrap().model_type, "qwen3_omni_moe");
        assert!(demo.generation_config().unwrap().is_some());
        assert!(demo.chat_template().unwrap().unwrap().is_string());
        assert!(matches!(demo.tokenizer_files().unwrap().model, TokenizerModel::Complete(_)));
    }

    #[test]
    fn a_path_that_is_no_directory_is_named() {
        let error = Checkpoint::open("/no/such/model").unwrap_err();
        assert!(error.to_string().starts_with("/no/such/model is not a directory"));
    }

    #[test]
    fn a_directory_without_config_is_refused() {
        let empty = directory(&[]);
        let error = Checkpoint::open(empty.path()).unwrap_err();
        assert_eq!(error.reason(), "missing_file");
        assert!(error.to_string().ends_with("config.json does not exist"));
    }

    #[test]
    fn broken_json_is_located() {
        let (_keep, checkpoint) = checkpoint(&[("config.json", "{\n \"a\": }")]);
        let error = checkpoint.config().unwrap_err().to_string();
        assert!(
            error.ends_with("config.json is not valid JSON: expected value at line 2, column 7"),
            "{error}"
        );
    }

    #[test]
    fn a_config_without_model_type_is_refused() {
        let (_keep, checkpoint) = checkpoint(&[("config.json", "{}")]);
        assert!(checkpoint.identity().unwrap_err().to_string().contains("\"model_type\" is missing"));
    }

    #[test]
    fn the_missing_half_of_a_tokenizer_is_named() {
        let (_keep, whole) = checkpoint(&[("config.json", "{}")]);
        assert_eq!(whole.tokenizer_files().unwrap_err().reason(), "no_tokenizer");
        let (_keep, half) = checkpoint(&[("config.json", "{}"), ("vocab.json", "{}")]);
        assert!(half.tokenizer_files().unwrap_err().to_string().ends_with("merges.txt does not exist"));
    }

    #[test]
    fn a_template_file_goes_before_the_tokenizer_config() {
        let (_keep, checkpoint) = checkpoint(&[
            ("config.json", "{}"),
            ("chat_template.json", r#"{"chat_template": "from json"}"#),
            ("tokenizer_config.json", r#"{"chat_template": "from config"}"#),
        ]);
        assert_eq!(checkpoint.chat_template().unwrap().unwrap(), "from json");
    }
}
