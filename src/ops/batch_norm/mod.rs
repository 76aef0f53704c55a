//! Batch normalisation over the last dimension (channels), as PyTorch's `batch_norm`.
//!
//! With M rows of C channels, training normalises by the biased variance of the batch and moves the running statistics,
//! new = (1-m)*old + m*batch, where the variance that feeds them is the unbiased one. Inference normalises by the
//! running statistics. The forms with `relu` and `residual` are what fusion makes of batch norm, add, ReLU.
//!
//! Sums over the rows are split into blocks that depend on the shape alone. A block is summed in the element type, f32 for bf16,
//! blocks are combined in f64 and in order, so the result is the same for every number of threads.

mod apply;
mod bwd;
mod inference;
mod launch;
mod pool;
mod sync;
mod train;

pub use apply::{BatchNormApply, BatchNormDx, BatchNormJoin, BatchNormJoinDx};
pub use bwd::{BatchNormBwd, BatchNormInferenceBwd, Mask};
pub(super) use bwd::{Masking, masked_sums};
pub use inference::BatchNormInference;
pub(super) use launch::{
    BwdAddresses, MaskAddresses, Norm, Partials, ShortcutAddresses, StatisticsAddresses, bwd_partials,
    finalize_sums_to, partials_bytes, statistics_partials,
};
pub use pool::{BatchNormPool, BatchNormPoolDx};
pub use sync::{BatchNormStatistics, BatchNormSums, BatchNormSync, BatchNormSyncSums};
pub use train::BatchNormTrain;
pub(super) use train::{Statistics, blended, check_rows};

use crate::device::cpu::{
    ChannelTile, Real, Storage, for_each_channel_tile, for_each_chunk, for_each_chunk_pair, lanes, lanes_mut,
};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, InferResult, Init, Mode, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, DrawTrial, Trial, in_f32, input, state};
use crate::ops::launch::ChannelGrid;
use crate::ops::relu::masked;
use crate::ops::{add, cast, float, sum_dtype};
use crate::tensor::{DType, Layout, Shape};

/// How [`batch_norm`] records a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BnConfig {
    /// Statistics to normalise by.
    pub mode: Mode,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the new running statistics.
    pub bn_momentum: f32,
    /// What every gamma starts as; 0 makes a residual branch start as the identity.
    pub gamma_init: f32,
}

impl BnConfig {
    /// PyTorch's defaults: eps 1e-5, bn_momentum 0.1, gamma 1.
    pub fn new(mode: Mode) -> BnConfig {
        BnConfig { mode, eps: 1e-5, bn_momentum: 0.1, gamma_init: 1.0 }
    }
}

/// Records a batch norm of `x` with parameters `<name>.weight`, `<name>.bias` and states `<name>.running_mean`,
/// `<name>.running_var`.
///
/// # Errors
/// If `x` has no channel dimension, or training has fewer than two rows to take a variance of.
pub fn batch_norm(graph: &mut Graph, name: &str, x: ValueId, config: BnConfig) -> Result<ValueId> {
    let channels = [graph.shape(x).last()];
    let [gamma, beta, mean, var] = graph.scoped(name, |graph| {
        [
            graph.parameter("weight", channels, Layout::Flat, Init::Constant(config.gamma_init)),
            graph.parameter("bias", channels, Layout::Flat, Init::Constant(0.0)),
            graph.state("running_mean", channels, Layout::Flat, Init::Constant(0.0)),
            graph.state("running_var", channels, Layout::Flat, Init::Constant(1.0)),
        ]
    });
    let operands = [x, gamma, beta, mean, var];
    let BnConfig { eps, bn_momentum, .. } = config;
    match config.mode {
        Mode::Train => {
            let op = BatchNormTrain { eps, bn_momentum, relu: false, residual: false };
            Ok(graph.apply(name, op, &operands)?[0])
        }
        Mode::Eval => {
            graph.apply_one(name, BatchNormInference { eps, relu: false, residual: false }, &operands)
        }
    }
}

/// How M rows of C channels are split for the cores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    rows: usize,
    channels: usize,
    block_rows: usize,
}

