//! The backward passes. Two looks at the operands: one for the sums over the rows, one for dx.

use super::launch::{self, DxAddresses, Norm};
use super::{Blocks, Spread, check_operands};
use crate::device::cpu::{
    ChannelTile, CpuArgs, Real, Storage, for_each_channel_tile, for_each_chunk, for_each_chunk_pair, lanes,
    lanes_mut, vectorized,
};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::relu::masked;
use crate::ops::{cost_per_elem, dispatch_storage, sum_dtype};
use crate::tensor::{DType, Shape};

/// `(dy, x, gamma, save_mean, save_rstd [, y or beta]) -> (dx, dgamma, dbeta [, dz])`. With a mask dz = dy where y > 0 and 0
/// elsewhere; without, dz = dy. Then, with xhat = (x - mean)*rstd and means over the rows,
/// dx = gamma*rstd*(dz - mean(dz) - xhat*mean(dz*xhat)), dgamma = sum(dz*xhat), dbeta = sum(dz).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormBwd {
    /// Where the ReLU that ended the forward pass let nothing through; none without one.
    pub mask: Option<Mask>,
    /// The forward pass added a residual, whose gradient is the fourth result.
    pub residual: bool,
}

/// How a backward pass knows where a ReLU let nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// From y, the sixth operand.
    Result,
    /// y is computed from x once more, as the forward pass computed it, to the bit; beta is the sixth operand. It saves two
    /// passes over y. Only where the forward pass added no residual.
    Recomputed,
    /// From bits that the forward pass left: u8 of y's shape with an eighth of its channels. A byte has eight neighbouring
    /// channels, the first in its lowest bit. Kernels take them next to bf16.
    Bits,
}

impl Mask {
    /// The type of its operand, for y of this type.
    pub(crate) fn operand(self, y: ValueType) -> ValueType {
        match self {
            Mask::Result => y,
            Mask::Recomputed => ValueType { shape: [y.shape.last()].into(), dtype: sum_dtype(y.dtype) },
            Mask::Bits => bits_of(y),
        }
    }

    /// With what it needs: gamma, operand 2, and operand 5.
    pub(super) fn masking<'a, T: Storage>(self, args: &CpuArgs<'a>) -> Masking<'a, T> {
        match self {
            Mask::Result => Masking::Result(args.input(5)),
            Mask::Recomputed => Masking::Recomputed { gamma: args.input(2), beta: args.input(5) },
            Mask::Bits => Masking::Bits(args.input(5)),
        }
    }
}

/// The type of the bits of y.
pub(super) fn bits_of(y: ValueType) -> ValueType {
    let [rows @ .., channels] = y.shape.dims() else { return y };
    let dims = [rows, &[channels / 8]].concat();
    ValueType { shape: Shape::new(&dims), dtype: DType::U8 }
}

/// `(dy, x, gamma, running_mean, running_var) -> (dx, dgamma, dbeta)` with the statistics constant:
/// dx = gamma*rstd*dy, dgamma = sum(dy*xhat), dbeta = sum(dy).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormInferenceBwd {
    /// Added to the variance.
    pub eps: f32,
}

/// x dies in the backward pass of the layer that made it, so dx takes its place; dz that of dy.
const DX_OVER_X: InPlace = InPlace { output: 0, input: 1 };
const DZ_OVER_DY: InPlace = InPlace { output: 3, input: 0 };

