//! Edges and their connectors.

use super::error::{DeployError, Fault};
use super::layer::{Layer, Stages};
use super::notes::Notes;
use super::{CodecChunks, Deploy, EdgeDeploy};
use crate::config::document::{DocumentError, Entry, Mapping, Problem};
use crate::config::spelling::nearest;
use crate::config::{Source, Sources};
use crate::transport::Connector;

/// The classes of connectors by the names that a file may give them; these may also stand where a connector's name does.
pub(super) const CLASSES: [(&str, Connector); 2] =
    [("in_process", Connector::InProcess), ("serialized", Connector::Serialized)];
/// Upstream's connector within one machine.
const SHARED_MEMORY: &str = "SharedMemoryConnector";
/// Frames of a window at most: a window of 24 s.
const MOST_FRAMES: u32 = 300;
/// Windows of a step at most.
const MOST_WINDOWS: u32 = 64;

/// The connector that one end of an edge names.
struct End<'a> {
    name: &'a str,
    entry: &'a Entry,
}

/// Gives every edge the connector that its ends name.
pub(super) fn connect(
    deploy: &mut Deploy,
    layer: &Layer,
    stages: &Stages,
    notes: &mut Notes,
) -> Result<(), DeployError> {
    let mut used = Vec::new();
    for (to, stage) in (0..).zip(&mut deploy.stages).skip(1) {
        let Some(end) = end_of_edge(stages, to)? else { continue };
        used.push(end.name);
        apply_connector(&mut stage.input, &end, &layer.connectors, &mut stage.sources, notes)?;
    }
    for connector in layer.connectors.entries().filter(|connector| !used.contains(&connector.key.as_str())) {
        // Checked all the same.
        let end = End { name: &connector.key, entry: connector };
        apply_connector(&mut EdgeDeploy::default(), &end, &layer.connectors, &mut Sources::default(), notes)?;
        notes.once(&connector.key, || {
            format!("{}: connector \"{}\" is used by no edge", connector.source, connector.key)
        });
    }
    Ok(())
}

/// The end that decides for the edge to a stage: either, where they agree; an override before the file.
fn end_of_edge(stages: &Stages, to: u16) -> Result<Option<End<'_>>, DeployError> {
    let from = to.saturating_sub(1);
    let end = |id: u16, key: &str, peer: String| -> Result<Option<End<'_>>, DeployError> {
        let Some(entry) = stages.get(&id).and_then(|stage| stage.keys.get(key)) else { return Ok(None) };
        let Some(entry) = entry.mapping()?.get(&peer) else { return Ok(None) };
        Ok(Some(End { name: entry.text()?, entry }))
    };
    let sent = end(from, "output_connectors", format!("to_stage_{to}"))?;
    let received = end(to, "input_connectors", format!("from_stage_{from}"))?;
    let (sent, received) = match (sent, received) {
        (Some(sent), Some(received)) => (sent, received),
        (sent, received) => return Ok(received.or(sent)),
    };
    let overrides = |end: &End<'_>| matches!(end.entry.source, Source::InOption { .. });
    if overrides(&sent) != overrides(&received) {
        return Ok(Some(if overrides(&sent) { sent } else { received }));
    }
    if sent.name != received.name {
        let (here, there) = (received.name.to_owned(), sent.name.to_owned());
        let fault = Fault::ConnectorsDisagree { here, there, at: sent.entry.source.clone() };
        return Err(fault.at(&received.entry.source));
    }
    Ok(Some(received))
}

/// Checks that the edges which a file lists are those of the pipeline.
pub(super) fn check_listed(deploy: &Deploy, layer: &Layer) -> Result<(), DeployError> {
    for edge in &layer.edges {
        let (Some(from), Some(to)) = (edge.keys.get("from"), edge.keys.get("to")) else {
            return Err(Fault::HalfAnEdge.at(&edge.source));
        };
        let id = |entry: &Entry| entry.count(0..=u32::from(u16::MAX)).map(|id| id as u16);
        check_edge(deploy, (id(from)?, id(to)?), &to.source)?;
    }
    Ok(())
}

/// Checks that the peers which stages name are their neighbours.
pub(super) fn check_peers(deploy: &Deploy, stages: &Stages) -> Result<(), DeployError> {
    for (id, stage) in stages {
        for (key, prefix) in [("input_connectors", "from_stage_"), ("output_connectors", "to_stage_")] {
            let Some(connectors) = stage.keys.get(key) else { continue };
            for entry in connectors.mapping()?.entries() {
                let Some(peer) = entry.key.strip_prefix(prefix).and_then(|peer| peer.parse().ok()) else {
                    let nearest = Some(if key == "input_connectors" { "from_stage_N" } else { "to_stage_N" });
                    let problem = Problem::UnknownKey { key: entry.key.clone(), nearest };
                    return Err(entry.error(problem).into());
                };
                let edge = if key == "input_connectors" { (peer, *id) } else { (*id, peer) };
                check_edge(deploy, edge, &entry.source)?;
            }
        }
    }
    Ok(())
}

