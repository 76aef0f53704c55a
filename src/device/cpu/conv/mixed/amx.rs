//! The matrix unit of Intel's processors (AMX): whether it may be used, and the instructions.
//!
//! Rust's intrinsics for it are unstable, so the instructions are inline assembly. Eight tile registers hold 16 rows of 64
//! bytes each. A process asks the kernel once for the right to use them, and a thread configures them for as long as it
//! computes: tiles that stay configured make every switch of threads save 8 KiB more.

use std::fmt;
use std::sync::OnceLock;

/// Why the matrix unit is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmxAbsence {
    /// The processor has none that multiplies bf16.
    Processor,
    /// The operating system does not save its registers.
    OperatingSystem,
    /// The kernel refuses the process the right to use it, with this error number.
    Refused(i32),
}

impl fmt::Display for AmxAbsence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AmxAbsence::Processor => f.write_str("the processor has no AMX for bf16"),
            AmxAbsence::OperatingSystem => f.write_str("the operating system does not save AMX registers"),
            AmxAbsence::Refused(errno) => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "the kernel refuses AMX: {error}; Linux 5.16 or newer grants it")
            }
        }
    }
}

/// Whether this process may use the matrix unit: asked of processor and kernel at the first call, remembered after it.
pub fn amx() -> Result<(), AmxAbsence> {
    static AMX: OnceLock<Result<(), AmxAbsence>> = OnceLock::new();
    *AMX.get_or_init(ask)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn ask() -> Result<(), AmxAbsence> {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const OS_SAVES_MORE: u32 = 1 << 27;
    const TILE_STATE: u32 = 0b11 << 17;
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;

    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILES_AND_BF16 != TILES_AND_BF16 {
        return Err(AmxAbsence::Processor);
    }
    if __cpuid(1).ecx & OS_SAVES_MORE == 0 {
        return Err(AmxAbsence::OperatingSystem);
    }
    let saved: u32;
    // SAFETY: the bit above says that there is `xgetbv`; register 0 is always there.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack)) };
    if saved & TILE_STATE != TILE_STATE {
        return Err(AmxAbsence::OperatingSystem);
    }
    // SAFETY: the call takes two numbers and changes what the process may do, no memory.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } {
        0 => Ok(()),
        _ => Err(AmxAbsence::Refused(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))),
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn ask() -> Result<(), AmxAbsence> {
    Err(AmxAbsence::Processor)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use unit::Tiles;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unit {
    use std::arch::asm;
    use std::marker::PhantomData;

    use super::super::product::{Factor, Product, TILE};

    /// Palette 1: its number, 14 bytes that are zero, the bytes of a row of each tile, the rows of each tile.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    const WHOLE_TILES: Config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// The tile registers of this thread, configured while the value lives.
    pub(in super::super) struct Tiles {
        /// The registers are the thread's own.
        not_send: PhantomData<*mut ()>,
    }

    impl Tiles {
        /// # Safety
        /// [`amx`](super::amx) granted the matrix unit, or a test answers its instructions; the thread has no other `Tiles`.
        pub(in super::super) unsafe fn configure() -> Tiles {
            // SAFETY: the instruction reads 64 bytes, and is there by the caller's promise.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE_TILES, options(nostack, readonly)) };
            Tiles { not_send: PhantomData }
        }

        /// Computes `product`: two by two tiles of sums, over the depth of a block at a time.
        ///
        /// # Safety
        /// As [`Product::run`].
        #[inline]
        pub(in super::super) unsafe fn run(&self, product: &Product) {
            let Product { a, b, blocks, adds, out, out_stride } = *product;
            let bytes = |elems: usize| elems * size_of::<half::bf16>();
            let lines = |factor: &Factor| (factor.start, factor.start.wrapping_add(factor.half));
            let ((a0, a1), (b0, b1)) = (lines(&a), lines(&b));
            let (out0, out1) = (out, out.wrapping_add(TILE * out_stride));
            let out_bytes = out_stride * size_of::<f32>();
            // SAFETY: the tiles read and written are those of the factors and the result, which the caller vouches for;
            // nothing but this type's code uses tile registers, so they live from one block of assembly to the next.
            unsafe {
                if adds {
                    asm!(
                        "tileloadd tmm0, [{out0} + {stride}*1]",
                        "tileloadd tmm1, [{out0} + {stride}*1 + 64]",
                        "tileloadd tmm2, [{out1} + {stride}*1]",
                        "tileloadd tmm3, [{out1} + {stride}*1 + 64]",
                        out0 = in(reg) out0, out1 = in(reg) out1, stride = in(reg) out_bytes,
                        options(nostack, readonly),
                    );
                } else {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        options(nostack, nomem)
                    );
                }
                if blocks > 0 {
                    asm!(
                        "2:",
                        "tileloadd tmm4, [{a0} + {a_row}*1]",
                        "tileloadd tmm6, [{b0} + {b_row}*1]",
                        "tileloadd tmm7, [{b1} + {b_row}*1]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm5, [{a1} + {a_row}*1]",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        "add {a0}, {a_block}",
                        "add {a1}, {a_block}",
                        "add {b0}, {b_block}",
                        "add {b1}, {b_block}",
                        "dec {blocks}",
                        "jnz 2b",
                        a0 = inout(reg) a0 => _, a1 = inout(reg) a1 => _,
                        b0 = inout(reg) b0 => _, b1 = inout(reg) b1 => _,
                        a_row = in(reg) bytes(a.row), b_row = in(reg) bytes(b.row),
                        a_block = in(reg) bytes(a.block), b_block = in(reg) bytes(b.block),
                        blocks = inout(reg) blocks => _,
                        options(nostack, readonly),
                    );
                }
                asm!(
                    "tilestored [{out0} + {stride}*1], tmm0",
                    "tilestored [{out0} + {stride}*1 + 64], tmm1",
                    "tilestored [{out1} + {stride}*1], tmm2",
                    "tilestored [{out1} + {stride}*1 + 64], tmm3",
                    out0 = in(reg) out0, out1 = in(reg) out1, stride = in(reg) out_bytes,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the registers are configured, and nothing in them is needed any more.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}
