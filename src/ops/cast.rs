//! The same numbers in another floating-point type: what carries f32 parameters and images into a bf16 graph, and gradients to
//! other ranks.

use half::bf16;

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::cast::TURN_ELEMS;
use crate::device::kernels::{self, CastArgs, CastTensorsArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Cost, Graph, InferResult, Init, Op, Role, ValueId, ValueType};
use crate::ops::checks::{Checks, Draw, Trial, in_f32};
use crate::ops::launch::only_f32;
use crate::ops::multi_tensor::{Groups, launch_tables};
use crate::ops::{CHUNK_ELEMS, one_input};
use crate::tensor::{DType, Layout};

/// `x -> y`: f32 to bf16, rounded to nearest even, or bf16 to f32, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast(pub DType);

/// `(x..) -> (y..)`: f32 tensors to bf16 copies, or bf16 tensors to f32 ones, all in one launch; what fusion makes of the casts of
/// filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CastTensors(pub DType);

/// `((y, x)..)`, changing each y to what x is: of one type, or f32 that is rounded to bf16. For results that have a place of their
/// own.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyTensors {
    groups: Groups,
}

impl CopyTensors {
    /// For `count` tensors.
    pub fn new(count: usize) -> CopyTensors {
        CopyTensors { groups: Groups::new(0, 2, &[0], count) }
    }
}

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
        let from = if self.0 == DType::Bf16 { DType::F32 } else { DType::Bf16 };
        match inputs.iter().find(|x| x.dtype != from) {
            None => Ok(inputs.iter().map(|x| ValueType { shape: x.shape, dtype: self.0 }).collect()),
            Some(other) => Err(format!("casts {from} to {}, got {other}", self.0)),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        (0..args.num_inputs()).for_each(|tensor| match self.0 {
            DType::Bf16 => convert::<f32, bf16>(args, tensor),
            _ => convert::<bf16, f32>(args, tensor),
        });
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let kernel =
            if self.0 == DType::Bf16 { &kernels::CAST_TENSORS_BF16 } else { &kernels::CAST_TENSORS_F32 };
        let groups = args.inputs.iter().zip(args.outputs).map(|(x, y)| [*x, *y]);
        launch_tables(groups, |tensors, num_blocks| {
            kernel.launch(launcher, num_blocks, &CastTensorsArgs { arena: args.arena_address, tensors })
        })
    }
}

impl Op for CopyTensors {
    fn name(&self) -> &'static str {
        "copy_tensors"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let (pairs, rest) = inputs.as_chunks();
        let (Some([to, from]), []) = (pairs.first().map(|pair| pair.map(|ty| ty.dtype)), rest) else {
            return Err(format!("takes a place and a tensor for each copy, got {} operands", inputs.len()));
        };
        if !matches!((from, to), (DType::F32, DType::F32 | DType::Bf16) | (DType::F64, DType::F64)) {
            return Err(format!("copies f32 or f64, or rounds f32 to bf16, got {from} to {to}"));
        }
        let fits = |[y, x]: &&[ValueType; 2]| y.shape == x.shape && [y.dtype, x.dtype] == [to, from];
        match pairs.iter().find(|pair| !fits(pair)) {
            None => Ok(vec![]),
            Some([y, x]) => {
                Err(format!("needs {from} tensors and places of their shape in {to}, got {x} for {y}"))
            }
        }
    }

    fn cost(&self, inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, &[])
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        for start in self.groups.starts(args.num_inputs()) {
            match (args.input_dtype(start), args.input_dtype(start + 1)) {
                (DType::Bf16, DType::F32) => {
                    store_all(args.input::<f32>(start + 1), args.input_mut::<bf16>(start))
                }
                (DType::F64, _) => store_all(args.input::<f64>(start + 1), args.input_mut::<f64>(start)),
                _ => store_all(args.input::<f32>(start + 1), args.input_mut::<f32>(start)),
            }
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[1].dtype)?;
        let kernel = match args.inputs[0].dtype {
            DType::Bf16 => &kernels::CAST_TENSORS_BF16,
            _ => &kernels::COPY_TENSORS_F32,
        };
        let (pairs, _) = args.inputs.as_chunks();
        launch_tables(pairs.iter().map(|&[y, x]| [x, y]), |tensors, num_blocks| {
            kernel.launch(launcher, num_blocks, &CastTensorsArgs { arena: args.arena_address, tensors })
        })
    }
}

/// Converts operand `tensor` to the result of that number.
fn convert<From: Storage, To: Storage<Sum = From::Sum>>(args: &CpuArgs<'_>, tensor: usize) {
    store_all(args.input::<From>(tensor), args.output::<To>(tensor));
}

fn store_all<From: Storage, To: Storage<Sum = From::Sum>>(from: &[From], to: &mut [To]) {
    for_each_chunk(to, CHUNK_ELEMS, |start, to| {
        vectorized(|| to.iter_mut().zip(&from[start..]).for_each(|(to, from)| *to = To::store(from.load())));
    });
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial), Box::new(cast_trial), Box::new(copy_trial)] }
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

fn cast_trial(draw: &mut Draw) -> Trial {
    let sizes = draw.tensor_sizes();
    Trial::new(format!("cast: {} tensors, the first of {}", sizes.len(), sizes[0]), move |graph| {
        let x: Vec<ValueId> =
            (0..).zip(&sizes).map(|(i, &size)| in_f32(graph, &format!("x.{i}"), [size])).collect();
        let narrow = graph.apply("narrow", CastTensors(DType::Bf16), &x)?;
        graph.apply("wide", CastTensors(DType::F32), &narrow)?;
        Ok(())
    })
}

fn copy_trial(draw: &mut Draw) -> Trial {
    let (sizes, dtype) = (draw.tensor_sizes(), draw.pick(&[DType::F32, DType::Bf16]));
    let title = format!("copy to {dtype}: {} tensors, the first of {}", sizes.len(), sizes[0]);
    Trial::new(title, move |graph| {
        let mut operands = Vec::new();
        for (i, &size) in sizes.iter().enumerate() {
            let y = ValueType { shape: [size].into(), dtype };
            operands.push(graph.persistent_of(
                &format!("y.{i}"),
                y,
                Role::State,
                Layout::Flat,
                Init::Constant(0.0),
            ));
            operands.push(in_f32(graph, &format!("x.{i}"), [size]));
        }
        graph.apply("copy", CopyTensors::new(sizes.len()), &operands)?;
        Ok(())
    })
}
