//! What is left of a batch norm where a convolution takes its sums as it stores: one pass forward, one backward.

use super::bwd::{Operands, bits_of, write_dx};
use super::launch::{self, DxAddresses, Norm};
use super::{Blocks, ChannelNorm, Normalize, Spread, check_operands};
use crate::device::cpu::{CpuArgs, Storage};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::{cost_per_elem, dispatch_storage};

/// `(x, gamma, beta, save_mean, save_rstd [, residual]) -> y [, bits]`, y = act((x - mean)*rstd*gamma + beta [+ residual]): a
/// [`BatchNormTrain`](super::BatchNormTrain) whose statistics are there. Set by fusion; there is no gradient, which would go
/// through the statistics, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormApply {
    /// act is a ReLU instead of the identity.
    pub relu: bool,
    /// There is a sixth operand of x's shape.
    pub residual: bool,
    /// The bits of a [`Mask::Bits`](super::Mask::Bits) are left. Channels are a multiple of 16 then.
    pub bits: bool,
}

/// `(x, gamma, beta, save_mean, save_rstd, x', gamma', beta', save_mean', save_rstd') -> y [, bits]`, y = act of the sum of two batch
/// norms whose statistics are there: the end of a residual block whose shortcut has one. Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormJoin {
    /// act is a ReLU instead of the identity.
    pub relu: bool,
    /// As in [`BatchNormApply`].
    pub bits: bool,
}

/// `(dz, x, gamma, save_mean, save_rstd, dgamma, dbeta) -> dx`: the last pass of a [`BatchNormBwd`](super::BatchNormBwd) whose
/// sums are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormDx;

/// `(dz, x, gamma, save_mean, save_rstd, dgamma, dbeta, x', gamma', save_mean', save_rstd', dgamma', dbeta') -> (dx, dx')`: the last
/// passes of the two batch norms whose sum dz is the gradient of, once their sums are there. Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormJoinDx;

impl Op for BatchNormApply {
    fn name(&self) -> &'static str {
        "batch_norm_apply"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        results(check_operands(inputs, 0, 1..5, 5 + usize::from(self.residual))?, self.bits)
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "bits"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(4, inputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormApply, args: &CpuArgs<'_>) {
            let normalize = Normalize {
                x: Some(args.input::<T>(0)),
                residual: op.residual.then(|| args.input::<T>(5)),
                residual_norm: None,
                mean: args.input(3),
                spread: Spread::Rstd(args.input(4)),
                gamma: args.input(1),
                beta: args.input(2),
                relu: op.relu,
            };
            write(normalize, args, op.bits);
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let saved = Norm::Saved { mean: &args.inputs[3], rstd: &args.inputs[4] };
        launch::normalize(args, launcher, self.relu, saved, self.bits)
    }
}

impl Op for BatchNormJoin {
    fn name(&self) -> &'static str {
        "batch_norm_join"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        if inputs.len() != 10 {
            return Err(format!("takes 10 operands, got {}", inputs.len()));
        }
        let [x, shortcut] =
            [check_operands(&inputs[..5], 0, 1..5, 5)?, check_operands(&inputs[5..], 0, 1..5, 5)?];
        if x != shortcut {
            return Err(format!("adds tensors of one type, got {x} and {shortcut}"));
        }
        results(x, self.bits)
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "bits"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(7, inputs, outputs)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormJoin, args: &CpuArgs<'_>) {
            let normalize = Normalize {
                x: Some(args.input::<T>(0)),
                residual: Some(args.input(5)),
                residual_norm: Some(ChannelNorm {
                    mean: args.input(8),
                    rstd: args.input(9),
                    gamma: args.input(6),
                    beta: args.input(7),
                }),
                mean: args.input(3),
                spread: Spread::Rstd(args.input(4)),
                gamma: args.input(1),
                beta: args.input(2),
                relu: op.relu,
            };
            write(normalize, args, op.bits);
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch::join(args, launcher, self.relu, self.bits)
    }
}

/// The types of y and of the bits, where they are wanted.
fn results(y: ValueType, bits: bool) -> InferResult {
    if bits && !y.shape.last().is_multiple_of(16) {
        return Err(format!("leaves bits of a multiple of 16 channels, got {y}"));
    }
    Ok([y].into_iter().chain(bits.then(|| bits_of(y))).collect())
}

/// Writes y, result 0, and the bits, result 1, where they are wanted.
fn write<T: Storage>(normalize: Normalize<'_, T>, args: &CpuArgs<'_>, bits: bool) {
    let (blocks, y) = (Blocks::new(args.input_shape(0)), args.output(0));
    if bits { normalize.write_with_bits(blocks, y, args.output(1)) } else { normalize.write(blocks, y) }
}

impl Op for BatchNormDx {
    fn name(&self) -> &'static str {
        "batch_norm_dx"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![check_operands(inputs, 1, 2..7, 7)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(6, inputs, outputs)
    }

    /// x dies here, as in the whole backward pass.
    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 1 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            dx(args, args.input::<T>(0), 1, 0);
        }
        dispatch_storage!(args.input_dtype(1), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let [dgamma, dbeta] = [args.input(5), args.input(6)];
        launch::input_gradient(args, launcher, None, DxAddresses { dgamma, dbeta, dx: args.output(0), dz: 0 })
    }
}

impl Op for BatchNormJoinDx {
    fn name(&self) -> &'static str {
        "batch_norm_join_dx"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        if inputs.len() != 13 {
            return Err(format!("takes 13 operands, got {}", inputs.len()));
        }
        let shortcut = [&inputs[..1], &inputs[7..]].concat();
        Ok(vec![check_operands(&inputs[..7], 1, 2..7, 7)?, check_operands(&shortcut, 1, 2..7, 7)?])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "shortcut"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(12, inputs, outputs)
    }

    /// x and x' die here.
    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 1 }, InPlace { output: 1, input: 7 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let dz = args.input::<T>(0);
            dx(args, dz, 1, 0);
            dx(args, dz, 7, 1);
        }
        dispatch_storage!(args.input_dtype(1), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch::join_gradients(args, launcher)
    }
}

/// dx, result `to`, of `dz` and of x, gamma, mean, rstd, dgamma and dbeta, operands from `first` on.
pub(super) fn dx<T: Storage>(args: &CpuArgs<'_>, dz: &[T], first: usize, to: usize) {
    let blocks = Blocks::new(args.input_shape(first));
    let operands = Operands {
        dy: dz,
        mask: None,
        mean: args.input(first + 2),
        spread: Spread::Rstd(args.input(first + 3)),
        channels: blocks.channels,
    };
    let sums = [args.input::<T::Sum>(first + 5), args.input(first + 4)];
    let dx = args.output_over_input::<T>(to, first);
    write_dx(operands, args.input(first + 1), sums, 1.0 / blocks.rows as f64, blocks, dx);
}