impl Blocks {
    /// Blocks of 32 KiB of f32, which a first-level cache holds for the second look at them; of more where rows are so
    /// long that combining the blocks would cost as much as summing them; of less where that leaves too few blocks.
    pub(super) fn new(shape: Shape) -> Blocks {
        const BLOCK_ELEMS: usize = 8 * 1024;
        const MIN_ROWS: usize = 32;
        const MIN_BLOCKS: usize = 16;
        pub(super) const LEAST_ROWS: usize = 8;
        let channels = shape.last().max(1);
        let rows = shape.num_elems() / channels;
        let for_cores = rows.div_ceil(MIN_BLOCKS).max(LEAST_ROWS);
        Blocks { rows, channels, block_rows: (BLOCK_ELEMS / channels).max(MIN_ROWS).min(for_cores) }
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.block_rows)
    }

    /// Elements of one block but perhaps the last.
    fn elems(&self) -> usize {
        self.block_rows * self.channels
    }

    /// Elements of one block's partial results: two numbers a channel.
    fn partial_elems(&self) -> usize {
        2 * self.channels
    }

    /// Partial results of every block, and the two totals.
    pub(super) fn workspace_bytes(shape: Shape) -> usize {
        let blocks = Blocks::new(shape);
        (blocks.count() + 1) * blocks.partial_elems() * size_of::<f64>()
    }

    /// The part of the bits of a [`Mask::Bits`] that belongs to block `block`.
    fn part_of_bits<'a>(&self, bits: &'a [u8], block: usize) -> &'a [u8] {
        let end = bits.len().min((block + 1) * self.elems() / 8);
        &bits[block * self.elems() / 8..end]
    }

    /// The part of `values` that belongs to block `block`.
    fn part<'a, T>(&self, values: &'a [T], block: usize) -> &'a [T] {
        let end = values.len().min((block + 1) * self.elems());
        &values[block * self.elems()..end]
    }
}

/// What a channel is divided by, as either form of batch norm is given it.
#[derive(Clone, Copy)]
enum Spread<'a, T> {
    /// 1 / sqrt(var + eps).
    Rstd(&'a [T]),
    /// The variance and eps.
    Var(&'a [T], T),
}

impl<T: Real> Spread<'_, T> {
    #[inline(always)]
    fn rstd<const W: usize>(self, start: usize) -> [T; W] {
        match self {
            Spread::Rstd(rstd) => *lanes(rstd, start),
            Spread::Var(var, eps) => lanes::<T, W>(var, start).map(|var| T::ONE / (var + eps).sqrt()),
        }
    }
}

/// What a batch norm normalises by.
#[derive(Clone, Copy)]
struct ChannelNorm<'a, R> {
    mean: &'a [R],
    rstd: &'a [R],
    gamma: &'a [R],
    beta: &'a [R],
}

/// The operands of y = act((x - mean)*rstd*gamma + beta + residual).
#[derive(Clone, Copy)]
struct Normalize<'a, T: Storage> {
    /// `None` where y lies over x and holds it already.
    x: Option<&'a [T]>,
    residual: Option<&'a [T]>,
    /// Of the batch norm that the residual goes through.
    residual_norm: Option<ChannelNorm<'a, T::Sum>>,
    mean: &'a [T::Sum],
    spread: Spread<'a, T::Sum>,
    gamma: &'a [T::Sum],
    beta: &'a [T::Sum],
    relu: bool,
}

impl<T: Storage> Normalize<'_, T> {
    fn write(self, blocks: Blocks, y: &mut [T]) {
        for_each_chunk(y, blocks.elems(), |start, y| {
            self.write_block(blocks, start / blocks.elems(), y, &mut []);
        });
    }

    /// The same, with the bits of a [`Mask::Bits`].
    fn write_with_bits(self, blocks: Blocks, y: &mut [T], bits: &mut [u8]) {
        let chunks = (blocks.elems(), blocks.elems() / 8);
        for_each_chunk_pair(y, bits, chunks, |block, y, bits| self.write_block(blocks, block, y, bits));
    }

    fn write_block(self, blocks: Blocks, block: usize, y: &mut [T], bits: &mut [u8]) {
        let part = |values| blocks.part(values, block);
        let inputs = Normalize { x: self.x.map(part), residual: self.residual.map(part), ..self };
        let channels = blocks.channels;
        for_each_channel_tile(channels, &mut NormalizeTile { inputs, y, bits, channels });
    }
}

struct NormalizeTile<'a, 'y, T: Storage> {
    inputs: Normalize<'a, T>,
    y: &'y mut [T],
    /// Empty where they are not wanted.
    bits: &'y mut [u8],
    channels: usize,
}