impl Op for BatchNormBwd {
    fn name(&self) -> &'static str {
        "batch_norm_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        if self.residual && self.mask == Some(Mask::Recomputed) {
            return Err("computes y again without the residual that it had".into());
        }
        let (operands, of_mask) = inputs.split_at(inputs.len().min(5));
        let x = check_operands(operands, 1, 2..5, 5)?;
        let expected: Vec<ValueType> = self.mask.iter().map(|mask| mask.operand(x)).collect();
        if of_mask != expected {
            return Err(format!("needs {expected:?} for its mask, got {of_mask:?}"));
        }
        let mut results = vec![x, inputs[2], inputs[2]];
        results.extend(self.residual.then_some(x));
        Ok(results)
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "dgamma", "dbeta", "dz"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let twice: &[usize] = match self.mask {
            Some(Mask::Result | Mask::Bits) => &[0, 1, 5],
            Some(Mask::Recomputed) | None => &[0, 1],
        };
        cost_per_elem(11, inputs, outputs).and_again(inputs, twice)
    }

    fn in_place(&self) -> &'static [InPlace] {
        if self.residual { &[DX_OVER_X, DZ_OVER_DY] } else { &[DX_OVER_X] }
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        workspace_bytes(device, inputs[1])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormBwd, args: &CpuArgs<'_>) {
            let spread = Spread::Rstd(args.input::<T::Sum>(4));
            if !op.residual {
                let mask = op.mask.map(|mask| mask.masking(args));
                return backward(args, args.input::<T>(0), mask, spread, true);
            }
            let blocks = Blocks::new(args.input_shape(1));
            let dz = args.output_over_input::<T>(3, 0);
            if op.mask == Some(Mask::Bits) {
                let bits = args.input::<u8>(5);
                for_each_chunk(dz, blocks.elems(), |start, dz| {
                    let bits = &bits[start / 8..][..dz.len() / 8];
                    vectorized(|| {
                        for (dz, &bits) in dz.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
                            *dz = std::array::from_fn(|c| {
                                if passes(bits, c) { dz[c] } else { T::store(T::Sum::ZERO) }
                            });
                        }
                    });
                });
            } else if op.mask.is_some() {
                let y = args.input::<T>(5);
                for_each_chunk(dz, blocks.elems(), |start, dz| {
                    let y = &y[start..start + dz.len()];
                    vectorized(|| dz.iter_mut().zip(y).for_each(|(dz, &y)| *dz = masked(*dz, y)));
                });
            }
            backward(args, dz, None, spread, true);
        }
        dispatch_storage!(args.input_dtype(1), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let saved = Norm::Saved { mean: &args.inputs[3], rstd: &args.inputs[4] };
        launch::backward_sums(args, launcher, self.mask, saved)?;
        let to = DxAddresses {
            dgamma: args.output(1),
            dbeta: args.output(2),
            dx: args.output(0),
            dz: args.outputs.get(3).map_or(0, |dz| args.address(dz)),
        };
        launch::input_gradient(args, launcher, self.mask, to)
    }
}

impl Op for BatchNormInferenceBwd {
    fn name(&self) -> &'static str {
        "batch_norm_inference_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = check_operands(inputs, 1, 2..5, 5)?;
        Ok(vec![x, inputs[2], inputs[2]])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "dgamma", "dbeta"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(6, inputs, outputs).and_again(inputs, &[0])
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[DX_OVER_X]
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        workspace_bytes(device, inputs[1])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormInferenceBwd, args: &CpuArgs<'_>) {
            let spread = Spread::Var(args.input::<T::Sum>(4), T::Sum::from_f64(f64::from(op.eps)));
            backward(args, args.input::<T>(0), None, spread, false);
        }
        dispatch_storage!(args.input_dtype(1), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let running = Norm::Running { mean: &args.inputs[3], var: &args.inputs[4], eps: self.eps };
        launch::backward_sums(args, launcher, None, running)?;
        launch::scaled_gradient(args, launcher, self.eps)
    }
}

fn workspace_bytes(device: DeviceKind, x: ValueType) -> usize {
    match device {
        DeviceKind::Cpu => Blocks::workspace_bytes(x.shape),
        DeviceKind::Cuda | DeviceKind::Simt => launch::partials_bytes(x.shape, x.dtype),
    }
}

/// Writes dx, dgamma and dbeta; `through_statistics` says whether mean and variance depend on x.
fn backward<T: Storage>(
    args: &CpuArgs<'_>,
    dy: &[T],
    mask: Option<Masking<'_, T>>,
    spread: Spread<'_, T::Sum>,
    through_statistics: bool,
) {
    let blocks = Blocks::new(args.input_shape(1));
    let dx = args.output_over_input::<T>(0, 1);
    let operands = Operands { dy, mask, mean: args.input::<T::Sum>(3), spread, channels: blocks.channels };
    let (sum_dz, sum_dz_xhat) = sums(operands, dx, blocks, args.workspace());
    store_sums::<T::Sum>([sum_dz, sum_dz_xhat], [args.output(2), args.output(1)]);
    let per_row = if through_statistics { 1.0 / blocks.rows as f64 } else { 0.0 };
    write_dx(operands, args.input(2), [sum_dz, sum_dz_xhat], per_row, blocks, dx);
}

