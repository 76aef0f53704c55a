//! Global average pooling: the mean of each channel over the whole image.

use crate::device::cpu::{
    ChannelTile, CpuArgs, Real, Storage, for_each_channel_tile, for_each_chunk, lanes, lanes_mut, vectorized,
};
use crate::device::kernels::{self, GlobalAvgPoolBwdArgs, GlobalAvgPoolFwdArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InferResult, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32, input};
use crate::ops::launch::ChannelGrid;
use crate::ops::{cost_per_elem, dispatch_storage, one_input, sum_dtype};
use crate::tensor::DType;

/// `x [N,H,W,C] -> y [N,C]`, y in f32 where x is bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalAvgPool;

/// `dy [N,C] -> dx [N,H,W,C]`: every pixel gets dy / (H*W).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalAvgPoolBwd {
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// Type of dx.
    pub dtype: DType,
}

/// Records the mean of NHWC `x` over height and width.
///
/// # Errors
/// If `x` is not an image.
pub fn global_avg_pool(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    graph.apply_one(name, GlobalAvgPool, &[x])
}

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        match x.shape.as_4d() {
            Some([n, h, w, c]) if h * w > 0 => {
                Ok(vec![ValueType { shape: [n, c].into(), dtype: sum_dtype(x.dtype) }])
            }
            _ => Err(format!("needs an NHWC image, got {x}")),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let x = backward.graph.value(backward.inputs[0]).ty;
        let op = GlobalAvgPoolBwd { height: x.shape.dims()[1], width: x.shape.dims()[2], dtype: x.dtype };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dy])?)])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        // ONNX keeps the height and width of 1.
        let flatten = OnnxNode::new("Flatten").with("axis", OnnxAttribute::Int(1));
        Some(Onnx::Nodes(vec![OnnxNode::new("GlobalAveragePool"), flatten]))
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let channels = args.input_shape(0).last();
            let image_elems = args.input_shape(0).num_elems() / args.input_shape(0).dims()[0].max(1);
            let x = args.input::<T>(0);
            for_each_chunk(args.output::<T::Sum>(0), channels, |start, y| {
                let image = &x[start / channels * image_elems..][..image_elems];
                for_each_channel_tile(channels, &mut MeanTile { image, y });
            });
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let x = &args.inputs[0];
        let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
        let images = x.shape.dims()[0];
        let arguments = GlobalAvgPoolFwdArgs {
            x: args.address(x),
            y: args.output(0),
            pixels: (grid.rows / images.max(1)) as u64,
            channels: grid.channels as u32,
            is_wide: grid.is_wide.into(),
        };
        kernels::global_avg_pool_fwd(x.dtype)?.launch(launcher, grid.image_grid(images), &arguments)
    }
}

/// The mean over the pixels of one image.
struct MeanTile<'a, 'y, T: Storage> {
    image: &'a [T],
    y: &'y mut [T::Sum],
}

impl<T: Storage> ChannelTile for MeanTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let channels = self.y.len();
        let pixels = self.image.len() / channels;
        let mut sum = [T::Sum::ZERO; W];
        for pixel in 0..pixels {
            let x = lanes::<T, W>(self.image, pixel * channels + start);
            sum = std::array::from_fn(|c| sum[c] + x[c].load());
        }
        let count = T::Sum::from_f64(pixels as f64);
        *lanes_mut(self.y, start) = sum.map(|sum| sum / count);
    }
}

impl Op for GlobalAvgPoolBwd {
    fn name(&self) -> &'static str {
        "global_avg_pool_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let dy = one_input(inputs)?;
        match *dy.shape.dims() {
            [n, c] if dy.dtype == sum_dtype(self.dtype) => {
                Ok(vec![ValueType { shape: [n, self.height, self.width, c].into(), dtype: self.dtype }])
            }
            _ => Err(format!("needs {} dy of NxC for {} dx, got {dy}", sum_dtype(self.dtype), self.dtype)),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(pixels: usize, args: &CpuArgs<'_>) {
            let dy = args.input::<T::Sum>(0);
            let channels = args.input_shape(0).last();
            let share = T::Sum::from_f64(1.0 / pixels as f64);
            for_each_chunk(args.output::<T>(0), pixels * channels, |start, dx| {
                let dy = &dy[start / pixels..][..channels];
                vectorized(|| {
                    for pixel in dx.chunks_exact_mut(channels) {
                        pixel.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = T::store(dy * share));
                    }
                });
            });
        }
        dispatch_storage!(args.output_dtype(0), run(self.height * self.width, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dx = &args.outputs[0];
        let grid = ChannelGrid::rows(dx.shape, dx.dtype).checked()?;
        let arguments = GlobalAvgPoolBwdArgs {
            dy: args.input(0),
            dx: args.address(dx),
            pixels: (self.height * self.width) as u64,
            channels: grid.channels as u32,
            is_wide: grid.is_wide.into(),
        };
        kernels::global_avg_pool_bwd(dx.dtype)?.launch(
            launcher,
            grid.image_grid(dx.shape.dims()[0]),
            &arguments,
        )
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("global_avg_pool_odd_shape", &[&[2, 5, 3, 7]], |graph, x| {
            global_avg_pool(graph, "pool", x[0])
        }),
        Case::new("global_avg_pool_of_whole_vectors", &[&[2, 5, 3, 24]], |graph, x| {
            global_avg_pool(graph, "pool", x[0])
        }),
        Case::new("global_avg_pool_of_a_wide_tile", &[&[3, 1, 2, 17]], |graph, x| {
            global_avg_pool(graph, "pool", x[0])
        }),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let shape = draw.image(1);
    Trial::new(format!("average pool: {shape:?}"), move |graph| {
        let [n, height, width, c] = shape;
        let x = input(graph, "x", shape);
        graph.apply("y", GlobalAvgPool, &[x])?;
        let dy = in_f32(graph, "dy", [n, c]);
        graph.apply("dx", GlobalAvgPoolBwd { height, width, dtype: graph.float() }, &[dy])?;
        Ok(())
    })
    .of_products()
}
