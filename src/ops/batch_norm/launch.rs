//! The kernels of batch norm: statistics and sums through partial results in the workspace, then passes over the rows.

use super::Mask;
use crate::device::kernels::common::WARP_THREADS;
use crate::device::kernels::{
    self, BatchNormBwdArgs, BatchNormBwdFinalizeArgs, BatchNormBwdPartialsArgs, BatchNormFinalizeArgs,
    BatchNormFwdArgs, BatchNormInferenceBwdArgs, BatchNormJoinBwdArgs, BatchNormPartialsArgs,
};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::{Error, Result};
use crate::ops::launch::{ChannelGrid, TotalGrid};
use crate::tensor::{DType, Shape};

/// What x is normalised by.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Norm<'a> {
    /// Statistics of the batch.
    Saved { mean: &'a Slot, rstd: &'a Slot },
    /// The running statistics.
    Running { mean: &'a Slot, var: &'a Slot, eps: f32 },
}

/// Workspace of the passes that sum: two f32 a block and channel.
pub(in crate::ops) fn partials_bytes(x: Shape, dtype: DType) -> usize {
    Partials::of(&ChannelGrid::sums(x, dtype), 0).num_bytes()
}

/// Partial results of the sums of a matrix of rows by channels.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Partials {
    /// Where they are.
    pub address: u64,
    /// Rows of the matrix.
    pub rows: usize,
    /// Its channels.
    pub channels: usize,
    /// Rows of each block but the last of a statistic.
    pub block_rows: usize,
    /// Number of blocks.
    pub num_blocks: usize,
    /// Numbers, f32, of each block and channel.
    pub num_sums: usize,
}

impl Partials {
    fn of(grid: &ChannelGrid, address: u64) -> Partials {
        let &ChannelGrid { rows, channels, block_rows, .. } = grid;
        Partials { address, rows, channels, block_rows, num_blocks: grid.num_blocks(), num_sums: 2 }
    }

    /// Bytes that they take.
    pub fn num_bytes(&self) -> usize {
        self.num_sums * self.num_blocks * self.channels * size_of::<f32>()
    }

    fn totals(&self) -> TotalGrid {
        TotalGrid::new(self.channels, self.num_blocks, WARP_THREADS)
    }
}

/// Mean and centred sum of squares of blocks of x, in the workspace.
pub(in crate::ops) fn statistics_partials(
    x: &Slot,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<Partials> {
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
    Ok(Partials::of(&grid, args.workspace()))
}

/// Where the statistics of a batch go: addresses of f32 for each channel.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct StatisticsAddresses {
    pub save_mean: u64,
    pub save_rstd: u64,
    pub running_mean: u64,
    pub running_var: u64,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the new running statistics.
    pub bn_momentum: f32,
}

impl StatisticsAddresses {
    /// Makes them of partial results.
    pub(in crate::ops) fn finalize(self, partials: Partials, launcher: &mut dyn Launcher) -> Result<()> {
        let totals = partials.totals();
        let arguments = BatchNormFinalizeArgs {
            partials: partials.address,
            running_mean: self.running_mean,
            running_var: self.running_var,
            save_mean: self.save_mean,
            save_rstd: self.save_rstd,
            num_blocks: partials.num_blocks as u32,
            rows: partials.rows as u32,
            channels: partials.channels as u32,
            block_rows: partials.block_rows as u32,
            last_rows: (partials.rows - (partials.num_blocks - 1) * partials.block_rows) as u32,
            columns: totals.columns as u32,
            eps: self.eps,
            bn_momentum: self.bn_momentum,
            per_row: 1.0 / partials.rows as f32,
            per_degree: 1.0 / (partials.rows - 1) as f32,
        };
        kernels::BATCH_NORM_FINALIZE.launch(launcher, totals.blocks, &arguments)
    }
}

/// y, result 0, from x, gamma, beta and perhaps a residual, operands 0, 1, 2 and 5.
pub(super) fn normalize(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    relu: bool,
    norm: Norm<'_>,
    bits: bool,
) -> Result<()> {
    let x = &args.inputs[0];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let arguments = BatchNormFwdArgs { bits: left_bits(args, bits)?, ..fwd_args(args, &grid, relu, norm) };
    let kernel = if bits { &kernels::BATCH_NORM_FWD_BITS_BF16 } else { kernels::batch_norm_fwd(x.dtype)? };
    kernel.launch(launcher, grid.grid(), &arguments)
}

