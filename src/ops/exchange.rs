//! What ranks send each other in the middle of a step, as operations. That the session asks them is checked by `tests/ranks.rs`.

use crate::device::cpu::CpuArgs;
use crate::device::{LaunchArgs, Launcher};
use crate::dist::Group;
use crate::error::Result;
use crate::graph::{Cost, Exchange, InferResult, Op, ValueType};
use crate::tensor::Shape;

impl Op for Exchange {
    fn name(&self) -> &'static str {
        match self {
            Exchange::AllGather { .. } => "all_gather",
            Exchange::AllToAll(_) => "all_to_all",
            Exchange::Arrive => "arrive",
        }
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        if *self == Exchange::Arrive {
            return if inputs.is_empty() { Ok(vec![]) } else { Err("takes no operands".into()) };
        }
        let Some(first) = inputs.first() else { return Err("takes operands, got none".into()) };
        match self {
            Exchange::Arrive => unreachable!("it has no operands"),
            Exchange::AllGather { num_ranks } => {
                if let Some(other) = inputs.iter().find(|ty| *ty != first) {
                    return Err(format!("needs operands of one type and shape, got {first} and {other}"));
                }
                let dims = [&[inputs.len(), *num_ranks], first.shape.dims()].concat();
                Ok(vec![ValueType { shape: Shape::new(&dims), dtype: first.dtype }])
            }
            Exchange::AllToAll(Group { size, .. }) => {
                match inputs.iter().find(|ty| ty.dtype != first.dtype) {
                    None if inputs.len() > 1 && matches!(first.shape.dims(), [ranks, _] if ranks == size) => {
                        Ok(vec![])
                    }
                    None => Err(format!("needs [{size}, n] to receive and something to send, got {first}")),
                    Some(other) => Err(format!("sends what {first} receives, got {other} for it")),
                }
            }
        }
    }

    /// What it costs is not the device's.
    fn cost(&self, _inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        Cost::default()
    }

    fn mutates(&self) -> &[usize] {
        match self {
            Exchange::AllGather { .. } | Exchange::Arrive => &[],
            Exchange::AllToAll(_) => &[0],
        }
    }

    fn exchange(&self) -> Option<Exchange> {
        Some(*self)
    }

    fn cpu(&self, _args: &CpuArgs<'_>) {
        unreachable!("the session asks the other ranks")
    }

    /// Nothing: the session asks the other ranks.
    fn launch(&self, _args: &LaunchArgs<'_>, _launcher: &mut dyn Launcher) -> Result<()> {
        Ok(())
    }
}
