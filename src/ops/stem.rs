//! The stem's 7x7 convolution with stride 2 as a 4x4 convolution with stride 1 over blocks of 2x2 pixels.
//!
//! Tensor cores take channels in eights, and an image has three. A block of 2x2 pixels has twelve, filled up to sixteen; a
//! window of 7x7 pixels that moves by two lies in one of 4x4 blocks that moves by one. The products are the same, and so
//! are the sums but for their order; a seventh of the filter's taps are zeros. Source: the space-to-depth stem of the
//! MLPerf entries for ResNet-50.
//!
//! Block i of y covers rows 2(i-2) and 2(i-2)+1 of x: two rows of blocks before the image and one after it are the
//! convolution's padding. Tap t of the 4x4 filter and row a in the block stand for row r = 2t + a - 1 of the 7x7 filter.

use super::conv2d::{Conv2dConfig, Window, conv2d, conv2d_filter, conv2d_with};
use crate::device::cpu::{CpuArgs, Real, Storage, for_each_chunk};
use crate::device::kernels::stem_filter::{BLOCK_TAPS, PIXEL_TAPS};
use crate::device::kernels::{self, Divisor, Entry, SpaceToDepthArgs, StemFilterArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32, input};
use crate::ops::launch::{UNSIGNED, below, only_f32, vec_elems, vec_grid};
use crate::ops::{CHUNK_ELEMS, dispatch_real, dispatch_storage, one_input};
use crate::tensor::DType;

/// Pixels of a block in each direction.
pub(super) const BLOCK: usize = 2;
/// Rows of blocks of padding before the image, and before and after it together.
pub(super) const PADDING_BEFORE: usize = 2;
const PADDING: usize = BLOCK_TAPS - 1;
/// Channels that one access of a tensor core's operand holds, in bf16; in f32 half as many.
const CHANNELS_ALIGNED: usize = 8;

/// `x [N,H,W,C] -> y [N,ceil(H/2)+3,ceil(W/2)+3,D]`: the pixels of 2x2 blocks side by side, 0 outside the image; D is 4C
/// rounded up to a multiple of 8. No gradient: x is the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceToDepth;

/// `w [K,7,7,C] -> v [K,4,4,D]`: the filter over such blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StemFilter;

/// `dv [K,4,4,D] -> dw [K,7,7,C]`: its elements at their places in w. Gradients of filters are f32 in a graph of bf16 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StemFilterBwd {
    /// C.
    pub channels: usize,
}

/// Records the 7x7 convolution with stride 2 and padding 3 of `x` and its parameter `<name>.weight`: over blocks in a graph
/// for tensor cores, of bf16 or with TF32 allowed, as it stands elsewhere.
///
/// # Errors
/// If `x` is no NHWC image.
pub fn stem_conv2d(graph: &mut Graph, name: &str, x: ValueId, out_channels: usize) -> Result<ValueId> {
    let config = Conv2dConfig { out_channels, kernel: [PIXEL_TAPS; 2], window: Window::square(2, 3) };
    if graph.float() == DType::Bf16 || graph.allows_tf32() {
        over_blocks(graph, name, x, config)
    } else {
        conv2d(graph, name, x, config)
    }
}

fn over_blocks(graph: &mut Graph, name: &str, x: ValueId, config: Conv2dConfig) -> Result<ValueId> {
    let filter = conv2d_filter(graph, name, x, config)?;
    let filter = graph.apply_one(&format!("{name}.weight.blocks"), StemFilter, &[filter])?;
    let blocks = graph.apply_one(&format!("{name}.blocks"), SpaceToDepth, &[x])?;
    conv2d_with(graph, name, blocks, filter, Window::square(1, 0))
}

fn depth(channels: usize) -> usize {
    (BLOCK * BLOCK * channels).next_multiple_of(CHANNELS_ALIGNED)
}

/// The place (row, column, channel) in pixels that element `at` of a block stands for, counted from the block's first
/// pixel; none for what fills the block up.
fn in_block(at: usize, channels: usize) -> Option<[usize; 3]> {
    let pixel = at / channels;
    (pixel < BLOCK * BLOCK).then_some([pixel / BLOCK, pixel % BLOCK, at % channels])
}