impl<T: Storage> ChannelTile for NormalizeTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let Normalize { x, residual, residual_norm, mean, spread, gamma, beta, relu } = self.inputs;
        let (mean, beta) = (*lanes::<T::Sum, W>(mean, start), *lanes::<T::Sum, W>(beta, start));
        let (gamma, rstd) = (lanes::<T::Sum, W>(gamma, start), spread.rstd::<W>(start));
        let scale: [T::Sum; W] = std::array::from_fn(|c| gamma[c] * rstd[c]);
        let residual_norm = residual_norm.map(|of| {
            let [mean, rstd, gamma, beta] =
                [of.mean, of.rstd, of.gamma, of.beta].map(|values| *lanes::<T::Sum, W>(values, start));
            let scale: [T::Sum; W] = std::array::from_fn(|c| gamma[c] * rstd[c]);
            (mean, scale, beta)
        });
        for row in 0..self.y.len() / self.channels {
            let at = row * self.channels + start;
            let x = x.map_or_else(|| *lanes::<T, W>(self.y, at), |x| *lanes(x, at));
            let mut y: [T::Sum; W] = std::array::from_fn(|c| (x[c].load() - mean[c]) * scale[c] + beta[c]);
            if let Some(residual) = residual {
                let mut residual = lanes::<T, W>(residual, at).map(T::load);
                if let Some((mean, scale, beta)) = residual_norm {
                    residual = std::array::from_fn(|c| (residual[c] - mean[c]) * scale[c] + beta[c]);
                }
                y = std::array::from_fn(|c| y[c] + residual[c]);
            }
            if relu {
                // NaN stays NaN, so that a diverged run shows.
                y = y.map(|y| masked(y, y));
            }
            let stored = y.map(T::store);
            *lanes_mut(self.y, at) = stored;
            if !self.bits.is_empty() {
                let eights = stored.as_chunks::<8>().0;
                for (bits, eight) in self.bits[at / 8..][..W / 8].iter_mut().zip(eights) {
                    // NaN lets its gradient through, as it does where y is read.
                    let is_stopped = |c: usize| eight[c].load() <= T::Sum::ZERO;
                    *bits = (0..8).fold(0, |bits, c| bits | u8::from(!is_stopped(c)) << c);
                }
            }
        }
    }
}

/// Checks x against its per-channel operands (f32 next to bf16) and the others, of x's type, and returns x's type.
fn check_operands(
    inputs: &[ValueType],
    x: usize,
    per_channel: std::ops::Range<usize>,
    count: usize,
) -> InferResult<ValueType> {
    if inputs.len() != count {
        return Err(format!("takes {count} operands, got {}", inputs.len()));
    }
    let image = float(inputs[x])?;
    if image.shape.rank() < 2 {
        return Err(format!("needs rows of channels, channels last, got {image}"));
    }
    let vector = ValueType { shape: [image.shape.last()].into(), dtype: sum_dtype(image.dtype) };
    for (i, ty) in inputs.iter().enumerate() {
        let expected = if per_channel.contains(&i) { vector } else { image };
        if *ty != expected {
            return Err(format!("needs {expected} as operand {i} for x of {image}, got {ty}"));
        }
    }
    Ok(image)
}

