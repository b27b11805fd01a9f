//! Operations that make input rows for decoders that are fed with embeddings.

use super::{Backend, DeviceError};

/// A device that makes rows from tables and from host memory.
pub trait InputRows: Backend {
    /// Copies values from host memory to the beginning of a buffer.
    fn write(&self, values: &[f32], out: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// `out[rows[i]] += scale * Σ_t tables[t][ids[i, t]]`, summed in the order of the tables.
    ///
    /// `ids` is `[rows, tables]` and in host memory; all tables have rows of one width. Fails on an id that a
    /// table does not have.
    fn add_embeddings(
        &self,
        tables: &[&Self::Matrix],
        ids: &[u32],
        rows: &[u32],
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `x += bias`, each row of `[rows, width]`; the width is the bias's.
    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Vector, rows: usize) -> Result<(), DeviceError>;

    /// `x = silu(x + bias)` with `silu(v) = v / (1 + e^-v)`, each row of `[rows, width]`.
    fn bias_silu(&self, x: &mut Self::Buffer, bias: &Self::Vector, rows: usize) -> Result<(), DeviceError>;

    /// Copies rows within `[rows, width]` buffers: `out[to] = x[from]` for each pair `(from, to)`.
    fn copy_rows(
        &self,
        x: &Self::Buffer,
        pairs: &[(u32, u32)],
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;
}
