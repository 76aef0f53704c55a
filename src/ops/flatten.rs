//! Flattening: an image as one row of features, channel by channel, as PyTorch flattens an NCHW image. Weights of the
//! layer that follows then mean the same here and there.

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk};
use crate::device::kernels::{self, FlattenArgs};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::graph::{Backward, Graph, InferResult, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32, input};
use crate::ops::{dispatch_storage, one_input, sum_dtype};
use crate::tensor::DType;

/// `x [N,H,W,C] -> y [N, C*H*W]`, y in f32 where x is bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flatten;

/// `dy [N, C*H*W] -> dx [N,H,W,C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlattenBwd {
    /// Height of x.
    pub height: usize,
    /// Width of x.
    pub width: usize,
    /// Type of dx.
    pub dtype: DType,
}

/// Records NHWC `x` as one row of features for each image, in the order of channel, row, column.
///
/// # Errors
/// If `x` is not an image.
pub fn flatten(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    graph.apply_one(name, Flatten, &[x])
}

impl Op for Flatten {
    fn name(&self) -> &'static str {
        "flatten_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        match x.shape.as_4d() {
            Some([n, h, w, c]) => {
                Ok(vec![ValueType { shape: [n, c * h * w].into(), dtype: sum_dtype(x.dtype) }])
            }
            None => Err(format!("needs an NHWC image, got {x}")),
        }
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let x = backward.graph.value(backward.inputs[0]).ty;
        let op = FlattenBwd { height: x.shape.dims()[1], width: x.shape.dims()[2], dtype: x.dtype };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dy])?)])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        Some(OnnxNode::new("Flatten").with("axis", OnnxAttribute::Int(1)).into())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (x, channels) = (args.input::<T>(0), args.input_shape(0).last());
            let image_elems = args.output_shape(0).last();
            let pixels = image_elems / channels.max(1);
            for_each_chunk(args.output::<T::Sum>(0), image_elems, |start, y| {
                for (channel, row) in y.chunks_exact_mut(pixels).enumerate() {
                    let image = &x[start..start + image_elems];
                    row.iter_mut().enumerate().for_each(|(p, y)| *y = image[p * channels + channel].load());
                }
            });
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (arguments, grid) = operands(args, &args.inputs[0]);
        kernels::flatten_fwd(args.inputs[0].dtype)?.launch(launcher, grid, &arguments)
    }
}

impl Op for FlattenBwd {
    fn name(&self) -> &'static str {
        "flatten_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let dy = one_input(inputs)?;
        let pixels = self.height * self.width;
        match *dy.shape.dims() {
            [n, features] if pixels > 0 && features % pixels == 0 && dy.dtype == sum_dtype(self.dtype) => {
                let shape = [n, self.height, self.width, features / pixels].into();
                Ok(vec![ValueType { shape, dtype: self.dtype }])
            }
            _ => Err(format!("needs {} dy of N x C*{pixels}, got {dy}", sum_dtype(self.dtype))),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (dy, channels) = (args.input::<T::Sum>(0), args.output_shape(0).last());
            let image_elems = args.input_shape(0).last();
            let pixels = image_elems / channels.max(1);
            for_each_chunk(args.output::<T>(0), image_elems, |start, dx| {
                let row = &dy[start..start + image_elems];
                for (p, pixel) in dx.chunks_exact_mut(channels).enumerate() {
                    pixel.iter_mut().enumerate().for_each(|(c, dx)| *dx = T::store(row[c * pixels + p]));
                }
            });
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dx = &args.outputs[0];
        let (arguments, grid) = operands(args, dx);
        kernels::flatten_bwd(dx.dtype)?.launch(launcher, grid, &arguments)
    }
}

fn operands(args: &LaunchArgs<'_>, image: &Slot) -> (FlattenArgs, kernels::Grid) {
    let [_, h, w, c] = image.shape.nhwc();
    let num_elems = image.shape.num_elems();
    let arguments = FlattenArgs {
        from: args.input(0),
        to: args.output(0),
        num_elems: num_elems as u64,
        pixels: (h * w) as u64,
        channels: c as u64,
    };
    (arguments, kernels::loop_grid(num_elems, 1))
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases =
        vec![Case::new("flatten_odd_shape", &[&[2, 5, 3, 7]], |graph, x| flatten(graph, "flat", x[0]))];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let [n, height, width, c] = draw.image(1);
    Trial::new(format!("flatten: {n}x{height}x{width}x{c}"), move |graph| {
        let x = input(graph, "x", [n, height, width, c]);
        graph.apply("y", Flatten, &[x])?;
        let dy = in_f32(graph, "dy", [n, c * height * width]);
        graph.apply("dx", FlattenBwd { height, width, dtype: graph.float() }, &[dy])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::exec::Session;
    use crate::plan::plan;

    #[test]
    fn features_come_channel_by_channel() {
        let mut graph = Graph::new(DType::F32);
        let x = graph.input("x", [1, 1, 3, 2], DType::F32);
        let y = flatten(&mut graph, "y", x).unwrap();
        graph.keep(y);
        let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
        session.set(0, "x", &[1.0f32, 10.0, 2.0, 20.0, 3.0, 30.0]).unwrap();
        session.run_micro_batch(0).unwrap();
        assert_eq!(*session.value::<f32>(0, "y").unwrap(), [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
    }
}