/// Refuses to differentiate a fused form.
fn refuse_fused(op: &'static str, fused: bool, backward: &Backward<'_>) -> Result<()> {
    if !fused {
        return Ok(());
    }
    Err(Error::Graph {
        op,
        node: backward.name.to_string(),
        message: "is fused with a ReLU or an add; differentiate the graph before fusing it".into(),
    })
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    /// Gamma and beta, in f32 where the operands are bf16.
    fn parameters(graph: &mut Graph, x: &[ValueId]) -> Result<[ValueId; 2]> {
        let dtype = sum_dtype(graph.float());
        Ok([cast(graph, "gamma", x[1], dtype)?, cast(graph, "beta", x[2], dtype)?])
    }
    fn train(graph: &mut Graph, x: &[ValueId]) -> Result<ValueId> {
        let [gamma, beta] = parameters(graph, x)?;
        let channels = graph.shape(x[1]);
        let mean = graph.state("running_mean", channels, Layout::Flat, Init::Constant(0.0));
        let var = graph.state("running_var", channels, Layout::Flat, Init::Constant(1.0));
        let op = BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu: false, residual: false };
        Ok(graph.apply("bn", op, &[x[0], gamma, beta, mean, var])?[0])
    }
    fn eval(graph: &mut Graph, x: &[ValueId]) -> Result<ValueId> {
        let [gamma, beta] = parameters(graph, x)?;
        let channels = graph.shape(x[1]);
        let mean = graph.state("running_mean", channels, Layout::Flat, Init::Constant(0.25));
        let var = graph.state("running_var", channels, Layout::Flat, Init::Constant(1.75));
        let op = BatchNormInference { eps: 1e-5, relu: false, residual: false };
        graph.apply_one("bn", op, &[x[0], gamma, beta, mean, var])
    }
    let cases = vec![
        Case::new("batch_norm_train", &[&[2, 5, 3, 7], &[7], &[7]], train).with_f32(&[1, 2]),
        Case::new("batch_norm_train_of_rows_and_a_wide_tile", &[&[11, 17], &[17], &[17]], train)
            .with_f32(&[1, 2]),
        Case::new("batch_norm_train_of_whole_vectors", &[&[3, 7, 5, 24], &[24], &[24]], train),
        Case::new("batch_norm_train_written_over_its_operands", &[&[2, 3, 5, 4]], |graph, x| {
            // Made by a node, x and dy have memory that the backward pass may take over.
            let shifted = add(graph, "twice", x[0], x[0])?;
            let y = batch_norm(graph, "bn", shifted, BnConfig::new(Mode::Train))?;
            add(graph, "sum", y, y)
        }),
        Case::new("batch_norm_inference", &[&[2, 5, 3, 7], &[7], &[7]], eval).with_f32(&[1, 2]),
        Case::new("batch_norm_inference_of_whole_vectors", &[&[3, 7, 5, 8], &[8], &[8]], eval),
        Case::new("batch_norm_inference_written_over_its_operands", &[&[2, 3, 5, 4]], |graph, x| {
            let shifted = add(graph, "twice", x[0], x[0])?;
            let y = batch_norm(graph, "bn", shifted, BnConfig::new(Mode::Eval))?;
            add(graph, "sum", y, y)
        }),
    ];
    let mut trials: Vec<DrawTrial> = vec![
        Box::new(|draw| fwd_trial(draw.image_to_sum(LEAST_ROWS), form(draw))),
        Box::new(|draw| bwd_trial(draw.image_to_sum(LEAST_ROWS), draw.pick(&MASKS))),
        Box::new(|draw| {
            let [n, h, w, _] = draw.image_to_sum(LEAST_ROWS);
            bits_trial([n, h, w, 16 * draw.within(1, 8)], draw.coin())
        }),
        Box::new(long_trial),
        Box::new(|_| train::apart_trial()),
    ];
    trials.extend(pool::trials());
    trials.push(Box::new(sync::trial));
    Checks { cases, trials }
}

/// So many rows that threads have several under way. Without the means of so many rows, of which little but rounding is left, and
/// not by a mask that is computed again: one of so many y may be so near to zero that devices differ in its sign.
fn long_trial(draw: &mut Draw) -> Trial {
    let rows = ChannelGrid::rows_of_turns(4);
    let shape = [1, 1, draw.within(*rows.start(), *rows.end()), 8];
    if draw.coin() {
        return bwd_trial(shape, draw.pick(&MASKS[..3]));
    }
    let form = form(draw);
    Trial::new(
        format!("batch norm of given statistics: {shape:?}, relu and residual {form:?}"),
        move |graph| by_given_statistics(graph, shape, form),
    )
}

fn fwd_trial(shape: [usize; 4], (relu, residual): (bool, bool)) -> Trial {
    Trial::new(format!("batch norm: {shape:?}, relu {relu}, residual {residual}"), move |graph| {
        let operands = operands(graph, "train", shape, residual);
        graph.apply("y", BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu, residual }, &operands)?;
        by_given_statistics(graph, shape, (relu, residual))
    })
}

/// Records the operands of a batch norm.
fn operands(graph: &mut Graph, name: &str, shape: [usize; 4], residual: bool) -> Vec<ValueId> {
    let c = shape[3];
    let mut operands = vec![
        input(graph, &format!("{name}.x"), shape),
        in_f32(graph, &format!("{name}.gamma"), [c]),
        in_f32(graph, &format!("{name}.beta"), [c]),
        state(graph, &format!("{name}.running_mean"), [c]),
        state(graph, &format!("{name}.running_var"), [c]),
    ];
    if residual {
        operands.push(input(graph, &format!("{name}.residual"), shape));
    }
    operands
}

