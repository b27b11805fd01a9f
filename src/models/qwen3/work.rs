//! How much work a step is: the operations and bytes that follow from a decoder's dimensions and from the step's rows.

use std::ops::AddAssign;

use super::config::DecoderConfig;
use super::size::DecodeTraffic;

/// What a step computes, as far as its work depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Rows.
    pub rows: usize,
    /// Those of them that want logits.
    pub logit_rows: usize,
    /// Pairs of a row and a position that it sees: itself, and those before it in its sequence.
    pub meetings: usize,
    /// Positions whose keys and values are read, over all sequences.
    pub context: usize,
}

/// Work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of products and attention.
    pub operations: f64,
    /// Bytes of weights, keys and values that are read.
    pub read_bytes: f64,
    /// Bytes of keys and values that are written.
    pub write_bytes: f64,
}

impl StepShape {
    /// A sequence that has `start` tokens in the cache and computes `len` further ones, with or without logits of the last.
    pub fn span(start: usize, len: usize, wants_logits: bool) -> Self {
        let meetings = len * start + len * (len + 1) / 2;
        Self { rows: len, logit_rows: usize::from(wants_logits), meetings, context: start + len }
    }
}

impl AddAssign for StepShape {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.logit_rows += other.logit_rows;
        self.meetings += other.meetings;
        self.context += other.context;
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
    }
}

impl DecoderConfig {
    /// Multiplications and additions of a step: of each row with the weights that it visits, of rows that want logits with
    /// the output projection, and of attention, where a row meets a position in the product of query and key and in that of
    /// weight and value.
    pub fn operations(&self, shape: StepShape) -> f64 {
        let StepShape { rows, logit_rows, meetings, context: _ } = shape;
        let products =
            rows as f64 * self.weights_per_row() as f64 + logit_rows as f64 * self.head_weights() as f64;
        let attention = meetings as f64 * (2 * self.attention.query_width() * self.layers.len()) as f64;
        2.0 * (products + attention)
    }
}

impl DecodeTraffic {
    /// The work of a step. Weights are read once, of the experts as many as are chosen on average.
    pub fn work(&self, shape: StepShape) -> Work {
        let StepShape { rows, logit_rows, context, .. } = shape;
        let unread = if logit_rows == 0 { self.config.head_weights() as f64 } else { 0.0 };
        let weights = self.config.weights_read(rows as f64) - unread;
        Work {
            operations: self.config.operations(shape),
            read_bytes: self.bytes_per_weight * weights + self.cache_bytes_per_token * context as f64,
            write_bytes: self.cache_bytes_per_token * rows as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen3::FeedForwardConfig;
    use crate::tensor::{AttentionShape, RotarySpec};

    fn traffic() -> DecodeTraffic {
        let config = DecoderConfig {
            hidden_size: 16,
            vocab_size: 50,
            attention: AttentionShape { heads: 4, kv_heads: 2, head_dim: 8 },
            eps: 1e-6,
            rotary: RotarySpec::new(1e4, 8, [0; 3]),
            layers: vec![FeedForwardConfig::Dense { width: 20 }; 3],
            tied_embeddings: false,
        };
        DecodeTraffic { config, bytes_per_weight: 2.0, cache_bytes_per_token: 192.0 }
    }

    #[test]
    fn a_row_meets_itself_and_all_before_it() {
        assert_eq!(StepShape::span(0, 4, true).meetings, 1 + 2 + 3 + 4);
        assert_eq!(StepShape::span(10, 2, false).meetings, 11 + 12);
        assert_eq!(StepShape::span(10, 2, false).context, 12);
    }

    #[test]
    fn a_prompt_in_parts_is_as_many_operations_as_in_one() {
        let traffic = traffic();
        let mut parts = Work::default();
        for (start, len, ends) in [(0, 5, false), (5, 1, false), (6, 7, true)] {
            parts += traffic.work(StepShape::span(start, len, ends));
        }
        let whole = traffic.work(StepShape::span(0, 13, true));
        assert!((parts.operations - whole.operations).abs() < 1e-6);
        assert_eq!(parts.write_bytes, whole.write_bytes);
        assert!(parts.read_bytes > whole.read_bytes, "weights are read in each part");
    }

    #[test]
    fn a_decoded_token_reads_all_dense_weights_and_its_context() {
        let traffic = traffic();
        let decoded = traffic.work(StepShape::span(99, 1, true));
        let weights = (traffic.config.weights_per_row() + traffic.config.head_weights()) as f64;
        assert_eq!(decoded.read_bytes, 2.0 * weights + 192.0 * 100.0);
        // 32 numbers of query width, 3 layers, 100 meetings, 2 products, 2 operations.
        assert_eq!(decoded.operations, 2.0 * weights + (32 * 3 * 100 * 2 * 2) as f64);
        assert_eq!(decoded.write_bytes, 192.0);
    }
}
