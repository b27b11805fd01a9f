//! A step's description on the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Address, Driver, Memory};
use super::memory::CudaCache;
use super::variants::{PrefillTile, most_parts, prefill_tiles, splits};
use crate::tensor::batch::{BLOCK_SIZE, SequenceSpan};
use crate::tensor::error::{require, require_exact};
use crate::tensor::{AttentionShape, BatchLimits, DeviceError, StepBatch};

/// The parts of a step's description. Each but the last has a word for every row that there is room for, so that
/// all go to the device in one copy and lie at the same place in every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The token of each row.
    Tokens = 0,
    /// Positions on the three axes, f32; three times as long.
    Positions = 1,
    /// Where keys and values go.
    Slots = 4,
    /// Where the blocks of the row's sequence begin in the block table.
    FirstBlock = 5,
    /// Tokens that the row sees.
    Visible = 6,
    /// The same for rows that are alone in their sequence, none for others.
    VisibleAlone = 7,
    /// A word that kernels set when a token does not exist, and the rows whose logits are wanted.
    LogitRows = 8,
}

/// Blocks that the block table has room for at first, 256 KiB of them. Few caches hold more.
const FIRST_BLOCKS: usize = 1 << 16;

/// A step, checked, on the device.
#[derive(Debug)]
pub struct CudaBatch {
    /// Whose memory it takes.
    driver: Arc<dyn Driver>,
    /// The largest step it has room for.
    limits: BatchLimits,
    /// All [`Part`]s.
    parts: Memory,
    /// The same, as they go to the device.
    words: Vec<u32>,
    /// The blocks of all sequences, one after the other, u32.
    block_table: Memory,
    /// Rows of the step.
    pub(super) rows: usize,
    /// How many rows want logits.
    pub(super) logit_rows: usize,
    /// Token ids that came with the step: as many as rows, or none.
    pub(super) tokens: usize,
    /// The largest of them.
    pub(super) largest_token: u32,
    /// Whether every row is alone in its sequence and wants logits.
    is_decode: bool,
    /// The sequences, without their block tables.
    sequences: Vec<SequenceSpan>,
    /// For each sequence, where its blocks begin in the block table.
    first_blocks: Vec<u32>,
    /// One more than the largest block that is named.
    blocks_needed: usize,
    /// What attention needs besides; made when it is first called, since only it knows the heads.
    attention: Mutex<AttentionSpace>,
}

/// Tiles of prompts, and room for the parts of split contexts.
#[derive(Debug)]
pub(super) struct AttentionSpace {
    /// The tiles of the step, [`PrefillTile`]s.
    pub(super) tiles: Memory,
    /// The heads that they were cut for in this step, and how many there are.
    cut: Option<(AttentionShape, usize)>,
    /// The same on their way to the device.
    staged: Vec<PrefillTile>,
    /// What attention asked for last.
    asked: Option<Asked>,
    /// How often memory of the step was replaced by longer one.
    layout: u64,
    /// Sums of values, f32 `[rows, heads, splits, width]`.
    pub(super) sums: Memory,
    /// The largest score and the sum of the weights, f32 `[rows, heads, splits, 2]`.
    pub(super) weights: Memory,
}

/// What decides, besides the step, how attention goes through contexts.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Blocks of threads for each row and split.
    items_per_row: usize,
    /// Blocks of the cache.
    cache_blocks: usize,
}

/// What must be equal for decode steps to make the same launches: what is in them besides lies in memory whose place
/// is the same too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DecodeShape {
    /// Rows of the step.
    rows: usize,
    /// Splits of each context.
    splits: usize,
    /// How often memory was replaced by longer one.
    pub(super) layout: u64,
}

