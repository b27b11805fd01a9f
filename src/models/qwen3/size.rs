//! How many weights a step reads, and how many multiply each row: what bounds the speed of decode and of prefill.

use super::config::{DecoderConfig, FeedForwardConfig};

/// What the decode steps of a loaded model read.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeTraffic {
    /// The model.
    pub config: DecoderConfig,
    /// Bytes of a weight, on average.
    pub bytes_per_weight: f64,
    /// Bytes of a token's keys and values, over all layers.
    pub cache_bytes_per_token: f64,
}

impl DecodeTraffic {
    /// Bytes that a step must read which decodes a token of each of so many sequences: the weights once, and the keys and
    /// values of the `context` tokens that each sees. Sequences may be an average.
    pub fn bytes(&self, sequences: f64, context: f64) -> f64 {
        self.bytes_per_weight * self.config.weights_read(sequences)
            + sequences * context * self.cache_bytes_per_token
    }
}

impl DecoderConfig {
    /// The weights that a step of `rows` rows reads, all of which want logits: every matrix but the embedding table, of
    /// the experts as many as are chosen on average when rows choose evenly and independently.
    pub fn weights_read(&self, rows: f64) -> f64 {
        let layers = self.layers.iter().map(|layer| layer.weights_read(self.hidden_size, rows));
        let attention = (self.layers.len() * self.attention_weights()) as f64;
        attention + layers.sum::<f64>() + self.head_weights() as f64
    }

    /// The weights that each row is multiplied with, without the output projection.
    pub fn weights_per_row(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.weights_per_row(self.hidden_size));
        self.layers.len() * self.attention_weights() + layers.sum::<usize>()
    }

    /// The weights of the output projection.
    pub fn head_weights(&self) -> usize {
        self.vocab_size * self.hidden_size
    }

    fn attention_weights(&self) -> usize {
        self.hidden_size * (self.attention.qkv_width() + self.attention.query_width())
    }
}

impl FeedForwardConfig {
    fn weights_read(&self, hidden: usize, rows: f64) -> f64 {
        match self {
            Self::Dense { .. } => self.weights_per_row(hidden) as f64,
            Self::Sparse { route, width, shared } => {
                let (experts, top_k) = (route.experts as f64, route.top_k as f64);
                // An expert is left out by all rows with this probability.
                let idle = (1.0 - top_k / experts).powf(rows);
                let chosen = experts * (1.0 - idle) * gated(hidden, *width) as f64;
                chosen + router_and_shared(hidden, route.experts, *shared) as f64
            }
        }
    }

    fn weights_per_row(&self, hidden: usize) -> usize {
        match self {
            Self::Dense { width } => gated(hidden, *width),
            Self::Sparse { route, width, shared } => {
                route.top_k * gated(hidden, *width) + router_and_shared(hidden, route.experts, *shared)
            }
        }
    }
}

/// The weights of a gated network.
fn gated(hidden: usize, width: usize) -> usize {
    3 * hidden * width
}

/// What every row is multiplied with in a sparse layer: the router, the shared expert and its gate.
fn router_and_shared(hidden: usize, experts: usize, shared: Option<usize>) -> usize {
    hidden * experts + shared.map_or(0, |width| gated(hidden, width) + hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen3::{LanguageModel, Names};
    use crate::tensor::{AttentionShape, Dtype, Outline, Outlined, RotarySpec, RouteSpec, WeightStore};

    fn config(layers: Vec<FeedForwardConfig>) -> DecoderConfig {
        DecoderConfig {
            hidden_size: 16,
            vocab_size: 50,
            attention: AttentionShape { heads: 4, kv_heads: 2, head_dim: 8 },
            eps: 1e-6,
            rotary: RotarySpec::new(1e4, 8, [0; 3]),
            layers,
            tied_embeddings: false,
        }
    }

    fn sparse(shared: Option<usize>) -> FeedForwardConfig {
        FeedForwardConfig::Sparse {
            route: RouteSpec { experts: 8, top_k: 2, normalize: true },
            width: 12,
            shared,
        }
    }

    /// Bytes of all weights, as loading takes them: matrices of bf16, vectors of f32.
    fn loaded(config: &DecoderConfig) -> u64 {
        let outline = Outline::of(Outlined::Process);
        let names = Names { model: "model", head: "lm_head" };
        LanguageModel::load(&outline, names, config.clone(), &WeightStore::dummy(0), Dtype::Auto).unwrap();
        outline.take().weights
    }

    #[test]
    fn many_rows_read_every_weight_that_is_loaded_but_embeddings_and_norms() {
        for layers in [
            vec![FeedForwardConfig::Dense { width: 20 }; 3],
            vec![sparse(None), sparse(Some(10)), FeedForwardConfig::Dense { width: 5 }],
        ] {
            let config = config(layers);
            let norms = (1 + 2 * config.layers.len()) * 16 + 2 * config.layers.len() * 8;
            let due = 2.0 * config.weights_read(1000.0) + (2 * 50 * 16 + 4 * norms) as f64;
            assert!((due - loaded(&config) as f64).abs() < 1e-3, "{due} {}", loaded(&config));
        }
    }

    #[test]
    fn a_row_reads_what_it_is_multiplied_with() {
        for layer in [sparse(None), sparse(Some(10)), FeedForwardConfig::Dense { width: 5 }] {
            let config = config(vec![layer]);
            let due = config.weights_per_row() + config.head_weights();
            assert!((config.weights_read(1.0) - due as f64).abs() < 1e-9);
        }
    }

    #[test]
    fn a_step_reads_weights_once_and_the_context_of_every_sequence() {
        let config = config(vec![FeedForwardConfig::Dense { width: 20 }]);
        let weights = config.weights_read(1.0);
        let traffic = DecodeTraffic { config, bytes_per_weight: 2.0, cache_bytes_per_token: 64.0 };
        assert_eq!(traffic.bytes(1.0, 100.0), 2.0 * weights + 6400.0);
        assert_eq!(traffic.bytes(4.0, 100.0), 2.0 * weights + 4.0 * 6400.0);
    }

    #[test]
    fn two_rows_share_some_experts() {
        let config = config(vec![sparse(None)]);
        let expert = gated(16, 12) as f64;
        let experts = |rows| {
            let others = config.attention_weights() + config.head_weights() + 16 * 8;
            (config.weights_read(rows) - others as f64) / expert
        };
        assert!((experts(1.0) - 2.0).abs() < 1e-9);
        // 8 * (1 - (3/4)²).
        assert!((experts(2.0) - 3.5).abs() < 1e-9);
        assert!((experts(500.0) - 8.0).abs() < 1e-9);
    }
}
