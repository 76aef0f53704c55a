//! Arguments of the convolution kernels, and their launches.

use super::Window;
use super::split::{Split, wgrad_split};
use super::variants::{Gemm, Pass, PassEntry, Variant, choose};
use crate::device::cpu::conv::Conv2dDims;
use crate::device::kernels::mma_tile::{CHUNK_BYTES, DEPTH, DEPTH_CHUNKS};
use crate::device::kernels::totals::TOTAL_THREADS;
use crate::device::kernels::{self, Conv2dArgs, Conv2dWgradArgs, SplitSumArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::Op;
use crate::ops::batch_norm::MaskAddresses;
use crate::ops::launch::{SIGNED, TotalGrid, below, vec_elems};
use crate::tensor::DType;

/// Addresses of an fprop's or dgrad's operands; 0 for no addend.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Operands {
    pub src: u64,
    pub weights: u64,
    pub addend: u64,
    pub out: u64,
    pub norm: NormOperands,
}

/// The batch norm that is computed along: addresses, 0 for what is not there, and its settings.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NormOperands {
    gamma: u64,
    beta: u64,
    mean: u64,
    running_var: u64,
    eps: f32,
    relu: bool,
    partials: u64,
    x: u64,
    bits: u64,
    rstd: u64,
    shortcut_x: u64,
    shortcut_mean: u64,
}

/// What a convolution stores.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    /// Its sums, added to an operand where there is one.
    Sums { addend: Option<usize> },
    /// The batch norm of its sums by operands 2 to 5, added to operand 6 where there is one.
    Normalized {
        /// Added to the variance.
        eps: f32,
        /// Whether a ReLU follows.
        relu: bool,
    },
    /// The sums of an fprop; in the workspace, partial results of their statistics.
    WithStatistics,
    /// The sums of a dgrad, added to an operand where there is one, behind a mask; in the workspace, partial sums of a batch
    /// norm's backward pass by operands 2 to 5: x, gamma, mean and rstd.
    WithSums {
        addend: Option<usize>,
        mask: MaskAddresses,
        /// Addresses of x and mean of a second batch norm, or 0.
        shortcut: [u64; 2],
    },
}

impl Stored {
    fn operands(self, args: &LaunchArgs<'_>) -> Operands {
        let addend_at = |addend: Option<usize>| addend.map_or(0, |index| args.input(index));
        let (addend, norm) = match self {
            Stored::Sums { addend } => (addend_at(addend), NormOperands::default()),
            Stored::Normalized { eps, relu } => {
                let [gamma, beta, mean, running_var] = [2, 3, 4, 5].map(|index| args.input(index));
                let norm = NormOperands { gamma, beta, mean, running_var, eps, relu, ..Default::default() };
                (args.optional_input(6), norm)
            }
            Stored::WithStatistics => (0, NormOperands { partials: args.workspace(), ..Default::default() }),
            Stored::WithSums { addend, mask, shortcut: [shortcut_x, shortcut_mean] } => {
                let MaskAddresses { beta, bits, .. } = mask;
                let [x, gamma, mean, rstd] = [2, 3, 4, 5].map(|index| args.input(index));
                let norm = NormOperands {
                    gamma,
                    beta,
                    mean,
                    partials: args.workspace(),
                    x,
                    bits,
                    rstd,
                    shortcut_x,
                    shortcut_mean,
                    ..Default::default()
                };
                (addend_at(addend), norm)
            }
        };
        Operands { src: args.input(0), weights: args.input(1), addend, out: args.output(0), norm }
    }
}

/// Positions that kernels count in an int32_t: tiles reach beyond the last, and taps beyond the border.
const POSITIONS: usize = SIGNED / 2;

/// Columns of the widest tile, as many as may lie behind the last filter column of a wgrad.
pub(super) const MOST_TILE_COLS: usize = 128;

/// Holds what every kernel counts to its limits.
fn checked(dims: &Conv2dDims) -> Result<()> {
    below(POSITIONS, dims.n * dims.h * dims.w, "pixels before the convolution")?;
    below(POSITIONS, dims.n * dims.p() * dims.q(), "pixels after the convolution")?;
    below(POSITIONS, dims.r * dims.s * dims.c.max(dims.k), "taps times channels")
}

