//! The training form: statistics of the batch, then normalisation.

use super::launch::{self, Norm, StatisticsAddresses};
use super::{Blocks, Normalize, Spread, check_operands, refuse_fused};
use crate::device::cpu::{
    ChannelTile, CpuArgs, Real, Storage, for_each_channel_tile, for_each_chunk, for_each_chunk_pair, lanes,
    lanes_mut,
};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Cost, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Contents, Trial, in_f32, input, state};
use crate::ops::launch::ChannelGrid;
use crate::ops::{batch_norm::BatchNormBwd, cost_per_elem, dispatch_storage};
use crate::tensor::DType;

/// `(x, gamma, beta, running_mean, running_var [, residual]) -> (y, save_mean, save_rstd)`, changing the running
/// statistics: y = act((x - mean)*rstd*gamma + beta [+ residual]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormTrain {
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the new running statistics.
    pub bn_momentum: f32,
    /// act is a ReLU instead of the identity.
    pub relu: bool,
    /// There is a sixth operand of x's shape.
    pub residual: bool,
}

impl Op for BatchNormTrain {
    fn name(&self) -> &'static str {
        "batch_norm_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = check_operands(inputs, 0, 1..5, 5 + usize::from(self.residual))?;
        check_rows(x)?;
        Ok(vec![x, inputs[1], inputs[1]])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "save_mean", "save_rstd"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let twice = [self.mutates(), &[0]].concat();
        cost_per_elem(8, inputs, outputs).and_again(inputs, &twice)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        refuse_fused(self.name(), self.relu || self.residual, backward)?;
        let dy = backward.dy(self.name())?;
        let operands = [dy, backward.inputs[0], backward.inputs[1], backward.outputs[1], backward.outputs[2]];
        let grads = backward.apply("bwd", BatchNormBwd { mask: None, residual: false }, &operands)?;
        Ok(vec![Some(grads[0]), Some(grads[1]), Some(grads[2]), None, None])
    }

    fn mutates(&self) -> &[usize] {
        &[3, 4]
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        match device {
            DeviceKind::Cpu => Blocks::workspace_bytes(inputs[0].shape),
            DeviceKind::Cuda | DeviceKind::Simt => launch::partials_bytes(inputs[0].shape, inputs[0].dtype),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormTrain, args: &CpuArgs<'_>) {
            let blocks = Blocks::new(args.input_shape(0));
            let x = args.input::<T>(0);
            let statistics = Statistics {
                save_mean: args.output::<T::Sum>(1),
                save_rstd: args.output(2),
                running_mean: args.input_mut(3),
                running_var: args.input_mut(4),
                eps: op.eps,
                bn_momentum: op.bn_momentum,
            };
            let (save_mean, save_rstd) = statistics.take(x, blocks, args.workspace::<f64>());
            let normalize = Normalize {
                x: Some(x),
                residual: op.residual.then(|| args.input::<T>(5)),
                residual_norm: None,
                mean: save_mean,
                spread: Spread::Rstd(save_rstd),
                gamma: args.input::<T::Sum>(1),
                beta: args.input::<T::Sum>(2),
                relu: op.relu,
            };
            normalize.write(blocks, args.output::<T>(0));
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let to = StatisticsAddresses {
            save_mean: args.output(1),
            save_rstd: args.output(2),
            running_mean: args.input(3),
            running_var: args.input(4),
            eps: self.eps,
            bn_momentum: self.bn_momentum,
        };
        let partials = launch::statistics_partials(&args.inputs[0], args, launcher)?;
        to.finalize(partials, launcher)?;
        launch::normalize(
            args,
            launcher,
            self.relu,
            Norm::Saved { mean: &args.outputs[1], rstd: &args.outputs[2] },
            false,
        )
    }
}

