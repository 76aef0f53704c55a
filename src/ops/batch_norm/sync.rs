//! Batch norms by the statistics of the batches of all ranks: what a rank takes of its own batch, and what it makes of everyone's
//! once an [`Exchange::AllGather`](crate::graph::Exchange::AllGather) has them. A pass over the training graph puts these in the
//! place of the other forms (`step/sync.rs`).

use super::bwd::{Operands, masked_sums, store_sums, sums};
use super::launch::{self, BwdAddresses, Norm, StatisticsAddresses};
use super::{
    BatchNormBwd, Blocks, LEAST_ROWS, Mask, Spread, Statistics, blended, check_operands, check_rows,
};
use crate::device::cpu::{CpuArgs, Real, Storage};
use crate::device::kernels::{self, BatchNormSyncArgs, BatchNormSyncSumsArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::checks::{Draw, Trial, in_f32, input, state};
use crate::ops::launch::only_f32;
use crate::ops::{cost_per_elem, dispatch_real, dispatch_storage, float, sum_dtype};

/// `(x, mean, var)`, changing the last two: the mean and the unbiased variance of each channel of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormStatistics;

/// `(of_ranks [2, ranks, C], running_mean, running_var) -> (save_mean, save_rstd)`, changing the running statistics: mean and rstd of
/// all ranks' batches together, of the mean and the unbiased variance of each, which are of as many rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormSync {
    /// Rows of a rank's batch.
    pub rows: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batches in the new running statistics.
    pub bn_momentum: f32,
}

/// `(dy, x, gamma, save_mean, save_rstd [, y, beta or bits]) -> (dgamma, dbeta [, dz])`: the sums of a [`BatchNormBwd`], and with a mask
/// the masked gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormSums {
    /// As in [`BatchNormBwd`].
    pub mask: Option<Mask>,
}

/// `of_ranks [2, ranks, C] -> (dgamma, dbeta)`: the means over the ranks of their sums, by which
/// [`BatchNormDx`](super::BatchNormDx) takes through the statistics of all batches the part that its own rows have in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormSyncSums;

/// The type of a number for each channel, of numbers that every rank has given in pairs.
fn channels_of(of_ranks: &ValueType) -> InferResult<ValueType> {
    match (of_ranks.shape.dims(), float(*of_ranks)?.dtype) {
        (&[2, ranks, channels], dtype) if ranks > 0 && dtype == sum_dtype(dtype) => {
            Ok(ValueType { shape: [channels].into(), dtype })
        }
        _ => Err(format!("needs [2, ranks, channels] of f32 or f64 from the ranks, got {of_ranks}")),
    }
}

impl Op for BatchNormStatistics {
    fn name(&self) -> &'static str {
        "batch_norm_statistics"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        check_rows(check_operands(inputs, 0, 1..3, 3)?)?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(4, inputs, outputs).and_again(inputs, self.mutates())
    }

    fn mutates(&self) -> &[usize] {
        &[1, 2]
    }

    /// With room for a mean and an rstd that nobody asks for.
    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let (x, unasked) = (inputs[0], 2 * inputs[1].num_bytes());
        unasked
            + match device {
                DeviceKind::Cpu => Blocks::workspace_bytes(x.shape),
                DeviceKind::Cuda | DeviceKind::Simt => launch::partials_bytes(x.shape, x.dtype),
            }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let blocks = Blocks::new(args.input_shape(0));
            let num_partials = Blocks::workspace_bytes(args.input_shape(0)) / size_of::<f64>();
            let (partials, unasked) = args.workspace::<f64>().split_at_mut(num_partials);
            let (save_mean, save_rstd) = bytemuck::cast_slice_mut(unasked).split_at_mut(blocks.channels);
            let statistics = Statistics {
                save_mean,
                save_rstd,
                running_mean: args.input_mut::<T::Sum>(1),
                running_var: args.input_mut(2),
                eps: 1.0,
                bn_momentum: 1.0,
            };
            statistics.take(args.input::<T>(0), blocks, partials);
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let partials = launch::statistics_partials(&args.inputs[0], args, launcher)?;
        let save_mean = partials.address + partials.num_bytes() as u64;
        let to = StatisticsAddresses {
            save_mean,
            save_rstd: save_mean + args.inputs[1].num_bytes() as u64,
            running_mean: args.input(1),
            running_var: args.input(2),
            eps: 1.0,
            bn_momentum: 1.0,
        };
        to.finalize(partials, launcher)
    }
}

