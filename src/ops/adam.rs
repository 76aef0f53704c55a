//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), with PyTorch's order of operations.

use crate::device::cpu::{CpuArgs, Real, for_each_chunk_triple, vectorized};
use crate::device::kernels::{self, AdamUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::multi_tensor::{Groups, update_trial};
use crate::ops::{CHUNK_ELEMS, dispatch_real};

/// The constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// L2 penalty of Adam, or decay of AdamW.
    pub weight_decay: f32,
    /// Decay the parameter itself (AdamW) instead of adding to its gradient.
    pub decoupled: bool,
}

/// `(hyper [lr, 1-beta1^t, 1-beta2^t, ..], grad_scale [], (param, grad, moment1, moment2)...)`, changing all but the
/// gradients: m1 = lerp to g, m2 = lerp to g^2,
/// param -= lr/(1-beta1^t) * m1 / (sqrt(m2)/sqrt(1-beta2^t) + eps).
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    config: AdamConfig,
    groups: Groups,
}

impl Adam {
    /// The update of `count` parameters.
    pub fn new(config: AdamConfig, count: usize) -> Adam {
        Adam { config, groups: Groups::new(2, 4, &[0, 2, 3], count) }
    }
}

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "(param, grad, moment1, moment2)")?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(14, inputs, outputs)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &Adam, args: &CpuArgs<'_>) {
            let &[lr, correction1, correction2, ..] = args.input::<T>(0) else {
                panic!("hyper-parameters hold the rate and both corrections")
            };
            let grad_scale = args.input::<T>(1)[0];
            let AdamConfig { beta1, beta2, eps, weight_decay, .. } = op.config;
            let (share1, share2) = (T::from_f64(1.0 - beta1), T::from_f64(1.0 - beta2));
            let (beta2, eps) = (T::from_f64(beta2), T::from_f64(f64::from(eps)));
            let decay = T::from_f64(f64::from(weight_decay));
            let (l2, shrink) =
                if op.config.decoupled { (T::ZERO, T::ONE - lr * decay) } else { (decay, T::ONE) };
            let (step, root_correction2) = (lr / correction1, correction2.sqrt());
            for start in op.groups.starts(args.num_inputs()) {
                let grad = args.input::<T>(start + 1);
                let param = args.input_mut::<T>(start);
                let (moment1, moment2) = (args.input_mut::<T>(start + 2), args.input_mut::<T>(start + 3));
                for_each_chunk_triple(
                    param,
                    moment1,
                    moment2,
                    CHUNK_ELEMS,
                    |offset, param, moment1, moment2| {
                        let grad = &grad[offset..][..param.len()];
                        vectorized(|| {
                            for (((p, m1), m2), &g) in param.iter_mut().zip(moment1).zip(moment2).zip(grad) {
                                let g = g * grad_scale + *p * l2;
                                *m1 += (g - *m1) * share1;
                                *m2 = *m2 * beta2 + g * g * share2;
                                *p = *p * shrink - step * *m1 / (m2.sqrt() / root_correction2 + eps);
                            }
                        });
                    },
                );
            }
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let AdamConfig { beta1, beta2, eps, weight_decay, decoupled } = self.config;
        let (l2, decay) = if decoupled { (0.0, weight_decay) } else { (weight_decay, 0.0) };
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments = AdamUpdateArgs {
                arena: args.arena_address,
                hyper: args.input(0),
                grad_scale: args.input(1),
                tensors,
                share1: (1.0 - beta1) as f32,
                share2: (1.0 - beta2) as f32,
                beta2: beta2 as f32,
                eps,
                l2,
                decay,
            };
            kernels::ADAM_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let config = AdamConfig {
        beta1: 0.9,
        beta2: draw.pick(&[0.99, 0.999]),
        eps: 1e-8,
        weight_decay: draw.pick(&[0.0, 0.01]),
        decoupled: draw.coin(),
    };
    let name = format!("{config:?}");
    let roles = &["param", "grad", "moment1", "moment2"];
    update_trial(draw, &name, 4, roles, move |count| Adam::new(config, count))
}
