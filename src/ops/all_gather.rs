//! What every rank has of a value, for all of them.

use crate::device::cpu::CpuArgs;
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, Exchange, InferResult, Op, ValueType};
use crate::ops::checks::Checks;
use crate::tensor::Shape;

/// `(x...) -> [operands, ranks, shape of x...]`, of operands of one type: each rank's, in the order of ranks. The session asks the
/// other ranks for theirs where it comes to the node ([`Exchange::AllGather`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllGather {
    /// How many ranks there are.
    pub num_ranks: usize,
}

impl Op for AllGather {
    fn name(&self) -> &'static str {
        "all_gather"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let Some(first) = inputs.first() else { return Err("takes operands, got none".into()) };
        if let Some(other) = inputs.iter().find(|ty| *ty != first) {
            return Err(format!("needs operands of one type and shape, got {first} and {other}"));
        }
        let dims = [&[inputs.len(), self.num_ranks], first.shape.dims()].concat();
        Ok(vec![ValueType { shape: Shape::new(&dims), dtype: first.dtype }])
    }

    fn cost(&self, _inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        Cost::default()
    }

    fn exchange(&self) -> Option<Exchange> {
        Some(Exchange::AllGather)
    }

    fn cpu(&self, _args: &CpuArgs<'_>) {
        unreachable!("the session asks the other ranks")
    }

    /// Nothing: the session asks the other ranks.
    fn launch(&self, _args: &LaunchArgs<'_>, _launcher: &mut dyn Launcher) -> Result<()> {
        Ok(())
    }
}

/// None: what it does is the session's, which `tests/ranks.rs` checks.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![] }
}
