//! The processor's own tile unit.
#![allow(unsafe_code)]

/// The AMX instructions.
pub(in super::super) struct Instructions;

/// Whether the instructions may be used.
#[derive(Debug)]
pub(super) enum Permission {
    /// The processor does not have them, or it is not known how to ask for them.
    NoTiles,
    /// The system does not let the process use them.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nobody is asked"))]
    Refused(std::io::Error),
    /// They may.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nobody is asked"))]
    Granted,
}

/// Whether the processor has the instructions and the system lets the process use them, which this asks for.
pub(super) fn request() -> Permission {
    #[cfg(target_os = "linux")]
    {
        linux::request()
    }
    #[cfg(not(target_os = "linux"))]
    {
        Permission::NoTiles
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    use super::super::unit::{Sums, TileUnit, Tiles};
    use super::super::{STEP, TILE_COLUMNS, TILE_ROWS};
    use super::{Instructions, Permission};
    use crate::tensor::cpu::Isa;

    /// Bits of CPUID leaf 7, register EDX: bf16 products, and tiles.
    const CPUID_BITS: u32 = 1 << 22 | 1 << 24;
    /// `arch_prctl` code that asks for the use of a processor state, and the number of that of the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    /// See [`super::request`].
    pub(super) fn request() -> Permission {
        #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
        // SAFETY: every processor of this architecture has the instruction.
        let bits = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
        if bits & CPUID_BITS != CPUID_BITS {
            return Permission::NoTiles;
        }
        // SAFETY: the call takes two numbers and changes no memory of the process.
        match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } {
            0 => Permission::Granted,
            _ => Permission::Refused(std::io::Error::last_os_error()),
        }
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
    // SAFETY: each block names what it reads and writes, which the caller vouches for; tiles are nobody else's. A fetch
    // ahead never faults.
    unsafe impl TileUnit for Instructions {
        const VECTORS: Isa = Isa::Avx512;

        unsafe fn configure(height: usize) {
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            let wide = (4 * height) as u16;
            let (columns, pairs) = (TILE_COLUMNS as u8, (STEP / 2) as u8);
            let tiles = [(wide, columns); 4].into_iter().chain([(64, columns); 2]).chain([(wide, pairs); 2]);
            for (tile, (bytes, rows)) in tiles.enumerate() {
                configuration.row_bytes[tile] = bytes;
                configuration.rows[tile] = rows;
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

    /// Emits a loop over the steps with the given loads and products, between loads and stores of the sums. Each step
    /// ends with the lines that are to be fetched ahead.
    macro_rules! tile_loop {
        ($name:ident, load: [$($load:literal),*], step: [$($step:literal),*], store: [$($store:literal),*]) => {
            unsafe fn $name(tiles: Tiles) {
                // SAFETY: reads weights and activations and changes sums, as `Tiles` describes them.
                unsafe {
                    asm!(
                        "mov {at}, 64",
                        $($load,)*
                        "2:",
                        $($step,)*
                        "mov {at}, {ahead}",
                        "mov {left}, {columns}",
                        "test {left}, {left}",
                        "jz 4f",
                        "3:",
                        "prefetcht1 [{at}]",
                        "add {at}, {distance}",
                        "dec {left}",
                        "jnz 3b",
                        "4:",
                        "add {ahead}, 64",
                        "add {w0}, 64",
                        "add {w1}, 64",
                        // Sixteen pairs of `height` bytes.
                        "lea {x0}, [{x0} + 8*{height}]",
                        "lea {x1}, [{x1} + 8*{height}]",
                        "lea {x0}, [{x0} + 8*{height}]",
                        "lea {x1}, [{x1} + 8*{height}]",
                        "dec {steps}",
                        "jnz 2b",
                        "mov {at}, 64",
                        $($store,)*
                        w0 = inout(reg) tiles.weights[0] => _,
                        w1 = inout(reg) tiles.weights[1] => _,
                        stride = in(reg) 2 * tiles.stride,
                        x0 = inout(reg) tiles.activations[0] => _,
                        x1 = inout(reg) tiles.activations[1] => _,
                        height = in(reg) 4 * tiles.height,
                        steps = inout(reg) tiles.steps => _,
                        sums = in(reg) tiles.sums,
                        ahead = inout(reg) tiles.ahead.first => _,
                        distance = in(reg) 2 * tiles.ahead.stride,
                        columns = in(reg) tiles.ahead.columns,
                        at = out(reg) _,
                        left = out(reg) _,
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
            "tileloadd tmm0, [{sums} + {at}]", "tileloadd tmm1, [{sums} + {at} + 1024]",
            "tileloadd tmm2, [{sums} + {at} + 2048]", "tileloadd tmm3, [{sums} + {at} + 3072]"
        ],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {height}]", "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"
        ],
        store: [
            "tilestored [{sums} + {at}], tmm0", "tilestored [{sums} + {at} + 1024], tmm1",
            "tilestored [{sums} + {at} + 2048], tmm2", "tilestored [{sums} + {at} + 3072], tmm3"
        ]
    );
    tile_loop!(
        two_by_one,
        load: ["tileloadd tmm0, [{sums} + {at}]", "tileloadd tmm2, [{sums} + {at} + 2048]"],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm2, tmm5, tmm6"
        ],
        store: ["tilestored [{sums} + {at}], tmm0", "tilestored [{sums} + {at} + 2048], tmm2"]
    );
    tile_loop!(
        one_by_two,
        load: ["tileloadd tmm0, [{sums} + {at}]", "tileloadd tmm1, [{sums} + {at} + 1024]"],
        step: [
            "tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {height}]", "tdpbf16ps tmm1, tmm4, tmm7"
        ],
        store: ["tilestored [{sums} + {at}], tmm0", "tilestored [{sums} + {at} + 1024], tmm1"]
    );
    tile_loop!(
        one_by_one,
        load: ["tileloadd tmm0, [{sums} + {at}]"],
        step: ["tileloadd tmm4, [{w0} + {stride}]", "tileloadd tmm6, [{x0} + {height}]", "tdpbf16ps tmm0, tmm4, tmm6"],
        store: ["tilestored [{sums} + {at}], tmm0"]
    );
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::super::unit::{TileUnit, Tiles};
    use super::Instructions;
    use crate::tensor::cpu::Isa;

    // SAFETY: never called, for `request` says that there is no unit.
    unsafe impl TileUnit for Instructions {
        const VECTORS: Isa = Isa::Avx512;

        unsafe fn configure(_: usize) {}
        unsafe fn multiply(_: Tiles) {}
        unsafe fn release() {}
    }
}