impl Op for SpaceToDepth {
    fn name(&self) -> &'static str {
        "space_to_depth"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        let Some([n, h, w, c]) = x.shape.as_4d() else { return Err(format!("needs an NHWC image, got {x}")) };
        let blocks = |pixels: usize| pixels.div_ceil(BLOCK) + PADDING;
        Ok(vec![ValueType { shape: [n, blocks(h), blocks(w), depth(c)].into(), dtype: x.dtype }])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let ([_, height, width, channels], [_, rows, columns, depth]) =
                (args.input_shape(0).nhwc(), args.output_shape(0).nhwc());
            let x = args.input::<T>(0);
            for_each_chunk(args.output::<T>(0), columns * depth, |start, y| {
                let (image, row) = (start / (rows * columns * depth), start / (columns * depth) % rows);
                for (i, y) in y.iter_mut().enumerate() {
                    let (column, at) = (i / depth, i % depth);
                    let place = in_block(at, channels).and_then(|[a, b, channel]| {
                        let inside = |block: usize, offset: usize, limit: usize| {
                            (BLOCK * block + offset)
                                .checked_sub(BLOCK * PADDING_BEFORE)
                                .filter(|&at| at < limit)
                        };
                        let (h, w) = (inside(row, a, height)?, inside(column, b, width)?);
                        Some(((image * height + h) * width + w) * channels + channel)
                    });
                    *y = place.map_or(T::ZERO, |place| x[place]);
                }
            });
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let ([_, height, width, channels], [_, rows, columns, depth]) = (x.shape.nhwc(), y.shape.nhwc());
        below(UNSIGNED, y.shape.num_elems(), "elements of blocks")?;
        let arguments = SpaceToDepthArgs {
            x: args.address(x),
            y: args.address(y),
            num_elems: y.shape.num_elems() as u64,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            rows: Divisor::new(rows),
            columns: Divisor::new(columns),
            vecs: Divisor::new(depth / vec_elems(y.dtype)),
        };
        kernels::space_to_depth(x.dtype)?.launch(launcher, vec_grid(y), &arguments)
    }
}

impl Op for StemFilter {
    fn name(&self) -> &'static str {
        "stem_filter_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let w = one_input(inputs)?;
        match w.shape.as_4d() {
            Some([k, PIXEL_TAPS, PIXEL_TAPS, c]) => {
                let shape = [k, BLOCK_TAPS, BLOCK_TAPS, depth(c)].into();
                Ok(vec![ValueType { shape, dtype: w.dtype }])
            }
            _ => Err(format!("needs a filter of {PIXEL_TAPS}x{PIXEL_TAPS}, got {w}")),
        }
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dv = backward.dy(self.name())?;
        let op = StemFilterBwd { channels: backward.graph.shape(backward.inputs[0]).last() };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dv])?)])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (channels, depth) = (args.input_shape(0).last(), args.output_shape(0).last());
            let w = args.input::<T>(0);
            for_each_chunk(args.output::<T>(0), CHUNK_ELEMS, |start, v| {
                for (i, v) in v.iter_mut().enumerate() {
                    let (tap, at) = ((start + i) / depth, (start + i) % depth);
                    let [filter, t, u] =
                        [tap / BLOCK_TAPS / BLOCK_TAPS, tap / BLOCK_TAPS % BLOCK_TAPS, tap % BLOCK_TAPS];
                    let place = in_block(at, channels).and_then(|[a, b, channel]| {
                        let (r, s) = ((BLOCK * t + a).checked_sub(1)?, (BLOCK * u + b).checked_sub(1)?);
                        Some(((filter * PIXEL_TAPS + r) * PIXEL_TAPS + s) * channels + channel)
                    });
                    *v = place.map_or(T::ZERO, |place| w[place]);
                }
            });
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let w = &args.inputs[0];
        launch_filter(args, launcher, kernels::stem_filter_fwd(w.dtype)?, w.shape.last())
    }
}

