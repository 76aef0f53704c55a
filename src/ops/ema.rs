//! Exponential moving average of weights and running statistics.

use crate::device::cpu::{CpuArgs, Real, for_each_chunk, vectorized};
use crate::device::kernels::{self, EmaUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::multi_tensor::{Groups, update_trial};
use crate::ops::{CHUNK_ELEMS, dispatch_real};

/// `((average, value)...)`, changing the averages: average = decay*average + (1-decay)*value.
#[derive(Debug, Clone, PartialEq)]
pub struct Ema {
    decay: f32,
    groups: Groups,
}

impl Ema {
    /// The average of `count` tensors.
    pub fn new(decay: f32, count: usize) -> Ema {
        Ema { decay, groups: Groups::new(0, 2, &[0], count) }
    }
}

impl Op for Ema {
    fn name(&self) -> &'static str {
        "ema_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "(average, value)")?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(3, inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Ema, args: &CpuArgs<'_>) {
            let decay = T::from_f64(f64::from(op.decay));
            for start in op.groups.starts(args.num_inputs()) {
                let value = args.input::<T>(start + 1);
                for_each_chunk(args.input_mut::<T>(start), CHUNK_ELEMS, |offset, average| {
                    let value = &value[offset..][..average.len()];
                    vectorized(|| {
                        let pairs = average.iter_mut().zip(value);
                        pairs.for_each(|(a, &v)| *a = *a * decay + v * (T::ONE - decay));
                    });
                });
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments =
                EmaUpdateArgs { arena: args.arena_address, tensors, decay: f64::from(self.decay) };
            kernels::EMA_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    update_trial(draw, "ema", 0, &["average", "value"], |count| Ema::new(0.99, count))
}
