//! moe_routing.cu, moe_decode.cu and moe_prefill.cu.

use std::cmp::Ordering;

use omni_actors::tensor::cpu::{CpuRouting, Plain};
use omni_actors::tensor::{Backend, ExpertInput, RouteSpec};

use crate::device::{Array, Device, device};
use crate::values::{BOTH, Random, Stored, assert_close};
use crate::{parameters, plain};

/// A layer's choices on the device and in the plain backend, from the same logits.
struct Routed {
    spec: RouteSpec,
    rows: usize,
    /// The expert of each pair.
    chosen: Array,
    /// The weight of each pair.
    weights: Array,
    plain: CpuRouting,
}

impl Routed {
    fn new(device: &Device, spec: RouteSpec, rows: usize, logits: &[f32]) -> Self {
        let pairs = rows * spec.top_k;
        let (chosen, weights) = (Array::new(&vec![u32::MAX; pairs]), Stored::F32.unwritten(pairs));
        device.launch(
            "moe_route",
            [rows.div_ceil(4) as u32, 1, 1],
            128,
            16 * spec.experts,
            &parameters![
                &Array::new(logits),
                rows,
                spec.experts,
                spec.top_k,
                usize::from(spec.normalize),
                &chosen,
                &weights
            ],
        );
        let mut plain = Plain.routing(rows, spec.top_k).unwrap();
        Plain.route(&plain::buffer(logits), spec, rows, &mut plain).unwrap();
        Self { spec, rows, chosen, weights, plain }
    }

    fn random(device: &Device, experts: usize, top_k: usize, rows: usize) -> Self {
        let logits = Random::new(rows as u64).values(rows * experts, Stored::F32);
        Self::new(device, RouteSpec { experts, top_k, normalize: true }, rows, &logits)
    }

    fn pairs(&self) -> usize {
        self.rows * self.spec.top_k
    }

    /// `order`, `starts` and `active`.
    fn group(&self, device: &Device) -> (Array, Array, Array, usize) {
        let active_length = self.spec.experts.min(self.pairs());
        let order = Array::new(&vec![u32::MAX; self.pairs()]);
        let starts = Array::new(&vec![u32::MAX; self.spec.experts + 1]);
        let active = Array::new(&vec![u32::MAX; active_length]);
        device.launch(
            "moe_group",
            [self.spec.experts as u32, 1, 1],
            256,
            0,
            &parameters![&self.chosen, self.pairs(), &order, &starts, &active, active_length],
        );
        (order, starts, active, active_length)
    }

    /// The plain expert product.
    fn product(&self, x: &[f32], input: ExpertInput, weight: &[f32], out: usize, inner: usize) -> Vec<f32> {
        let experts = weight.chunks_exact(out * inner).map(|one| vec![plain::weight(one, vec![out, inner])]);
        let experts = Plain.experts(experts.collect()).unwrap();
        let mut result = plain::room(self.pairs() * out);
        Plain.expert_matmul(&plain::buffer(x), input, &experts, &self.plain, &mut result).unwrap();
        plain::read(&result, self.pairs() * out)
    }
}

#[test]
fn rows_choose_the_largest_and_of_equal_ones_the_first() {
    let Some(device) = device() else { return };
    for (experts, top_k, rows, normalize) in
        [(128, 8, 5, true), (5, 2, 1, false), (40, 40, 2, true), (300, 3, 4, false)]
    {
        let mut random = Random::new(experts as u64);
        // Few different values, so that there are ties.
        let logits: Vec<f32> = (0..rows * experts).map(|_| random.below(20) as f32 / 4.0).collect();
        let routed = Routed::new(device, RouteSpec { experts, top_k, normalize }, rows, &logits);
        let (mut chosen, mut weights) = (Vec::new(), Vec::new());
        for logits in logits.chunks_exact(experts) {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap_or(Ordering::Equal));
            let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
            let shares: Vec<f32> = order[..top_k].iter().map(|e| logits[*e].exp() / total).collect();
            let sum: f32 = if normalize { shares.iter().sum() } else { 1.0 };
            chosen.extend(order[..top_k].iter().map(|e| *e as u32));
            weights.extend(shares.iter().map(|share| share / sum));
        }
        assert_eq!(routed.chosen.read::<u32>(), chosen);
        assert_close("weights", &routed.weights.read(), &weights, Stored::F32, 1.0);
    }
}

#[test]
fn a_row_of_nan_chooses_experts_that_exist() {
    let Some(device) = device() else { return };
    let spec = RouteSpec { experts: 3, top_k: 2, normalize: true };
    let routed = Routed::new(device, spec, 1, &[f32::NAN; 3]);
    assert_eq!(routed.chosen.read::<u32>(), [0, 1]);
}

