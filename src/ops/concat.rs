//! Concatenation along the channels, and its gradient, a slice of them.

use std::ops::Range;

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk};
use crate::device::kernels::{self, CopyChannelsArgs};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::{Error, Result};
use crate::graph::{
    Backward, Cost, Graph, InferResult, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::{UNSIGNED, below};
use crate::ops::{CHUNK_ELEMS, dispatch_storage, float, one_input};
use crate::tensor::Shape;

/// `(x0, x1, ...) -> y`: operands that differ in their last dimension only, one after the other along it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concat;

/// `x -> y`: channels `start..start + len` of x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceChannels {
    /// The first channel taken.
    pub start: usize,
    /// How many are taken.
    pub len: usize,
}

/// Records the concatenation of `inputs` along their last dimension.
///
/// # Errors
/// If there are none, or they differ in another dimension.
pub fn concat(graph: &mut Graph, name: &str, inputs: &[ValueId]) -> Result<ValueId> {
    graph.apply_one(name, Concat, inputs)
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let Some(first) = inputs.first().filter(|ty| ty.shape.rank() > 0) else {
            return Err("needs at least one operand, each with channels".into());
        };
        float(*first)?;
        let channels = inputs.iter().map(|ty| ty.shape.last()).sum();
        let widened =
            |ty: &ValueType| ValueType { shape: with_channels(ty.shape, channels), dtype: ty.dtype };
        match inputs.iter().find(|ty| widened(ty) != widened(first)) {
            None => Ok(vec![widened(first)]),
            Some(other) => {
                Err(format!("needs operands that differ in channels only, got {first} and {other}"))
            }
        }
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let mut start = 0;
        (0..backward.inputs.len())
            .map(|i| {
                let len = backward.graph.shape(backward.inputs[i]).last();
                let op = SliceChannels { start, len };
                start += len;
                if backward.wanted[i] {
                    backward.apply_one(&format!("bwd{i}"), op, &[dy]).map(Some)
                } else {
                    Ok(None)
                }
            })
            .collect()
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        Some(OnnxNode::new("Concat").with("axis", OnnxAttribute::Int(1)).into())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let channels = args.output_shape(0).last();
            let y = args.output::<T>(0);
            let mut start = 0;
            for i in 0..args.num_inputs() {
                let len = args.input_shape(i).last();
                copy_channels((args.input::<T>(i), len, 0..len), (y, channels, start..start + len));
                start += len;
            }
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let mut start = 0;
        args.inputs.iter().try_for_each(|x| {
            let (len, to_first) = (x.shape.last(), start);
            start += len;
            launch_copy(args, launcher, (x, 0), (&args.outputs[0], to_first), len)
        })
    }
}

impl Op for SliceChannels {
    fn name(&self) -> &'static str {
        "slice_channels"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        let end = self.start + self.len;
        if x.shape.rank() == 0 || end > x.shape.last() {
            return Err(format!("takes channels {}..{end}, which {x} does not have", self.start));
        }
        Ok(vec![ValueType { shape: with_channels(x.shape, self.len), dtype: x.dtype }])
    }

    /// Of x, what is taken.
    fn cost(&self, _inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(outputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: SliceChannels, args: &CpuArgs<'_>) {
            let from = (args.input::<T>(0), args.input_shape(0).last(), op.start..op.start + op.len);
            copy_channels(from, (args.output::<T>(0), op.len, 0..op.len));
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch_copy(args, launcher, (&args.inputs[0], self.start), (&args.outputs[0], 0), self.len)
    }
}

/// Copies channels from every row of one tensor to every row of another; each is given as its elements, its number of
/// channels and the range of them.
fn copy_channels<T: Copy + Send + Sync>(
    from: (&[T], usize, Range<usize>),
    to: (&mut [T], usize, Range<usize>),
) {
    let ((x, x_channels, x_range), (y, y_channels, y_range)) = (from, to);
    if y_range.is_empty() {
        return;
    }
    let rows = (CHUNK_ELEMS / y_channels).max(1);
    for_each_chunk(y, rows * y_channels, |start, y| {
        let x = x[start / y_channels * x_channels..].chunks_exact(x_channels);
        for (y, x) in y.chunks_exact_mut(y_channels).zip(x) {
            y[y_range.clone()].copy_from_slice(&x[x_range.clone()]);
        }
    });
}

/// Copies `len` channels of every row on a kernel device; each side is given with its first channel. The kernel moves
/// words, the widest that all strides and offsets are multiples of.
fn launch_copy(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    (from, from_first): (&Slot, usize),
    (to, to_first): (&Slot, usize),
    len: usize,
) -> Result<()> {
    let variants = [
        (16, &kernels::COPY_CHANNELS_16_BYTES),
        (4, &kernels::COPY_CHANNELS_4_BYTES),
        (2, &kernels::COPY_CHANNELS_2_BYTES),
    ];
    let elems = [from.shape.last(), from_first, to.shape.last(), to_first, len];
    let bytes = elems.map(|count| count * from.dtype.size_bytes());
    let fits = |word: &usize| bytes.iter().all(|count| count.is_multiple_of(*word));
    let Some((word, kernel)) = variants.into_iter().find(|(word, _)| fits(word)) else {
        return Err(Error::Device(format!("no kernel copies channels of {}", from.dtype)));
    };
    let [from_stride, from_first, to_stride, to_first, len] = bytes.map(|count| (count / word) as u32);
    let rows = to.shape.num_elems() / to.shape.last().max(1);
    let num_words = rows * len as usize;
    below(UNSIGNED, num_words, "words to copy")?;
    let arguments = CopyChannelsArgs {
        from: args.address(from),
        to: args.address(to),
        rows: rows as u32,
        len,
        from_stride,
        from_first,
        to_stride,
        to_first,
    };
    kernel.launch(launcher, kernels::loop_grid(num_words, 1), &arguments)
}

fn with_channels(shape: Shape, channels: usize) -> Shape {
    let outer = &shape.dims()[..shape.rank().saturating_sub(1)];
    let mut extents = arrayvec::ArrayVec::<usize, { crate::tensor::MAX_RANK }>::new();
    extents.extend(outer.iter().copied().chain([channels]));
    Shape::new(&extents)
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("concat_two_images", &[&[2, 5, 3, 7], &[2, 5, 3, 4]], |graph, x| concat(graph, "cat", x)),
        Case::new("concat_whole_vectors", &[&[2, 5, 3, 8], &[2, 5, 3, 16]], |graph, x| {
            concat(graph, "cat", x)
        }),
        Case::new("concat_vectors_and_one_of_them_twice", &[&[3, 5], &[3, 1]], |graph, x| {
            concat(graph, "cat", &[x[0], x[1], x[0]])
        }),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let [n, h, w, _] = draw.image(1);
    let parts: Vec<usize> = (0..draw.within(1, 4)).map(|_| draw.channels()).collect();
    let total: usize = parts.iter().sum();
    let start = draw.within(0, total - 1);
    let len = draw.within(1, total - start);
    Trial::new(format!("concat: {n}x{h}x{w} of {parts:?}, slice {start}+{len}"), move |graph| {
        let inputs: Vec<ValueId> =
            (0..).zip(&parts).map(|(i, &c)| input(graph, &format!("x{i}"), [n, h, w, c])).collect();
        let y = graph.apply_one("y", Concat, &inputs)?;
        graph.apply("part", SliceChannels { start, len }, &[y])?;
        Ok(())
    })
}
