//! The innermost sums: 32 rows by 32 columns, over blocks of 32 products each.
//!
//! AMX adds the products of a block in an order of its own: one chain of fused multiply-adds over the even positions, from
//! zero, one over the odd ones, then `sum + (even + odd)`; subnormal numbers count as zero, before and after every one of
//! these. The vector code here does the same, and both give the same bits.

use half::bf16;
use pulp::{Simd, WithSimd};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::{Tiles, amx};

/// Rows, columns and depth of a block.
pub(super) const SIDE: usize = 32;
/// Rows and columns of a tile: a block's half.
pub(super) const TILE: usize = SIDE / 2;
/// Elements of a block of a factor.
pub(super) const BLOCK_ELEMS: usize = SIDE * SIDE;

/// The sums of one product as they stand in memory on the stack, aligned for tiles.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; SIDE]; SIDE]);

/// Where the blocks of a factor lie; a block is two tiles of 16 lines of 32 elements. All distances are in elements.
///
/// A line of the left factor is a row: the 32 elements that the row contributes to the depth. A line of the right factor is
/// a pair of depths: for each of the 16 columns the element at the even depth and that at the odd one.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub(super) start: *const bf16,
    /// From one line of a tile to the next.
    pub(super) row: usize,
    /// From one tile of a block to the other.
    pub(super) half: usize,
    /// From one block to the next.
    pub(super) block: usize,
}

impl Factor {
    /// A factor whose blocks and their tiles follow one another.
    pub(super) fn packed(start: *const bf16) -> Factor {
        Factor { start, row: SIDE, half: BLOCK_ELEMS / 2, block: BLOCK_ELEMS }
    }
}

/// 32 by 32 sums: `a` times `b` over `blocks` blocks, added to what `out` holds where `adds` is set.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) a: Factor,
    pub(super) b: Factor,
    pub(super) blocks: usize,
    pub(super) adds: bool,
    pub(super) out: *mut f32,
    /// Elements from one row of `out` to the next.
    pub(super) out_stride: usize,
}

/// Which instructions compute products; the results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// The matrix unit.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// Vectors, as wide as the processor has them.
    Vectors,
}

impl Engine {
    /// The faster one of those that this process may use.
    pub(super) fn of_machine() -> Engine {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx().is_ok() {
            return Engine::Amx;
        }
        Engine::Vectors
    }

    /// Prepares this thread; the matrix unit is free again when the value is dropped.
    ///
    /// # Safety
    /// The matrix unit, if it is this, may be used, and the thread has prepared it for nothing else.
    pub(super) unsafe fn prepare(self) -> Unit {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: the caller's promise.
            Engine::Amx => Unit::Tiles(unsafe { Tiles::configure() }),
            Engine::Vectors => Unit::Vectors,
        }
    }
}

/// What computes products on this thread.
pub(super) enum Unit {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Tiles(Tiles),
    Vectors,
}

impl Product {
    /// Computes the product.
    ///
    /// # Safety
    /// All lines of `blocks` blocks of both factors are readable, and 32 elements of each of the 32 rows of `out` are writable.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, unit: &Unit) {
        match unit {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: the caller's promise.
            Unit::Tiles(tiles) => unsafe { tiles.run(self) },
            // SAFETY: the caller's promise.
            Unit::Vectors => unsafe { self.run_on_vectors(simd) },
        }
    }

    /// Not inlined, so that operands and result are memory to the compiler, which no operation on floats crosses
    /// [`FlushSubnormals`] without.
    ///
    /// # Safety
    /// As [`Product::run`].
    #[inline(never)]
    unsafe fn run_on_vectors<S: Simd>(&self, simd: S) {
        let _flushed = FlushSubnormals::new();
        simd.vectorize(Vectors(*self));
    }
}

/// A product by vector instructions. Subnormal numbers are flushed by who runs it.
struct Vectors(Product);

/// The left factor of a block as f32: by row, then depth.
#[repr(align(64))]
struct Left([[f32; SIDE]; SIDE]);

/// The right factor of a block as f32: by pair of depths, then the even or the odd one, then column.
#[repr(align(64))]
struct Right([[[f32; SIDE]; 2]; TILE]);

impl WithSimd for Vectors {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let product = self.0;
        let (mut left, mut right) = (Left([[0.0; SIDE]; SIDE]), Right([[[0.0; SIDE]; 2]; TILE]));
        // SAFETY: the factors and the result are readable and writable by the promise of `Product::run`.
        unsafe {
            if !product.adds {
                for row in 0..SIDE {
                    product.out.add(row * product.out_stride).write_bytes(0, SIDE);
                }
            }
            for block in 0..product.blocks {
                left.read(&product.a, block);
                right.read(&product.b, block);
                // Two rows fit 16 vector registers, four fit 32.
                if S::REGISTER_COUNT >= 32 {
                    add_block::<S, 4>(simd, &left, &right, product.out, product.out_stride);
                } else {
                    add_block::<S, 2>(simd, &left, &right, product.out, product.out_stride);
                }
            }
        }
    }
}

