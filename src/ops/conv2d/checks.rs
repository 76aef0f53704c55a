//! What convolutions are checked by: uses of the operations, and every kernel by itself.

use super::launch::{ByChoice, Choice};
use super::variants::{Pass, VARIANTS, Variant};
use super::{
    Conv2dBatchNorm, Conv2dDgrad, Conv2dDgradSums, Conv2dFprop, Conv2dStats, Conv2dWgrad, Window, conv2d_with,
};
use crate::device::cpu::CpuArgs;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, Graph, InPlace, InferResult, Op, ValueId, ValueType};
use crate::ops::batch_norm::{BatchNormInference, LEAST_ROWS, Mask, bits_input};
use crate::ops::checks::{Case, Checks, Draw, DrawTrial, MOST_MACS, Trial, in_f32, input, state};
use crate::tensor::DType;

/// What these operations are checked by.
pub(in crate::ops) fn checks() -> Checks {
    let cases = vec![
        Case::new("conv2d_3x3_padded", &[&[2, 5, 4, 3], &[6, 3, 3, 3]], |graph, x| {
            conv2d_with(graph, "conv", x[0], x[1], Window::square(1, 1))
        }),
        Case::new("conv2d_unequal_strides_and_padding", &[&[2, 7, 6, 3], &[5, 3, 2, 3]], |graph, x| {
            let window = Window { stride_h: 2, stride_w: 1, pad_h: 1, pad_w: 0, allow_tf32: false };
            conv2d_with(graph, "conv", x[0], x[1], window)
        }),
        Case::new("conv2d_1x1_stride_2", &[&[3, 5, 4, 2], &[7, 1, 1, 2]], |graph, x| {
            conv2d_with(graph, "conv", x[0], x[1], Window::square(2, 0))
        }),
        Case::new("conv2d_7x7_stem", &[&[1, 9, 8, 3], &[4, 7, 7, 3]], |graph, x| {
            conv2d_with(graph, "conv", x[0], x[1], Window::square(2, 3))
        }),
    ];
    let mut trials: Vec<DrawTrial> = vec![Box::new(trial), Box::new(norm_trial)];
    for variant in &VARIANTS {
        let alongs = Along::all(variant.pass()).iter();
        // Bits are left and read next to bf16 alone.
        let alongs = alongs.filter(|along| variant.dtype == DType::Bf16 || !along.has_bits());
        for &by_groups in variant.forms() {
            for &along in alongs.clone() {
                trials.push(Box::new(move |draw| kernel_trial(variant, by_groups, along, false, draw)));
            }
            if variant.pass() == Pass::Wgrad {
                trials
                    .push(Box::new(move |draw| kernel_trial(variant, by_groups, Along::Nothing, true, draw)));
            }
        }
    }
    Checks { cases, trials }
}

fn trial(draw: &mut Draw) -> Trial {
    // Few channels of many pixels, whose wgrad is split, or many of few.
    let is_long = draw.within(0, 3) == 0;
    let (most_taps, most_stride) = if is_long { (3, 1) } else { (7, 4) };
    loop {
        let [r, s] = [draw.within(1, most_taps), draw.within(1, most_taps)];
        let window = Window {
            stride_h: draw.within(1, most_stride),
            stride_w: draw.within(1, most_stride),
            pad_h: draw.within(0, 3),
            pad_w: draw.within(0, 3),
            allow_tf32: draw.coin(),
        };
        let (x, k) = if is_long {
            let x = [2, draw.within(23, 40), draw.within(23, 40), draw.within(1, 8)];
            (x, draw.within(1, 8))
        } else {
            (draw.image(1), draw.channels())
        };
        let [n, h, w, c] = x;
        let [Some(p), Some(q)] = [
            (h + 2 * window.pad_h).checked_sub(r).map(|room| room / window.stride_h + 1),
            (w + 2 * window.pad_w).checked_sub(s).map(|room| room / window.stride_w + 1),
        ] else {
            continue;
        };
        // Where dx is larger than dy, a dgrad has tiles to fill for it.
        if n * (p * q * r * s * c * k).max(h * w * c * k) > MOST_MACS {
            continue;
        }
        let filter = [k, r, s, c];
        return Trial::new(format!("conv2d: {x:?}, filter {filter:?}, {window:?}"), move |graph| {
            let (image, dy) = (input(graph, "x", x), input(graph, "dy", [n, p, q, k]));
            let (w, sum) = (input(graph, "w", filter), input(graph, "sum", x));
            graph.apply("fprop", Conv2dFprop { window }, &[image, w])?;
            let dgrad = Conv2dDgrad { window, x: x.into(), accumulate: false };
            graph.apply("dgrad", dgrad, &[dy, w])?;
            graph.apply("dgrad_sum", Conv2dDgrad { accumulate: true, ..dgrad }, &[dy, w, sum])?;
            graph.apply("wgrad", Conv2dWgrad { window, w: filter.into() }, &[image, dy])?;
            Ok(())
        })
        .in_tf32(window.allow_tf32)
        .of_products();
    }
}