/// dbeta and dgamma, from the sums.
pub(super) fn store_sums<R: Real>(sums: [&[f64]; 2], to: [&mut [R]; 2]) {
    for (sums, to) in sums.into_iter().zip(to) {
        to.iter_mut().zip(sums).for_each(|(to, &sum)| *to = R::from_f64(sum));
    }
}

/// dx over its x, from sum(dz) and sum(dz*xhat), which count `per_row` for a row.
pub(super) fn write_dx<T: Storage, S: Real>(
    operands: Operands<'_, T>,
    gamma: &[T::Sum],
    [sum_dz, sum_dz_xhat]: [&[S]; 2],
    per_row: f64,
    blocks: Blocks,
    dx: &mut [T],
) {
    for_each_chunk(dx, blocks.elems(), |start, dx| {
        let operands = operands.part(blocks, start / blocks.elems());
        let mut tile = InputGradientTile { operands, gamma, sum_dz, sum_dz_xhat, per_row, dx };
        for_each_channel_tile(blocks.channels, &mut tile);
    });
}

/// Masks `dz`, which holds dy, and leaves dbeta and dgamma. `workspace` has [`Blocks::workspace_bytes`].
pub(in crate::ops) fn masked_sums<T: Storage>(
    dz: &mut [T],
    x: &[T],
    mask: Option<Masking<'_, T>>,
    [mean, rstd]: [&[T::Sum]; 2],
    blocks: Blocks,
    workspace: &mut [f64],
    [dbeta, dgamma]: [&mut [T::Sum]; 2],
) {
    let (spread, channels) = (Spread::Rstd(rstd), blocks.channels);
    let (partials, totals) = workspace.split_at_mut(blocks.count() * blocks.partial_elems());
    for_each_chunk_pair(dz, partials, (blocks.elems(), blocks.partial_elems()), |block, dz, partial| {
        let (sum_dz, sum_dz_xhat) = partial.split_at_mut(channels);
        let mask = mask.map(|mask| mask.part(blocks, block));
        let operands = Operands { dy: &[], mask, mean, spread, channels };
        let (dy, x) = (Gradient::Masked(dz), blocks.part(x, block));
        for_each_channel_tile(channels, &mut SumsTile { operands, dy, x, sum_dz, sum_dz_xhat });
    });
    let (sum_dz, sum_dz_xhat) = add_partials(partials, totals, blocks);
    store_sums([sum_dz, sum_dz_xhat], [dbeta, dgamma]);
}

/// What both looks read.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, T: Storage> {
    pub dy: &'a [T],
    pub mask: Option<Masking<'a, T>>,
    pub mean: &'a [T::Sum],
    pub spread: Spread<'a, T::Sum>,
    pub channels: usize,
}

impl<T: Storage> Operands<'_, T> {
    fn part(self, blocks: Blocks, block: usize) -> Self {
        let mask = self.mask.map(|mask| mask.part(blocks, block));
        Operands { dy: blocks.part(self.dy, block), mask, ..self }
    }

    /// What the mask has for the channels from `start` on.
    #[inline(always)]
    fn mask_tile<const W: usize>(&self, start: usize) -> Option<MaskTile<'_, T, W>> {
        self.mask.as_ref().map(|mask| match mask {
            Masking::Result(y) => MaskTile::Result(y),
            Masking::Bits(bits) => MaskTile::Bits(bits),
            Masking::Recomputed { gamma, beta } => {
                let (gamma, rstd) = (lanes::<T::Sum, W>(gamma, start), self.spread.rstd::<W>(start));
                MaskTile::Recomputed {
                    mean: *lanes(self.mean, start),
                    scale: std::array::from_fn(|c| gamma[c] * rstd[c]),
                    beta: *lanes(beta, start),
                }
            }
        })
    }
}

