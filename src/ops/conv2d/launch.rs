//! Arguments of the convolution kernels, and their launches.

use super::variants::{Gemm, Pass, PassEntry, Split, Variant, choose, wgrad_split};
use crate::device::cpu::conv::Conv2dDims;
use crate::device::kernels::{self, Conv2dArgs, Conv2dWgradArgs, SplitSumArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::{Error, Result};

/// Addresses of an fprop's or dgrad's operands; 0 for no addend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub src: u64,
    pub weights: u64,
    pub addend: u64,
    pub out: u64,
}

/// Kernels count positions in 32 bits.
fn checked(dims: &Conv2dDims) -> Result<()> {
    let most = [dims.n * dims.h * dims.w, dims.n * dims.p() * dims.q(), dims.r * dims.s * dims.c.max(dims.k)];
    // Tiles reach beyond the last position, and taps beyond the border.
    if most.iter().any(|&count| count > (1 << 30)) {
        return Err(Error::Device(format!(
            "a convolution of {dims:?} has more than 2^30 pixels; use a smaller batch"
        )));
    }
    Ok(())
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
        let Operands { src, weights, addend, out } = operands;
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
        })
    }
}

impl Conv2dWgradArgs {
    /// Operands (addresses of x, dy, dw) and extents of a wgrad.
    pub(crate) fn new(dims: &Conv2dDims, [x, dy, dw]: [u64; 3], split: Split) -> Result<Conv2dWgradArgs> {
        checked(dims)?;
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

/// Launches a pass: fprop (x, w) -> y, dgrad (dy, w [, sum]) -> dx, wgrad (x, dy) -> dw.
pub(super) fn launch(
    pass: Pass,
    dims: &Conv2dDims,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    launch_variant(choose(pass, args.inputs[0].dtype, dims)?, dims, args, launcher)
}

/// Launches a pass by a kernel that takes it.
pub(super) fn launch_variant(
    variant: &Variant,
    dims: &Conv2dDims,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    let gemm = Gemm::new(variant.pass(), dims);
    let grid = [variant.num_tiles(&gemm), gemm.classes, 1];
    let (first, second, out) = (args.input(0), args.input(1), args.output(0));
    let operands = Operands { src: first, weights: second, addend: args.optional_input(2), out };
    let (entry, arguments) = match variant.entry {
        PassEntry::Fprop(entry) => (entry, Conv2dArgs::fprop(dims, operands, gemm.depth)?),
        PassEntry::Dgrad(entry) => (entry, Conv2dArgs::dgrad(dims, operands)?),
        PassEntry::Wgrad(entry) => {
            let split = wgrad_split(variant, dims);
            let parts = if split.parts == 1 { out } else { args.workspace() };
            let arguments = Conv2dWgradArgs::new(dims, [first, second, parts], split)?;
            let grid = [variant.num_tiles(&gemm), split.parts, 1];
            entry.launch_with_shared(launcher, grid, variant.shared_bytes(), &arguments)?;
            return if split.parts == 1 { Ok(()) } else { add_parts(dims, [parts, out], split, launcher) };
        }
    };
    entry.launch_with_shared(launcher, grid, variant.shared_bytes(), &arguments)
}

/// Adds the parts of a split wgrad.
fn add_parts(
    dims: &Conv2dDims,
    [parts, dw]: [u64; 2],
    split: Split,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    let sum = SplitSumArgs {
        parts,
        addend: 0,
        out: dw,
        num_elems: dims.w_elems() as u64,
        num_splits: split.parts as u64,
        addend_elems: 1,
    };
    kernels::CONV2D_WGRAD_SPLIT_SUM.launch(launcher, kernels::thread_grid(dims.w_elems()), &sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_beyond_32_bits_are_refused() {
        let dims = Conv2dDims {
            n: 1 << 22,
            h: 32,
            w: 32,
            c: 8,
            k: 8,
            r: 3,
            s: 3,
            stride_h: 1,
            stride_w: 1,
            pad_h: 1,
            pad_w: 1,
        };
        let message = checked(&dims).unwrap_err().to_string();
        assert!(message.contains("smaller batch"), "{message}");
    }
}
