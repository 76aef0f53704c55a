//! Which kernel computes a convolution on a kernel device.
//!
//! Every pass is a GEMM. A kernel is one row of [`VARIANTS`]; of the rows that take a problem, the cheapest by
//! [`Variant::cost`] runs. The choice, like the split of a long reduction, depends on shapes and types alone, so that the
//! same problem gives the same bits on every device.

use super::split::Split;
use crate::device::cpu::conv::Conv2dDims;
use crate::device::kernels::conv2d_tap_gemm::TILE;
use crate::device::kernels::conv2d_tap_mma::MOST_TAPS;
use crate::device::kernels::mma_tile::{CHUNK_BYTES, DEPTH_CHUNKS, STAGES, STAGES_BESIDE_L1, STAGES_OF_LONG};
use crate::device::kernels::{self, Conv2dArgs, Conv2dWgradArgs, Entry};
use crate::error::{Error, Result};
use crate::ops::batch_norm::Partials;
use crate::tensor::DType;

/// Blocks that fill a large GPU: two for each of a good hundred multiprocessors.
pub(super) const FULL_GPU_BLOCKS: usize = 256;

/// Elements of a tile of four warps that each have as much as registers allow.
const LARGE_TILE: usize = 128 * 128;

/// Multiprocessors of the GPU that tiles and parts are chosen for, an H100 or H200, wherever they run.
pub(super) const MULTIPROCESSORS: usize = 132;

/// The three computations of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Fprop,
    Dgrad,
    Wgrad,
}

/// What a kernel computes with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    /// f32 arithmetic, any shape.
    CudaCores,
    /// Channels in chunks of 16 bytes; f32 is rounded to TF32.
    TensorCores,
}

