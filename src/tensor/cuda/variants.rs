//! Which kernel carries an operation out, and over how many blocks. Numbers only: nothing here needs a GPU.

use super::stored::Stored;
use crate::tensor::AttentionShape;
use crate::tensor::batch::{BLOCK_SIZE, SequenceSpan};

/// Rows up to which a bf16 product is bound by reading the weights, which then go past shared memory.
const STREAMED_ROWS: usize = 32;
/// Rows up to which an f32 product is.
const STREAMED_ROWS_F32: usize = 16;
/// Pairs (row, choice) up to which each goes to its expert alone. Above, pairs that chose the same expert share the
/// reading of its weights.
pub(super) const GATHERED_PAIRS: usize = 32;
/// Pairs per expert, on average, from which expert products are worth tiles of 64 rows.
const TILED_PAIRS_PER_EXPERT: usize = 16;
/// Rows of a tile of `moe_matmul`.
const EXPERT_TILE_ROWS: usize = 64;
/// Experts that the routing kernels can tell apart.
pub(super) const MAX_EXPERTS: usize = 1024;
/// Choices of a row that `moe_down_gather` sums.
const MAX_GATHERED_CHOICES: usize = 32;
/// Queries of a tile of the prefill kernel: rows times the heads that share a key-value head.
const TILE_QUERIES: usize = 128;
/// Query heads that share a key-value head, at most, in the decode kernel on tensor cores.
const MAX_SHARING: usize = 16;
/// The widest head of `attention_any`.
pub(super) const MAX_HEAD_DIM: usize = 512;
/// Blocks of cache that a split has at least, so that splitting pays for putting the splits together.
const SPLIT_BLOCKS: usize = 4;
/// Splits of a context, at most.
const MAX_SPLITS: usize = 32;

/// The kernel and the grid of a product `[rows, inner] · [width, inner]ᵀ`, of blocks of 256 threads. None where no
/// kernel takes these types.
pub(super) fn product(
    (x, weight, out): (Stored, Stored, Stored),
    rows: usize,
    inner: usize,
    width: usize,
) -> Option<(&'static str, [usize; 3])> {
    use Stored::{Bf16, F32};
    let streamed = |kernel, columns| Some((kernel, [width.div_ceil(16), rows.div_ceil(columns), 1]));
    let any = |kernel| Some((kernel, [width.div_ceil(8), rows.div_ceil(4), 1]));
    let tiles = |kernel, side: usize| Some((kernel, [width.div_ceil(side), rows.div_ceil(side), 1]));
    match (x, weight, out) {
        (Bf16, Bf16, out) if !inner.is_multiple_of(8) => {
            any(out.kernel("matvec_bf16_bf16_f32", "matvec_bf16_bf16_bf16"))
        }
        (Bf16, Bf16, out) => match rows {
            ..=8 => streamed(out.kernel("matvec_mma_f32_8", "matvec_mma_bf16_8"), 8),
            9..=16 => streamed(out.kernel("matvec_mma_f32_16", "matvec_mma_bf16_16"), 16),
            17..=STREAMED_ROWS => streamed(out.kernel("matvec_mma_f32_32", "matvec_mma_bf16_32"), 32),
            _ => tiles(out.kernel("matmul_mma_f32", "matmul_mma_bf16"), 128),
        },
        (F32, weight, F32) if rows <= STREAMED_ROWS_F32 => {
            any(weight.kernel("matvec_f32_f32_f32", "matvec_f32_bf16_f32"))
        }
        (F32, weight, F32) => tiles(weight.kernel("matmul_f32_f32", "matmul_f32_bf16"), 64),
        _ => None,
    }
}

/// How the products with chosen experts are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertPath {
    /// In f32, any widths, every pair by itself.
    Any,
    /// On tensor cores, every pair by itself.
    Gathered,
    /// On tensor cores, each chosen expert read once for all its pairs.
    Grouped,
    /// On tensor cores, tiles of 64 pairs of an expert.
    Tiled,
}

/// The path for `pairs` pairs and an inner width.
pub(super) fn expert_path(
    (x, weight, out): (Stored, Stored, Stored),
    pairs: usize,
    experts: usize,
    inner: usize,
) -> ExpertPath {
    if [x, weight, out] != [Stored::Bf16; 3] || !inner.is_multiple_of(8) {
        ExpertPath::Any
    } else if pairs <= GATHERED_PAIRS {
        ExpertPath::Gathered
    } else if pairs < TILED_PAIRS_PER_EXPERT * experts {
        ExpertPath::Grouped
    } else {
        ExpertPath::Tiled
    }
}

