//! Matrix products of bf16 weights on AMX tiles.
//!
//! The weights are the first operand as they lie in the file: a tile is sixteen columns of the product (rows of the
//! weight) by 32 inner positions. Only the activations are rounded to bf16 and packed, so that a product is computed
//! transposed, sixteen columns by up to sixteen rows at a time.
//!
//! Each output is one sum over steps of 32 inner positions in order, whatever tile it is computed in, so a row's
//! results do not depend on the other rows. Within a step the products at even and at odd positions are summed apart,
//! as the instruction does (Intel, Instruction Set Extensions Programming Reference, `TDPBF16PS`).
//!
//! [`TileUnit`] is what is asked of the processor. A model of it in plain arithmetic stands beside the instructions, so
//! that all but these is tested on any machine; the instructions themselves are tried before they are used.

mod check;
mod instructions;
#[cfg(test)]
mod model;
mod pack;
mod product;
mod task;
#[cfg(test)]
mod tests;
mod transpose;
mod unit;

use std::sync::OnceLock;

pub(super) use instructions::Instructions;
use instructions::Permission;
pub(super) use product::multiply;

/// Inner positions of a step: what one instruction sums.
const STEP: usize = 32;
/// Columns of a tile of weights.
const TILE_COLUMNS: usize = 16;
/// Rows of a tile of activations, at most.
const TILE_ROWS: usize = 16;

/// 64 bytes that lie in one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T, const N: usize>([T; N]);

/// Whether the processor has the tiles, the system lets the process use them, and they multiply as they should, which is
/// found out once. Where one of the latter is not so, the log says it.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        match instructions::request() {
            Permission::NoTiles => return false,
            Permission::Refused(error) => {
                tracing::info!(%error, "AMX is not used: the system does not let the process use the tiles");
                return false;
            }
            Permission::Granted => {}
        }
        let good = check::multiplies::<Instructions>();
        if !good {
            tracing::warn!(
                "AMX is not used: this processor's tiles do not give the products that they should"
            );
        }
        good
    })
}