/// The kernel of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum PassEntry {
    Fprop(&'static Entry<Conv2dArgs>),
    Dgrad(&'static Entry<Conv2dArgs>),
    Wgrad(&'static Entry<Conv2dWgradArgs>),
}
use PassEntry::{Dgrad, Fprop, Wgrad};

impl PassEntry {
    pub(super) fn kernel(self) -> &'static kernels::Kernel {
        match self {
            Fprop(entry) | Dgrad(entry) => entry.kernel,
            Wgrad(entry) => entry.kernel,
        }
    }
}

/// A kernel and what it takes.
#[derive(Debug)]
pub(super) struct Variant {
    /// The kernel.
    pub entry: PassEntry,
    /// The same tile multiplied by warp groups, where a GPU has them.
    pub groups: Option<PassEntry>,
    pub dtype: DType,
    unit: Unit,
    /// Most rows and columns of a filter.
    most_taps: usize,
    /// Extents of a block's tile.
    tile_rows: usize,
    tile_cols: usize,
    /// Stages of its pipeline through shared memory.
    stages: usize,
    /// Multiply-adds in unit time on a full GPU, relative to a tile of 128x128: an estimate from the bytes of L2 and the phases
    /// of shared memory that a product asks for.
    rate: f64,
}

impl Variant {
    const fn cuda_cores(entry: PassEntry, dtype: DType) -> Variant {
        let (unit, most_taps, stages) = (Unit::CudaCores, usize::MAX, 0);
        let (groups, tile_rows, tile_cols, rate) = (None, TILE, TILE, 0.05);
        Variant { entry, groups, dtype, unit, most_taps, tile_rows, tile_cols, stages, rate }
    }

    const fn tensor_cores(
        [entry, groups]: [PassEntry; 2],
        [tile_rows, tile_cols]: [usize; 2],
        rate: f64,
    ) -> Variant {
        let stages = if tile_rows > 128 { STAGES_OF_LONG } else { STAGES };
        let of_warps = Variant::of_tile(entry, DType::Bf16, [tile_rows, tile_cols], rate);
        Variant { groups: Some(groups), stages, ..of_warps }
    }

    /// Of f32, in TF32, which tensor cores multiply at half the rate of bf16.
    const fn tf32(entry: PassEntry, tile: [usize; 2], rate_of_bf16: f64) -> Variant {
        Variant::of_tile(entry, DType::F32, tile, rate_of_bf16 / 2.0)
    }

    const fn of_tile(
        entry: PassEntry,
        dtype: DType,
        [tile_rows, tile_cols]: [usize; 2],
        rate: f64,
    ) -> Variant {
        let most_taps = if matches!(entry, Wgrad(_)) { usize::MAX } else { MOST_TAPS };
        let (groups, unit, stages) = (None, Unit::TensorCores, STAGES);
        Variant { entry, groups, dtype, unit, most_taps, tile_rows, tile_cols, stages, rate }
    }

    /// The same for filters of one tap.
    const fn of_one_tap(self) -> Variant {
        Variant { most_taps: 1, ..self }
    }

    /// The same with so many stages.
    const fn of_stages(self, stages: usize) -> Variant {
        Variant { stages, ..self }
    }
}

/// All kernels. Those without a tile in their name take any shape. Of two that cost the same the first is chosen.
///
/// A multiprocessor holds two blocks of the largest tiles. Tiles of 256x128, of which it holds one, bring fewer bytes for a
/// product, but nothing multiplies while that block waits or stores: on an H200 they were faster in one layer of ResNets, by half a
/// percent, and up to a quarter slower in the others (benches/runs/2026-11-27-h200/tiles.txt).
pub(super) static VARIANTS: [Variant; 34] = [
    Variant::cuda_cores(Fprop(&kernels::CONV2D_FPROP_F32), DType::F32),
    Variant::cuda_cores(Fprop(&kernels::CONV2D_FPROP_BF16), DType::Bf16),
    Variant::tensor_cores(
        [
            Fprop(&kernels::CONV2D_FPROP_1X1_TILE128X128_BF16),
            Fprop(&kernels::CONV2D_FPROP_1X1_WGMMA_TILE128X128_BF16),
        ],
        [128, 128],
        1.0,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [
            Fprop(&kernels::CONV2D_FPROP_TILE128X128_BF16),
            Fprop(&kernels::CONV2D_FPROP_WGMMA_TILE128X128_BF16),
        ],
        [128, 128],
        1.0,
    ),
    Variant::tensor_cores(
        [
            Fprop(&kernels::CONV2D_FPROP_1X1_TILE256X64_BF16),
            Fprop(&kernels::CONV2D_FPROP_1X1_WGMMA_TILE256X64_BF16),
        ],
        [256, 64],
        0.88,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Fprop(&kernels::CONV2D_FPROP_TILE256X64_BF16), Fprop(&kernels::CONV2D_FPROP_WGMMA_TILE256X64_BF16)],
        [256, 64],
        0.88,
    ),
    Variant::tensor_cores(
        [
            Fprop(&kernels::CONV2D_FPROP_1X1_TILE128X64_BF16),
            Fprop(&kernels::CONV2D_FPROP_1X1_WGMMA_TILE128X64_BF16),
        ],
        [128, 64],
        0.7,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Fprop(&kernels::CONV2D_FPROP_TILE128X64_BF16), Fprop(&kernels::CONV2D_FPROP_WGMMA_TILE128X64_BF16)],
        [128, 64],
        0.7,
    )
    .of_stages(STAGES_BESIDE_L1),
    Variant::tensor_cores(
        [
            Fprop(&kernels::CONV2D_FPROP_1X1_TILE64X64_BF16),
            Fprop(&kernels::CONV2D_FPROP_1X1_WGMMA_TILE64X64_BF16),
        ],
        [64, 64],
        0.54,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Fprop(&kernels::CONV2D_FPROP_TILE64X64_BF16), Fprop(&kernels::CONV2D_FPROP_WGMMA_TILE64X64_BF16)],
        [64, 64],
        0.54,
    )
    .of_stages(STAGES_BESIDE_L1),
    Variant::tf32(Fprop(&kernels::CONV2D_FPROP_TILE128X128_TF32), [128, 128], 1.0),
    Variant::tf32(Fprop(&kernels::CONV2D_FPROP_TILE128X64_TF32), [128, 64], 0.7).of_stages(STAGES_BESIDE_L1),
    Variant::tf32(Fprop(&kernels::CONV2D_FPROP_TILE64X64_TF32), [64, 64], 0.54).of_stages(STAGES_BESIDE_L1),
    Variant::cuda_cores(Dgrad(&kernels::CONV2D_DGRAD_F32), DType::F32),
    Variant::cuda_cores(Dgrad(&kernels::CONV2D_DGRAD_BF16), DType::Bf16),
    Variant::tensor_cores(
        [
            Dgrad(&kernels::CONV2D_DGRAD_1X1_TILE128X128_BF16),
            Dgrad(&kernels::CONV2D_DGRAD_1X1_WGMMA_TILE128X128_BF16),
        ],
        [128, 128],
        1.0,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [
            Dgrad(&kernels::CONV2D_DGRAD_TILE128X128_BF16),
            Dgrad(&kernels::CONV2D_DGRAD_WGMMA_TILE128X128_BF16),
        ],
        [128, 128],
        1.0,
    ),
    Variant::tensor_cores(
        [
            Dgrad(&kernels::CONV2D_DGRAD_1X1_TILE256X64_BF16),
            Dgrad(&kernels::CONV2D_DGRAD_1X1_WGMMA_TILE256X64_BF16),
        ],
        [256, 64],
        0.88,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Dgrad(&kernels::CONV2D_DGRAD_TILE256X64_BF16), Dgrad(&kernels::CONV2D_DGRAD_WGMMA_TILE256X64_BF16)],
        [256, 64],
        0.88,
    ),
    Variant::tensor_cores(
        [
            Dgrad(&kernels::CONV2D_DGRAD_1X1_TILE128X64_BF16),
            Dgrad(&kernels::CONV2D_DGRAD_1X1_WGMMA_TILE128X64_BF16),
        ],
        [128, 64],
        0.7,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Dgrad(&kernels::CONV2D_DGRAD_TILE128X64_BF16), Dgrad(&kernels::CONV2D_DGRAD_WGMMA_TILE128X64_BF16)],
        [128, 64],
        0.7,
    )
    .of_stages(STAGES_BESIDE_L1),
    Variant::tensor_cores(
        [
            Dgrad(&kernels::CONV2D_DGRAD_1X1_TILE64X64_BF16),
            Dgrad(&kernels::CONV2D_DGRAD_1X1_WGMMA_TILE64X64_BF16),
        ],
        [64, 64],
        0.54,
    )
    .of_one_tap(),
    Variant::tensor_cores(
        [Dgrad(&kernels::CONV2D_DGRAD_TILE64X64_BF16), Dgrad(&kernels::CONV2D_DGRAD_WGMMA_TILE64X64_BF16)],
        [64, 64],
        0.54,
    )
    .of_stages(STAGES_BESIDE_L1),
    Variant::tf32(Dgrad(&kernels::CONV2D_DGRAD_TILE128X128_TF32), [128, 128], 1.0),
    Variant::tf32(Dgrad(&kernels::CONV2D_DGRAD_TILE128X64_TF32), [128, 64], 0.7).of_stages(STAGES_BESIDE_L1),
    Variant::tf32(Dgrad(&kernels::CONV2D_DGRAD_TILE64X64_TF32), [64, 64], 0.54).of_stages(STAGES_BESIDE_L1),
    Variant::cuda_cores(Wgrad(&kernels::CONV2D_WGRAD_F32), DType::F32),
    Variant::cuda_cores(Wgrad(&kernels::CONV2D_WGRAD_BF16), DType::Bf16),
    Variant::tensor_cores(
        [
            Wgrad(&kernels::CONV2D_WGRAD_TILE128X128_BF16),
            Wgrad(&kernels::CONV2D_WGRAD_WGMMA_TILE128X128_BF16),
        ],
        [128, 128],
        1.0,
    ),
    Variant::tensor_cores(
        [Wgrad(&kernels::CONV2D_WGRAD_TILE64X128_BF16), Wgrad(&kernels::CONV2D_WGRAD_WGMMA_TILE64X128_BF16)],
        [64, 128],
        0.8,
    ),
    Variant::tensor_cores(
        [Wgrad(&kernels::CONV2D_WGRAD_TILE64X64_BF16), Wgrad(&kernels::CONV2D_WGRAD_WGMMA_TILE64X64_BF16)],
        [64, 64],
        0.45,
    ),
    Variant::tf32(Wgrad(&kernels::CONV2D_WGRAD_TILE128X128_TF32), [128, 128], 1.0),
    Variant::tf32(Wgrad(&kernels::CONV2D_WGRAD_TILE64X128_TF32), [64, 128], 0.8),
    Variant::tf32(Wgrad(&kernels::CONV2D_WGRAD_TILE64X64_TF32), [64, 64], 0.45),
];