/// The kernel of [`ExpertPath::Any`]; None where none takes these types.
pub(super) fn expert_matvec(x: Stored, weight: Stored) -> Option<&'static str> {
    match (x, weight) {
        (Stored::F32, weight) => Some(weight.kernel("expert_matvec_f32_f32", "expert_matvec_f32_bf16")),
        (Stored::Bf16, Stored::Bf16) => Some("expert_matvec_bf16_bf16"),
        (Stored::Bf16, Stored::F32) => None,
    }
}

/// Whether `moe_down_gather` can sum the choices of a row.
pub(super) fn sums_choices(top_k: usize) -> bool {
    top_k <= MAX_GATHERED_CHOICES
}

/// Tiles into which `moe_tiles` may cut the pairs.
pub(super) fn expert_tiles(pairs: usize, experts: usize) -> usize {
    pairs.div_ceil(EXPERT_TILE_ROWS) + experts
}

/// The kernel that embeds tokens; None where none takes these types.
pub(super) fn embed(weight: Stored, out: Stored) -> Option<&'static str> {
    match (weight, out) {
        (Stored::F32, Stored::F32) => Some("embed_f32_f32"),
        (Stored::Bf16, out) => Some(out.kernel("embed_bf16_f32", "embed_bf16_bf16")),
        (Stored::F32, Stored::Bf16) => None,
    }
}

/// The kernels of attention on tensor cores, for single rows and for prompts. None where the shape is not theirs.
pub(super) fn attention_on_tensor_cores(
    stored: Stored,
    shape: AttentionShape,
) -> Option<(&'static str, &'static str)> {
    let fits = stored == Stored::Bf16 && shape.heads / shape.kv_heads.max(1) <= MAX_SHARING;
    match shape.head_dim {
        64 if fits => Some(("attention_decode_bf16_64", "attention_prefill_bf16_64")),
        128 if fits => Some(("attention_decode_bf16_128", "attention_prefill_bf16_128")),
        _ => None,
    }
}

/// Into how many parts each context is split so that `items` blocks of threads become enough for all multiprocessors
/// twice. `context` is the longest one, in tokens. It counts as the next power of two, so that a step and the next one
/// seldom differ in it.
pub(super) fn splits(items: usize, context: usize, multiprocessors: usize) -> usize {
    let wanted = (2 * multiprocessors).div_ceil(items.max(1));
    let worthwhile = context.next_power_of_two().div_ceil(BLOCK_SIZE * SPLIT_BLOCKS);
    wanted.min(worthwhile).clamp(1, MAX_SPLITS)
}

/// The most parts, over all items, that [`splits`] makes where it makes several: then `items` is less than twice the
/// multiprocessors, and rounding adds at most one part to each.
pub(super) fn most_parts(multiprocessors: usize) -> usize {
    4 * multiprocessors
}

/// A tile of the prefill kernel, as it reads it: first row, rows, index of the sequence's first block in the block
/// table, tokens that the first row sees.
pub(super) type PrefillTile = [u32; 4];

