//! ReLU: y = max(x, 0), a NaN staying one. Its gradient needs only the sign of y, so x need not be kept.

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, ReluBwdArgs, ReluFwdArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Cost, Graph, InPlace, InferResult, Onnx, OnnxNode, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::vec_grid;
use crate::ops::{CHUNK_ELEMS, cost_per_elem, dispatch_storage, one_input, same_shapes};

/// `x -> y`, both of any shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relu;

/// `(dy, y) -> dx`, dx = 0 where y <= 0 and dy elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReluBwd;

/// Records y = max(x, 0).
///
/// # Errors
/// As [`Graph::apply`].
pub fn relu(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    graph.apply_one(name, Relu, &[x])
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![one_input(inputs)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (dy, y) = (backward.dy(self.name())?, backward.outputs[0]);
        Ok(vec![Some(backward.apply_one("bwd", ReluBwd, &[dy, y])?)])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        Some(OnnxNode::new("Relu").into())
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            for_each_chunk(args.output_over_input::<T>(0, 0), CHUNK_ELEMS, |_, y| {
                vectorized(|| y.iter_mut().for_each(|v| *v = masked(*v, *v)));
            });
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let arguments =
            ReluFwdArgs { x: args.address(x), y: args.address(y), num_elems: y.shape.num_elems() as u64 };
        kernels::relu_fwd(y.dtype)?.launch(launcher, vec_grid(y), &arguments)
    }
}

impl Op for ReluBwd {
    fn name(&self) -> &'static str {
        "relu_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![same_shapes(inputs, 2)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let y = args.input::<T>(1);
            for_each_chunk(args.output_over_input::<T>(0, 0), CHUNK_ELEMS, |start, dx| {
                let y = &y[start..start + dx.len()];
                vectorized(|| {
                    dx.iter_mut().zip(y).for_each(|(dx, &y)| *dx = masked(*dx, y));
                });
            });
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dx = &args.outputs[0];
        let arguments = ReluBwdArgs {
            dy: args.input(0),
            y: args.input(1),
            dx: args.address(dx),
            num_elems: dx.shape.num_elems() as u64,
        };
        kernels::relu_bwd(dx.dtype)?.launch(launcher, vec_grid(dx), &arguments)
    }
}

/// `value` where `y` > 0 and 0 elsewhere; a `y` that is not a number lets it through.
#[inline(always)]
pub(super) fn masked<T: Storage>(value: T, y: T) -> T {
    if y.load() <= T::Sum::ZERO { T::ZERO } else { value }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![Case::new("relu_odd_shape", &[&[2, 5, 3, 7]], |graph, x| relu(graph, "relu", x[0]))];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let len = draw.num_elems();
    Trial::new(format!("relu: {len} elements"), move |graph| {
        let [x, y, dy] = ["x", "y", "dy"].map(|name| input(graph, name, [len]));
        graph.apply("relu", Relu, &[x])?;
        graph.apply("dx", ReluBwd, &[dy, y])?;
        Ok(())
    })
}