#[test]
fn pairs_are_grouped_by_expert_in_order() {
    let Some(device) = device() else { return };
    for (experts, top_k, rows) in [(128, 8, 90), (128, 8, 1), (7, 3, 200), (1024, 1, 3)] {
        let routed = Routed::random(device, experts, top_k, rows);
        let (order, starts, active, active_length) = routed.group(device);
        let chosen: Vec<u32> = routed.chosen.read();
        let mut expected: Vec<u32> = (0..chosen.len() as u32).collect();
        expected.sort_by_key(|pair| chosen[*pair as usize]);
        assert_eq!(order.read::<u32>(), expected);
        let before =
            |expert: usize| chosen.iter().filter(|chosen| (**chosen as usize) < expert).count() as u32;
        let expected_starts: Vec<u32> = (0..=experts).map(before).collect();
        assert_eq!(starts.read::<u32>(), expected_starts);
        let mut expected: Vec<u32> = (0..experts as u32).filter(|expert| chosen.contains(expert)).collect();
        expected.resize(active_length, experts as u32);
        assert_eq!(active.read::<u32>(), expected);

        let length = chosen.len().div_ceil(64) + experts;
        let tiles = Array::new(&vec![u32::MAX; 4 * length]);
        device.launch("moe_tiles", [1, 1, 1], 1024, 0, &parameters![&starts, experts, &tiles, length]);
        let mut expected = Vec::new();
        for (expert, ends) in expected_starts.windows(2).enumerate() {
            for first in (ends[0]..ends[1]).step_by(64) {
                expected.extend([expert as u32, first, (ends[1] - first).min(64), 0]);
            }
        }
        assert!(expected.len() <= 4 * length);
        expected.resize(4 * length, 0);
        assert_eq!(tiles.read::<u32>(), expected);
    }
}

#[test]
fn choices_are_summed_with_their_weights() {
    let Some(device) = device() else { return };
    for (rows, top_k, width) in [(3, 2, 37), (2, 8, 2056)] {
        let routed = Routed::random(device, 16, top_k, rows);
        for stored in BOTH {
            let x = Random::new(1).values(routed.pairs() * width, stored);
            let out = stored.unwritten(rows * width);
            device.launch(
                &format!("moe_combine_{}", stored.name()),
                [width.div_ceil(2048) as u32, rows as u32, 1],
                256,
                0,
                &parameters![&stored.array(&x), &routed.weights, top_k, width, &out],
            );
            let mut expected = plain::room(rows * width);
            Plain.combine_experts(&plain::buffer(&x), &routed.plain, width, &mut expected).unwrap();
            let expected = plain::read(&expected, rows * width);
            assert_close(&format!("{stored:?}"), &stored.read(&out), &expected, stored, 1.0);
        }
    }
}

#[test]
fn few_rows_go_through_the_experts_that_they_chose() {
    let Some(device) = device() else { return };
    let stored = Stored::Bf16;
    for (experts, top_k, rows, inner, width) in
        [(6, 2, 1, 264, 20), (16, 8, 1, 96, 24), (4, 2, 30, 40, 11), (5, 3, 9, 512, 16)]
    {
        let routed = Routed::random(device, experts, top_k, rows);
        let mut random = Random::new(inner as u64);
        let x = random.values(rows * inner, stored);
        let gate_up = random.values(experts * 2 * width * inner, stored);
        let (order, starts, active, active_length) = routed.group(device);

        let products = routed.product(&x, ExpertInput::Row, &gate_up, 2 * width, inner);
        let mut expected = plain::room(routed.pairs() * width);
        Plain.swiglu(&plain::buffer(&products), routed.pairs(), width, &mut expected).unwrap();
        let expected = plain::read(&expected, routed.pairs() * width);
        let (x, gate_up) = (stored.array(&x), stored.array(&gate_up));
        let (gathered, grouped) = [(); 2].map(|()| stored.unwritten(routed.pairs() * width)).into();
        device.launch(
            "moe_gate_up_gather",
            [width.div_ceil(8) as u32, routed.pairs() as u32, 1],
            256,
            0,
            &parameters![&x, &gate_up, &routed.chosen, inner, width, top_k, &gathered],
        );
        device.launch(
            "moe_gate_up_grouped",
            [width.div_ceil(8) as u32, active_length as u32, 1],
            256,
            0,
            &parameters![&x, &gate_up, &order, &starts, &active, experts, inner, width, top_k, &grouped],
        );
        let case = format!("{experts} experts, {rows} rows");
        assert_close(&case, &stored.read(&gathered), &expected, stored, 1.0);
        // However the pairs are brought together, each comes out the same.
        assert_eq!(stored.read(&gathered), stored.read(&grouped), "{case}");

        // The way down, from inputs by pair.
        let (inner, width) = (width.next_multiple_of(8), inner / 2 + 1);
        let x = random.values(routed.pairs() * inner, stored);
        let down = random.values(experts * width * inner, stored);
        let products = routed.product(&x, ExpertInput::Pair, &down, width, inner);
        let mut expected = plain::room(rows * width);
        Plain.combine_experts(&plain::buffer(&products), &routed.plain, width, &mut expected).unwrap();
        let expected = plain::read(&expected, rows * width);
        let (x, down) = (stored.array(&x), stored.array(&down));
        let grouped = stored.unwritten(routed.pairs() * width);
        device.launch(
            "moe_down_grouped",
            [width.div_ceil(16) as u32, active_length as u32, 1],
            256,
            0,
            &parameters![&x, &down, &order, &starts, &active, experts, inner, width, &grouped],
        );
        assert_close(&format!("{case}: down"), &stored.read(&grouped), &products, stored, 1.0);
        let gathered = stored.unwritten(rows * width);
        device.launch(
            "moe_down_gather",
            [width.div_ceil(16) as u32, rows as u32, 1],
            256,
            0,
            &parameters![&x, &down, &routed.chosen, &routed.weights, inner, width, top_k, &gathered],
        );
        assert_close(&format!("{case}: summed"), &stored.read(&gathered), &expected, stored, 1.0);
    }
}