/// A batch whose first block of rows stands apart from the others: the variance is a five-hundredth of the sums that are taken from
/// each other for it. Means of blocks, and what they are apart, are exact in f32; the reciprocal of the number of rows is off by as
/// much as one can be.
pub(super) fn apart_trial() -> Trial {
    let [rows, channels] = [65_520, 4];
    let first_elems = ChannelGrid::sums([rows, channels].into(), DType::F32).block_rows * channels;
    let other = |i: usize| if (i / channels).is_multiple_of(2) { 1.0 / 1024.0 } else { -1.0 / 1024.0 };
    let x = (0..rows * channels).map(|i| if i < first_elems { 1.0 } else { other(i) }).collect();
    let trial = Trial::new("batch norm of a block that stands apart", move |graph| {
        let x = input(graph, "x", [1, 1, rows, channels]);
        let [gamma, beta] = ["gamma", "beta"].map(|name| in_f32(graph, name, [channels]));
        let [mean, var] = ["running_mean", "running_var"].map(|name| state(graph, name, [channels]));
        let op = BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu: false, residual: false };
        graph.apply("y", op, &[x, gamma, beta, mean, var]).map(|_| ())
    });
    trial.with_operand("x", Contents::F32(x)).only_in(DType::F32)
}

/// Refuses an x that has no variance.
pub(in crate::ops) fn check_rows(x: ValueType) -> InferResult<()> {
    let rows = x.shape.num_elems() / x.shape.last().max(1);
    if rows >= 2 {
        return Ok(());
    }
    Err(format!(
        "has {rows} value a channel in x of {x}; a variance needs at least 2: take a larger batch or larger images"
    ))
}

/// Where the statistics of a batch go: a number for each channel.
pub(in crate::ops) struct Statistics<'a, R> {
    pub save_mean: &'a mut [R],
    pub save_rstd: &'a mut [R],
    pub running_mean: &'a mut [R],
    pub running_var: &'a mut [R],
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the new running statistics.
    pub bn_momentum: f32,
}

impl<'a, R: Real> Statistics<'a, R> {
    /// Takes those of x, and gives mean and rstd back. `workspace` has [`Blocks::workspace_bytes`].
    pub(in crate::ops) fn take<T: Storage<Sum = R>>(
        self,
        x: &[T],
        blocks: Blocks,
        workspace: &mut [f64],
    ) -> (&'a [R], &'a [R]) {
        let (mean, m2) = statistics(x, blocks, workspace);
        let (rows, eps) = (blocks.rows as f64, f64::from(self.eps));
        let blend = |running: &mut R, batch: f64| {
            *running = blended(*running, self.bn_momentum, R::from_f64(batch));
        };
        for c in 0..blocks.channels {
            self.save_mean[c] = R::from_f64(mean[c]);
            self.save_rstd[c] = R::from_f64(1.0 / (m2[c] / rows + eps).sqrt());
            blend(&mut self.running_mean[c], mean[c]);
            blend(&mut self.running_var[c], m2[c] / (rows - 1.0));
        }
        (self.save_mean, self.save_rstd)
    }
}

/// A running statistic that follows that of a batch, of which it takes this share; with a share of 1 it is the batch's.
///
/// The batch's is rounded before, so that it may as well be kept and blended in later, by whoever has it: the bits are these.
pub(in crate::ops) fn blended<R: Real>(running: R, share: f32, batch: R) -> R {
    if share == 1.0 {
        return batch;
    }
    let share = f64::from(share);
    // Kernels say, too, where they multiply and add at once: what compilers join differs.
    R::from_f64(share.mul_add(batch.to_f64(), (1.0 - share) * running.to_f64()))
}

