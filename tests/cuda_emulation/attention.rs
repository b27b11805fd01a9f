//! rotary_cache.cu, attention_decode.cu and attention_prefill.cu.

use omni_actors::tensor::cpu::Plain;
use omni_actors::tensor::{
    AttentionShape, BLOCK_SIZE, Backend, BatchLimits, KvShape, RotarySpec, SequenceSpan, StepBatch,
};

use crate::device::{Array, Device, device};
use crate::values::{BOTH, Random, Stored, assert_close};
use crate::{parameters, plain};

const EPS: f32 = 1e-6;

/// Sequences with blocks scattered over a cache, as kernels are told of them.
struct Paged {
    /// Blocks of the cache.
    blocks: usize,
    /// All block tables, one after the other.
    tables: Vec<u32>,
    /// For each row, where its sequence's blocks begin in `tables`.
    first_block: Vec<u32>,
    /// For each row, how many tokens it sees.
    visible: Vec<u32>,
    /// For each row, the slot of its own token.
    slots: Vec<u32>,
    /// The sequences as the plain backend is told of them.
    spans: Vec<SequenceSpan>,
}

impl Paged {
    /// Sequences of (rows in the step, tokens after it).
    fn new(sequences: &[(usize, usize)]) -> Self {
        let needed: usize = sequences.iter().map(|(_, context)| context.div_ceil(BLOCK_SIZE)).sum();
        let blocks = needed + 3;
        // A permutation, so that neighbours in a sequence are none in the cache.
        let step = (1..).find(|step| step > &(blocks / 2) && gcd(*step, blocks) == 1).unwrap();
        let mut free = (0..).map(|index| (index * step % blocks) as u32);
        let mut paged = Self {
            blocks,
            tables: Vec::new(),
            first_block: Vec::new(),
            visible: Vec::new(),
            slots: Vec::new(),
            spans: Vec::new(),
        };
        for (rows, context) in sequences {
            let first = paged.tables.len();
            let table: Vec<u32> = free.by_ref().take(context.div_ceil(BLOCK_SIZE)).collect();
            for position in context - rows..*context {
                paged.first_block.push(first as u32);
                paged.visible.push(position as u32 + 1);
                paged.slots.push(table[position / BLOCK_SIZE] * 16 + (position % BLOCK_SIZE) as u32);
            }
            let first_row = (paged.visible.len() - rows) as u32;
            paged.tables.extend(&table);
            paged.spans.push(SequenceSpan {
                first_row,
                rows: *rows as u32,
                context: *context as u32,
                block_table: table,
            });
        }
        paged
    }

    fn rows(&self) -> usize {
        self.visible.len()
    }