impl Op for BatchNormSync {
    fn name(&self) -> &'static str {
        "batch_norm_sync"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [of_ranks, running @ ..] = inputs else { return Err("takes 3 operands, got none".into()) };
        let vector = channels_of(of_ranks)?;
        if running != [vector, vector] {
            return Err(format!("needs two running statistics of {vector}, got {running:?}"));
        }
        Ok(vec![vector, vector])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["save_mean", "save_rstd"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(4, inputs, outputs).and_again(inputs, self.mutates())
    }

    fn mutates(&self) -> &[usize] {
        &[1, 2]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<R: Real>(op: &BatchNormSync, args: &CpuArgs<'_>) {
            let (save_mean, save_rstd) = (args.output::<R>(0), args.output::<R>(1));
            let (running_mean, running_var) = (args.input_mut::<R>(1), args.input_mut::<R>(2));
            let channels = save_mean.len();
            let (means, vars) = args.input::<R>(0).split_at(args.input_shape(0).num_elems() / 2);
            let num_ranks = means.len() / channels.max(1);
            let (rows, all_rows) = (op.rows as f64, (num_ranks * op.rows) as f64);
            for c in 0..channels {
                let of_ranks =
                    || (c..means.len()).step_by(channels).map(|i| (means[i].to_f64(), vars[i].to_f64()));
                let mean = of_ranks().fold(0.0, |sum, (mean, _)| sum + mean) / num_ranks as f64;
                // As blocks of a batch combine: `statistics` in train.rs.
                let m2 = of_ranks().fold(0.0, |m2, (of_rank, var)| {
                    let apart = of_rank - mean;
                    m2 + var * (rows - 1.0) + rows * apart * apart
                });
                save_mean[c] = R::from_f64(mean);
                save_rstd[c] = R::from_f64(1.0 / (m2 / all_rows + f64::from(op.eps)).sqrt());
                let blend =
                    |running: &mut R, batch| *running = blended(*running, op.bn_momentum, R::from_f64(batch));
                blend(&mut running_mean[c], mean);
                blend(&mut running_var[c], m2 / (all_rows - 1.0));
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        let [_, num_ranks, channels] = of_ranks(args);
        let arguments = BatchNormSyncArgs {
            of_ranks: args.input(0),
            running_mean: args.input(1),
            running_var: args.input(2),
            save_mean: args.output(0),
            save_rstd: args.output(1),
            num_ranks: num_ranks as u32,
            channels: channels as u32,
            rows: self.rows as u32,
            eps: self.eps,
            bn_momentum: self.bn_momentum,
            reserved: 0,
        };
        kernels::BATCH_NORM_SYNC.launch(launcher, channels.div_ceil(THREADS), &arguments)
    }
}

impl Op for BatchNormSums {
    fn name(&self) -> &'static str {
        "batch_norm_bwd_sums"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let whole = BatchNormBwd { mask: self.mask, residual: false }.infer(inputs)?;
        Ok(whole[1..].iter().copied().chain(self.mask.map(|_| whole[0])).collect())
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["dgamma", "dbeta", "dz"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(5, inputs, outputs)
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 2, input: 0 }]
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        BatchNormBwd { mask: self.mask, residual: false }.workspace_bytes(device, inputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: BatchNormSums, args: &CpuArgs<'_>) {
            let (blocks, x) = (Blocks::new(args.input_shape(1)), args.input::<T>(1));
            let [mean, rstd] = [args.input::<T::Sum>(3), args.input(4)];
            let to = [args.output(1), args.output(0)];
            let mask = op.mask.map(|mask| mask.masking::<T>(args));
            if mask.is_some() {
                let dz = args.output_over_input::<T>(2, 0);
                return masked_sums(dz, x, mask, [mean, rstd], blocks, args.workspace(), to);
            }
            let (dy, spread, channels) = (args.input::<T>(0), Spread::Rstd(rstd), blocks.channels);
            let operands = Operands { dy, mask, mean, spread, channels };
            let (sum_dz, sum_dz_xhat) = sums(operands, x, blocks, args.workspace());
            store_sums([sum_dz, sum_dz_xhat], to);
        }
        dispatch_storage!(args.input_dtype(1), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let saved = Norm::Saved { mean: &args.inputs[3], rstd: &args.inputs[4] };
        let dz = args.outputs.get(2).map_or(0, |dz| args.address(dz));
        let of = BwdAddresses::new(args, self.mask);
        let partials = launch::bwd_partials(&args.inputs[1], of, dz, saved, args, launcher)?;
        launch::finalize_sums_to([args.output(0), args.output(1)], partials, saved, None, args, launcher)
    }
}

impl Op for BatchNormSyncSums {
    fn name(&self) -> &'static str {
        "batch_norm_sync_sums"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [of_ranks] = inputs else { return Err(format!("takes 1 operand, got {}", inputs.len())) };
        Ok(vec![channels_of(of_ranks)?; 2])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["dgamma", "dbeta"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<R: Real>(args: &CpuArgs<'_>) {
            let of_ranks = args.input::<R>(0);
            for (position, of_ranks) in of_ranks.chunks_exact(of_ranks.len() / 2).enumerate() {
                let to = args.output::<R>(position);
                let num_ranks = of_ranks.len() / to.len();
                for (c, to) in to.iter_mut().enumerate() {
                    let sums = of_ranks[c..].iter().step_by(of_ranks.len() / num_ranks);
                    *to = R::from_f64(sums.fold(0.0, |all, sum| all + sum.to_f64()) / num_ranks as f64);
                }
            }
        }
        dispatch_real!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        let [_, num_ranks, channels] = of_ranks(args);
        let arguments = BatchNormSyncSumsArgs {
            sums: args.input(0),
            dgamma: args.output(0),
            dbeta: args.output(1),
            num_ranks: num_ranks as u32,
            channels: channels as u32,
        };
        kernels::BATCH_NORM_SYNC_SUMS.launch(launcher, channels.div_ceil(THREADS), &arguments)
    }
}

/// Threads of a block of either kernel, one a channel.
const THREADS: usize = 256;

/// Extents of operand 0.
fn of_ranks(args: &LaunchArgs<'_>) -> [usize; 3] {
    args.inputs[0].shape.dims().try_into().expect("the shape rule has seen three")
}

/// What a rank takes of its own batch, and what it makes of everyone's.
pub(super) fn trial(draw: &mut Draw) -> Trial {
    let (shape, num_ranks, rows) = (draw.image_to_sum(LEAST_ROWS), draw.within(1, 9), draw.within(2, 5000));
    let name = format!("batch norm of {num_ranks} ranks: {shape:?}, {rows} rows a rank");
    Trial::new(name, move |graph| {
        let [_, _, _, channels] = shape;
        let x = input(graph, "x", shape);
        let [mean, var, running_mean, running_var] =
            ["mean", "var", "running_mean", "running_var"].map(|name| state(graph, name, [channels]));
        graph.apply("statistics", BatchNormStatistics, &[x, mean, var])?;
        let [moments, sums] =
            ["means_and_vars", "sums"].map(|name| in_f32(graph, name, [2, num_ranks, channels]));
        let sync = BatchNormSync { rows, eps: 1e-5, bn_momentum: 0.1 };
        graph.apply("sync", sync, &[moments, running_mean, running_var])?;
        graph.apply("sync_sums", BatchNormSyncSums, &[sums]).map(|_| ())
    })
}
