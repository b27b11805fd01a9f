//! The tile unit: what products ask of it, its instructions, and a model of them.
#![allow(unsafe_code)]

use half::bf16;

use super::{TILE_COLUMNS, TILE_ROWS};

/// Sums of a tile, `[TILE_COLUMNS][TILE_ROWS]`.
pub(in super::super) type Sums = [f32; TILE_COLUMNS * TILE_ROWS];

/// Two tiles of weights times two tiles of activations, over some steps of the inner dimension.
///
/// The second tile of either is there if `columns` or `rows` says so.
#[derive(Clone, Copy)]
pub(in super::super) struct Tiles {
    /// The first of sixteen columns of each tile of weights, at the first step.
    pub(super) weights: [*const bf16; 2],
    /// Elements from a column of the weights to the next.
    pub(super) stride: usize,
    /// Packed activations, `[steps][STEP / 2][height][2]`.
    pub(super) activations: [*const bf16; 2],
    /// Rows of each tile of activations.
    pub(super) height: usize,
    /// Tiles of weights: 1 or 2.
    pub(super) columns: usize,
    /// Tiles of activations: 1 or 2.
    pub(super) rows: usize,
    /// Steps to sum.
    pub(super) steps: usize,
    /// Where they are added up: tiles of weights by tiles of activations, `[2][2]`. Aligned to 64 bytes.
    pub(super) sums: *mut Sums,
}

/// A unit that multiplies tiles.
///
/// # Safety
///
/// An implementation touches no memory but what [`Tiles`] describes.
pub(in super::super) unsafe trait TileUnit {
    /// Makes the calling thread ready for tiles of `height` rows, until [`release`](Self::release).
    ///
    /// # Safety
    ///
    /// The processor must have the unit.
    unsafe fn configure(height: usize);

    /// Adds the products to the sums.
    ///
    /// # Safety
    ///
    /// The thread is configured for this height, and all that `tiles` describes is there.
    unsafe fn multiply(tiles: Tiles);

    /// Ends the calling thread's use of the unit.
    ///
    /// # Safety
    ///
    /// The processor must have the unit.
    unsafe fn release();
}

/// Whether the processor has the unit and the system lets the process use it, which is asked for once.
pub(in super::super) fn is_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *AVAILABLE.get_or_init(instructions::request)
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

/// The processor's own instructions.
pub(in super::super) struct Instructions;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod instructions {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    use super::super::{TILE_COLUMNS, TILE_ROWS};
    use super::{Instructions, Sums, TileUnit, Tiles};

    /// Bits of CPUID leaf 7, register EDX: bf16 products, and tiles.
    const CPUID_BITS: u32 = 1 << 22 | 1 << 24;
    /// `arch_prctl` code that asks for the use of a processor state, and the number of that of the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    /// Asks the system for the use of the tiles.
    pub(super) fn request() -> bool {
        #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
        // SAFETY: every processor of this architecture has the instruction.
        let bits = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
        if bits & CPUID_BITS != CPUID_BITS {
            return false;
        }
        // SAFETY: the call takes two numbers and changes no memory of the process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// The extents of the tiles, as `LDTILECFG` reads them.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        /// Bytes of a row of each tile.
        row_bytes: [u16; 16],
        /// Rows of each tile.
        rows: [u8; 16],
    }

    // Registers: 0 to 3 are sums, weights by activations; 4 and 5 weights; 6 and 7 activations.
    //
    // SAFETY: each block names what it reads and writes, which the caller vouches for; tiles are nobody else's.
    unsafe impl TileUnit for Instructions {
        unsafe fn configure(height: usize) {
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            let wide = (4 * height) as u16;
            for (tile, bytes) in [wide, wide, wide, wide, 64, 64, wide, wide].into_iter().enumerate() {
                configuration.row_bytes[tile] = bytes;
                configuration.rows[tile] = TILE_COLUMNS as u8;
            }
            // SAFETY: reads the 64 bytes of the configuration.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) }
        }

        #[inline]
        unsafe fn multiply(tiles: Tiles) {
            // SAFETY: as for this function.
            unsafe {
                match (tiles.columns, tiles.rows) {
                    (2, 2) => two_by_two(tiles),
                    (2, _) => two_by_one(tiles),
                    (_, 2) => one_by_two(tiles),
                    _ => one_by_one(tiles),
                }
            }
        }

        unsafe fn release() {
            // SAFETY: touches no memory.
            unsafe { asm!("tilerelease", options(nomem, nostack)) }
        }
    }

    const _: () = assert!(size_of::<Sums>() == 1024 && TILE_ROWS == 16);