/// dz of dy, W channels at `at`, where x is.
#[inline(always)]
fn dz_of<T: Storage, const W: usize>(
    dy: &[T; W],
    mask: &Option<MaskTile<'_, T, W>>,
    at: usize,
    x: &[T; W],
) -> [T::Sum; W] {
    match mask {
        None => dy.map(T::load),
        Some(MaskTile::Result(y)) => {
            let y = lanes::<T, W>(y, at);
            std::array::from_fn(|c| masked(dy[c].load(), y[c].load()))
        }
        Some(MaskTile::Bits(bits)) => {
            let bits = &bits[at / 8..][..W / 8];
            std::array::from_fn(|c| if passes(bits[c / 8], c % 8) { dy[c].load() } else { T::Sum::ZERO })
        }
        // y as `NormalizeTile` has it; it was stored as zero or below where it is at most this.
        Some(MaskTile::Recomputed { mean, scale, beta }) => std::array::from_fn(|c| {
            let y = (x[c].load() - mean[c]) * scale[c] + beta[c];
            if y <= T::LARGEST_ZERO { T::Sum::ZERO } else { dy[c].load() }
        }),
    }
}

/// A [`Mask`] with its operands.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Masking<'a, T: Storage> {
    Result(&'a [T]),
    Recomputed { gamma: &'a [T::Sum], beta: &'a [T::Sum] },
    Bits(&'a [u8]),
}

impl<T: Storage> Masking<'_, T> {
    /// What it has for a block.
    fn part(self, blocks: Blocks, block: usize) -> Self {
        match self {
            Masking::Result(y) => Masking::Result(blocks.part(y, block)),
            Masking::Bits(bits) => Masking::Bits(blocks.part_of_bits(bits, block)),
            of_channels => of_channels,
        }
    }
}

/// A [`Masking`] as a tile of W channels uses it.
enum MaskTile<'a, T: Storage, const W: usize> {
    Result(&'a [T]),
    Recomputed { mean: [T::Sum; W], scale: [T::Sum; W], beta: [T::Sum; W] },
    Bits(&'a [u8]),
}

/// Whether a byte of a [`Mask::Bits`] lets channel `c` of its eight through.
#[inline(always)]
fn passes(bits: u8, c: usize) -> bool {
    bits >> c & 1 == 1
}

/// sum(dz) and sum(dz*xhat) of each channel.
pub(super) fn sums<'a, T: Storage>(
    operands: Operands<'_, T>,
    x: &[T],
    blocks: Blocks,
    workspace: &'a mut [f64],
) -> (&'a [f64], &'a [f64]) {
    let channels = blocks.channels;
    let (partials, totals) = workspace.split_at_mut(blocks.count() * blocks.partial_elems());
    for_each_chunk(partials, blocks.partial_elems(), |start, partial| {
        let block = start / blocks.partial_elems();
        let (sum_dz, sum_dz_xhat) = partial.split_at_mut(channels);
        let (operands, x) = (operands.part(blocks, block), blocks.part(x, block));
        let dy = Gradient::Read(operands.dy);
        for_each_channel_tile(channels, &mut SumsTile { operands, dy, x, sum_dz, sum_dz_xhat });
    });
    add_partials(partials, totals, blocks)
}

/// The sums of all blocks, into `totals`.
fn add_partials<'a>(partials: &[f64], totals: &'a mut [f64], blocks: Blocks) -> (&'a [f64], &'a [f64]) {
    let totals = &mut totals[..blocks.partial_elems()];
    for_each_chunk(totals, CHANNEL_CHUNK, |first, totals| {
        let stride = blocks.partial_elems();
        for_each_channel_tile(totals.len(), &mut TotalsTile { partials, stride, first, totals });
    });
    totals.split_at(blocks.channels)
}

/// Totals that one task adds up.
const CHANNEL_CHUNK: usize = 512;

