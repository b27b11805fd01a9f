//! Steps that are launched again as one graph.

use std::collections::HashMap;
use std::fmt;

use super::batch::DecodeShape;
use super::driver::{Driver, Graph};
use crate::tensor::DeviceError;

/// Graphs that are kept. One takes some hundred kilobytes of the device's memory.
const GRAPHS: usize = 64;

/// What must be equal for steps to make the same launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// The step itself.
    pub(super) decode: DecodeShape,
    /// How often the memory of its selections was replaced.
    pub(super) sampling_layout: u64,
}

/// A graph for each shape of which there was a step already.
///
/// The first step of a shape is launched kernel by kernel, so that whatever happens only once happens outside a graph:
/// memory is allocated, and the driver loads the kernels. The second one is captured and launched, and so are all others
/// of its shape. The step that a graph was launched for last is complete before the graph is dropped: steps of many
/// other shapes came after it.
#[derive(Default)]
pub struct Recordings {
    /// By shape; a step without a graph was there once.
    steps: HashMap<StepShape, Recording>,
    /// Steps so far.
    clock: u64,
    /// Whether a graph could not be made. None is tried again then.
    failed: bool,
}

/// What is known of the steps of a shape.
struct Recording {
    /// Their launches.
    graph: Option<Box<dyn Graph>>,
    /// When there was one last.
    used: u64,
}

impl fmt::Debug for Recordings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Recordings").field("shapes", &self.steps.len()).finish_non_exhaustive()
    }
}

impl Recordings {
    /// Carries out a step, of which `work` makes the launches.
    pub(super) fn run(
        &mut self,
        driver: &dyn Driver,
        shape: StepShape,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.clock += 1;
        let Some(recording) = self.steps.get_mut(&shape) else {
            self.make_room();
            self.steps.insert(shape, Recording { graph: None, used: self.clock });
            return work();
        };
        recording.used = self.clock;
        if recording.graph.is_none() && !self.failed {
            match driver.capture(work) {
                Ok(graph) => recording.graph = Some(graph),
                Err(error) => {
                    self.failed = true;
                    tracing::warn!("steps are launched kernel by kernel: {error}");
                }
            }
        }
        match &mut recording.graph {
            Some(graph) => graph.launch(),
            None => work(),
        }
    }

    /// Drops the shape that has not been there for the longest time if there are many.
    fn make_room(&mut self) {
        if self.steps.len() < GRAPHS {
            return;
        }
        let oldest = self.steps.iter().min_by_key(|(_, recording)| recording.used).map(|(shape, _)| *shape);
        if let Some(shape) = oldest {
            self.steps.remove(&shape);
        }
    }
}