impl CudaBatch {
    pub(super) fn new(driver: &Arc<dyn Driver>, limits: BatchLimits) -> Result<Self, DeviceError> {
        let words = Part::LogitRows as usize * limits.rows + 1 + limits.logit_rows;
        let empty = || Memory::zeros(driver, 0);
        let block_table = Memory::zeros(driver, 4 * FIRST_BLOCKS)?;
        Ok(Self {
            driver: driver.clone(),
            limits,
            parts: Memory::zeros(driver, 4 * words)?,
            words: vec![0; words],
            block_table,
            rows: 0,
            logit_rows: 0,
            tokens: 0,
            largest_token: 0,
            is_decode: false,
            sequences: Vec::new(),
            first_blocks: Vec::new(),
            blocks_needed: 0,
            attention: Mutex::new(AttentionSpace {
                tiles: Memory::zeros(driver, size_of::<PrefillTile>() * limits.rows)?,
                cut: None,
                staged: Vec::new(),
                asked: None,
                layout: 0,
                sums: empty()?,
                weights: empty()?,
            }),
        })
    }

    /// Checks a step and queues its way to the device.
    pub(super) fn upload(&mut self, step: &StepBatch) -> Result<(), DeviceError> {
        step.check(self.limits)?;
        self.rows = step.rows();
        self.logit_rows = step.logit_rows.len();
        self.tokens = step.token_ids.len();
        self.largest_token = step.token_ids.iter().copied().max().unwrap_or(0);
        self.is_decode = step.logit_rows.iter().copied().eq(0..self.rows as u32)
            && step.sequences.iter().all(|span| span.rows == 1);
        self.fill(Part::Tokens as usize, &step.token_ids);
        for (axis, positions) in step.positions.iter().enumerate() {
            self.fill(Part::Positions as usize + axis, bytemuck::cast_slice(positions));
        }
        self.fill(Part::Slots as usize, &step.slot_mapping);

        self.sequences.clear();
        self.first_blocks.clear();
        let (mut blocks, mut first, mut visible, mut alone) = (vec![], vec![], vec![], vec![]);
        for SequenceSpan { first_row, rows, context, block_table } in &step.sequences {
            let first_block = blocks.len() as u32;
            blocks.extend(block_table.iter().take((*context as usize).div_ceil(BLOCK_SIZE)));
            for seen in context - rows + 1..=*context {
                first.push(first_block);
                visible.push(seen);
                alone.push(if *rows == 1 { seen } else { 0 });
            }
            self.first_blocks.push(first_block);
            let (first_row, rows, context) = (*first_row, *rows, *context);
            self.sequences.push(SequenceSpan { first_row, rows, context, block_table: Vec::new() });
        }
        self.fill(Part::FirstBlock as usize, &first);
        self.fill(Part::Visible as usize, &visible);
        self.fill(Part::VisibleAlone as usize, &alone);
        let logit_rows = Part::LogitRows as usize * self.limits.rows + 1;
        for (word, row) in self.words.iter_mut().skip(logit_rows).zip(&step.logit_rows) {
            *word = *row;
        }
        self.driver.upload(bytemuck::cast_slice(&self.words), self.parts.address())?;

        let written = step.slot_mapping.iter().map(|slot| slot / BLOCK_SIZE as u32);
        self.blocks_needed =
            written.chain(blocks.iter().copied()).max().map_or(0, |block| block as usize + 1);
        let space = self.attention.get_mut().unwrap_or_else(PoisonError::into_inner);
        space.cut = None;
        let longer = grow(&self.driver, &mut self.block_table, 4 * blocks.len())?;
        space.layout += u64::from(longer);
        if !blocks.is_empty() {
            self.driver.upload(bytemuck::cast_slice(&blocks), self.block_table.address())?;
        }
        Ok(())
    }

    /// Puts values at the start of a part that counts its rows from `part * rows`.
    fn fill(&mut self, part: usize, values: &[u32]) {
        for (word, value) in self.words.iter_mut().skip(part * self.limits.rows).zip(values) {
            *word = *value;
        }
    }

    /// Where a part lies on the device.
    pub(super) fn part(&self, part: Part) -> Address {
        let words = part as usize * self.limits.rows + usize::from(part == Part::LogitRows);
        self.parts.address() + 4 * words as u64
    }

    /// Where kernels report a token that does not exist.
    pub(super) fn fault(&self) -> Address {
        self.part(Part::LogitRows) - 4
    }

    /// Distance of the axes in [`Part::Positions`].
    pub(super) fn position_stride(&self) -> usize {
        self.limits.rows
    }

