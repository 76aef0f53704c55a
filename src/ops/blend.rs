//! Running statistics that follow those of a batch, of all batch norms at once.

use crate::device::cpu::{CpuArgs, Real};
use crate::device::kernels::{self, BlendUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::batch_norm::blended;
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::dispatch_real;
use crate::ops::multi_tensor::{Groups, update_trial};

/// `((running, batch)...)`, changing the running statistics: running = (1 - share)*running + share*batch, to the bit as a
/// [`BatchNormTrain`](crate::ops::BatchNormTrain) moves its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    share: f32,
    groups: Groups,
}

impl Blend {
    /// For `count` statistics, with this share of the batch's.
    pub fn new(share: f32, count: usize) -> Blend {
        Blend { share, groups: Groups::new(0, 2, &[0], count) }
    }
}

impl Op for Blend {
    fn name(&self) -> &'static str {
        "blend_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "(running, batch)")?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(3, inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Blend, args: &CpuArgs<'_>) {
            for start in op.groups.starts(args.num_inputs()) {
                let pairs = args.input_mut::<T>(start).iter_mut().zip(args.input::<T>(start + 1));
                pairs.for_each(|(running, &batch)| *running = blended(*running, op.share, batch));
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments =
                BlendUpdateArgs { arena: args.arena_address, tensors, share: self.share, reserved: 0 };
            kernels::BLEND_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let share = draw.pick(&[0.1, 1.0]);
    update_trial(draw, "blend", 0, &["running", "batch"], move |count| Blend::new(share, count))
}
