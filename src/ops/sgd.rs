//! Stochastic gradient descent with momentum, Nesterov momentum and weight decay, as PyTorch's `SGD` (dampening 0).

use crate::device::cpu::{CpuArgs, Real, for_each_chunk_pair, vectorized};
use crate::device::kernels::{self, SgdUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::multi_tensor::{Groups, update_trial};
use crate::ops::{CHUNK_ELEMS, dispatch_real};

/// The constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Share of the velocity kept from step to step.
    pub momentum: f32,
    /// Look one step ahead along the velocity.
    pub nesterov: bool,
    /// Multiple of the parameter added to its gradient.
    pub weight_decay: f32,
}

/// `(hyper [lr, ..], grad_scale [], (param, grad, velocity)...)`, changing parameters and velocities:
/// g = grad_scale*grad + weight_decay*param; velocity = momentum*velocity + g;
/// param -= lr * (nesterov ? g + momentum*velocity : velocity).
#[derive(Debug, Clone, PartialEq)]
pub struct Sgd {
    config: SgdConfig,
    groups: Groups,
}

impl Sgd {
    /// The update of `count` parameters.
    pub fn new(config: SgdConfig, count: usize) -> Sgd {
        Sgd { config, groups: Groups::new(2, 3, &[0, 2], count) }
    }
}

impl Op for Sgd {
    fn name(&self) -> &'static str {
        "sgd_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "(param, grad, velocity)")?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(6, inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Sgd, args: &CpuArgs<'_>) {
            let (lr, grad_scale) = (args.input::<T>(0)[0], args.input::<T>(1)[0]);
            let momentum = T::from_f64(f64::from(op.config.momentum));
            let weight_decay = T::from_f64(f64::from(op.config.weight_decay));
            let nesterov = op.config.nesterov;
            for start in op.groups.starts(args.num_inputs()) {
                let grad = args.input::<T>(start + 1);
                let (param, velocity) = (args.input_mut::<T>(start), args.input_mut::<T>(start + 2));
                for_each_chunk_pair(param, velocity, (CHUNK_ELEMS, CHUNK_ELEMS), |i, param, velocity| {
                    let grad = &grad[i * CHUNK_ELEMS..][..param.len()];
                    vectorized(|| {
                        for ((p, v), &g) in param.iter_mut().zip(velocity).zip(grad) {
                            let g = g * grad_scale + *p * weight_decay;
                            *v = *v * momentum + g;
                            *p -= lr * if nesterov { g + *v * momentum } else { *v };
                        }
                    });
                });
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let SgdConfig { momentum, nesterov, weight_decay } = self.config;
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments = SgdUpdateArgs {
                arena: args.arena_address,
                hyper: args.input(0),
                grad_scale: args.input(1),
                tensors,
                momentum,
                weight_decay,
                nesterov: nesterov.into(),
            };
            kernels::SGD_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let momentum = draw.pick(&[0.0, 0.9]);
    let config = SgdConfig { momentum, nesterov: draw.coin(), weight_decay: draw.pick(&[0.0, 0.01]) };
    let name = format!("{config:?}");
    update_trial(draw, &name, 4, &["param", "grad", "velocity"], move |count| Sgd::new(config, count))
}
