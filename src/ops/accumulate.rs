//! Gradient accumulation over micro-batches: sums that live as state between them.

use crate::device::cpu::{CpuArgs, Real, for_each_chunk, vectorized};
use crate::device::kernels::{self, AccumulateUpdateArgs, ClearUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::multi_tensor::{Groups, update_trial};
use crate::ops::{CHUNK_ELEMS, dispatch_real};

/// `((sum, term)...)`, changing the sums: sum += term.
#[derive(Debug, Clone, PartialEq)]
pub struct Accumulate {
    groups: Groups,
}

impl Accumulate {
    /// The sums of `count` tensors.
    pub fn new(count: usize) -> Accumulate {
        Accumulate { groups: Groups::new(0, 2, &[0], count) }
    }
}

/// `(tensor...)`, setting each to zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Clear {
    groups: Groups,
}

impl Clear {
    /// For `count` tensors.
    pub fn new(count: usize) -> Clear {
        Clear { groups: Groups::new(0, 1, &[0], count) }
    }
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "(sum, term)")?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(1, inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Accumulate, args: &CpuArgs<'_>) {
            for start in op.groups.starts(args.num_inputs()) {
                let term = args.input::<T>(start + 1);
                for_each_chunk(args.input_mut::<T>(start), CHUNK_ELEMS, |offset, sum| {
                    let term = &term[offset..][..sum.len()];
                    vectorized(|| sum.iter_mut().zip(term).for_each(|(sum, &v)| *sum += v));
                });
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments = AccumulateUpdateArgs { arena: args.arena_address, tensors };
            kernels::ACCUMULATE_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

impl Op for Clear {
    fn name(&self) -> &'static str {
        "clear_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "a tensor")?;
        Ok(vec![])
    }

    /// Nothing is read.
    fn cost(&self, inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        Cost::traffic(&[], inputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Clear, args: &CpuArgs<'_>) {
            for start in op.groups.starts(args.num_inputs()) {
                args.input_mut::<T>(start).fill(T::ZERO);
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments = ClearUpdateArgs { arena: args.arena_address, tensors };
            kernels::CLEAR_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(accumulate_trial), Box::new(clear_trial)] }
}

fn accumulate_trial(draw: &mut Draw) -> Trial {
    update_trial(draw, "accumulate", 0, &["sum", "term"], Accumulate::new)
}

fn clear_trial(draw: &mut Draw) -> Trial {
    update_trial(draw, "clear", 0, &["sum"], Clear::new)
}
