//! The CPU's convolutions by the type of their operands.

use half::bf16;

use crate::device::DeviceKind;
use crate::device::cpu::Storage;
use crate::device::cpu::conv::{self, Conv2dDims, Finish, mixed};
use crate::ops::batch_norm::Blocks;
use crate::tensor::{DType, Shape};

/// A type of images and filters that the CPU convolves. Slices are of the lengths that the dimensions imply, workspaces at
/// least as large as [`CpuWorkspace`] says.
pub(super) trait Convolve: Storage {
    /// y, of x and w.
    fn fprop(dims: &Conv2dDims, x: &[Self], w: &[Self], y: &mut [Self], workspace: &mut [f32]);
    /// dx, of dy and w; added to what dx holds where it `adds`.
    fn dgrad(dims: &Conv2dDims, dy: &[Self], w: &[Self], adds: bool, dx: &mut [Self], workspace: &mut [f32]);
    /// dw, of x and dy.
    fn wgrad(dims: &Conv2dDims, x: &[Self], dy: &[Self], dw: &mut [Self::Sum], workspace: &mut [f32]);
}

impl Convolve for f32 {
    fn fprop(dims: &Conv2dDims, x: &[f32], w: &[f32], y: &mut [f32], workspace: &mut [f32]) {
        conv::conv2d_fprop(dims, x, w, Finish::None, y, workspace);
    }

    fn dgrad(dims: &Conv2dDims, dy: &[f32], w: &[f32], adds: bool, dx: &mut [f32], workspace: &mut [f32]) {
        conv::conv2d_dgrad(dims, dy, w, adds, dx, workspace);
    }

    fn wgrad(dims: &Conv2dDims, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
        conv::conv2d_wgrad(dims, x, dy, dw, workspace);
    }
}

impl Convolve for bf16 {
    fn fprop(dims: &Conv2dDims, x: &[bf16], w: &[bf16], y: &mut [bf16], workspace: &mut [f32]) {
        mixed::fprop(dims, x, w, None, y, workspace);
    }

    fn dgrad(dims: &Conv2dDims, dy: &[bf16], w: &[bf16], adds: bool, dx: &mut [bf16], workspace: &mut [f32]) {
        mixed::dgrad(dims, dy, w, adds, dx, workspace);
    }

    fn wgrad(dims: &Conv2dDims, x: &[bf16], dy: &[bf16], dw: &mut [f32], workspace: &mut [f32]) {
        mixed::wgrad(dims, x, dy, dw, workspace);
    }
}

/// The oracle: textbook loops.
impl Convolve for f64 {
    fn fprop(dims: &Conv2dDims, x: &[f64], w: &[f64], y: &mut [f64], _: &mut [f32]) {
        conv::conv2d_fprop_reference(dims, x, w, y);
    }

    fn dgrad(dims: &Conv2dDims, dy: &[f64], w: &[f64], adds: bool, dx: &mut [f64], _: &mut [f32]) {
        conv::conv2d_dgrad_reference(dims, dy, w, adds, dx);
    }

    fn wgrad(dims: &Conv2dDims, x: &[f64], dy: &[f64], dw: &mut [f64], _: &mut [f32]) {
        conv::conv2d_wgrad_reference(dims, x, dy, dw);
    }
}

/// Scratch memory of a pass on the CPU, by the type of its operands; the f64 oracle needs none.
pub(super) struct CpuWorkspace {
    pub f32_elems: fn(&Conv2dDims) -> usize,
    pub bf16_bytes: fn(&Conv2dDims) -> usize,
}

impl CpuWorkspace {
    pub const FPROP: CpuWorkspace =
        CpuWorkspace { f32_elems: conv::fprop_workspace_elems, bf16_bytes: mixed::fprop_workspace_bytes };
    pub const DGRAD: CpuWorkspace =
        CpuWorkspace { f32_elems: conv::dgrad_workspace_elems, bf16_bytes: mixed::dgrad_workspace_bytes };
    pub const WGRAD: CpuWorkspace =
        CpuWorkspace { f32_elems: conv::wgrad_workspace_elems, bf16_bytes: mixed::wgrad_workspace_bytes };

    pub fn num_bytes(&self, device: DeviceKind, dtype: DType, dims: &Conv2dDims) -> usize {
        match (device, dtype) {
            (DeviceKind::Cpu, DType::F32) => (self.f32_elems)(dims) * size_of::<f32>(),
            (DeviceKind::Cpu, DType::Bf16) => (self.bf16_bytes)(dims),
            _ => 0,
        }
    }

    /// Of a pass on the CPU and a batch norm's sums of blocks of `image`, one after the other: whole f64.
    pub fn with_blocks(&self, dtype: DType, dims: &Conv2dDims, image: Shape) -> usize {
        let pass = self.num_bytes(DeviceKind::Cpu, dtype, dims).next_multiple_of(size_of::<f64>());
        pass.max(Blocks::workspace_bytes(image))
    }
}