/// Holds what kernels/conv2d_tap_mma.cuh computes to its limits: the first chunk under a row of the tile, and how far a tap
/// lies from it.
fn chunks_checked(args: &Conv2dArgs, dtype: DType) -> Result<()> {
    let Conv2dArgs { batch, src_h, src_w, src_c, kernel_h, kernel_w, pad_h, pad_w, .. } = *args;
    let [batch, src_h, src_w, src_c] = [batch, src_h, src_w, src_c].map(|extent| extent as usize);
    let [kernel_h, kernel_w, pad_h, pad_w] = [kernel_h, kernel_w, pad_h, pad_w].map(|extent| extent as usize);
    // The last stage reaches behind the last tap, by as many rows where there are few channels.
    let rows = kernel_h + DEPTH_CHUNKS;
    let pixels = (batch * src_h + pad_h + kernel_h + rows) * src_w + pad_w + 2 * kernel_w;
    let chunks = pixels * src_c * dtype.size_bytes() / CHUNK_BYTES;
    below(SIGNED, chunks, "chunks of 16 bytes, with those a filter reaches beyond")?;
    below(SIGNED, (rows * src_w + kernel_w) * src_c, "elements in the rows under a filter")
}

/// Holds what the wgrad kernels compute to its limits: the pixel under a filter column, and how far a column lies from the
/// first. Tiles reach behind the last pixel and the last column.
fn wgrad_checked(dims: &Conv2dDims) -> Result<()> {
    checked(dims)?;
    let images = dims.n + DEPTH.div_ceil(dims.p() * dims.q());
    let rows = dims.r + dims.pad_h + MOST_TILE_COLS.div_ceil(dims.s * dims.c);
    let pixels = (images * dims.h + rows) * dims.w + dims.pad_w + dims.s;
    below(SIGNED, pixels, "pixels, with those a filter reaches beyond")?;
    below(SIGNED, rows * dims.w * dims.c, "elements in the rows under a filter")
}

impl Conv2dArgs {
    /// Operands and extents of an fprop.
    pub(crate) fn fprop(dims: &Conv2dDims, operands: Operands, k_per_split: usize) -> Result<Conv2dArgs> {
        let (src, out) = ([dims.h, dims.w, dims.c], [dims.p(), dims.q(), dims.k]);
        Conv2dArgs::new(dims, operands, src, out, k_per_split)
    }

    /// Operands and extents of a dgrad.
    pub(crate) fn dgrad(dims: &Conv2dDims, operands: Operands) -> Result<Conv2dArgs> {
        let (src, out) = ([dims.p(), dims.q(), dims.k], [dims.h, dims.w, dims.c]);
        Conv2dArgs::new(dims, operands, src, out, dims.r * dims.s * dims.k)
    }

    fn new(
        dims: &Conv2dDims,
        operands: Operands,
        [src_h, src_w, src_c]: [usize; 3],
        [out_h, out_w, out_c]: [usize; 3],
        k_per_split: usize,
    ) -> Result<Conv2dArgs> {
        checked(dims)?;
        let Operands { src, weights, addend, out, norm } = operands;
        Ok(Conv2dArgs {
            src,
            weights,
            addend,
            out,
            batch: dims.n as i32,
            src_h: src_h as i32,
            src_w: src_w as i32,
            src_c: src_c as i32,
            out_h: out_h as i32,
            out_w: out_w as i32,
            out_c: out_c as i32,
            kernel_h: dims.r as i32,
            kernel_w: dims.s as i32,
            stride_h: dims.stride_h as i32,
            stride_w: dims.stride_w as i32,
            pad_h: dims.pad_h as i32,
            pad_w: dims.pad_w as i32,
            k_per_split: k_per_split as i32,
            gamma: norm.gamma,
            beta: norm.beta,
            mean: norm.mean,
            running_var: norm.running_var,
            eps: norm.eps,
            relu: norm.relu.into(),
            partials: norm.partials,
            x: norm.x,
            bits: norm.bits,
            rstd: norm.rstd,
            shortcut_x: norm.shortcut_x,
            shortcut_mean: norm.shortcut_mean,
        })
    }
}

