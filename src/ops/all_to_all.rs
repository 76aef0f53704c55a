//! A part of a value for every rank.

use crate::device::cpu::CpuArgs;
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, Exchange, InferResult, Op, ValueType};
use crate::ops::checks::Checks;

/// `(received [ranks, n], sent...)`, changing what is received: the operands that are sent lie in a row and are as long; part r of
/// them goes to rank r, and row r comes from it. The session asks the other ranks ([`Exchange::AllToAll`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllToAll;

impl Op for AllToAll {
    fn name(&self) -> &'static str {
        "all_to_all"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [received, sent @ ..] = inputs else { return Err("takes operands, got none".into()) };
        match sent.iter().find(|ty| ty.dtype != received.dtype) {
            None if !sent.is_empty() && received.shape.rank() == 2 => Ok(vec![]),
            None => Err(format!("needs [ranks, n] to receive and something to send, got {received}")),
            Some(other) => Err(format!("sends {received}, got {other} for it")),
        }
    }

    fn cost(&self, _inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        Cost::default()
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn exchange(&self) -> Option<Exchange> {
        Some(Exchange::AllToAll)
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