/// Mean and centred sum of squares of each channel.
///
/// Every block has its own two, found in two passes over it; Chan, Golub and LeVeque, "Updating formulae and a pairwise
/// algorithm for computing sample variances" (1979), says how they combine without cancellation.
fn statistics<'a, T: Storage>(x: &[T], blocks: Blocks, workspace: &'a mut [f64]) -> (&'a [f64], &'a [f64]) {
    let channels = blocks.channels;
    let (partials, totals) = workspace.split_at_mut(blocks.count() * blocks.partial_elems());
    for_each_chunk(partials, blocks.partial_elems(), |start, partial| {
        let x = blocks.part(x, start / blocks.partial_elems());
        let (mean, m2) = partial.split_at_mut(channels);
        for_each_channel_tile(channels, &mut MomentsTile { x, mean, m2, channels });
    });
    let (mean, m2) = totals[..blocks.partial_elems()].split_at_mut(channels);
    for_each_chunk_pair(mean, m2, (CHANNEL_CHUNK, CHANNEL_CHUNK), |i, mean, m2| {
        let first_channel = i * CHANNEL_CHUNK;
        for_each_channel_tile(mean.len(), &mut CombineTile { partials, blocks, first_channel, mean, m2 });
    });
    (mean, m2)
}

/// Channels that one task combines.
const CHANNEL_CHUNK: usize = 256;

/// Mean and centred sum of squares of all rows, from those of the blocks.
struct CombineTile<'a, 'p> {
    partials: &'a [f64],
    blocks: Blocks,
    first_channel: usize,
    mean: &'p mut [f64],
    m2: &'p mut [f64],
}

impl ChannelTile for CombineTile<'_, '_> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let blocks = self.blocks;
        let parts = self.partials.chunks_exact(blocks.partial_elems()).enumerate().map(|(block, partial)| {
            let rows = blocks.block_rows.min(blocks.rows - block * blocks.block_rows) as f64;
            let (means, m2s) = partial.split_at(blocks.channels);
            let at = self.first_channel + start;
            (rows, lanes::<f64, W>(means, at), lanes::<f64, W>(m2s, at))
        });
        let (mut mean, mut m2) = ([0.0; W], [0.0; W]);
        for (rows, means, _) in parts.clone() {
            mean = std::array::from_fn(|c| mean[c] + rows * means[c]);
        }
        mean = mean.map(|sum| sum / blocks.rows as f64);
        for (rows, means, m2s) in parts {
            let apart: [f64; W] = std::array::from_fn(|c| means[c] - mean[c]);
            m2 = std::array::from_fn(|c| m2[c] + m2s[c] + rows * apart[c] * apart[c]);
        }
        *lanes_mut(self.mean, start) = mean;
        *lanes_mut(self.m2, start) = m2;
    }
}

/// Mean and centred sum of squares of the channels of one block.
struct MomentsTile<'a, 'p, T> {
    x: &'a [T],
    mean: &'p mut [f64],
    m2: &'p mut [f64],
    channels: usize,
}

impl<T: Storage> ChannelTile for MomentsTile<'_, '_, T> {
    /// The second pass also sums what the rounding of the first left of the mean, and takes it off both results.
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let rows = self.x.len() / self.channels;
        let at = |row| lanes::<T, W>(self.x, row * self.channels + start);
        let mut sum = [T::Sum::ZERO; W];
        for row in 0..rows {
            let x = at(row);
            sum = std::array::from_fn(|c| sum[c] + x[c].load());
        }
        let per_row = 1.0 / rows as f64;
        let mean = sum.map(|sum| sum * T::Sum::from_f64(per_row));
        let (mut rest, mut squares) = ([T::Sum::ZERO; W], [T::Sum::ZERO; W]);
        for row in 0..rows {
            let x = at(row);
            let apart: [T::Sum; W] = std::array::from_fn(|c| x[c].load() - mean[c]);
            rest = std::array::from_fn(|c| rest[c] + apart[c]);
            squares = std::array::from_fn(|c| squares[c] + apart[c] * apart[c]);
        }
        let rest = rest.map(|rest| rest.to_f64() * per_row);
        *lanes_mut(self.mean, start) = std::array::from_fn::<f64, W, _>(|c| mean[c].to_f64() + rest[c]);
        *lanes_mut(self.m2, start) =
            std::array::from_fn::<f64, W, _>(|c| squares[c].to_f64() - rest[c] * rest[c] * rows as f64);
    }
}