    /// Random keys or values `[blocks, kv_heads, BLOCK_SIZE, width]`, NaN where no token is.
    fn cache(&self, shape: AttentionShape, stored: Stored, random: &mut Random) -> Vec<f32> {
        let (heads, width) = (shape.kv_heads, shape.head_dim);
        let mut cache = vec![f32::NAN; self.blocks * heads * BLOCK_SIZE * width];
        for span in &self.spans {
            for position in 0..span.context as usize {
                let block = span.block_table[position / BLOCK_SIZE] as usize;
                for head in 0..heads {
                    let at = ((block * heads + head) * BLOCK_SIZE + position % BLOCK_SIZE) * width;
                    cache[at..at + width].copy_from_slice(&random.values(width, stored));
                }
            }
        }
        cache
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Attention by loops in f64, as the plain backend has it, over any cache.
fn reference(paged: &Paged, shape: AttentionShape, qkv: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
    let width = shape.head_dim;
    let mut out = Vec::new();
    for row in 0..paged.rows() {
        for head in 0..shape.heads {
            let query = &qkv[row * shape.qkv_width() + head * width..][..width];
            let kv_head = head / (shape.heads / shape.kv_heads);
            let at = |token: usize| {
                let block = paged.tables[paged.first_block[row] as usize + token / BLOCK_SIZE] as usize;
                ((block * shape.kv_heads + kv_head) * BLOCK_SIZE + token % BLOCK_SIZE) * width
            };
            let dot = |token: usize| {
                let key = &keys[at(token)..][..width];
                let sum: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                sum / (width as f64).sqrt()
            };
            let scores: Vec<f64> = (0..paged.visible[row] as usize).map(dot).collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..width {
                let sum: f64 =
                    weights.iter().enumerate().map(|(token, w)| w * f64::from(values[at(token) + i])).sum();
                out.push(if total > 0.0 { (sum / total) as f32 } else { 0.0 });
            }
        }
    }
    out
}

/// Which kernel works on single rows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Any,
    TensorCores,
}

/// Runs one of the kernels for single rows, and the combination if there are several splits.
#[allow(clippy::too_many_arguments)]
fn decode(
    device: &Device,
    kernel: Kernel,
    stored: Stored,
    splits: usize,
    paged: &Paged,
    shape: AttentionShape,
    qkv: &Array,
    keys: &Array,
    values: &Array,
) -> Vec<f32> {
    let (rows, width) = (paged.rows(), shape.head_dim);
    let out = stored.unwritten(rows * shape.query_width());
    let parts = Stored::F32.unwritten(rows * shape.heads * splits * width);
    let weights = Stored::F32.unwritten(rows * shape.heads * splits * 2);
    let (tables, first, visible) =
        (Array::new(&paged.tables), Array::new(&paged.first_block), Array::new(&paged.visible));
    match kernel {
        Kernel::Any => device.launch(
            &format!("attention_any_{}", stored.name()),
            [splits as u32, shape.heads as u32, rows as u32],
            128,
            (4 * (width + 128 + 8)).next_multiple_of(16),
            &parameters![
                qkv,
                keys,
                values,
                &tables,
                &first,
                &visible,
                shape.kv_heads,
                width,
                &out,
                &parts,
                &weights
            ],
        ),
        Kernel::TensorCores => device.launch(
            &format!("attention_decode_bf16_{width}"),
            [splits as u32, shape.kv_heads as u32, rows as u32],
            128,
            0,
            &parameters![qkv, keys, values, &tables, &first, &visible, shape.heads, &out, &parts, &weights],
        ),
    }
    if splits > 1 {
        device.launch(
            &format!("attention_combine_{}", stored.name()),
            [shape.heads as u32, rows as u32, 1],
            128,
            0,
            &parameters![&parts, &weights, splits, width, &out],
        );
    }
    stored.read(&out)
}

#[test]
fn single_rows_attend_to_their_pages() {
    let Some(device) = device() else { return };
    use Kernel::{Any, TensorCores};
    let cases = [
        // kernel, heads, key-value heads, width, splits, contexts
        (Any, 4, 2, 20, 1, vec![1, 16, 17, 130]),
        (Any, 2, 2, 130, 3, vec![5, 300]),
        (Any, 8, 1, 128, 2, vec![33]),
        (TensorCores, 8, 1, 128, 1, vec![1, 16, 37, 100]),
        (TensorCores, 32, 4, 128, 3, vec![150, 2]),
        (TensorCores, 4, 2, 64, 1, vec![70, 15]),
        (TensorCores, 12, 1, 64, 4, vec![64]),
    ];
    for (kernel, heads, kv_heads, head_dim, splits, contexts) in cases {
        for stored in BOTH {
            if kernel == TensorCores && stored == Stored::F32 {
                continue;
            }
            let shape = AttentionShape { heads, kv_heads, head_dim };
            let sequences: Vec<_> = contexts.iter().map(|context| (1, *context)).collect();
            let mut paged = Paged::new(&sequences);
            // A row that pads the batch sees nothing.
            paged.visible.push(0);
            paged.first_block.push(0);
            let mut random = Random::new(heads as u64);
            let qkv = random.values(paged.rows() * shape.qkv_width(), stored);
            let qkv = qkv.iter().map(|x| x * 4.0).collect::<Vec<_>>();
            let (keys, values) =
                (paged.cache(shape, stored, &mut random), paged.cache(shape, stored, &mut random));
            let expected = reference(&paged, shape, &qkv, &keys, &values);
            let (qkv, keys, values) = (stored.array(&qkv), stored.array(&keys), stored.array(&values));
            let got = decode(device, kernel, stored, splits, &paged, shape, &qkv, &keys, &values);
            let case = format!("{kernel:?} {stored:?} {shape:?}, {splits} splits");
            assert_close(&case, &got, &expected, stored, 2.0);
        }
    }
}

#[test]
fn tiles_of_a_prompt_attend_causally() {
    let Some(device) = device() else { return };
    // Whole prompts, a chunk after 40 tokens, one row, and tiles that are not full.
    let cases = [
        (8, 1, 128, vec![(37, 37), (5, 45)]),
        (4, 2, 64, vec![(70, 70), (1, 33)]),
        (16, 8, 128, vec![(3, 64)]),
        (6, 2, 64, vec![(50, 90)]),
    ];
    for (heads, kv_heads, head_dim, sequences) in cases {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let paged = Paged::new(&sequences);
        let mut random = Random::new(11);
        let stored = Stored::Bf16;
        let qkv: Vec<f32> =
            random.values(paged.rows() * shape.qkv_width(), stored).iter().map(|x| x * 4.0).collect();
        let (keys, values) =
            (paged.cache(shape, stored, &mut random), paged.cache(shape, stored, &mut random));
        let expected = reference(&paged, shape, &qkv, &keys, &values);
        let rows_per_tile = 128 / (heads / kv_heads);
        let mut tiles: Vec<[u32; 4]> = Vec::new();
        for span in &paged.spans {
            for row in (0..span.rows).step_by(rows_per_tile) {
                let rows = (span.rows - row).min(rows_per_tile as u32);
                let first = (span.first_row + row) as usize;
                tiles.push([first as u32, rows, paged.first_block[first], paged.visible[first]]);
            }
        }
        tiles.push([0; 4]);
        let out = stored.unwritten(paged.rows() * shape.query_width());
        device.launch(
            &format!("attention_prefill_bf16_{head_dim}"),
            [tiles.len() as u32, kv_heads as u32, 1],
            256,
            0,
            &parameters![
                &stored.array(&qkv),
                &stored.array(&keys),
                &stored.array(&values),
                &Array::new(&paged.tables),
                &Array::new(&tiles),
                heads,
                &out
            ],
        );
        assert_close(&format!("{shape:?} {sequences:?}"), &stored.read(&out), &expected, stored, 2.0);
    }
}

#[test]
fn rotation_storing_and_attention_follow_the_plain_backend() {
    let Some(device) = device() else { return };
    for (heads, kv_heads, head_dim, sections) in
        [(4, 2, 32, [6, 5, 5]), (3, 1, 10, [0, 0, 0]), (4, 4, 128, [24, 20, 20])]
    {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let paged = Paged::new(&[(1, 1), (20, 20), (3, 3)]);
        let rows = paged.rows();
        for stored in BOTH {
            let mut random = Random::new(5);
            let qkv = random.values(rows * shape.qkv_width(), stored);
            let (query_gain, key_gain) =
                (random.values(head_dim, Stored::F32), random.values(head_dim, Stored::F32));
            let positions = [(); 3].map(|()| (0..rows).map(|_| random.below(3000) as f32 / 2.0).collect());
            let step = StepBatch {
                token_ids: Vec::new(),
                positions,
                slot_mapping: paged.slots.clone(),
                sequences: paged.spans.clone(),
                logit_rows: Vec::new(),
            };
            let spec = RotarySpec::new(1e6, head_dim, sections);

            let mut batch = Plain.batch(BatchLimits { rows, logit_rows: 0 }).unwrap();
            Plain.upload(&step, &mut batch).unwrap();
            let mut table = plain::room(rows * head_dim);
            Plain.rotary(&batch, &spec, &mut table).unwrap();
            let mut cache = Plain.cache(KvShape { layers: 1, kv_heads, head_dim }, paged.blocks).unwrap();
            let mut plain_qkv = plain::buffer(&qkv);
            let (plain_query, plain_key) = (plain::vector(&query_gain), plain::vector(&key_gain));
            Plain
                .norm_rotate_store(
                    &mut plain_qkv,
                    &plain_query,
                    &plain_key,
                    EPS,
                    &table,
                    &batch,
                    shape,
                    0,
                    &mut cache,
                )
                .unwrap();
            let mut attended = plain::room(rows * shape.query_width());
            Plain.attention(&plain_qkv, &batch, shape, 0, &cache, &mut attended).unwrap();

            let device_table = Stored::F32.unwritten(rows * head_dim);
            let all_positions = step.positions.concat();
            device.launch(
                "rotary_table",
                [(rows * head_dim / 2).div_ceil(256) as u32, 1, 1],
                256,
                0,
                &parameters![
                    &Array::new(&all_positions),
                    rows,
                    &Array::new(&spec.inverse_frequencies),
                    sections[1],
                    sections[2],
                    rows,
                    head_dim / 2,
                    &device_table
                ],
            );
            let case = format!("{stored:?} {shape:?}");
            let expected = plain::read(&table, rows * head_dim);
            assert_close(&format!("{case}: table"), &device_table.read(), &expected, Stored::F32, 1.0);

            let device_qkv = stored.array(&qkv);
            let (keys, values) =
                [(); 2].map(|()| stored.unwritten(paged.blocks * 16 * shape.kv_width())).into();
            device.launch(
                &format!("norm_rotate_store_{}", stored.name()),
                [rows as u32, (heads + 2 * kv_heads).div_ceil(4) as u32, 1],
                128,
                0,
                &parameters![
                    &device_qkv,
                    &Array::new(&query_gain),
                    &Array::new(&key_gain),
                    EPS,
                    &device_table,
                    &Array::new(&paged.slots),
                    heads,
                    kv_heads,
                    head_dim,
                    &keys,
                    &values
                ],
            );
            let got = stored.read(&device_qkv);
            let expected = plain::read(&plain_qkv, rows * shape.qkv_width());
            for row in 0..rows {
                let queries = row * shape.qkv_width()..row * shape.qkv_width() + shape.query_width();
                assert_close(&case, &got[queries.clone()], &expected[queries], stored, 1.0);
            }
            let got = decode(device, Kernel::Any, stored, 1, &paged, shape, &device_qkv, &keys, &values);
            let expected = plain::read(&attended, rows * shape.query_width());
            assert_close(&format!("{case}: attention"), &got, &expected, stored, 3.0);
        }
    }
}

#[test]
fn a_row_without_a_slot_stores_nothing() {
    let Some(device) = device() else { return };
    let (keys, values) = (Array::new(&[7.0_f32; 16 * 8]), Array::new(&[7.0_f32; 16 * 8]));
    device.launch(
        "norm_rotate_store_f32",
        [1, 1, 1],
        128,
        0,
        &parameters![
            &Array::new(&[1.0_f32; 24]),
            &Array::new(&[1.0_f32; 8]),
            &Array::new(&[1.0_f32; 8]),
            EPS,
            &Array::new(&[1.0_f32; 8]),
            &Array::new(&[u32::MAX]),
            1_usize,
            1_usize,
            8_usize,
            &keys,
            &values
        ],
    );
    assert_eq!(keys.read::<f32>(), [7.0; 16 * 8]);
    assert_eq!(values.read::<f32>(), [7.0; 16 * 8]);
}
