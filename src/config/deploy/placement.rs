//! Where stages run: `devices` of a stage and `--device`.

use std::fmt;

use super::StageDeploy;
use super::error::{DeployError, Fault};
use super::layer::{Layer, Stages};
use super::notes::Notes;
use crate::config::Source;
use crate::config::document::{DocumentError, Entry, Value};

/// Where a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the CPU.
    Cpu,
    /// On the GPU of this number.
    Cuda(usize),
}

/// The device of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerDevice {
    /// The GPU that it uses, if it uses one.
    pub gpu: Option<usize>,
    /// Whether `--device` was given: what the command line says wins over a file.
    pub asked: bool,
}

/// What stands at `devices`.
enum Devices {
    Cpu,
    Cuda(usize),
    /// GPU numbers, as upstream writes them.
    Indices(Vec<usize>),
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(gpu) => write!(f, "cuda:{gpu}"),
        }
    }
}

impl Devices {
    fn read(entry: &Entry) -> Result<Self, DocumentError> {
        let text = match &entry.node.value {
            Value::Integer(index) => index.to_string(),
            Value::Text(text) => text.trim().to_owned(),
            _ => String::new(),
        };
        let number = |text: &str| text.trim().parse().ok();
        let parsed = match text.as_str() {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            text => match text.strip_prefix("cuda:") {
                Some(index) => number(index).map(Self::Cuda),
                None => text.split(',').map(number).collect::<Option<_>>().map(Self::Indices),
            },
        };
        parsed.ok_or_else(|| entry.expected("\"cpu\", \"cuda\", \"cuda:N\" or GPU indices such as \"0\""))
    }
}

/// The GPU that a deployment asks for by `cuda` or `cuda:N`, and where it does.
pub(super) fn asked_gpu(layers: &[&Layer]) -> Result<Option<(usize, Source)>, DeployError> {
    for layer in layers {
        for stage in layer.stages.values() {
            if let Some(entry) = stage.keys.get("devices")
                && let Devices::Cuda(gpu) = Devices::read(entry)?
            {
                return Ok(Some((gpu, entry.source.clone())));
            }
        }
    }
    Ok(None)
}

/// Places a stage.
pub(super) fn place(
    (id, stage): (u16, &mut StageDeploy),
    stages: &Stages,
    server: ServerDevice,
    notes: &mut Notes,
) -> Result<(), DeployError> {
    let able = stage.kind.runs_on_gpu();
    let on_gpu = server.gpu.filter(|_| able).map_or(Placement::Cpu, Placement::Cuda);
    stage.device = on_gpu;
    if server.asked {
        stage.sources.note("devices", Source::Option("--device"));
    }
    let Some(entry) = stages.get(&id).and_then(|stage| stage.keys.get("devices")) else { return Ok(()) };
    let wins = !server.asked || matches!(entry.source, Source::InOption { .. });
    let devices = Devices::read(entry)?;
    if let Devices::Cuda(_) = devices
        && !able
    {
        let asked = entry.node.value.to_json().as_str().unwrap_or_default().to_owned();
        let fault = Fault::CpuAlone { stage: id, name: stage.name.clone(), asked };
        return Err(fault.at(&entry.source));
    }
    match devices {
        Devices::Indices(_) if server.gpu.is_none() => notes.once("GPU indices", || {
            format!("{}: GPU indices have no effect: the server runs on the CPU", entry.source)
        }),
        Devices::Indices(_) if !able => notes.once("GPU indices of speech", || {
            format!("{}: GPU indices have no effect for what speaks: it runs on the CPU", entry.source)
        }),
        Devices::Indices(gpus) if gpus.iter().any(|gpu| Placement::Cuda(*gpu) != on_gpu) => {
            let name = &stage.name;
            notes.once("another GPU", || {
                format!("{}: the {name} runs on one GPU, {on_gpu}; --device cuda:N chooses it", entry.source)
            });
        }
        Devices::Cpu if wins => {
            stage.device = Placement::Cpu;
            stage.sources.note("devices", entry.source.clone());
        }
        Devices::Cuda(gpu) if wins => {
            stage.device = Placement::Cuda(gpu);
            stage.sources.note("devices", entry.source.clone());
        }
        Devices::Cpu | Devices::Cuda(_) => notes.once("--device", || {
            format!("{}: --device on the command line wins over this key", entry.source)
        }),
        Devices::Indices(_) => {}
    }
    Ok(())
}