#[test]
fn any_types_and_widths_go_through_experts_in_f32() {
    let Some(device) = device() else { return };
    use Stored::{Bf16, F32};
    for (inner, width) in [(37, 9), (264, 16)] {
        for (activations, weights) in [(F32, F32), (F32, Bf16), (Bf16, Bf16)] {
            for input in [ExpertInput::Row, ExpertInput::Pair] {
                let routed = Routed::random(device, 5, 2, 4);
                let (inputs, pairs_per_input) = match input {
                    ExpertInput::Row => (routed.rows, routed.spec.top_k),
                    ExpertInput::Pair => (routed.pairs(), 1),
                };
                let mut random = Random::new(9);
                let x = random.values(inputs * inner, activations);
                let weight = random.values(5 * width * inner, weights);
                let out = activations.unwritten(routed.pairs() * width);
                device.launch(
                    &format!("expert_matvec_{}_{}", activations.name(), weights.name()),
                    [width.div_ceil(8) as u32, routed.pairs() as u32, 1],
                    256,
                    0,
                    &parameters![
                        &activations.array(&x),
                        &weights.array(&weight),
                        &routed.chosen,
                        pairs_per_input,
                        inner,
                        width,
                        &out
                    ],
                );
                let expected = routed.product(&x, input, &weight, width, inner);
                assert_close(&format!("{input:?}"), &activations.read(&out), &expected, activations, 1.0);
            }
        }
    }
}

#[test]
fn many_rows_go_through_experts_on_tensor_cores() {
    let Some(device) = device() else { return };
    let stored = Stored::Bf16;
    for (experts, top_k, rows, inner, width, input) in [
        (3, 2, 70, 40, 130, ExpertInput::Row),
        (8, 2, 9, 136, 257, ExpertInput::Pair),
        (2, 1, 64, 32, 128, ExpertInput::Row),
    ] {
        let routed = Routed::random(device, experts, top_k, rows);
        let (order, starts, ..) = routed.group(device);
        let length = routed.pairs().div_ceil(64) + experts;
        let tiles = Array::new(&vec![u32::MAX; 4 * length]);
        device.launch("moe_tiles", [1, 1, 1], 1024, 0, &parameters![&starts, experts, &tiles, length]);
        let (inputs, pairs_per_input) = match input {
            ExpertInput::Row => (rows, top_k),
            ExpertInput::Pair => (routed.pairs(), 1),
        };
        let mut random = Random::new(width as u64);
        let x = random.values(inputs * inner, stored);
        let weight = random.values(experts * width * inner, stored);
        let out = stored.unwritten(routed.pairs() * width);
        device.launch(
            "moe_matmul",
            [width.div_ceil(128) as u32, length as u32, 1],
            256,
            0,
            &parameters![
                &stored.array(&x),
                &stored.array(&weight),
                &order,
                &tiles,
                pairs_per_input,
                inner,
                width,
                &out
            ],
        );
        let expected = routed.product(&x, input, &weight, width, inner);
        assert_close(&format!("{experts} experts, {rows} rows"), &stored.read(&out), &expected, stored, 1.0);
    }
}
