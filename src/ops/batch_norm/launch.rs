//! The kernels of batch norm: statistics and sums through partial results in the workspace, then passes over the rows.

use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::graph::ValueType;
use crate::ops::launch::{ArgsTwin, ChannelGrid, address, for_float, kernel_args, launch_kernel};

/// What x is normalised by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Norm<'a> {
    /// Statistics of the batch.
    Saved { mean: &'a Slot, rstd: &'a Slot },
    /// The running statistics.
    Running { mean: &'a Slot, var: &'a Slot, eps: f32 },
}

/// Channels that a block of the second step takes; kTotalColumns of kernels/channels.cuh.
const TOTAL_CHANNELS: usize = 8;

/// Workspace of the passes that sum: two f32 a block and channel.
pub(super) fn partials_bytes(x: ValueType) -> usize {
    let grid = ChannelGrid::sums(x.shape, x.dtype);
    2 * grid.num_blocks() * grid.channels * size_of::<f32>()
}

/// Mean and rstd of x into results 1 and 2; the running statistics, operands 3 and 4, follow.
pub(super) fn statistics(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    eps: f32,
    bn_momentum: f32,
) -> Result<()> {
    let x = &args.inputs[0];
    let grid = ChannelGrid::sums(x.shape, x.dtype).checked()?;
    let arguments = BatchNormPartialsArgs {
        x: address(args, x),
        partials: address(args, &args.workspace),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    let name = for_float(x.dtype, ["batch_norm_partials_f32", "batch_norm_partials_bf16"])?;
    launch_kernel(launcher, name, grid.grid(), &arguments)?;
    let arguments = BatchNormFinalizeArgs {
        partials: arguments.partials,
        running_mean: address(args, &args.inputs[3]),
        running_var: address(args, &args.inputs[4]),
        save_mean: address(args, &args.outputs[1]),
        save_rstd: address(args, &args.outputs[2]),
        num_blocks: grid.num_blocks() as u32,
        rows: arguments.rows,
        channels: arguments.channels,
        block_rows: arguments.block_rows,
        eps,
        bn_momentum,
    };
    launch_kernel(launcher, "batch_norm_finalize", total_grid(&grid), &arguments)
}

/// y, result 0, from x, gamma, beta and perhaps a residual, operands 0, 1, 2 and 5.
pub(super) fn normalize(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    relu: bool,
    norm: Norm<'_>,
) -> Result<()> {
    let x = &args.inputs[0];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let norm = norm.addresses(args);
    let arguments = BatchNormFwdArgs {
        x: address(args, x),
        residual: args.inputs.get(5).map_or(0, |residual| address(args, residual)),
        y: address(args, &args.outputs[0]),
        gamma: address(args, &args.inputs[1]),
        beta: address(args, &args.inputs[2]),
        mean: norm.mean,
        save_rstd: norm.save_rstd,
        running_var: norm.running_var,
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
        relu: relu.into(),
        eps: norm.eps,
    };
    let name = for_float(x.dtype, ["batch_norm_fwd_f32", "batch_norm_fwd_bf16"])?;
    launch_kernel(launcher, name, grid.grid(), &arguments)
}

/// dgamma and dbeta, results 1 and 2, from dy, x and, with `relu`, y: operands 0, 1 and 5.
pub(super) fn backward_sums(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    relu: bool,
    norm: Norm<'_>,
) -> Result<()> {
    let x = &args.inputs[1];
    let grid = ChannelGrid::sums(x.shape, x.dtype).checked()?;
    let norm = norm.addresses(args);
    let arguments = BatchNormBwdPartialsArgs {
        dy: address(args, &args.inputs[0]),
        x: address(args, x),
        y: if relu { address(args, &args.inputs[5]) } else { 0 },
        mean: norm.mean,
        partials: address(args, &args.workspace),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    let name = for_float(x.dtype, ["batch_norm_bwd_partials_f32", "batch_norm_bwd_partials_bf16"])?;
    launch_kernel(launcher, name, grid.grid(), &arguments)?;
    let arguments = BatchNormBwdFinalizeArgs {
        partials: arguments.partials,
        save_rstd: norm.save_rstd,
        running_var: norm.running_var,
        dgamma: address(args, &args.outputs[1]),
        dbeta: address(args, &args.outputs[2]),
        num_blocks: grid.num_blocks() as u64,
        channels: arguments.channels,
        eps: norm.eps,
    };
    launch_kernel(launcher, "batch_norm_bwd_finalize", total_grid(&grid), &arguments)
}

/// dx and perhaps dz, results 0 and 3, once dgamma and dbeta, results 1 and 2, are there.
pub(super) fn input_gradient(args: &LaunchArgs<'_>, launcher: &mut dyn Launcher, relu: bool) -> Result<()> {
    let x = &args.inputs[1];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let arguments = BatchNormBwdArgs {
        dy: address(args, &args.inputs[0]),
        x: address(args, x),
        y: if relu { address(args, &args.inputs[5]) } else { 0 },
        gamma: address(args, &args.inputs[2]),
        mean: address(args, &args.inputs[3]),
        rstd: address(args, &args.inputs[4]),
        dgamma: address(args, &args.outputs[1]),
        dbeta: address(args, &args.outputs[2]),
        dx: address(args, &args.outputs[0]),
        dz: args.outputs.get(3).map_or(0, |dz| address(args, dz)),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    let name = for_float(x.dtype, ["batch_norm_bwd_f32", "batch_norm_bwd_bf16"])?;
    launch_kernel(launcher, name, grid.grid(), &arguments)
}

/// dx, result 0, where the statistics are constants.
pub(super) fn scaled_gradient(args: &LaunchArgs<'_>, launcher: &mut dyn Launcher, eps: f32) -> Result<()> {
    let dy = &args.inputs[0];
    let grid = ChannelGrid::rows(dy.shape, dy.dtype).checked()?;
    let arguments = BatchNormInferenceBwdArgs {
        dy: address(args, dy),
        gamma: address(args, &args.inputs[2]),
        running_var: address(args, &args.inputs[4]),
        dx: address(args, &args.outputs[0]),
        rows: grid.rows as u64,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
        eps,
    };
    let name = for_float(dy.dtype, ["batch_norm_inference_bwd_f32", "batch_norm_inference_bwd_bf16"])?;
    launch_kernel(launcher, name, grid.grid(), &arguments)
}

fn total_grid(grid: &ChannelGrid) -> [usize; 3] {
    [grid.channels.div_ceil(TOTAL_CHANNELS), 1, 1]
}

/// A [`Norm`] as kernels take it: one of the spreads is null.
struct NormAddresses {
    mean: u64,
    save_rstd: u64,
    running_var: u64,
    eps: f32,
}

impl Norm<'_> {
    fn addresses(self, args: &LaunchArgs<'_>) -> NormAddresses {
        match self {
            Norm::Saved { mean, rstd } => NormAddresses {
                mean: address(args, mean),
                save_rstd: address(args, rstd),
                running_var: 0,
                eps: 0.0,
            },
            Norm::Running { mean, var, eps } => NormAddresses {
                mean: address(args, mean),
                save_rstd: 0,
                running_var: address(args, var),
                eps,
            },
        }
    }
}

kernel_args! {
    /// kernels/batch_norm_stats.cu
    BatchNormPartialsArgs for ["batch_norm_partials_f32", "batch_norm_partials_bf16"] {
        x: u64,
        partials: u64,
        rows: u32,
        channels: u32,
        block_rows: u32,
        is_wide: u32,
    }
}

kernel_args! {
    /// kernels/batch_norm_stats.cu
    BatchNormFinalizeArgs for ["batch_norm_finalize"] {
        partials: u64,
        running_mean: u64,
        running_var: u64,
        save_mean: u64,
        save_rstd: u64,
        num_blocks: u32,
        rows: u32,
        channels: u32,
        block_rows: u32,
        eps: f32,
        bn_momentum: f32,
    }
}

kernel_args! {
    /// kernels/batch_norm_fwd.cu
    BatchNormFwdArgs for ["batch_norm_fwd_f32", "batch_norm_fwd_bf16"] {
        x: u64,
        residual: u64,
        y: u64,
        gamma: u64,
        beta: u64,
        mean: u64,
        save_rstd: u64,
        running_var: u64,
        rows: u32,
        channels: u32,
        block_rows: u32,
        is_wide: u32,
        relu: u32,
        eps: f32,
    }
}

kernel_args! {
    /// kernels/batch_norm_bwd_sums.cu
    BatchNormBwdPartialsArgs for ["batch_norm_bwd_partials_f32", "batch_norm_bwd_partials_bf16"] {
        dy: u64,
        x: u64,
        y: u64,
        mean: u64,
        partials: u64,
        rows: u32,
        channels: u32,
        block_rows: u32,
        is_wide: u32,
    }
}

kernel_args! {
    /// kernels/batch_norm_bwd_sums.cu
    BatchNormBwdFinalizeArgs for ["batch_norm_bwd_finalize"] {
        partials: u64,
        save_rstd: u64,
        running_var: u64,
        dgamma: u64,
        dbeta: u64,
        num_blocks: u64,
        channels: u32,
        eps: f32,
    }
}

kernel_args! {
    /// kernels/batch_norm_bwd.cu
    BatchNormBwdArgs for ["batch_norm_bwd_f32", "batch_norm_bwd_bf16"] {
        dy: u64,
        x: u64,
        y: u64,
        gamma: u64,
        mean: u64,
        rstd: u64,
        dgamma: u64,
        dbeta: u64,
        dx: u64,
        dz: u64,
        rows: u32,
        channels: u32,
        block_rows: u32,
        is_wide: u32,
    }
}

kernel_args! {
    /// kernels/batch_norm_inference_bwd.cu
    BatchNormInferenceBwdArgs for ["batch_norm_inference_bwd_f32", "batch_norm_inference_bwd_bf16"] {
        dy: u64,
        gamma: u64,
        running_var: u64,
        dx: u64,
        rows: u64,
        channels: u32,
        block_rows: u32,
        is_wide: u32,
        eps: f32,
    }
}

/// Argument structs of these kernels.
pub(in crate::ops) const TWINS: &[ArgsTwin] = &[
    BatchNormPartialsArgs::TWIN,
    BatchNormFinalizeArgs::TWIN,
    BatchNormFwdArgs::TWIN,
    BatchNormBwdPartialsArgs::TWIN,
    BatchNormBwdFinalizeArgs::TWIN,
    BatchNormBwdArgs::TWIN,
    BatchNormInferenceBwdArgs::TWIN,
];