fn norm_trial(draw: &mut Draw) -> Trial {
    loop {
        let (x, k, norm) = (draw.image(1), draw.channels(), draw_norm(draw));
        let (window, filter) = (Window::square(draw.within(1, 2), 1), [k, 3, 3, x[3]]);
        let dims = window.dims(x, filter);
        if dims.y_elems() * 9 * x[3] > MOST_MACS {
            continue;
        }
        let title = format!("conv2d and {norm:?}: {x:?}, filter {filter:?}, {window:?}");
        return Trial::new(title, move |graph| {
            let conv = [input(graph, "x", x), input(graph, "w", filter)];
            let operands = norm_operands(graph, &conv, [dims.n, dims.p(), dims.q(), k], norm);
            graph.apply("y", Conv2dBatchNorm { window, norm }, &operands).map(|_| ())
        });
    }
}

/// A batch norm that a convolution takes in.
fn draw_norm(draw: &mut Draw) -> BatchNormInference {
    BatchNormInference { eps: 1e-5, relu: draw.coin(), residual: draw.coin() }
}

/// The operands of a convolution and of the batch norm that it takes in.
fn norm_operands(
    graph: &mut Graph,
    conv: &[ValueId],
    y: [usize; 4],
    norm: BatchNormInference,
) -> Vec<ValueId> {
    let channels = [y[3]];
    let mut operands = conv.to_vec();
    operands.extend(["gamma", "beta"].map(|name| in_f32(graph, name, channels)));
    operands.extend(["running_mean", "running_var"].map(|name| state(graph, name, channels)));
    operands.extend(norm.residual.then(|| input(graph, "residual", y)));
    operands
}

/// What a kernel does beside its convolution. Each has code of its own in every kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Along {
    /// Nothing; a dgrad may add to a sum.
    Nothing,
    /// A batch norm by running statistics.
    Norm,
    /// The statistics of its results.
    Stats,
    /// The sums of a batch norm's backward pass.
    Sums(Option<Mask>),
    /// The sums of two.
    Joins(Mask),
}

impl Along {
    fn has_bits(self) -> bool {
        matches!(self, Along::Sums(Some(Mask::Bits)) | Along::Joins(Mask::Bits))
    }

    fn all(pass: Pass) -> &'static [Along] {
        match pass {
            Pass::Fprop => &[Along::Nothing, Along::Norm, Along::Stats],
            Pass::Dgrad => &[
                Along::Nothing,
                Along::Sums(None),
                Along::Sums(Some(Mask::Result)),
                Along::Sums(Some(Mask::Recomputed)),
                Along::Sums(Some(Mask::Bits)),
                Along::Joins(Mask::Result),
                Along::Joins(Mask::Bits),
            ],
            Pass::Wgrad => &[Along::Nothing],
        }
    }
}