/// Cuts the sequences with several rows into tiles. `first_blocks` says for each sequence where its blocks begin in
/// the block table.
pub(super) fn prefill_tiles(
    sequences: &[SequenceSpan],
    first_blocks: &[u32],
    shape: AttentionShape,
    tiles: &mut Vec<PrefillTile>,
) {
    let sharing = (shape.heads / shape.kv_heads.max(1)).max(1);
    let height = (TILE_QUERIES / sharing).max(1) as u32;
    tiles.clear();
    for (span, first_block) in sequences.iter().zip(first_blocks).filter(|(span, _)| span.rows > 1) {
        let before = span.context - span.rows;
        let mut row = 0;
        while row < span.rows {
            let rows = height.min(span.rows - row);
            tiles.push([span.first_row + row, rows, *first_block, before + row + 1]);
            row += rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::FAMILIES;
    use super::*;
    use Stored::{Bf16, F32};

    const BOTH: [Stored; 2] = [F32, Bf16];

    fn assert_exists(kernel: &str) {
        assert!(FAMILIES.iter().any(|family| family.entries().any(|entry| entry == kernel)), "{kernel}");
    }

    #[test]
    fn every_kernel_that_is_named_exists() {
        for (x, weight, out) in [(F32, F32, F32), (F32, Bf16, F32), (Bf16, Bf16, F32), (Bf16, Bf16, Bf16)] {
            for rows in [1, 9, 17, 33, 500] {
                for inner in [64, 65] {
                    assert_exists(
                        product((x, weight, out), rows, inner, 8).expect("these types are taken").0,
                    );
                }
            }
        }
        for (weight, out) in [(F32, F32), (Bf16, F32), (Bf16, Bf16)] {
            assert_exists(embed(weight, out).expect("these types are taken"));
        }
        for (x, weight) in [(F32, F32), (F32, Bf16), (Bf16, Bf16)] {
            assert_exists(expert_matvec(x, weight).expect("these types are taken"));
        }
        for head_dim in [64, 128] {
            let shape = AttentionShape { heads: 32, kv_heads: 4, head_dim };
            let (decode, prefill) = attention_on_tensor_cores(Bf16, shape).expect("the shape fits");
            assert_exists(decode);
            assert_exists(prefill);
        }
    }

    #[test]
    fn f32_weights_do_not_meet_bf16_activations() {
        for out in BOTH {
            assert_eq!(product((Bf16, F32, out), 1, 8, 8), None);
        }
        assert_eq!(embed(F32, Bf16), None);
        assert_eq!(expert_matvec(Bf16, F32), None);
    }

    #[test]
    fn grids_cover_all_rows_and_columns() {
        assert_eq!(product((Bf16, Bf16, Bf16), 3, 2048, 37), Some(("matvec_mma_bf16_8", [3, 1, 1])));
        assert_eq!(product((Bf16, Bf16, F32), 16, 2048, 37), Some(("matvec_mma_f32_16", [3, 1, 1])));
        assert_eq!(product((Bf16, Bf16, Bf16), 32, 2048, 37), Some(("matvec_mma_bf16_32", [3, 1, 1])));
        assert_eq!(product((Bf16, Bf16, Bf16), 129, 2048, 257), Some(("matmul_mma_bf16", [3, 2, 1])));
        assert_eq!(product((Bf16, Bf16, Bf16), 129, 2047, 257), Some(("matvec_bf16_bf16_bf16", [33, 33, 1])));
        assert_eq!(product((F32, Bf16, F32), 5, 20, 9), Some(("matvec_f32_bf16_f32", [2, 2, 1])));
        assert_eq!(product((F32, F32, F32), 65, 20, 64), Some(("matmul_f32_f32", [1, 2, 1])));
    }

    #[test]
    fn more_pairs_take_experts_together() {
        let types = (Bf16, Bf16, Bf16);
        let path = |rows: usize| expert_path(types, rows * 8, 128, 2048);
        assert_eq!(path(1), ExpertPath::Gathered);
        assert_eq!(path(4), ExpertPath::Gathered);
        assert_eq!(path(5), ExpertPath::Grouped);
        assert_eq!(path(255), ExpertPath::Grouped);
        assert_eq!(path(256), ExpertPath::Tiled);
        assert_eq!(expert_path(types, 8, 128, 20), ExpertPath::Any);
        assert_eq!(expert_path((F32, Bf16, F32), 8, 128, 2048), ExpertPath::Any);
    }

    #[test]
    fn contexts_are_split_until_all_multiprocessors_work() {
        // One row with four key-value heads on 132 multiprocessors: 66 parts would fill it, 32 are the most.
        assert_eq!(splits(4, 100_000, 132), 32);
        assert_eq!(splits(32 * 4, 100_000, 132), 3);
        // Four blocks of sixteen tokens a split at least.
        assert_eq!(splits(4, 64, 132), 1);
        assert_eq!(splits(4, 65, 132), 2);
        assert_eq!(splits(4, 129, 132), splits(4, 256, 132));
        assert_eq!(splits(1000, 100_000, 132), 1);
        assert_eq!(splits(0, 0, 132), 1);
    }

    #[test]
    fn there_is_room_for_all_parts() {
        for multiprocessors in [1, 7, 132] {
            for items in 1..500 {
                let splits = splits(items, 1 << 20, multiprocessors);
                assert!(splits == 1 || items * splits <= most_parts(multiprocessors), "{items}");
            }
        }
    }

    #[test]
    fn tiles_cover_each_prompt_once_and_leave_single_rows_out() {
        let span =
            |first_row, rows, context| SequenceSpan { first_row, rows, context, block_table: Vec::new() };
        let spans = [span(0, 37, 37), span(37, 1, 90), span(38, 16, 50)];
        let shape = AttentionShape { heads: 32, kv_heads: 4, head_dim: 128 };
        let mut tiles = Vec::new();
        prefill_tiles(&spans, &[0, 3, 9], shape, &mut tiles);
        assert_eq!(tiles, [[0, 16, 0, 1], [16, 16, 0, 17], [32, 5, 0, 33], [38, 16, 9, 35]]);
    }
}
