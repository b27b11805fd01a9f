//! What one step of a decoder works on: rows of several sequences, prefill chunks and decodes mixed.

use super::DeviceError;

/// Tokens in one block of KV cache. Attention visits keys in blocks of this size, from position 0.
pub const BLOCK_SIZE: usize = 16;

/// One step. A row is one token of one sequence; the rows of a sequence are consecutive and in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepBatch {
    /// The token of each row, `[rows]`. Empty where rows are fed as embeddings instead.
    pub token_ids: Vec<u32>,
    /// The position of each row on the time, height and width axes, `[3][rows]`; equal for text.
    pub positions: [Vec<f32>; 3],
    /// Where the keys and values of each row go, `[rows]`: `block * BLOCK_SIZE + offset`.
    pub slot_mapping: Vec<u32>,
    /// The sequences, which together cover all rows in order.
    pub sequences: Vec<SequenceSpan>,
    /// The rows whose logits are wanted.
    pub logit_rows: Vec<u32>,
}

/// The rows of one sequence in a step, and the keys and values that they may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceSpan {
    /// Index of its first row.
    pub first_row: u32,
    /// Number of its rows in this step; at least 1.
    pub rows: u32,
    /// Tokens in the cache once this step has written its own. The last row sees all of them, the one before
    /// it all but the last, and so on.
    pub context: u32,
    /// The cache blocks of the sequence from position 0; at least as many as `context` needs.
    pub block_table: Vec<u32>,
}

/// The largest step that a workspace is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows.
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub logit_rows: usize,
}

impl StepBatch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.slot_mapping.len()
    }

    /// Empties the step, keeping its memory.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        for axis in &mut self.positions {
            axis.clear();
        }
        self.slot_mapping.clear();
        self.sequences.clear();
        self.logit_rows.clear();
    }

    /// Appends the next tokens of a sequence of text, `start` tokens of which are in the cache already. With
    /// `wants_logits` the logits of the last of them are wanted.
    pub fn push_text(
        &mut self,
        tokens: impl Iterator<Item = u32>,
        start: usize,
        block_table: &[u32],
        wants_logits: bool,
    ) {
        let known = self.token_ids.len();
        self.token_ids.extend(tokens);
        self.push_rows(self.token_ids.len() - known, start, block_table, wants_logits);
    }

    /// Appends the next `rows` rows of a sequence without gaps in its positions, whose content is fed in another way
    /// than as token ids. Rows for which the block table has no block are left out, which [`check`](Self::check)
    /// then finds.
    pub fn push_rows(&mut self, rows: usize, start: usize, block_table: &[u32], wants_logits: bool) {
        let first_row = self.rows() as u32;
        for position in start..start + rows {
            let Some(block) = block_table.get(position / BLOCK_SIZE) else { break };
            for axis in &mut self.positions {
                axis.push(position as f32);
            }
            self.slot_mapping.push(block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32);
        }
        let rows = self.rows() as u32 - first_row;
        if wants_logits {
            self.logit_rows.push((first_row + rows).saturating_sub(1));
        }
        let context = start as u32 + rows;
        self.sequences.push(SequenceSpan { first_row, rows, context, block_table: block_table.to_vec() });
    }

    /// Checks that the parts agree with each other and with `limits`. Whether blocks exist is for the cache to
    /// say, and whether token ids do for the embedding table.
    pub fn check(&self, limits: BatchLimits) -> Result<(), DeviceError> {
        let rows = self.rows();
        let fail = |text: String| Err(DeviceError::Batch(text));
        if rows > limits.rows {
            return fail(format!("{rows} rows where the workspace holds {}", limits.rows));
        }
        if self.logit_rows.len() > limits.logit_rows {
            return fail(format!(
                "{} logit rows where the workspace holds {}",
                self.logit_rows.len(),
                limits.logit_rows
            ));
        }
        if !self.token_ids.is_empty() && self.token_ids.len() != rows {
            return fail(format!("{} token ids for {rows} rows", self.token_ids.len()));
        }
        if let Some(axis) = self.positions.iter().find(|axis| axis.len() != rows) {
            return fail(format!("{} positions for {rows} rows", axis.len()));
        }
        if let Some(row) = self.logit_rows.iter().find(|row| **row as usize >= rows) {
            return fail(format!("logits wanted of row {row} of {rows}"));
        }
        let mut next = 0;
        for span in &self.sequences {
            if span.first_row as usize != next || span.rows == 0 || span.rows > span.context {
                return fail(format!(
                    "a sequence with {} rows from {}, context {}, where row {next} is due",
                    span.rows, span.first_row, span.context
                ));
            }
            let blocks = (span.context as usize).div_ceil(BLOCK_SIZE);
            if span.block_table.len() < blocks {
                return fail(format!(
                    "a block table of {} for a context of {} tokens",
                    span.block_table.len(),
                    span.context
                ));
            }
            next += span.rows as usize;
        }
        if next == rows { Ok(()) } else { fail(format!("sequences cover {next} of {rows} rows")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { rows: 8, logit_rows: 2 };

    fn two_sequences() -> StepBatch {
        StepBatch {
            token_ids: vec![1, 2, 3],
            positions: [vec![0.0, 1.0, 4.0], vec![0.0, 1.0, 4.0], vec![0.0, 1.0, 4.0]],
            slot_mapping: vec![0, 1, 20],
            sequences: vec![
                SequenceSpan { first_row: 0, rows: 2, context: 2, block_table: vec![0] },
                SequenceSpan { first_row: 2, rows: 1, context: 5, block_table: vec![1] },
            ],
            logit_rows: vec![1, 2],
        }
    }

    #[test]
    fn a_consistent_step_passes() {
        assert_eq!(two_sequences().check(LIMITS), Ok(()));
    }

    #[test]
    fn a_short_block_table_is_named() {
        let mut batch = two_sequences();
        batch.sequences[1].context = 17;
        let error = batch.check(LIMITS).unwrap_err();
        assert!(error.to_string().contains("block table of 1"), "{error}");
    }

    #[test]
    fn rows_without_a_sequence_are_refused() {
        let mut batch = two_sequences();
        batch.sequences.pop();
        assert_eq!(batch.check(LIMITS).unwrap_err().reason(), "invalid_batch");
    }

    #[test]
    fn a_logit_row_beyond_the_rows_is_refused() {
        let mut batch = two_sequences();
        batch.logit_rows = vec![3];
        assert!(batch.check(LIMITS).is_err());
    }
}