    /// The block table.
    pub(super) fn block_table(&self) -> &Memory {
        &self.block_table
    }

    /// The longest context of a row that is alone in its sequence; None if no row is.
    pub(super) fn longest_alone(&self) -> Option<usize> {
        self.sequences.iter().filter(|span| span.rows == 1).map(|span| span.context as usize).max()
    }

    /// The longest context.
    pub(super) fn longest(&self) -> usize {
        self.sequences.iter().map(|span| span.context as usize).max().unwrap_or(0)
    }

    /// Into how many parts the contexts are split that `items_per_row` blocks of threads go through for each row, the
    /// longest of them having `longest` tokens; and what attention needs besides, with room for all parts of any step.
    pub(super) fn split_contexts(
        &self,
        shape: AttentionShape,
        items_per_row: usize,
        longest: usize,
        cache_blocks: usize,
    ) -> Result<(usize, MutexGuard<'_, AttentionSpace>), DeviceError> {
        let multiprocessors = self.driver.multiprocessors();
        let mut space = self.attention_space();
        space.asked = Some(Asked { items_per_row, cache_blocks });
        let heads = most_parts(multiprocessors) * shape.heads.div_ceil(items_per_row.max(1));
        let longer = grow(&self.driver, &mut space.sums, 4 * heads * shape.head_dim)?
            | grow(&self.driver, &mut space.weights, 4 * heads * 2)?;
        space.layout += u64::from(longer);
        Ok((splits(self.rows * items_per_row, longest, multiprocessors), space))
    }

    /// What attention needs besides.
    pub(super) fn attention_space(&self) -> MutexGuard<'_, AttentionSpace> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What decides which launches the step makes, if it is a decode step whose blocks the cache has, and attention was
    /// there before.
    pub(super) fn decode_shape(&self) -> Option<DecodeShape> {
        let space = self.attention_space();
        let Asked { items_per_row, cache_blocks } = space.asked?;
        let repeats = self.is_decode && self.rows > 0 && self.blocks_needed <= cache_blocks;
        let splits = splits(self.rows * items_per_row, self.longest(), self.driver.multiprocessors());
        repeats.then_some(DecodeShape { rows: self.rows, splits, layout: space.layout })
    }

    /// The number of tiles of the step's prompts, which lie in `space.tiles` afterwards.
    pub(super) fn prefill_tiles(
        &self,
        space: &mut AttentionSpace,
        shape: AttentionShape,
    ) -> Result<usize, DeviceError> {
        if let Some((_, count)) = space.cut.filter(|(cut_for, _)| *cut_for == shape) {
            return Ok(count);
        }
        prefill_tiles(&self.sequences, &self.first_blocks, shape, &mut space.staged);
        if !space.staged.is_empty() {
            self.driver.upload(bytemuck::cast_slice(&space.staged), space.tiles.address())?;
        }
        space.cut = Some((shape, space.staged.len()));
        Ok(space.staged.len())
    }

    /// Whether a cache fits the step and the attention.
    pub(super) fn check_cache(
        &self,
        operation: &'static str,
        cache: &CudaCache,
        layer: usize,
        shape: AttentionShape,
    ) -> Result<(), DeviceError> {
        if self.blocks_needed > cache.blocks {
            return Err(DeviceError::Batch(format!(
                "block {} is named where the cache has {}",
                self.blocks_needed - 1,
                cache.blocks
            )));
        }
        require_exact(operation, "the cache's heads", cache.shape.kv_heads, shape.kv_heads)?;
        require_exact(operation, "the cache's head width", cache.shape.head_dim, shape.head_dim)?;
        require(operation, "the cache's layers", cache.shape.layers, layer + 1)
    }
}

/// Makes memory longer if it is too short, and says whether it was. What it held is lost.
pub(super) fn grow(driver: &Arc<dyn Driver>, memory: &mut Memory, bytes: usize) -> Result<bool, DeviceError> {
    let short = memory.bytes() < bytes;
    if short {
        *memory = Memory::zeros(driver, bytes.next_power_of_two())?;
    }
    Ok(short)
}
