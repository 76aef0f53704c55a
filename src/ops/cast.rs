//! The same numbers in another floating-point type: what carries f32 parameters and images into a bf16 graph.

use half::bf16;

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::cast::TURN_ELEMS;
use crate::device::kernels::{self, CastArgs, CastTensorsArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Checks, Draw, Trial, in_f32};
use crate::ops::multi_tensor::launch_tables;
use crate::ops::{CHUNK_ELEMS, one_input};
use crate::tensor::DType;

/// `x -> y`: f32 to bf16, rounded to nearest even, or bf16 to f32, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast(pub DType);

/// `(x..) -> (y..)`: f32 tensors to bf16 copies, all in one launch; what fusion makes of the casts of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CastTensors;

/// Records `x` in type `dtype`; `x` itself if it is of that type.
///
/// # Errors
/// If either type is not f32 or bf16.
pub fn cast(graph: &mut Graph, name: &str, x: ValueId, dtype: DType) -> Result<ValueId> {
    if graph.value(x).ty.dtype == dtype {
        return Ok(x);
    }
    graph.apply_one(name, Cast(dtype), &[x])
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        match (x.dtype, self.0) {
            (DType::F32, DType::Bf16) | (DType::Bf16, DType::F32) => {
                Ok(vec![ValueType { shape: x.shape, dtype: self.0 }])
            }
            _ => Err(format!("casts f32 to bf16 and back, got {x} to {}", self.0)),
        }
    }

    /// dy itself where it has x's type, as the f32 gradient of an f32 filter that a convolution read as bf16.
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let dtype = backward.graph.value(backward.inputs[0]).ty.dtype;
        if backward.graph.value(dy).ty.dtype == dtype {
            return Ok(vec![Some(dy)]);
        }
        Ok(vec![Some(backward.apply_one("bwd", Cast(dtype), &[dy])?)])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        match self.0 {
            DType::Bf16 => convert::<f32, bf16>(args, 0),
            _ => convert::<bf16, f32>(args, 0),
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let kernel =
            if self.0 == DType::Bf16 { &kernels::CAST_F32_TO_BF16 } else { &kernels::CAST_BF16_TO_F32 };
        let num_elems = args.inputs[0].shape.num_elems();
        let arguments = CastArgs { x: args.input(0), y: args.output(0), num_elems: num_elems as u64 };
        kernel.launch(launcher, kernels::loop_grid(num_elems, TURN_ELEMS), &arguments)
    }
}

impl Op for CastTensors {
    fn name(&self) -> &'static str {
        "cast_tensors"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        match inputs.iter().find(|x| x.dtype != DType::F32) {
            None => Ok(inputs.iter().map(|x| ValueType { shape: x.shape, dtype: DType::Bf16 }).collect()),
            Some(other) => Err(format!("casts f32 to bf16, got {other}")),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        (0..args.num_inputs()).for_each(|tensor| convert::<f32, bf16>(args, tensor));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let groups = args.inputs.iter().zip(args.outputs).map(|(x, y)| [*x, *y]);
        launch_tables(groups, |tensors, num_blocks| {
            let arguments = CastTensorsArgs { arena: args.arena_address, tensors };
            kernels::CAST_TENSORS_BF16.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// Converts operand `tensor` to the result of that number.
fn convert<From: Storage, To: Storage<Sum = From::Sum>>(args: &CpuArgs<'_>, tensor: usize) {
    let x = args.input::<From>(tensor);
    for_each_chunk(args.output::<To>(tensor), CHUNK_ELEMS, |start, y| {
        vectorized(|| y.iter_mut().zip(&x[start..]).for_each(|(y, x)| *y = To::store(x.load())));
    });
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let len = draw.num_elems();
    Trial::new(format!("cast: {len} elements"), move |graph| {
        let x = in_f32(graph, "x", [len]);
        let narrow = cast(graph, "narrow", x, DType::Bf16)?;
        cast(graph, "wide", narrow, DType::F32)?;
        Ok(())
    })
}