impl Conv2dWgradArgs {
    /// Operands (addresses of x, dy, dw) and extents of a wgrad.
    pub(crate) fn new(dims: &Conv2dDims, [x, dy, dw]: [u64; 3], split: Split) -> Result<Conv2dWgradArgs> {
        wgrad_checked(dims)?;
        Ok(Conv2dWgradArgs {
            x,
            dy,
            dw,
            n: dims.n as i32,
            h: dims.h as i32,
            w: dims.w as i32,
            c: dims.c as i32,
            k: dims.k as i32,
            r: dims.r as i32,
            s: dims.s as i32,
            p: dims.p() as i32,
            q: dims.q() as i32,
            stride_h: dims.stride_h as i32,
            stride_w: dims.stride_w as i32,
            pad_h: dims.pad_h as i32,
            pad_w: dims.pad_w as i32,
            pixels_per_split: split.depth as i32,
        })
    }
}

/// A problem and the kernel that computes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub variant: &'static Variant,
    pub dims: Conv2dDims,
    /// Whether warp groups multiply where the device has them, as they do but in checks of the other kernels.
    pub by_groups: bool,
}

impl Choice {
    /// The kernel for a problem, as [`choose`] has it.
    ///
    /// # Errors
    /// As [`choose`].
    pub(super) fn new(pass: Pass, window: Window, dtype: DType, dims: Conv2dDims) -> Result<Choice> {
        let variant = choose(pass, dtype, window.allow_tf32, &dims)?;
        Ok(Choice { variant, dims, by_groups: true })
    }
}

/// An operation that a kernel of a pass computes, by itself or followed by others.
pub(super) trait ByChoice: Op {
    /// Launches it by that kernel.
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()>;

    /// Scratch memory of that kernel and of what follows.
    fn workspace_by(&self, _choice: &Choice) -> usize {
        0
    }
}

/// Launches a pass by the kernel that was chosen.
pub(super) fn launch(
    choice: &Choice,
    stored: Stored,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    let Choice { variant, ref dims, by_groups } = *choice;
    let gemm = Gemm::new(variant.pass(), dims);
    let grid = [variant.num_tiles(&gemm), gemm.classes, 1];
    let operands = stored.operands(args);
    let shared_bytes = variant.shared_bytes();
    let by_groups = by_groups && launcher.has_warp_groups();
    let (entry, arguments) = match variant.kernel(by_groups) {
        PassEntry::Fprop(entry) => (entry, Conv2dArgs::fprop(dims, operands, gemm.depth)?),
        PassEntry::Dgrad(entry) => (entry, Conv2dArgs::dgrad(dims, operands)?),
        PassEntry::Wgrad(entry) => {
            let split = wgrad_split(variant, dims);
            let Operands { src: x, weights: dy, out, .. } = operands;
            let parts = if split.parts == 1 { out } else { args.workspace() };
            let arguments = Conv2dWgradArgs::new(dims, [x, dy, parts], split)?;
            let grid = [variant.num_tiles(&gemm), split.parts, 1];
            entry.launch_with_shared(launcher, grid, shared_bytes, &arguments)?;
            return if split.parts == 1 { Ok(()) } else { add_parts(dims, [parts, out], split, launcher) };
        }
    };
    if variant.takes_chunks() {
        chunks_checked(&arguments, variant.dtype)?;
    }
    entry.launch_with_shared(launcher, grid, shared_bytes, &arguments)
}

/// Adds the parts of a split wgrad.
fn add_parts(
    dims: &Conv2dDims,
    [parts, dw]: [u64; 2],
    split: Split,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    let (sum, blocks) = SplitSumArgs::new(parts, split.parts, dw, dims.w_elems());
    kernels::CONV2D_WGRAD_SPLIT_SUM.launch(launcher, blocks, &sum)
}