/// A pass as a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gemm {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    /// Products of (at most) these extents: the classes of a strided dgrad.
    pub classes: usize,
}

impl Gemm {
    pub(super) fn new(pass: Pass, dims: &Conv2dDims) -> Gemm {
        let taps = dims.r * dims.s;
        match pass {
            Pass::Fprop => {
                Gemm { rows: dims.n * dims.p() * dims.q(), cols: dims.k, depth: taps * dims.c, classes: 1 }
            }
            Pass::Dgrad => Gemm {
                rows: dims.n * dims.h.div_ceil(dims.stride_h) * dims.w.div_ceil(dims.stride_w),
                cols: dims.c,
                depth: taps * dims.k,
                classes: dims.stride_h * dims.stride_w,
            },
            Pass::Wgrad => {
                Gemm { rows: dims.k, cols: taps * dims.c, depth: dims.n * dims.p() * dims.q(), classes: 1 }
            }
        }
    }
}

impl Variant {
    pub(super) fn pass(&self) -> Pass {
        match self.entry {
            Fprop(_) => Pass::Fprop,
            Dgrad(_) => Pass::Dgrad,
            Wgrad(_) => Pass::Wgrad,
        }
    }

    /// Most rows and columns of a filter.
    pub(super) fn most_taps(&self) -> usize {
        self.most_taps
    }