/// The same where operand 5 goes through a batch norm of its own before it is added, by operands 6 to 9: gamma, beta, mean, rstd.
pub(super) fn join(args: &LaunchArgs<'_>, launcher: &mut dyn Launcher, relu: bool, bits: bool) -> Result<()> {
    let x = &args.inputs[0];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let saved = Norm::Saved { mean: &args.inputs[3], rstd: &args.inputs[4] };
    let arguments = BatchNormFwdArgs {
        bits: left_bits(args, bits)?,
        residual: 0,
        shortcut_x: args.input(5),
        shortcut_gamma: args.input(6),
        shortcut_beta: args.input(7),
        shortcut_mean: args.input(8),
        shortcut_rstd: args.input(9),
        ..fwd_args(args, &grid, relu, saved)
    };
    kernels::batch_norm_join(x.dtype)?.launch(launcher, grid.grid(), &arguments)
}

/// The address of the bits, result 1, where they are wanted.
fn left_bits(args: &LaunchArgs<'_>, wanted: bool) -> Result<u64> {
    if !wanted {
        return Ok(0);
    }
    bits_checked(args.output(1), args.inputs[0].dtype)
}

/// The address of bits, of which threads have a byte each next to bf16 alone.
fn bits_checked(bits: u64, dtype: DType) -> Result<u64> {
    match dtype {
        DType::Bf16 => Ok(bits),
        _ if bits == 0 => Ok(0),
        _ => Err(Error::Device(format!("there is no kernel for a mask of bits next to {dtype}"))),
    }
}

fn fwd_args(args: &LaunchArgs<'_>, grid: &ChannelGrid, relu: bool, norm: Norm<'_>) -> BatchNormFwdArgs {
    let norm = norm.addresses(args);
    BatchNormFwdArgs {
        x: args.input(0),
        residual: args.optional_input(5),
        y: args.output(0),
        bits: 0,
        gamma: args.input(1),
        beta: args.input(2),
        mean: norm.mean,
        save_rstd: norm.save_rstd,
        running_var: norm.running_var,
        shortcut_x: 0,
        shortcut_gamma: 0,
        shortcut_beta: 0,
        shortcut_mean: 0,
        shortcut_rstd: 0,
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
        relu: relu.into(),
        eps: norm.eps,
    }
}

/// What the gradient of a batch norm is computed from: addresses, 0 for what is not there.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct BwdAddresses {
    pub dy: u64,
    pub gamma: u64,
    pub mask: MaskAddresses,
}

/// What the mask of a ReLU is computed from: addresses, one of them or none.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ops) struct MaskAddresses {
    pub y: u64,
    pub beta: u64,
    pub bits: u64,
}

impl MaskAddresses {
    /// Where `operand` is the address of what the mask needs.
    pub fn new(mask: Option<Mask>, operand: u64) -> MaskAddresses {
        let none = MaskAddresses::default();
        match mask {
            None => none,
            Some(Mask::Result) => MaskAddresses { y: operand, ..none },
            Some(Mask::Recomputed) => MaskAddresses { beta: operand, ..none },
            Some(Mask::Bits) => MaskAddresses { bits: operand, ..none },
        }
    }
}

impl BwdAddresses {
    /// dy and gamma, operands 0 and 2, and what the mask needs, operand 5.
    pub(super) fn new(args: &LaunchArgs<'_>, mask: Option<Mask>) -> BwdAddresses {
        let mask = MaskAddresses::new(mask, args.optional_input(5));
        BwdAddresses { dy: args.input(0), gamma: args.input(2), mask }
    }
}

/// Partial sums of dz and dz*(x - mean), in the workspace; dz goes to an address of its own, which may be that of dy, where it
/// is not 0.
pub(in crate::ops) fn bwd_partials(
    x: &Slot,
    of: BwdAddresses,
    dz: u64,
    norm: Norm<'_>,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<Partials> {
    let grid = ChannelGrid::sums(x.shape, x.dtype).checked()?;
    let norm = norm.addresses(args);
    let BwdAddresses { dy, gamma, mask: MaskAddresses { y, beta, bits } } = of;
    let arguments = BatchNormBwdPartialsArgs {
        dy,
        x: args.address(x),
        y,
        bits: bits_checked(bits, x.dtype)?,
        gamma,
        beta,
        mean: norm.mean,
        rstd: norm.save_rstd,
        dz,
        partials: args.workspace(),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_bwd_partials(x.dtype)?.launch(launcher, grid.grid(), &arguments)?;
    Ok(Partials::of(&grid, args.workspace()))
}

/// Where dgamma and dbeta of a second batch norm go whose gradient is the same, and its rstd.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct ShortcutAddresses {
    pub rstd: u64,
    pub dgamma: u64,
    pub dbeta: u64,
}

