//! The residual add: y = a + b, elementwise.

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, AddFwdArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Cost, Graph, InPlace, InferResult, Onnx, OnnxNode, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::vec_grid;
use crate::ops::{CHUNK_ELEMS, cost_per_elem, dispatch_storage, same_shapes};

/// `(a, b) -> y`, all of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add;

/// Records y = a + b.
///
/// # Errors
/// If the shapes differ.
pub fn add(graph: &mut Graph, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
    graph.apply_one(name, Add, &[a, b])
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![same_shapes(inputs, 2)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    /// The sum hands its gradient to both sides unchanged.
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        Ok(vec![Some(dy); 2])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        Some(OnnxNode::new("Add").into())
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let b = args.input::<T>(1);
            for_each_chunk(args.output_over_input::<T>(0, 0), CHUNK_ELEMS, |start, y| {
                let b = &b[start..start + y.len()];
                vectorized(|| y.iter_mut().zip(b).for_each(|(y, &b)| *y = T::store(y.load() + b.load())));
            });
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let y = &args.outputs[0];
        let arguments = AddFwdArgs {
            a: args.input(0),
            b: args.input(1),
            y: args.address(y),
            num_elems: y.shape.num_elems() as u64,
        };
        kernels::add_fwd(y.dtype)?.launch(launcher, vec_grid(y), &arguments)
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("add_odd_shape", &[&[2, 5, 3, 7], &[2, 5, 3, 7]], |graph, x| add(graph, "add", x[0], x[1])),
        Case::new("add_same_value_twice", &[&[3, 5]], |graph, x| add(graph, "add", x[0], x[0])),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let len = draw.num_elems();
    Trial::new(format!("add: {len} elements"), move |graph| {
        let [a, b] = ["a", "b"].map(|name| input(graph, name, [len]));
        add(graph, "sum", a, b)?;
        add(graph, "twice", a, a)?;
        Ok(())
    })
}