    /// Whether channels and filters must come in chunks of 16 bytes.
    pub(super) fn takes_chunks_only(&self) -> bool {
        self.unit == Unit::TensorCores
    }

    /// Whether it rounds operands to TF32.
    pub(super) fn is_tf32(&self) -> bool {
        (self.dtype, self.unit) == (DType::F32, Unit::TensorCores)
    }

    /// Channels or filters of a chunk.
    pub(super) fn chunk_elems(&self) -> usize {
        CHUNK_BYTES / self.dtype.size_bytes()
    }

    pub(super) fn takes(&self, pass: Pass, dtype: DType, dims: &Conv2dDims) -> bool {
        let in_chunks = [dims.c, dims.k].iter().all(|channels| channels.is_multiple_of(self.chunk_elems()));
        let fits = (in_chunks || !self.takes_chunks_only()) && dims.r.max(dims.s) <= self.most_taps;
        self.pass() == pass && self.dtype == dtype && fits
    }

    /// Multiply-adds of its tiles, those beyond the borders of the product counted.
    pub(super) fn macs(&self, dims: &Conv2dDims) -> usize {
        let gemm = Gemm::new(self.pass(), dims);
        self.num_tiles(&gemm) * self.tile_rows * self.tile_cols * gemm.depth * gemm.classes
    }

    /// Whether it counts channels of the images in chunks.
    pub(super) fn takes_chunks(&self) -> bool {
        self.unit == Unit::TensorCores
    }

    /// Whether it takes the sums of a batch norm along.
    pub(super) fn leaves_sums(&self) -> bool {
        self.unit == Unit::TensorCores
    }

