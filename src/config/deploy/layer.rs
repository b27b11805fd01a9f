//! What one source says of a deployment, before it is put on top of what others say.

use std::collections::BTreeMap;

use super::error::{DeployError, Fault};
use super::keys::{CONNECTOR, EDGE, EXTRA, OVERLAY, PLATFORMS, STAGE};
use super::notes::Notes;
use crate::config::Source;
use crate::config::document::{DocumentError, Entry, Mapping, Node, Problem, Value};

/// Blocks of a stage's entry whose keys count as the stage's own.
const BLOCKS: [&str; 3] = ["engine_args", "engine_extras", "runtime"];

/// What a deploy file, with the files that it builds on, or an option says.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// `pipeline`, `async_chunk` and `dtype`.
    pub(super) top: Mapping,
    /// Connectors by name.
    pub(super) connectors: Mapping,
    /// Edges that are to be there.
    pub(super) edges: Vec<EdgeLayer>,
    /// Where the list of stages stands, if there is one.
    pub(super) list: Option<Source>,
    /// Stages by id.
    pub(super) stages: Stages,
    /// What is laid over the stages when the language model runs on a GPU.
    pub(super) cuda: Stages,
}

/// An entry of `edges`.
#[derive(Debug, Clone)]
pub(super) struct EdgeLayer {
    /// Where it stands.
    pub(super) source: Source,
    /// Its keys.
    pub(super) keys: Mapping,
}

/// Entries of stages, by id.
pub(super) type Stages = BTreeMap<u16, StageLayer>;

/// The entry of a stage.
#[derive(Debug, Clone)]
pub(super) struct StageLayer {
    /// Where it stands.
    pub(super) source: Source,
    /// Its keys, those of blocks included.
    pub(super) keys: Mapping,
}

impl Layer {
    /// Reads a document whose keys at the top are known.
    pub(super) fn read(mut document: Mapping, notes: &mut Notes) -> Result<Self, DeployError> {
        let mut layer = Self::default();
        if let Some(connectors) = filled(document.take("connectors")) {
            for connector in connectors.mapping()?.entries() {
                check_connector(connector, notes)?;
            }
            layer.connectors = connectors.into_mapping()?;
        }
        if let Some(edges) = filled(document.take("edges")) {
            for edge in edges.into_list()? {
                let source = edge.source.clone();
                let keys = edge.into_document("a mapping of \"from\" and \"to\"")?;
                EDGE.check(&keys, notes)?;
                layer.edges.push(EdgeLayer { source, keys });
            }
        }
        if let Some(stages) = filled(document.take("stages")) {
            layer.list = Some(stages.source.clone());
            layer.stages = read_stages(stages, notes)?;
        }
        if let Some(platforms) = filled(document.take("platforms")) {
            let mut platforms = platforms.into_mapping()?;
            PLATFORMS.check(&platforms, notes)?;
            if let Some(cuda) = filled(platforms.take("cuda")) {
                let mut cuda = cuda.into_mapping()?;
                OVERLAY.check(&cuda, notes)?;
                if let Some(stages) = filled(cuda.take("stages")) {
                    layer.cuda = read_stages(stages, notes)?;
                    layer.cuda.values().try_for_each(|stage| stage.refuse(&["custom_stage"]))?;
                }
            }
        }
        layer.top = document;
        Ok(layer)
    }

    /// Lays another layer over this one.
    pub(super) fn merge(&mut self, over: Self) {
        self.top.merge(over.top);
        self.connectors.merge(over.connectors);
        if !over.edges.is_empty() {
            self.edges = over.edges;
        }
        self.list = over.list.or(self.list.take());
        merge_stages(&mut self.stages, over.stages);
        merge_stages(&mut self.cuda, over.cuda);
    }

    /// What is to be said of stages: with a GPU, that platform's overlay included.
    pub(super) fn stages_on(&self, gpu: bool) -> Stages {
        let mut stages = self.stages.clone();
        if gpu {
            merge_stages(&mut stages, self.cuda.clone());
        }
        stages
    }
}

pub(super) fn merge_stages(below: &mut Stages, over: Stages) {
    for (id, over) in over {
        match below.get_mut(&id) {
            Some(stage) => stage.keys.merge(over.keys),
            None => drop(below.insert(id, over)),
        }
    }
}

impl StageLayer {
    /// Reads the keys of a stage's entry.
    pub(super) fn read(source: Source, keys: Mapping, notes: &mut Notes) -> Result<Self, DeployError> {
        let keys = flattened(keys)?;
        STAGE.check(&keys, notes)?;
        Ok(Self { source, keys })
    }

    /// Refuses keys that decide what the pipeline is, where only settings of its stages may stand.
    pub(super) fn refuse(&self, keys: &[&str]) -> Result<(), DeployError> {
        let Some(entry) = keys.iter().find_map(|key| self.keys.get(key)) else { return Ok(()) };
        let fault = Fault::NotAnOverride { key: entry.key.clone() };
        Err(fault.at(&entry.source))
    }
}

/// A key that has a value.
fn filled(entry: Option<Entry>) -> Option<Entry> {
    entry.filter(|entry| entry.node.value != Value::Null)
}

fn read_stages(stages: Entry, notes: &mut Notes) -> Result<Stages, DeployError> {
    let mut read = Stages::new();
    for item in stages.into_list()? {
        let Node { value: Value::Mapping(keys), source } = item else {
            let problem = Problem::WrongDocument {
                expected: "a stage: a mapping that begins with stage_id",
                found: item.value.kind(),
            };
            return Err(DocumentError { at: item.source, problem }.into());
        };
        let mut stage = StageLayer::read(source, keys, notes)?;
        let Some(id) = filled(stage.keys.take("stage_id")) else {
            return Err(Fault::NoStageId.at(&stage.source));
        };
        let number = id.count(0..=u32::from(u16::MAX))? as u16;
        if let Some(first) = read.get(&number) {
            let fault = Fault::DuplicateStage { stage: number, first: first.source.clone() };
            return Err(fault.at(&id.source));
        }
        stage.source = id.source;
        read.insert(number, stage);
    }
    Ok(read)
}

/// Puts the keys of blocks beside the others.
fn flattened(mut keys: Mapping) -> Result<Mapping, DocumentError> {
    while let Some(block) = BLOCKS.iter().find_map(|block| keys.take(block)) {
        let Some(block) = filled(Some(block)) else { continue };
        for entry in block.into_mapping()?.into_entries() {
            keys.insert(entry)?;
        }
    }
    Ok(keys)
}

fn check_connector(connector: &Entry, notes: &mut Notes) -> Result<(), DeployError> {
    let keys = connector.mapping()?;
    CONNECTOR.check(keys, notes)?;
    if let Some(extra) = keys.get("extra") {
        EXTRA.check(extra.mapping()?, notes)?;
    }
    Ok(())
}