/// dgamma and dbeta of partial sums, to these addresses; of three sums also those of a second batch norm.
pub(in crate::ops) fn finalize_sums_to(
    [dgamma, dbeta]: [u64; 2],
    partials: Partials,
    norm: Norm<'_>,
    shortcut: Option<ShortcutAddresses>,
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
) -> Result<()> {
    let (totals, norm) = (partials.totals(), norm.addresses(args));
    let arguments = BatchNormBwdFinalizeArgs {
        partials: partials.address,
        save_rstd: norm.save_rstd,
        running_var: norm.running_var,
        dgamma,
        dbeta,
        shortcut_rstd: shortcut.map_or(0, |of| of.rstd),
        shortcut_dgamma: shortcut.map_or(0, |of| of.dgamma),
        shortcut_dbeta: shortcut.map_or(0, |of| of.dbeta),
        num_blocks: partials.num_blocks as u32,
        channels: partials.channels as u32,
        columns: totals.columns as u32,
        eps: norm.eps,
    };
    kernels::BATCH_NORM_BWD_FINALIZE.launch(launcher, totals.blocks, &arguments)
}

/// dgamma and dbeta, results 1 and 2, from dy, x and what the mask needs: operands 0, 1 and 5.
pub(super) fn backward_sums(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    mask: Option<Mask>,
    norm: Norm<'_>,
) -> Result<()> {
    let partials = bwd_partials(&args.inputs[1], BwdAddresses::new(args, mask), 0, norm, args, launcher)?;
    finalize_sums_to([args.output(1), args.output(2)], partials, norm, None, args, launcher)
}

/// Where dgamma and dbeta are, and where dx and dz go; no dz where it is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct DxAddresses {
    pub dgamma: u64,
    pub dbeta: u64,
    pub dx: u64,
    pub dz: u64,
}

/// dx and perhaps dz from dy, x, gamma, mean, rstd and what the mask needs, operands 0 to 5, once dgamma and dbeta are there.
pub(super) fn input_gradient(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    mask: Option<Mask>,
    DxAddresses { dgamma, dbeta, dx, dz }: DxAddresses,
) -> Result<()> {
    let x = &args.inputs[1];
    let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
    let BwdAddresses { dy, gamma, mask: MaskAddresses { y, beta, bits } } = BwdAddresses::new(args, mask);
    let arguments = BatchNormBwdArgs {
        dy,
        x: args.address(x),
        y,
        bits: bits_checked(bits, x.dtype)?,
        gamma,
        beta,
        mean: args.input(3),
        rstd: args.input(4),
        dgamma,
        dbeta,
        dx,
        dz,
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_bwd(x.dtype)?.launch(launcher, grid.grid(), &arguments)
}

/// dx and that of the shortcut, results 0 and 1, of [`BatchNormJoinDx`](super::BatchNormJoinDx).
pub(super) fn join_gradients(args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
    let dz = &args.inputs[0];
    let grid = ChannelGrid::rows(dz.shape, dz.dtype).checked()?;
    let arguments = BatchNormJoinBwdArgs {
        dz: args.input(0),
        x: args.input(1),
        gamma: args.input(2),
        mean: args.input(3),
        rstd: args.input(4),
        dgamma: args.input(5),
        dbeta: args.input(6),
        dx: args.output(0),
        shortcut_x: args.input(7),
        shortcut_gamma: args.input(8),
        shortcut_mean: args.input(9),
        shortcut_rstd: args.input(10),
        shortcut_dgamma: args.input(11),
        shortcut_dbeta: args.input(12),
        shortcut_dx: args.output(1),
        rows: grid.rows as u32,
        channels: grid.channels as u32,
        block_rows: grid.block_rows as u32,
        is_wide: grid.is_wide.into(),
    };
    kernels::batch_norm_join_bwd(dz.dtype)?.launch(launcher, grid.grid(), &arguments)
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
