//! Deploy files, and the files that they build on; `--stage-overrides`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{DeployError, Fault};
use super::keys::TOP;
use super::layer::{Layer, StageLayer};
use super::notes::Notes;
use crate::config::Source;
use crate::config::document::{DocumentError, LONGEST, Problem, parse_json, parse_yaml};

/// The option with overrides.
pub const OVERRIDES_OPTION: &str = "--stage-overrides";

impl Layer {
    /// Reads a deploy file, over the file that its `base_config` names.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is not YAML, unknown keys, values of the wrong kind, and files that build on each
    /// other in a circle.
    pub fn from_file(path: &Path, notes: &mut Notes) -> Result<Self, DeployError> {
        read(path, &mut Vec::new(), notes)
    }

    /// Reads the text of a deploy file that lies in no file, under a name for messages. Its `base_config` is looked for
    /// from the working directory.
    ///
    /// # Errors
    ///
    /// As for [`from_file`](Self::from_file).
    pub fn from_text(name: &str, text: &str, notes: &mut Notes) -> Result<Self, DeployError> {
        read_text((name, text), Path::new(""), &mut Vec::new(), notes)
    }

    /// Reads the value of `--stage-overrides`: a JSON object from stage ids to keys.
    ///
    /// # Errors
    ///
    /// Text that is not JSON, keys that are not known or cannot be overridden.
    pub fn from_overrides(json: &str, notes: &mut Notes) -> Result<Self, DeployError> {
        let expected = "an object from stage ids to keys, such as {\"1\": {\"num_replicas\": 2}}";
        let document = parse_json(OVERRIDES_OPTION, json)?.into_document(expected)?;
        let mut layer = Self::default();
        for entry in document.into_entries() {
            let source = entry.source.clone();
            let Ok(id) = entry.key.parse() else {
                let problem = Problem::WrongDocument { expected, found: format!("the key {:?}", entry.key) };
                return Err(DocumentError { at: source, problem }.into());
            };
            let stage = StageLayer::read(source, entry.into_mapping()?, notes)?;
            stage.refuse(&["stage_id", "custom_stage"])?;
            layer.stages.insert(id, stage);
        }
        Ok(layer)
    }
}

/// Reads a file that the files of `chain` build on, each on the next.
fn read(path: &Path, chain: &mut Vec<PathBuf>, notes: &mut Notes) -> Result<Layer, DeployError> {
    let name = path.display().to_string();
    let unreadable =
        |cause: std::io::Error| DeployError::Unreadable { file: name.clone(), cause: cause.to_string() };
    let mut bytes = Vec::new();
    // No further than is needed to see that it is too long: the path may name something that does not end.
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| DeployError::Unreadable {
        file: name.clone(),
        cause: "it is not text in UTF-8".to_owned(),
    })?;
    chain.push(path.canonicalize().map_err(unreadable)?);
    read_text((&name, &text), path.parent().unwrap_or(Path::new("")), chain, notes)
}

/// Reads the text of a file that lies in a directory.
fn read_text(
    (name, text): (&str, &str),
    directory: &Path,
    chain: &mut Vec<PathBuf>,
    notes: &mut Notes,
) -> Result<Layer, DeployError> {
    let expected = "a mapping of keys to values";
    let mut document = parse_yaml(name, text)?.into_document(expected)?;
    TOP.check(&document, notes)?;
    let Some(base) = document.take("base_config") else { return Layer::read(document, notes) };
    let base_path = directory.join(base.text()?);
    let file = base_path.display().to_string();
    match base_path.canonicalize() {
        Ok(real) if chain.contains(&real) => Err(Fault::BaseCycle { file }.at(&base.source)),
        Err(cause) => {
            let at = base.source;
            Err(DeployError::Unreadable {
                file: format!("{at}: base_config {file}"),
                cause: cause.to_string(),
            })
        }
        Ok(_) => {
            let mut layer = read(&base_path, chain, notes)?;
            layer.merge(Layer::read(document, notes)?);
            Ok(layer)
        }
    }
}

impl Layer {
    /// The place of a key at the top.
    pub(super) fn place_of(&self, key: &str) -> Source {
        self.top.get(key).map_or(Source::BuiltIn, |entry| entry.source.clone())
    }
}
