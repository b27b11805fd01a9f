//! The feed-forward network of one layer: `down(silu(gate x) * up x)`, dense or a mixture of experts.

use super::config::{DecoderConfig, FeedForwardConfig};
use super::workspace::{FeedForwardSpace, Loader};
use crate::models::LoadError;
use crate::tensor::{Backend, DeviceError, RouteSpec};

/// Weights of one layer's feed-forward network.
pub(super) enum FeedForward<B: Backend> {
    /// One network for all rows.
    Dense(Gated<B>),
    /// Each row visits the experts that its router chooses.
    Sparse(Box<Mixture<B>>),
}

/// A gated network.
pub(super) struct Gated<B: Backend> {
    /// Gate and up projections, `[2 * width, hidden]`.
    gate_up: B::Matrix,
    /// `[hidden, width]`.
    down: B::Matrix,
    /// Its width.
    width: usize,
}

/// A mixture of gated networks.
pub(super) struct Mixture<B: Backend> {
    /// `[experts, hidden]`.
    router: B::Matrix,
    /// How rows choose.
    route: RouteSpec,
    /// Gate and up projections, `[experts][2 * width, hidden]`.
    gate_up: B::Experts,
    /// `[experts][hidden, width]`.
    down: B::Experts,
    /// Width of an expert.
    width: usize,
    /// The expert that every row visits and its gate `[1, hidden]`: its output counts `sigmoid(gate x)` times.
    shared: Option<(Gated<B>, B::Matrix)>,
}

impl<B: Backend> FeedForward<B> {
    /// Loads the network under `prefix`.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        hidden: usize,
        config: &FeedForwardConfig,
    ) -> Result<Self, LoadError> {
        match config {
            FeedForwardConfig::Dense { width } => {
                Ok(Self::Dense(Gated::load(loader, prefix, hidden, *width)?))
            }
            FeedForwardConfig::Sparse { route, width, shared } => {
                Ok(Self::Sparse(Box::new(Mixture::load(loader, prefix, hidden, *route, *width, *shared)?)))
            }
        }
    }

    /// Reads `x`, writes `out`; both `[rows, hidden]`.
    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        rows: usize,
        x: &B::Buffer,
        space: &mut FeedForwardSpace<B>,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        match self {
            Self::Dense(gated) => gated.forward(backend, rows, x, &mut space.gate_up, &mut space.gated, out),
            Self::Sparse(mixture) => mixture.forward(backend, config.hidden_size, rows, x, space, out),
        }
    }
}

impl<B: Backend> Gated<B> {
    fn load(loader: &Loader<'_, B>, prefix: &str, hidden: usize, width: usize) -> Result<Self, LoadError> {
        let name = |part: &str| format!("{prefix}.{part}.weight");
        Ok(Self {
            gate_up: loader.matrix(&[(&name("gate_proj"), width), (&name("up_proj"), width)], hidden)?,
            down: loader.matrix(&[(&name("down_proj"), hidden)], width)?,
            width,
        })
    }

    fn forward(
        &self,
        backend: &B,
        rows: usize,
        x: &B::Buffer,
        gate_up: &mut B::Buffer,
        gated: &mut B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        backend.matmul(x, &self.gate_up, rows, gate_up)?;
        backend.swiglu(gate_up, rows, self.width, gated)?;
        backend.matmul(gated, &self.down, rows, out)
    }
}

impl<B: Backend> Mixture<B> {
    fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        hidden: usize,
        route: RouteSpec,
        width: usize,
        shared: Option<usize>,
    ) -> Result<Self, LoadError> {
        let mut gate_up = Vec::with_capacity(route.experts);
        let mut down = Vec::with_capacity(route.experts);
        for expert in 0..route.experts {
            let name = |part: &str| format!("{prefix}.experts.{expert}.{part}.weight");
            gate_up.push(vec![
                loader.weight(&name("gate_proj"), width, hidden)?,
                loader.weight(&name("up_proj"), width, hidden)?,
            ]);
            down.push(vec![loader.weight(&name("down_proj"), hidden, width)?]);
        }
        let shared = match shared {
            Some(width) => Some((
                Gated::load(loader, &format!("{prefix}.shared_expert"), hidden, width)?,
                loader.matrix(&[(&format!("{prefix}.shared_expert_gate.weight"), 1)], hidden)?,
            )),
            None => None,
        };
        Ok(Self {
            router: loader.matrix(&[(&format!("{prefix}.gate.weight"), route.experts)], hidden)?,
            route,
            gate_up: loader.backend.experts(gate_up)?,
            down: loader.backend.experts(down)?,
            width,
            shared,
        })
    }

    fn forward(
        &self,
        backend: &B,
        hidden: usize,
        rows: usize,
        x: &B::Buffer,
        space: &mut FeedForwardSpace<B>,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let Some(routing) = space.routing.as_mut() else {
            return Err(DeviceError::Shape {
                operation: "route",
                operand: "rows of the routing",
                have: 0,
                need: rows,
            });
        };
        backend.matmul(x, &self.router, rows, &mut space.router_logits)?;
        backend.route(&space.router_logits, self.route, rows, routing)?;
        let pairs = rows * self.route.top_k;
        backend.expert_gate_up(
            x,
            &self.gate_up,
            routing,
            (pairs, self.width),
            &mut space.expert_gate_up,
            &mut space.expert_gated,
        )?;
        backend.expert_down(&space.expert_gated, &self.down, routing, hidden, &mut space.expert_out, out)?;
        if let Some((shared, gate)) = &self.shared {
            shared.forward(backend, rows, x, &mut space.gate_up, &mut space.gated, &mut space.shared_out)?;
            backend.matmul(x, gate, rows, &mut space.shared_gate)?;
            backend.add_gated(&space.shared_gate, &space.shared_out, rows, hidden, out)?;
        }
        Ok(())
    }
}
