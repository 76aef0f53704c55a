//! The kernels of batch norm: statistics and sums through partial results in the workspace, then passes over the rows.

use super::Mask;
use crate::device::kernels::{
    self, BatchNormBwdArgs, BatchNormBwdFinalizeArgs, BatchNormBwdPartialsArgs, BatchNormFinalizeArgs,
    BatchNormFwdArgs, BatchNormInferenceBwdArgs, BatchNormPartialsArgs,
};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::graph::ValueType;
use crate::ops::launch::ChannelGrid;

/// What x is normalised by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Norm<'a> {
    /// Statistics of the batch.
    Saved { mean: &'a Slot, rstd: &'a Slot },
    /// The running statistics.
    Running { mean: &'a Slot, var: &'a Slot, eps: f32 },
}

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
        x: args.address(x),
        partials: args.workspace(),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_partials(x.dtype)?.launch(launcher, grid.grid(), &arguments)?;
    let totals = grid.totals();
    let arguments = BatchNormFinalizeArgs {
        partials: arguments.partials,
        running_mean: args.input(3),
        running_var: args.input(4),
        save_mean: args.output(1),
        save_rstd: args.output(2),
        num_blocks: grid.num_blocks() as u32,
        rows: arguments.rows,
        channels: arguments.channels,
        block_rows: arguments.block_rows,
        last_rows: grid.last_rows() as u32,
        columns: totals.columns as u32,
        eps,
        bn_momentum,
    };
    kernels::BATCH_NORM_FINALIZE.launch(launcher, totals.blocks, &arguments)
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
        x: args.address(x),
        residual: args.optional_input(5),
        y: args.output(0),
        gamma: args.input(1),
        beta: args.input(2),
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
    kernels::batch_norm_fwd(x.dtype)?.launch(launcher, grid.grid(), &arguments)
}

/// Addresses of y and of beta, one of which a mask needs: operand 5, or 0 for none.
fn mask_addresses(args: &LaunchArgs<'_>, mask: Option<Mask>) -> [u64; 2] {
    match mask {
        None => [0, 0],
        Some(Mask::Result) => [args.input(5), 0],
        Some(Mask::Recomputed) => [0, args.input(5)],
    }
}

/// dgamma and dbeta, results 1 and 2, from dy, x and what the mask needs: operands 0, 1 and 5.
pub(super) fn backward_sums(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    mask: Option<Mask>,
    norm: Norm<'_>,
) -> Result<()> {
    let x = &args.inputs[1];
    let grid = ChannelGrid::sums(x.shape, x.dtype).checked()?;
    let norm = norm.addresses(args);
    let [y, beta] = mask_addresses(args, mask);
    let arguments = BatchNormBwdPartialsArgs {
        dy: args.input(0),
        x: args.address(x),
        y,
        gamma: args.input(2),
        beta,
        mean: norm.mean,
        rstd: norm.save_rstd,
        partials: args.workspace(),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_bwd_partials(x.dtype)?.launch(launcher, grid.grid(), &arguments)?;
    let totals = grid.totals();
    let arguments = BatchNormBwdFinalizeArgs {
        partials: arguments.partials,
        save_rstd: norm.save_rstd,
        running_var: norm.running_var,
        dgamma: args.output(1),
        dbeta: args.output(2),
        num_blocks: grid.num_blocks() as u32,
        channels: arguments.channels,
        columns: totals.columns as u32,
        eps: norm.eps,
    };
    kernels::BATCH_NORM_BWD_FINALIZE.launch(launcher, totals.blocks, &arguments)
}

/// dx and perhaps dz, results 0 and 3, once dgamma and dbeta, results 1 and 2, are there.
pub(super) fn input_gradient(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    mask: Option<Mask>,
) -> Result<()> {
    let x = &args.inputs[1];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let [y, beta] = mask_addresses(args, mask);
    let arguments = BatchNormBwdArgs {
        dy: args.input(0),
        x: args.address(x),
        y,
        gamma: args.input(2),
        beta,
        mean: args.input(3),
        rstd: args.input(4),
        dgamma: args.output(1),
        dbeta: args.output(2),
        dx: args.output(0),
        dz: args.outputs.get(3).map_or(0, |dz| args.address(dz)),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_bwd(x.dtype)?.launch(launcher, grid.grid(), &arguments)
}

/// dx, result 0, where the statistics are constants.
pub(super) fn scaled_gradient(args: &LaunchArgs<'_>, launcher: &mut dyn Launcher, eps: f32) -> Result<()> {
    let dy = &args.inputs[0];
    let grid = ChannelGrid::rows(dy.shape, dy.dtype).checked()?;
    let arguments = BatchNormInferenceBwdArgs {
        dy: args.address(dy),
        gamma: args.input(2),
        running_var: args.input(4),
        dx: args.output(0),
        rows: grid.rows as u64,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
        eps,
    };
    kernels::batch_norm_inference_bwd(dy.dtype)?.launch(launcher, grid.grid(), &arguments)
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
                mean: args.address(mean),
                save_rstd: args.address(rstd),
                running_var: 0,
                eps: 0.0,
            },
            Norm::Running { mean, var, eps } => {
                NormAddresses { mean: args.address(mean), save_rstd: 0, running_var: args.address(var), eps }
            }
        }
    }
}