impl Op for StemFilterBwd {
    fn name(&self) -> &'static str {
        "stem_filter_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let dv = one_input(inputs)?;
        match dv.shape.as_4d() {
            Some([k, BLOCK_TAPS, BLOCK_TAPS, d]) if d == depth(self.channels) => Ok(vec![ValueType {
                shape: [k, PIXEL_TAPS, PIXEL_TAPS, self.channels].into(),
                dtype: dv.dtype,
            }]),
            _ => Err(format!("needs a filter over blocks of {} channels, got {dv}", self.channels)),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(channels: usize, args: &CpuArgs<'_>) {
            let depth = args.input_shape(0).last();
            let dv = args.input::<T>(0);
            for_each_chunk(args.output::<T>(0), CHUNK_ELEMS, |start, dw| {
                for (i, dw) in dw.iter_mut().enumerate() {
                    let (tap, channel) = ((start + i) / channels, (start + i) % channels);
                    let [filter, r, s] = [
                        tap / PIXEL_TAPS / PIXEL_TAPS,
                        tap / PIXEL_TAPS % PIXEL_TAPS + 1,
                        tap % PIXEL_TAPS + 1,
                    ];
                    let block = (filter * BLOCK_TAPS + r / BLOCK) * BLOCK_TAPS + s / BLOCK;
                    *dw = dv[block * depth + (r % BLOCK * BLOCK + s % BLOCK) * channels + channel];
                }
            });
        }
        dispatch_real!(args.input_dtype(0), run(self.channels, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        launch_filter(args, launcher, &kernels::STEM_FILTER_BWD, self.channels)
    }
}

/// Starts a kernel that moves the only operand to the only result, a filter of that many channels.
fn launch_filter(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    kernel: &Entry<StemFilterArgs>,
    channels: usize,
) -> Result<()> {
    let (from, to) = (&args.inputs[0], &args.outputs[0]);
    below(UNSIGNED, to.shape.num_elems(), "elements of the filter")?;
    let arguments = StemFilterArgs {
        from: args.address(from),
        to: args.address(to),
        num_elems: to.shape.num_elems() as u64,
        channels: channels as u32,
        depth: depth(channels) as u32,
    };
    kernel.launch(launcher, kernels::loop_grid(to.shape.num_elems(), 1), &arguments)
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("stem_filter_over_blocks", &[&[5, 7, 7, 3]], |graph, x| {
            graph.apply_one("blocks", StemFilter, &[x[0]])
        })
        .with_f32(&[0]),
        Case::new("stem_filter_of_many_channels", &[&[2, 7, 7, 10]], |graph, x| {
            graph.apply_one("blocks", StemFilter, &[x[0]])
        })
        .with_f32(&[0]),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

/// What the stem's convolution over blocks is made of.
fn trial(draw: &mut Draw) -> Trial {
    let [n, h, w, _] = draw.image(1);
    let (channels, filters) = (draw.pick(&[1, 3, 10, 21, 175]), draw.within(1, 5));
    Trial::new(format!("stem: {n}x{h}x{w}x{channels}, {filters} filters"), move |graph| {
        let x = input(graph, "x", [n, h, w, channels]);
        graph.apply_one("blocks", SpaceToDepth, &[x])?;
        let filter = input(graph, "filter", [filters, 7, 7, channels]);
        let over_blocks = graph.apply_one("filter.blocks", StemFilter, &[filter])?;
        let shape = graph.shape(over_blocks);
        let gradient = in_f32(graph, "gradient", shape);
        graph.apply_one("filter.gradient", StemFilterBwd { channels }, &[gradient])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::differentiate;
    use crate::device::DeviceKind;
    use crate::exec::Session;
    use crate::ops::{fill, sum};
    use crate::plan::plan;
    use crate::rng::{Stream, Use};

    /// Result and filter gradient of the stem in f64.
    fn computed(blocks: bool, [height, width]: [usize; 2], channels: usize) -> [Vec<f64>; 2] {
        let config = Conv2dConfig { out_channels: 5, kernel: [PIXEL_TAPS; 2], window: Window::square(2, 3) };
        let mut graph = Graph::new(DType::F64);
        let x = graph.input("x", [2, height, width, channels], DType::F64);
        let y = if blocks { over_blocks } else { conv2d }(&mut graph, "conv1", x, config).unwrap();
        let weights = graph.input("weights", graph.shape(y), DType::F64);
        // A different factor for each pixel, so that each has a gradient of its own.
        let weighted = graph.apply_one("weighted", crate::ops::Add, &[y, weights]).unwrap();
        let relu = crate::ops::relu(&mut graph, "relu", weighted).unwrap();
        let loss = sum(&mut graph, "loss", relu).unwrap();
        let one = fill(&mut graph, "one", [], 1.0).unwrap();
        let filter = graph.find("conv1.weight").unwrap();
        let gradient = differentiate(&mut graph, loss, one, &[filter]).unwrap()[0];
        [y, gradient].into_iter().for_each(|id| graph.keep(id));
        let names = [y, gradient].map(|id| graph.value(id).name.clone());
        let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
        let mut stream = Stream::new(1, 0, 0, Use::Init);
        for name in ["x", "weights", "conv1.weight"] {
            let slot = session.plan(0).slot(name).unwrap();
            let values: Vec<f64> = (0..slot.shape.num_elems()).map(|_| f64::from(stream.normal())).collect();
            session.write(&slot, &values).unwrap();
        }
        session.run_micro_batch(0).unwrap();
        names.map(|name| session.read::<f64>(&session.plan(0).slot(&name).unwrap()).unwrap().into_owned())
    }

    #[test]
    fn a_convolution_over_blocks_is_the_convolution() {
        for (extents, channels) in [([8, 12], 3), ([9, 7], 3), ([11, 14], 1), ([7, 10], 21)] {
            let [plain, blocks] = [false, true].map(|blocks| computed(blocks, extents, channels));
            for (plain, blocks) in plain.iter().zip(&blocks) {
                assert_eq!(plain.len(), blocks.len());
                let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * (1.0 + a.abs());
                assert!(plain.iter().zip(blocks).all(close), "{extents:?} of {channels} channels");
            }
            assert!(plain.iter().all(|values| values.iter().any(|value| *value != 0.0)));
        }
    }
}