    /// Partial results of the statistics that an fprop leaves at `address`.
    pub(super) fn statistics_partials(&self, dims: &Conv2dDims, address: u64) -> Partials {
        let (Gemm { rows, cols: channels, .. }, block_rows) = (Gemm::new(Pass::Fprop, dims), self.tile_rows);
        Partials { address, rows, channels, block_rows, num_blocks: rows.div_ceil(block_rows), num_sums: 2 }
    }

    /// So many partial sums that a dgrad leaves at `address`: each class has as many blocks as that with most positions.
    pub(super) fn sums_partials(&self, dims: &Conv2dDims, num_sums: usize, address: u64) -> Partials {
        let (gemm, block_rows) = (Gemm::new(Pass::Dgrad, dims), self.tile_rows);
        let num_blocks = gemm.classes * gemm.rows.div_ceil(block_rows);
        let (rows, channels) = (dims.n * dims.h * dims.w, gemm.cols);
        Partials { address, rows, channels, block_rows, num_blocks, num_sums }
    }

    pub(super) fn num_tiles(&self, gemm: &Gemm) -> usize {
        gemm.rows.div_ceil(self.tile_rows) * gemm.cols.div_ceil(self.tile_cols)
    }

    /// Time, in that of a 128x128 tile's products of one position of gemm_k (a wgrad, which is split, in that of one of its
    /// pixels). Blocks go round the multiprocessors, and the one with the most decides.
    fn cost(&self, gemm: &Gemm) -> f64 {
        match self.pass() {
            Pass::Wgrad => Split::of_wgrad(self, gemm).steps(self, gemm),
            Pass::Fprop | Pass::Dgrad => self.products(self.num_tiles(gemm) * gemm.classes),
        }
    }

    /// Time that so many tiles take for one position of gemm_k, in that of one 128x128 tile. What blocks of one
    /// multiprocessor share is its tensor cores, so two take twice as long as one but for what one alone leaves idle.
    pub(super) fn products(&self, blocks: usize) -> f64 {
        let most = blocks.div_ceil(MULTIPROCESSORS) as f64;
        most.max(self.busy_blocks()) * (self.tile_rows * self.tile_cols) as f64
            / (LARGE_TILE as f64 * self.rate)
    }

    /// Blocks that keep a multiprocessor busy: one large tile does nearly, a small one waits more.
    fn busy_blocks(&self) -> f64 {
        if self.tile_rows * self.tile_cols < LARGE_TILE { 1.6 } else { 1.1 }
    }

    /// Whether its kernels multiply by warp groups, one after the other.
    pub(super) fn forms(&self) -> &'static [bool] {
        if self.groups.is_some() { &[false, true] } else { &[false] }
    }

    /// The kernel that multiplies by warp groups or not, as far as there is one.
    pub(super) fn kernel(&self, by_groups: bool) -> PassEntry {
        self.groups.filter(|_| by_groups).unwrap_or(self.entry)
    }

    /// Dynamic shared memory of its kernels, in bytes.
    pub(super) fn shared_bytes(&self) -> u32 {
        (self.stages * (self.tile_rows + self.tile_cols) * DEPTH_CHUNKS * CHUNK_BYTES) as u32
    }
}

/// The kernel for a problem; one that rounds f32 to TF32 if that is allowed.
///
/// # Errors
/// [`Error::Device`] if there is none for the element type.
pub(super) fn choose(
    pass: Pass,
    dtype: DType,
    allow_tf32: bool,
    dims: &Conv2dDims,
) -> Result<&'static Variant> {
    let gemm = Gemm::new(pass, dims);
    VARIANTS
        .iter()
        .filter(|variant| variant.takes(pass, dtype, dims) && (allow_tf32 || !variant.is_tf32()))
        .min_by(|a, b| a.cost(&gemm).total_cmp(&b.cost(&gemm)))
        .ok_or_else(|| {
            Error::Device(format!("no kernel of a convolution computes in {dtype}; run it on the CPU"))
        })
}

#[cfg(test)]
mod tests;
