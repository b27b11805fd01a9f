//! Routing, and the products with chosen experts.

use super::backend::Cuda;
use super::driver::Launch;
use super::memory::{CudaBuffer, CudaExperts, CudaRouting};
use super::stored::Stored;
use super::variants::{
    ExpertPath, GATHERED_PAIRS, MAX_EXPERTS, expert_matvec, expert_path, expert_tiles, sums_choices,
};
use crate::tensor::error::{require, require_exact};
use crate::tensor::{Backend, DeviceError, ExpertInput, RouteSpec};

impl Cuda {
    /// See [`Backend::route`].
    pub(super) fn launch_route(
        &self,
        logits: &CudaBuffer,
        spec: RouteSpec,
        rows: usize,
        routing: &mut CudaRouting,
    ) -> Result<(), DeviceError> {
        logits.check("route", "logits", rows * spec.experts, Stored::F32)?;
        require("route", "rows of the routing", routing.capacity, rows)?;
        require_exact("route", "choices of the routing", routing.top_k, spec.top_k)?;
        require("route", "experts", spec.experts, spec.top_k)?;
        require("route", "experts that routing can tell apart", MAX_EXPERTS, spec.experts)?;
        (routing.rows, routing.experts) = (rows, spec.experts);
        Launch::new("moe_route", [rows.div_ceil(4), 1, 1], 128)
            .shared(16 * spec.experts)
            .memory(&logits.memory)
            .count(rows)
            .count(spec.experts)
            .count(spec.top_k)
            .count(usize::from(spec.normalize))
            .memory(&routing.chosen)
            .memory(&routing.weights)
            .queue(self.driver())?;
        let pairs = routing.pairs();
        if pairs <= GATHERED_PAIRS {
            return Ok(());
        }
        Launch::new("moe_group", [spec.experts, 1, 1], 256)
            .memory(&routing.chosen)
            .count(pairs)
            .memory(&routing.order)
            .memory(&routing.starts)
            .memory(&routing.active)
            .count(routing.active_length())
            .queue(self.driver())?;
        Launch::new("moe_tiles", [1, 1, 1], 1024)
            .memory(&routing.starts)
            .count(spec.experts)
            .memory(&routing.tiles)
            .count(expert_tiles(pairs, spec.experts))
            .queue(self.driver())
    }

    /// See [`Backend::expert_matmul`].
    pub(super) fn launch_expert_matmul(
        &self,
        x: &CudaBuffer,
        input: ExpertInput,
        experts: &CudaExperts,
        routing: &CudaRouting,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        check_product(x, input, experts, routing)?;
        out.check("expert_matmul", "out", routing.pairs() * experts.out, x.stored)?;
        let pairs_per_input = match input {
            ExpertInput::Row => routing.top_k,
            ExpertInput::Pair => 1,
        };
        match (path(x, experts, routing, out), input) {
            (ExpertPath::Any | ExpertPath::Gathered, _) => {
                let kernel = expert_matvec(x.stored, experts.stored)
                    .ok_or_else(|| other_weights("expert_matmul", x.stored, experts.stored))?;
                Launch::new(kernel, [experts.out.div_ceil(8), routing.pairs(), 1], 256)
                    .memory(&x.memory)
                    .memory(&experts.memory)
                    .memory(&routing.chosen)
                    .count(pairs_per_input)
                    .count(experts.inner)
                    .count(experts.out)
                    .memory(&out.memory)
                    .queue(self.driver())
            }
            (ExpertPath::Grouped, ExpertInput::Pair) => {
                Launch::new("moe_down_grouped", [experts.out.div_ceil(16), routing.active_length(), 1], 256)
                    .memory(&x.memory)
                    .memory(&experts.memory)
                    .memory(&routing.order)
                    .memory(&routing.starts)
                    .memory(&routing.active)
                    .count(experts.experts)
                    .count(experts.inner)
                    .count(experts.out)
                    .memory(&out.memory)
                    .queue(self.driver())
            }
            (ExpertPath::Grouped | ExpertPath::Tiled, _) => {
                let tiles = expert_tiles(routing.pairs(), routing.experts);
                Launch::new("moe_matmul", [experts.out.div_ceil(128), tiles, 1], 256)
                    .memory(&x.memory)
                    .memory(&experts.memory)
                    .memory(&routing.order)
                    .memory(&routing.tiles)
                    .count(pairs_per_input)
                    .count(experts.inner)
                    .count(experts.out)
                    .memory(&out.memory)
                    .queue(self.driver())
            }
        }
    }