    /// Emits a loop over the steps with the given loads and products, between loads and stores of the sums.
    macro_rules! tile_loop {
        ($name:ident, load: [$($load:literal),*], step: [$($step:literal),*], store: [$($store:literal),*]) => {
            unsafe fn $name(tiles: Tiles) {
                let height = 4 * tiles.height;
                // SAFETY: reads weights and activations and changes sums, as `Tiles` describes them.
                unsafe {
                    asm!(
                        $($load,)*
                        "2:",
                        $($step,)*
                        "add {w0}, 64",
                        "add {w1}, 64",
                        "add {x0}, {next}",
                        "add {x1}, {next}",
                        "dec {steps}",
                        "jnz 2b",
                        $($store,)*
                        w0 = inout(reg) tiles.weights[0] => _,
                        w1 = inout(reg) tiles.weights[1] => _,
                        stride = in(reg) 2 * tiles.stride,
                        x0 = inout(reg) tiles.activations[0] => _,
                        x1 = inout(reg) tiles.activations[1] => _,
                        height = in(reg) height,
                        next = in(reg) 16 * height,
                        steps = inout(reg) tiles.steps => _,
                        sums = in(reg) tiles.sums,
                        line = in(reg) 64usize,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        };
    }

    tile_loop!(
        two_by_two,
        load: [
            "tileloadd tmm0, [{sums} + {line}]", "tileloadd tmm1, [{sums} + {line} + 1024]",
            "tileloadd tmm2, [{sums} + {line} + 2048]", "tileloadd tmm3, [{sums} + {line} + 3072]"
        ],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {height}]", "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"
        ],
        store: [
            "tilestored [{sums} + {line}], tmm0", "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2", "tilestored [{sums} + {line} + 3072], tmm3"
        ]
    );
    tile_loop!(
        two_by_one,
        load: ["tileloadd tmm0, [{sums} + {line}]", "tileloadd tmm2, [{sums} + {line} + 2048]"],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm2, tmm5, tmm6"
        ],
        store: ["tilestored [{sums} + {line}], tmm0", "tilestored [{sums} + {line} + 2048], tmm2"]
    );
    tile_loop!(
        one_by_two,
        load: ["tileloadd tmm0, [{sums} + {line}]", "tileloadd tmm1, [{sums} + {line} + 1024]"],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {height}]", "tdpbf16ps tmm1, tmm4, tmm7"
        ],
        store: ["tilestored [{sums} + {line}], tmm0", "tilestored [{sums} + {line} + 1024], tmm1"]
    );
    tile_loop!(
        one_by_one,
        load: ["tileloadd tmm0, [{sums} + {line}]"],
        step: ["tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6"],
        store: ["tilestored [{sums} + {line}], tmm0"]
    );
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
// SAFETY: never called, for `is_available` says that there is no unit.
unsafe impl TileUnit for Instructions {
    unsafe fn configure(_: usize) {}
    unsafe fn multiply(_: Tiles) {}
    unsafe fn release() {}
}

/// The same arithmetic as the instructions', one number after the other.
#[cfg(test)]
pub(super) struct Model;

#[cfg(test)]
// SAFETY: indexes what `Tiles` describes as the instructions do.
unsafe impl TileUnit for Model {
    unsafe fn configure(height: usize) {
        assert!((1..=TILE_ROWS).contains(&height));
    }

    unsafe fn multiply(tiles: Tiles) {
        use super::STEP;
        let Tiles { weights, stride, activations, height, columns, rows, steps, sums } = tiles;
        assert!(sums.cast::<u8>().addr().is_multiple_of(64));
        for (c, r) in (0..columns).flat_map(|c| (0..rows).map(move |r| (c, r))) {
            for (column, row) in (0..TILE_COLUMNS).flat_map(|c| (0..height).map(move |r| (c, r))) {
                // SAFETY: the caller vouches for all that is read and written.
                unsafe {
                    let sum = &mut (*sums.add(2 * c + r))[column * TILE_ROWS + row];
                    for step in 0..steps {
                        let weight = weights[c].add(column * stride + step * STEP);
                        let activation = activations[r].add((step * STEP / 2 * height + row) * 2);
                        let mut halves = [0.0f32; 2];
                        for at in 0..STEP {
                            let (w, x) = (*weight.add(at), *activation.add(at / 2 * height * 2 + at % 2));
                            halves[at % 2] = w.to_f32().mul_add(x.to_f32(), halves[at % 2]);
                        }
                        *sum += halves[0] + halves[1];
                    }
                }
            }
        }
    }

    unsafe fn release() {}
}