/// One kernel on a problem that it takes, whichever the operation would choose: more than one tile each way now and then,
/// never whole tiles only; where `is_long`, few channels of so many pixels that a wgrad is split.
/// Where warp groups are asked for that a device has not, the other kernel runs once more.
fn kernel_trial(
    variant: &'static Variant,
    by_groups: bool,
    along: Along,
    is_long: bool,
    draw: &mut Draw,
) -> Trial {
    let name = variant.kernel(by_groups).kernel().name;
    let in_chunks = variant.takes_chunks_only();
    // Tensor cores take large tiles, and a sum that goes round their stages.
    let most_macs = match (is_long, in_chunks) {
        (true, _) => 40 * MOST_MACS,
        (false, true) => 6 * MOST_MACS,
        (false, false) => MOST_MACS,
    };
    loop {
        let channels = |draw: &mut Draw| match (in_chunks, is_long) {
            (true, false) => variant.chunk_elems() * draw.within(1, 160 / variant.chunk_elems()),
            (true, true) => variant.chunk_elems(),
            (false, false) => draw.within(1, 160),
            (false, true) => draw.within(1, 8),
        };
        let extents = if is_long { [36, 40] } else { [1, 14] };
        let mut extent = || draw.within(extents[0], extents[1]);
        let [h, w] = [extent(), extent()];
        let x = [draw.within(1, 3), h, w, channels(draw)];
        let most_taps = variant.most_taps().min(3);
        let filter = [channels(draw), draw.within(1, most_taps), draw.within(1, most_taps), x[3]];
        let [pad_h, pad_w] = [draw.within(0, 2), draw.within(0, 2)];
        let most_stride = if is_long { 1 } else { 3 };
        let [stride_h, stride_w] = [draw.within(1, most_stride), draw.within(1, most_stride)];
        let window = Window { stride_h, stride_w, pad_h, pad_w, allow_tf32: variant.is_tf32() };
        if h + 2 * pad_h < filter[1] || w + 2 * pad_w < filter[2] {
            continue;
        }
        let dims = window.dims(x, filter);
        let (accumulate, norm) = (draw.coin(), draw_norm(draw));
        // A variance of few numbers can be all rounding.
        let has_variance = dims.n * dims.p() * dims.q() >= LEAST_ROWS;
        if variant.macs(&dims) > most_macs
            || along == Along::Stats && !has_variance
            || along.has_bits() && !x[3].is_multiple_of(16)
        {
            continue;
        }
        let title = format!("{name}: {x:?}, filter {filter:?}, {window:?}, along {along:?}");
        let trial = Trial::new(title, move |graph| {
            let y = [dims.n, dims.p(), dims.q(), dims.k];
            let choice = Choice { variant, dims, by_groups };
            let dgrad = Conv2dDgrad { window, x: x.into(), accumulate };
            match (variant.pass(), along) {
                (Pass::Wgrad, _) => {
                    let operands = [input(graph, "x", x), input(graph, "dy", y)];
                    record(graph, name, Conv2dWgrad { window, w: filter.into() }, choice, &operands)
                }
                (Pass::Dgrad, Along::Sums(_) | Along::Joins(_)) => {
                    let op = match along {
                        Along::Joins(mask) => Conv2dDgradSums { dgrad, mask: Some(mask), joins: true },
                        Along::Sums(mask) => Conv2dDgradSums { dgrad, mask, joins: false },
                        _ => unreachable!("the pattern around"),
                    };
                    let operands = sums_operands(graph, y, filter, op);
                    record(graph, name, op, choice, &operands)
                }
                (Pass::Dgrad, _) => {
                    let mut operands = vec![input(graph, "dy", y), input(graph, "w", filter)];
                    operands.extend(accumulate.then(|| input(graph, "sum", x)));
                    record(graph, name, dgrad, choice, &operands)
                }
                (Pass::Fprop, Along::Stats) => {
                    let op = Conv2dStats { window, eps: 1e-5, bn_momentum: 0.1 };
                    let operands = stats_operands(graph, x, filter);
                    record(graph, name, op, choice, &operands)
                }
                (Pass::Fprop, Along::Norm) => {
                    let conv = [input(graph, "x", x), input(graph, "w", filter)];
                    let operands = norm_operands(graph, &conv, y, norm);
                    record(graph, name, Conv2dBatchNorm { window, norm }, choice, &operands)
                }
                (Pass::Fprop, _) => {
                    let operands = [input(graph, "x", x), input(graph, "w", filter)];
                    record(graph, name, Conv2dFprop { window }, choice, &operands)
                }
            }
        })
        .in_tf32(variant.is_tf32())
        .only_in(variant.dtype);
        return match along {
            Along::Nothing => trial.of_products(),
            Along::Norm => trial,
            // Sums of results that are rounded.
            Along::Stats | Along::Sums(_) | Along::Joins(_) => trial.of_units(),
        };
    }
}

/// Records an operation by a kernel that is given.
fn record(
    graph: &mut Graph,
    name: &str,
    op: impl ByChoice + 'static,
    choice: Choice,
    operands: &[ValueId],
) -> Result<()> {
    graph.apply(name, OpByKernel { op, choice }, operands).map(|_| ())
}

/// The operands of [`Conv2dStats`].
fn stats_operands(graph: &mut Graph, x: [usize; 4], filter: [usize; 4]) -> Vec<ValueId> {
    let mut operands = vec![input(graph, "x", x), input(graph, "w", filter)];
    operands.extend(["running_mean", "running_var"].map(|name| state(graph, name, [filter[0]])));
    operands
}

/// The operands of [`Conv2dDgradSums`].
fn sums_operands(graph: &mut Graph, y: [usize; 4], filter: [usize; 4], op: Conv2dDgradSums) -> Vec<ValueId> {
    let (x, channels) = (op.dgrad.x, [filter[3]]);
    let mut operands = vec![input(graph, "dy", y), input(graph, "w", filter), input(graph, "x", x)];
    operands.extend(["gamma", "mean", "rstd"].map(|name| in_f32(graph, name, channels)));
    operands.extend(op.mask.map(|mask| match mask {
        Mask::Result => input(graph, "y", x),
        Mask::Recomputed => in_f32(graph, "beta", channels),
        Mask::Bits => bits_input(graph, x.nhwc()),
    }));
    if op.joins {
        operands.push(input(graph, "shortcut.x", x));
        operands.extend(["shortcut.mean", "shortcut.rstd"].map(|name| in_f32(graph, name, channels)));
    }
    operands.extend(op.dgrad.accumulate.then(|| input(graph, "sum", x)));
    operands
}

/// An operation computed by a kernel that is given instead of chosen.
#[derive(Debug)]
struct OpByKernel<O> {
    op: O,
    choice: Choice,
}

impl<O: ByChoice> Op for OpByKernel<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.op.infer(inputs)
    }

    fn output_names(&self) -> &'static [&'static str] {
        self.op.output_names()
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.op.cost(inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.op.mutates()
    }

    fn in_place(&self) -> &'static [InPlace] {
        self.op.in_place()
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        match device {
            DeviceKind::Cpu => self.op.workspace_bytes(device, inputs, outputs),
            DeviceKind::Cuda | DeviceKind::Simt => self.op.workspace_by(&self.choice),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        self.op.cpu(args);
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        self.op.launch_by(&self.choice, args, launcher)
    }
}
