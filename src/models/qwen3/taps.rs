//! Hidden states that a forward pass keeps on request: for the talker, which is fed with them, and for tests.

use crate::tensor::{Backend, DeviceError};

/// A place in the decoder where hidden states can be kept, `[rows, hidden_size]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TapPoint {
    /// The input of the first layer.
    Embeddings,
    /// The output of a layer, counted from 0: the residual stream after it, before any norm.
    Layer(usize),
    /// The output of the final norm.
    FinalNorm,
}

impl TapPoint {
    /// The point that transformers calls `hidden_states[index]`: the input of layer `index`.
    pub fn hidden_state(index: usize) -> Self {
        index.checked_sub(1).map_or(Self::Embeddings, Self::Layer)
    }
}

/// The points to keep and what was kept there in the last step.
pub struct Taps<B: Backend> {
    /// The device that the states are on.
    backend: B,
    /// Points with the states kept there.
    kept: Vec<(TapPoint, B::Buffer)>,
    /// Values kept at each point in the last step.
    elements: usize,
    /// Where states are shown when the device has memory of its own.
    staging: Vec<f32>,
}

impl<B: Backend> Taps<B> {
    /// Room for `elements` values, rows times hidden size, at each point.
    pub fn new(backend: &B, points: &[TapPoint], elements: usize) -> Result<Self, DeviceError> {
        let kept = points
            .iter()
            .map(|point| Ok((*point, backend.buffer(elements)?)))
            .collect::<Result<Vec<_>, DeviceError>>()?;
        Ok(Self { backend: backend.clone(), kept, elements: 0, staging: Vec::new() })
    }

    /// Keeps the states of a point if they are wanted.
    pub(super) fn keep(
        &mut self,
        point: TapPoint,
        states: &B::Buffer,
        elements: usize,
    ) -> Result<(), DeviceError> {
        self.elements = elements;
        for (_, buffer) in self.kept.iter_mut().filter(|(wanted, _)| *wanted == point) {
            self.backend.copy(states, elements, buffer)?;
        }
        Ok(())
    }

    /// Waits for the last step and shows its states at a point, `[rows, hidden_size]`; empty if not asked for.
    pub fn read(&mut self, point: TapPoint) -> Result<&[f32], DeviceError> {
        match self.kept.iter().find(|(kept, _)| *kept == point) {
            Some((_, buffer)) => self.backend.read(buffer, self.elements, &mut self.staging),
            None => Ok(&[]),
        }
    }
}