impl Left {
    /// # Safety
    /// The lines of `block` are readable.
    #[inline(always)]
    unsafe fn read(&mut self, factor: &Factor, block: usize) {
        for (i, row) in self.0.iter_mut().enumerate() {
            // SAFETY: the caller's promise; bf16 has no invalid bits.
            let line = unsafe { factor.line(block, i).cast::<[u16; SIDE]>().read_unaligned() };
            for (to, bits) in row.iter_mut().zip(line) {
                *to = f32::from_bits(u32::from(bits) << 16);
            }
        }
    }
}

impl Right {
    /// # Safety
    /// The lines of `block` are readable.
    #[inline(always)]
    unsafe fn read(&mut self, factor: &Factor, block: usize) {
        for (u, [even, odd]) in self.0.iter_mut().enumerate() {
            for tile in 0..2 {
                // SAFETY: the caller's promise; bf16 has no invalid bits.
                let line = unsafe {
                    factor.line(block, tile * TILE + u).cast::<[[u16; 2]; TILE]>().read_unaligned()
                };
                for (j, [low, high]) in line.into_iter().enumerate() {
                    even[tile * TILE + j] = f32::from_bits(u32::from(low) << 16);
                    odd[tile * TILE + j] = f32::from_bits(u32::from(high) << 16);
                }
            }
        }
    }
}

impl Factor {
    /// Line `line` of the 32 of `block`.
    fn line(&self, block: usize, line: usize) -> *const bf16 {
        self.start.wrapping_add(block * self.block + line / TILE * self.half + line % TILE * self.row)
    }
}

/// Adds the products of one block to `out`, `ROWS` rows at a time.
///
/// # Safety
/// 32 elements of each of the 32 rows of `out` are writable.
#[inline(always)]
unsafe fn add_block<S: Simd, const ROWS: usize>(
    simd: S,
    left: &Left,
    right: &Right,
    out: *mut f32,
    out_stride: usize,
) {
    let lanes = S::F32_LANES;
    for (group, rows) in left.0.as_chunks::<ROWS>().0.iter().enumerate() {
        for column in (0..SIDE).step_by(2 * lanes) {
            let mut sums = [[[simd.splat_f32s(0.0); 2]; 2]; ROWS];
            for (u, pair) in right.0.iter().enumerate() {
                for (parity, depth) in pair.iter().enumerate() {
                    // SAFETY: two vectors from `column` lie inside the row of 32.
                    let b = unsafe {
                        let from = depth.as_ptr().add(column);
                        [load::<S>(from), load::<S>(from.add(lanes))]
                    };
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let a = simd.splat_f32s(row[2 * u + parity]);
                        let sum = &mut sums[parity];
                        *sum = [simd.mul_add_f32s(a, b[0], sum[0]), simd.mul_add_f32s(a, b[1], sum[1])];
                    }
                }
            }
            for (i, [even, odd]) in sums.into_iter().enumerate() {
                for half in 0..2 {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let to = out
                            .add((group * ROWS + i) * out_stride + column + half * lanes)
                            .cast::<S::f32s>();
                        let sum = simd.add_f32s(even[half], odd[half]);
                        to.write_unaligned(simd.add_f32s(to.read_unaligned(), sum));
                    }
                }
            }
        }
    }
}

/// # Safety
/// From `from` on, one vector is readable.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: the caller's promise; any bits are a vector.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// While it lives, the thread's floating-point unit takes and makes zeros for subnormal numbers, as the matrix unit does.
///
/// Processors other than x86-64 and AArch64 keep subnormal numbers.
struct FlushSubnormals {
    #[cfg(target_arch = "x86_64")]
    before: u32,
    #[cfg(target_arch = "aarch64")]
    before: u64,
}

#[cfg(target_arch = "x86_64")]
impl FlushSubnormals {
    #[inline(always)]
    fn new() -> FlushSubnormals {
        const FLUSH_RESULTS: u32 = 1 << 15;
        const OPERANDS_ARE_ZEROS: u32 = 1 << 6;
        let mut before = 0u32;
        // SAFETY: reads the register into the variable.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut before, options(nostack)) };
        let flushed = FlushSubnormals { before };
        flushed.set(before | FLUSH_RESULTS | OPERANDS_ARE_ZEROS);
        flushed
    }

    #[inline(always)]
    fn set(&self, value: u32) {
        // SAFETY: changes how subnormal numbers are treated until the value is dropped, nothing else.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack)) };
    }
}

#[cfg(target_arch = "aarch64")]
impl FlushSubnormals {
    #[inline(always)]
    fn new() -> FlushSubnormals {
        const FLUSH: u64 = 1 << 24;
        let before: u64;
        // SAFETY: reads the register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) before, options(nostack)) };
        let flushed = FlushSubnormals { before };
        flushed.set(before | FLUSH);
        flushed
    }

    #[inline(always)]
    fn set(&self, value: u64) {
        // SAFETY: changes how subnormal numbers are treated until the value is dropped, nothing else.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl FlushSubnormals {
    fn new() -> FlushSubnormals {
        FlushSubnormals {}
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Drop for FlushSubnormals {
    #[inline(always)]
    fn drop(&mut self) {
        self.set(self.before);
    }
}