    /// See [`Backend::expert_gate_up`]: where few pairs make it worthwhile, one kernel for both steps.
    pub(super) fn launch_expert_gate_up(
        &self,
        x: &CudaBuffer,
        experts: &CudaExperts,
        routing: &CudaRouting,
        width: usize,
        products: &mut CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "expert_gate_up";
        check_product(x, ExpertInput::Row, experts, routing)?;
        require_exact(NAME, "rows of gate and up", experts.out, 2 * width)?;
        out.check(NAME, "out", routing.pairs() * width, x.stored)?;
        match path(x, experts, routing, out) {
            ExpertPath::Gathered => {
                Launch::new("moe_gate_up_gather", [width.div_ceil(8), routing.pairs(), 1], 256)
                    .memory(&x.memory)
                    .memory(&experts.memory)
                    .memory(&routing.chosen)
                    .count(experts.inner)
                    .count(width)
                    .count(routing.top_k)
                    .memory(&out.memory)
                    .queue(self.driver())
            }
            ExpertPath::Grouped => {
                Launch::new("moe_gate_up_grouped", [width.div_ceil(8), routing.active_length(), 1], 256)
                    .memory(&x.memory)
                    .memory(&experts.memory)
                    .memory(&routing.order)
                    .memory(&routing.starts)
                    .memory(&routing.active)
                    .count(experts.experts)
                    .count(experts.inner)
                    .count(width)
                    .count(routing.top_k)
                    .memory(&out.memory)
                    .queue(self.driver())
            }
            ExpertPath::Any | ExpertPath::Tiled => {
                self.launch_expert_matmul(x, ExpertInput::Row, experts, routing, products)?;
                self.swiglu(products, routing.pairs(), width, out)
            }
        }
    }

    /// See [`Backend::expert_down`]: where few pairs make it worthwhile, one kernel for both steps.
    pub(super) fn launch_expert_down(
        &self,
        x: &CudaBuffer,
        experts: &CudaExperts,
        routing: &CudaRouting,
        products: &mut CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let gathered = path(x, experts, routing, out) == ExpertPath::Gathered;
        if !gathered || !sums_choices(routing.top_k) {
            self.launch_expert_matmul(x, ExpertInput::Pair, experts, routing, products)?;
            return self.launch_combine_experts(products, routing, experts.out, out);
        }
        check_product(x, ExpertInput::Pair, experts, routing)?;
        out.check("expert_down", "out", routing.rows * experts.out, x.stored)?;
        Launch::new("moe_down_gather", [experts.out.div_ceil(16), routing.rows, 1], 256)
            .memory(&x.memory)
            .memory(&experts.memory)
            .memory(&routing.chosen)
            .memory(&routing.weights)
            .count(experts.inner)
            .count(experts.out)
            .count(routing.top_k)
            .memory(&out.memory)
            .queue(self.driver())
    }

    /// See [`Backend::combine_experts`].
    pub(super) fn launch_combine_experts(
        &self,
        x: &CudaBuffer,
        routing: &CudaRouting,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        x.check("combine_experts", "x", routing.pairs() * width, out.stored)?;
        require("combine_experts", "out", out.elements, routing.rows * width)?;
        let kernel = out.stored.kernel("moe_combine_f32", "moe_combine_bf16");
        Launch::new(kernel, [width.div_ceil(2048), routing.rows, 1], 256)
            .memory(&x.memory)
            .memory(&routing.weights)
            .count(routing.top_k)
            .count(width)
            .memory(&out.memory)
            .queue(self.driver())
    }
}

fn path(x: &CudaBuffer, experts: &CudaExperts, routing: &CudaRouting, out: &CudaBuffer) -> ExpertPath {
    expert_path((x.stored, experts.stored, out.stored), routing.pairs(), routing.experts, experts.inner)
}

/// Whether the input of a product with chosen experts fits them.
fn check_product(
    x: &CudaBuffer,
    input: ExpertInput,
    experts: &CudaExperts,
    routing: &CudaRouting,
) -> Result<(), DeviceError> {
    let inputs = match input {
        ExpertInput::Row => routing.rows,
        ExpertInput::Pair => routing.pairs(),
    };
    require("expert_matmul", "x", x.elements, inputs * experts.inner)?;
    require_exact("expert_matmul", "experts", experts.experts, routing.experts)
}

/// Weights of a type that no kernel multiplies with these activations.
pub(super) fn other_weights(operation: &'static str, x: Stored, weight: Stored) -> DeviceError {
    DeviceError::Shape { operation, operand: "a weight, in bytes,", have: weight.bytes(), need: x.bytes() }
}