/// Checks that an edge leads from a stage to the next.
fn check_edge(deploy: &Deploy, (from, to): (u16, u16), at: &Source) -> Result<(), DeployError> {
    let fault = if from >= to {
        Fault::Cycle { from, to }
    } else if usize::from(to) >= deploy.stages.len() {
        Fault::NoSuchStage { stage: to, pipeline: deploy.pipeline.clone() }
    } else if from + 1 != to {
        Fault::NoSuchEdge { from, to }
    } else {
        return Ok(());
    };
    Err(fault.at(at))
}

fn apply_connector(
    edge: &mut EdgeDeploy,
    end: &End<'_>,
    connectors: &Mapping,
    sources: &mut Sources,
    notes: &mut Notes,
) -> Result<(), DeployError> {
    let Some(defined) = connectors.get(end.name) else {
        let Some((_, connector)) = CLASSES.iter().find(|(name, _)| *name == end.name) else {
            return Err(undefined(end, connectors));
        };
        edge.connector = *connector;
        sources.note("connector", end.entry.source.clone());
        return Ok(());
    };
    let keys = defined.mapping()?;
    if let Some(class) = keys.get("name") {
        edge.connector = class_of(class, notes)?;
        sources.note("connector", class.source.clone());
    }
    if let Some(extra) = keys.get("extra") {
        apply_extra(&mut edge.codec, extra.mapping()?, sources)?;
    }
    Ok(())
}

fn undefined(end: &End<'_>, connectors: &Mapping) -> DeployError {
    let known: Vec<&str> = connectors.entries().map(|entry| entry.key.as_str()).collect();
    let known: Vec<&str> = known.into_iter().chain(CLASSES.map(|(name, _)| name)).collect();
    let fault = Fault::UndefinedConnector {
        name: end.name.to_owned(),
        nearest: nearest(end.name, known.iter().copied()).map(str::to_owned),
        known: known.into_iter().map(str::to_owned).collect(),
    };
    fault.at(&end.entry.source)
}

fn class_of(entry: &Entry, notes: &mut Notes) -> Result<Connector, DeployError> {
    let class = entry.text()?;
    if class == SHARED_MEMORY {
        notes.once(SHARED_MEMORY, || {
            format!("{}: {SHARED_MEMORY} is taken for in_process: stages share their memory", entry.source)
        });
        return Ok(Connector::InProcess);
    }
    CLASSES.iter().find(|(name, _)| *name == class).map(|(_, connector)| *connector).ok_or_else(|| {
        let fault = Fault::UnknownConnectorClass { class: class.to_owned() };
        fault.at(&entry.source)
    })
}

/// The keys of `extra` with the places that they set, and the range of each.
pub(super) fn codec_keys(codec: &mut CodecChunks) -> [(&'static str, &mut usize, u32, u32); 4] {
    [
        ("initial_codec_chunk_frames", &mut codec.initial_frames, 1, MOST_FRAMES),
        ("codec_chunk_frames", &mut codec.chunk_frames, 1, MOST_FRAMES),
        ("codec_left_context_frames", &mut codec.left_context_frames, 0, MOST_FRAMES),
        ("decode_batch_max_size", &mut codec.max_windows, 1, MOST_WINDOWS),
    ]
}

fn apply_extra(codec: &mut CodecChunks, extra: &Mapping, sources: &mut Sources) -> Result<(), DocumentError> {
    for (key, target, least, most) in codec_keys(codec) {
        if let Some(entry) = extra.get(key) {
            *target = entry.count(least..=most)? as usize;
            sources.note(key, entry.source.clone());
        }
    }
    Ok(())
}

/// Decides for every edge whether chunks go on as they are made.
pub(super) fn decide_async_chunk(deploy: &mut Deploy) -> Result<(), DeployError> {
    let at_top = deploy.async_chunk;
    for to in 1..deploy.stages.len() {
        let [.., from, into] = deploy.stages.get_mut(..=to).unwrap_or_default() else { continue };
        into.input.async_chunk = match (from.async_chunk, into.async_chunk) {
            (Some(one), Some(other)) if one != other => {
                let at = from.sources.of("async_chunk").clone();
                let (from, to) = (to as u16 - 1, to as u16);
                let fault = Fault::AsyncChunkDisagrees { here: other, from, to, at };
                let at = into.sources.of("async_chunk");
                return Err(fault.at(at));
            }
            (Some(said), _) | (None, Some(said)) => said,
            (None, None) => at_top,
        };
    }
    Ok(())
}