/// The sums of all blocks, added in order.
struct TotalsTile<'a, 'p> {
    partials: &'a [f64],
    stride: usize,
    first: usize,
    totals: &'p mut [f64],
}

impl ChannelTile for TotalsTile<'_, '_> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let mut sum = [0.0; W];
        for partial in self.partials.chunks_exact(self.stride) {
            let part = lanes::<f64, W>(partial, self.first + start);
            sum = std::array::from_fn(|c| sum[c] + part[c]);
        }
        *lanes_mut(self.totals, start) = sum;
    }
}

/// Where dy of a block is.
enum Gradient<'a, T> {
    Read(&'a [T]),
    /// dz takes its place.
    Masked(&'a mut [T]),
}

struct SumsTile<'a, 'p, T: Storage> {
    operands: Operands<'a, T>,
    dy: Gradient<'p, T>,
    x: &'a [T],
    sum_dz: &'p mut [f64],
    sum_dz_xhat: &'p mut [f64],
}

impl<T: Storage> ChannelTile for SumsTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let Operands { mean, spread, channels, .. } = self.operands;
        let mean = *lanes::<T::Sum, W>(mean, start);
        let mask = self.operands.mask_tile::<W>(start);
        let (mut sum_dz, mut sum_dz_centred) = ([T::Sum::ZERO; W], [T::Sum::ZERO; W]);
        for row in 0..self.x.len() / channels {
            let at = row * channels + start;
            let x = lanes::<T, W>(self.x, at);
            let dy = match &self.dy {
                Gradient::Read(dy) => lanes::<T, W>(dy, at),
                Gradient::Masked(dy) => lanes(dy, at),
            };
            let dz = dz_of(dy, &mask, at, x);
            if let Gradient::Masked(to) = &mut self.dy {
                *lanes_mut(to, at) = dz.map(T::store);
            }
            sum_dz = std::array::from_fn(|c| sum_dz[c] + dz[c]);
            sum_dz_centred = std::array::from_fn(|c| sum_dz_centred[c] + dz[c] * (x[c].load() - mean[c]));
        }
        let rstd = spread.rstd::<W>(start);
        *lanes_mut(self.sum_dz, start) = sum_dz.map(T::Sum::to_f64);
        *lanes_mut(self.sum_dz_xhat, start) =
            std::array::from_fn::<f64, W, _>(|c| sum_dz_centred[c].to_f64() * rstd[c].to_f64());
    }
}

/// dx of one block, over its x.
struct InputGradientTile<'a, 'x, T: Storage, S> {
    operands: Operands<'a, T>,
    gamma: &'a [T::Sum],
    sum_dz: &'a [S],
    sum_dz_xhat: &'a [S],
    per_row: f64,
    dx: &'x mut [T],
}

impl<T: Storage, S: Real> ChannelTile for InputGradientTile<'_, '_, T, S> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let Operands { mean, spread, channels, .. } = self.operands;
        let (mean, rstd) = (*lanes::<T::Sum, W>(mean, start), spread.rstd::<W>(start));
        let gamma = lanes::<T::Sum, W>(self.gamma, start);
        let scale: [T::Sum; W] = std::array::from_fn(|c| gamma[c] * rstd[c]);
        let per_row = |sum: S| T::Sum::from_f64(sum.to_f64() * self.per_row);
        let mean_dz = lanes::<S, W>(self.sum_dz, start).map(per_row);
        let sum_dz_xhat = lanes::<S, W>(self.sum_dz_xhat, start);
        let slope: [T::Sum; W] = std::array::from_fn(|c| rstd[c] * per_row(sum_dz_xhat[c]));
        let mask = self.operands.mask_tile::<W>(start);
        for row in 0..self.dx.len() / channels {
            let at = row * channels + start;
            let x = *lanes::<T, W>(self.dx, at);
            let dz = dz_of(lanes(self.operands.dy, at), &mask, at, &x);
            *lanes_mut(self.dx, at) = std::array::from_fn::<T, W, _>(|c| {
                T::store(scale[c] * (dz[c] - mean_dz[c] - (x[c].load() - mean[c]) * slope[c]))
            });
        }
    }
}
