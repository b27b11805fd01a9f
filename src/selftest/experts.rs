//! Routing and the products with chosen experts.

use super::operations::{Operation, precise, shown, weight};
use super::random::Random;
use super::rows::stored_as;
use crate::tensor::{Backend, DeviceError, ExpertInput, RouteSpec, Weight};

/// `route`, `expert_matmul` and `combine_experts`.
pub(super) struct ExpertProduct {
    pub(super) experts: usize,
    pub(super) top_k: usize,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) out: usize,
    pub(super) input: ExpertInput,
    /// Whether the weights are stored as bf16.
    pub(super) narrow: bool,
}

impl Operation for ExpertProduct {
    fn subject(&self) -> &'static str {
        "route, expert_matmul, combine_experts"
    }

    fn case(&self) -> String {
        let Self { experts, top_k, rows, inner, out, input, narrow } = self;
        let stored = stored_as(*narrow);
        format!("{rows} rows, {top_k} of {experts} experts [{out}, {inner}] of {stored}, input by {input:?}")
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let Self { experts, top_k, rows, inner, out, input, narrow } = *self;
        let mut random = Random::new(rows + out);
        let routing = routed(backend, &mut random, experts, top_k, rows)?;
        let matrices = backend.experts(matrices(&mut random, experts, &[out - 3, 3], inner, narrow)?)?;
        let inputs = match input {
            ExpertInput::Row => rows,
            ExpertInput::Pair => rows * top_k,
        };
        let x = backend.upload_values(&random.values(inputs * inner))?;
        let mut products = backend.buffer(rows * top_k * out)?;
        let mut combined = backend.buffer(rows * out)?;
        backend.expert_matmul(&x, input, &matrices, &routing, &mut products)?;
        backend.combine_experts(&products, &routing, out, &mut combined)?;
        Ok(vec![shown(backend, &products, rows * top_k * out)?, shown(backend, &combined, rows * out)?])
    }
}

/// `expert_gate_up` and `expert_down`.
pub(super) struct ExpertNetwork {
    pub(super) experts: usize,
    pub(super) top_k: usize,
    pub(super) rows: usize,
    pub(super) hidden: usize,
    pub(super) width: usize,
}

impl Operation for ExpertNetwork {
    fn subject(&self) -> &'static str {
        "expert_gate_up, expert_down"
    }

    fn case(&self) -> String {
        let Self { experts, top_k, rows, hidden, width } = self;
        format!("{rows} rows of {hidden}, {top_k} of {experts} experts of width {width}")
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let Self { experts, top_k, rows, hidden, width } = *self;
        let pairs = rows * top_k;
        let mut random = Random::new(rows + hidden);
        let routing = routed(backend, &mut random, experts, top_k, rows)?;
        let gate_up = backend.experts(matrices(&mut random, experts, &[width, width], hidden, true)?)?;
        let down = backend.experts(matrices(&mut random, experts, &[hidden], width, true)?)?;
        let x = backend.upload_values(&random.values(rows * hidden))?;
        let mut products = backend.buffer(pairs * (2 * width).max(hidden))?;
        let (mut gated, mut out) = (backend.buffer(pairs * width)?, backend.buffer(rows * hidden)?);
        backend.expert_gate_up(&x, &gate_up, &routing, (pairs, width), &mut products, &mut gated)?;
        backend.expert_down(&gated, &down, &routing, hidden, &mut products, &mut out)?;
        Ok(vec![shown(backend, &gated, pairs * width)?, shown(backend, &out, rows * hidden)?])
    }
}

/// The choices of rows with random logits.
fn routed<B: Backend>(
    backend: &B,
    random: &mut Random,
    experts: usize,
    top_k: usize,
    rows: usize,
) -> Result<B::Routing, DeviceError> {
    let logits = precise(backend, &random.values(rows * experts))?;
    let mut routing = backend.routing(rows + 1, top_k)?;
    backend.route(&logits, RouteSpec { experts, top_k, normalize: true }, rows, &mut routing)?;
    Ok(routing)
}

/// Random matrices of all experts, each of parts of so many rows.
fn matrices(
    random: &mut Random,
    experts: usize,
    parts: &[usize],
    inner: usize,
    narrow: bool,
) -> Result<Vec<Vec<Weight>>, DeviceError> {
    let mut part = |rows: usize| weight(vec![rows, inner], random.values(rows * inner), narrow);
    (0..experts).map(|_| parts.iter().map(|rows| part(*rows)).collect()).collect()
}