/// Records the forward passes that take no statistics.
fn by_given_statistics(graph: &mut Graph, shape: [usize; 4], (relu, residual): (bool, bool)) -> Result<()> {
    let c = shape[3];
    let mut operands = operands(graph, "inference", shape, residual);
    graph.apply("z", BatchNormInference { eps: 1e-5, relu, residual }, &operands)?;
    operands[3..5].copy_from_slice(&["mean", "rstd"].map(|name| in_f32(graph, name, [c])));
    graph.apply("applied", BatchNormApply { relu, residual, bits: false }, &operands)?;
    operands.truncate(5);
    operands.push(input(graph, "shortcut.x", shape));
    operands.extend(
        ["gamma", "beta", "mean", "rstd"].map(|name| in_f32(graph, &format!("shortcut.{name}"), [c])),
    );
    graph.apply("joined", BatchNormJoin { relu, bits: false }, &operands)?;
    Ok(())
}

/// The masks of a backward pass whose operand is no bits, and whether it hands its gradient on.
const MASKS: [(Option<Mask>, bool); 4] =
    [(None, false), (Some(Mask::Result), false), (Some(Mask::Result), true), (Some(Mask::Recomputed), false)];

fn bwd_trial(shape: [usize; 4], (mask, residual): (Option<Mask>, bool)) -> Trial {
    Trial::new(format!("batch norm bwd: {shape:?}, mask {mask:?}, residual {residual}"), move |graph| {
        let c = shape[3];
        let [dy, x] = ["dy", "x"].map(|name| input(graph, name, shape));
        let [gamma, mean, rstd, var] = ["gamma", "mean", "rstd", "var"].map(|name| in_f32(graph, name, [c]));
        let mut operands = vec![dy, x, gamma, mean, rstd];
        operands.extend(mask.map(|mask| match mask {
            Mask::Result => input(graph, "y", shape),
            Mask::Recomputed => in_f32(graph, "beta", [c]),
            Mask::Bits => unreachable!("none of those drawn from"),
        }));
        graph.apply("train", BatchNormBwd { mask, residual }, &operands)?;
        graph.apply("sums", BatchNormSums { mask }, &operands)?;
        graph.apply("inference", BatchNormInferenceBwd { eps: 1e-5 }, &[dy, x, gamma, mean, var])?;
        let [dgamma, dbeta] = ["dgamma", "dbeta"].map(|name| in_f32(graph, name, [c]));
        let mut operands = vec![dy, x, gamma, mean, rstd, dgamma, dbeta];
        graph.apply("dx", BatchNormDx, &operands)?;
        operands.push(input(graph, "shortcut.x", shape));
        operands.extend(
            ["gamma", "mean", "rstd", "dgamma", "dbeta"]
                .map(|name| in_f32(graph, &format!("shortcut.{name}"), [c])),
        );
        graph.apply("joined", BatchNormJoinDx, &operands)?;
        Ok(())
    })
}

/// Bits of a mask, left and read.
fn bits_trial(shape: [usize; 4], residual: bool) -> Trial {
    Trial::new(format!("batch norm, bits of a mask: {shape:?}, residual {residual}"), move |graph| {
        let c = shape[3];
        let vectors = |graph: &mut Graph, of: &str| {
            ["gamma", "beta", "mean", "rstd"].map(|name| in_f32(graph, &format!("{of}{name}"), [c]))
        };
        let [gamma, beta, mean, rstd] = vectors(graph, "");
        let x = input(graph, "x", shape);
        let mut operands = vec![x, gamma, beta, mean, rstd];
        let shortcut_x = input(graph, "shortcut.x", shape);
        let applied = [&operands[..], &[shortcut_x]].concat();
        graph.apply("applied", BatchNormApply { relu: true, residual: true, bits: true }, &applied)?;
        operands.push(shortcut_x);
        operands.extend(vectors(graph, "shortcut."));
        graph.apply("joined", BatchNormJoin { relu: true, bits: true }, &operands)?;
        let (dy, bits) = (input(graph, "dy", shape), bits_input(graph, shape));
        let (mask, operands) = (Some(Mask::Bits), [dy, x, gamma, mean, rstd, bits]);
        graph.apply("bwd", BatchNormBwd { mask, residual }, &operands)?;
        graph.apply("sums", BatchNormSums { mask }, &operands).map(|_| ())
    })
    .only_in(DType::Bf16)
}

/// Records an input of the bits of a [`Mask::Bits`] of images of this shape.
pub(super) fn bits_input(graph: &mut Graph, [n, h, w, c]: [usize; 4]) -> ValueId {
    graph.input("bits", [n, h, w, c / 8], DType::U8)
}

/// Relu and residual of the fused forms.
fn form(draw: &mut Draw) -> (bool, bool) {
    draw.pick(&[(false, false), (true, false), (true, true)])
}

/// Fewer rows can lie so close that the variance of a channel is all rounding.
pub(super) const LEAST_ROWS: usize = 8;