impl SplitSumArgs {
    /// The sum of `num_splits` parts of `num_elems` elements from `parts` on to `out`, and its blocks.
    pub(crate) fn new(parts: u64, num_splits: usize, out: u64, num_elems: usize) -> (SplitSumArgs, usize) {
        let width = vec_elems(DType::F32);
        let is_wide = num_elems.is_multiple_of(width);
        let columns = if is_wide { num_elems / width } else { num_elems };
        let TotalGrid { columns, blocks } = TotalGrid::new(columns, num_splits, TOTAL_THREADS);
        let args = SplitSumArgs {
            parts,
            addend: 0,
            out,
            num_elems: num_elems as u64,
            num_splits: num_splits as u64,
            addend_elems: 1,
            columns: columns as u32,
            is_wide: is_wide.into(),
        };
        (args, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Nowhere, Slot};
    use crate::ops::conv2d::variants::VARIANTS;
    use crate::tensor::Shape;

    /// A 3x3 convolution of images of 32x32 pixels.
    fn dims(n: usize, channels: usize) -> Conv2dDims {
        let (h, w, c, k) = (32, 32, channels, channels);
        Conv2dDims { n, h, w, c, k, r: 3, s: 3, stride_h: 1, stride_w: 1, pad_h: 1, pad_w: 1 }
    }

    fn launched(kernel: &str, dims: &Conv2dDims) -> std::result::Result<(), String> {
        let variant = VARIANTS.iter().find(|variant| variant.entry.kernel().name == kernel).unwrap();
        let slot = Slot { offset_bytes: 0, shape: Shape::from([1]), dtype: DType::F32 };
        let args = LaunchArgs { arena_address: 0, inputs: &[slot; 2], outputs: &[slot], workspace: slot };
        let choice = Choice { variant, dims: *dims, by_groups: true };
        launch(&choice, Stored::Sums { addend: None }, &args, &mut Nowhere).map_err(|error| error.to_string())
    }

    #[test]
    fn more_pixels_than_kernels_count_are_refused() {
        // 2^20 images of 2^10 pixels.
        for kernel in
            ["conv2d_fprop_f32", "conv2d_dgrad_bf16", "conv2d_wgrad_f32", "conv2d_wgrad_tile64x64_bf16"]
        {
            assert_eq!(launched(kernel, &dims((1 << 20) - 1, 8)), Ok(()), "{kernel}");
            let message = launched(kernel, &dims(1 << 20, 8)).unwrap_err();
            assert!(message.contains("1073741824 pixels") && message.contains("smaller batch"), "{message}");
        }
    }

    #[test]
    fn more_chunks_than_tensor_core_kernels_count_are_refused() {
        // 64 chunks a pixel, 2^16 an image, and half of an image that filters may reach beyond the last.
        for (kernel, channels) in [
            ("conv2d_fprop_tile128x128_bf16", 512),
            ("conv2d_dgrad_tile64x64_bf16", 512),
            ("conv2d_fprop_tile64x64_tf32", 256),
        ] {
            assert_eq!(launched(kernel, &dims((1 << 15) - 1, channels)), Ok(()), "{kernel}");
            let message = launched(kernel, &dims(1 << 15, channels)).unwrap_err();
            assert!(message.contains("chunks of 16 bytes"), "{message}");
        }
        // The others count channels in 64 bits.
        assert_eq!(launched("conv2d_fprop_bf16", &dims(1 << 15, 512)), Ok(()));
        assert_eq!(launched("conv2d_wgrad_tile64x64_bf16", &dims(1 << 15, 512)), Ok(()));
    }

    #[test]
    fn rows_under_a_filter_are_held_to_32_bits() {
        let lines =
            |w| Conv2dDims { n: 1, h: 1, w, c: 64, k: 64, r: 1, s: 1, pad_h: 0, pad_w: 0, ..dims(1, 64) };
        // One row, and two that a tile of 128 columns of 64 channels reaches behind.
        let most = (SIGNED - 1) / (3 * 64);
        assert_eq!(launched("conv2d_wgrad_bf16", &lines(most)), Ok(()));
        let message = launched("conv2d_wgrad_bf16", &lines(most + 1)).unwrap_err();
        assert!(message.contains("elements in the rows under a filter"), "{message}");
        // One row, and eight of which a stage may reach behind the tap.
        let most = (SIGNED - 1) / (9 * 64);
        assert_eq!(launched("conv2d_fprop_tile64x64_bf16", &lines(most)), Ok(()));
        launched("conv2d_fprop_tile64x64_bf16", &lines(most + 1)).unwrap_err();
    }
}
