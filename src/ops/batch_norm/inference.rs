//! The inference form: normalisation by the running statistics.

use super::launch::{self, Norm};
use super::{BatchNormInferenceBwd, Blocks, Normalize, Spread, check_operands, refuse_fused};
use crate::device::cpu::{CpuArgs, Real, Storage};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, InPlace, InferResult, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::{cost_per_elem, dispatch_storage};

/// `(x, gamma, beta, running_mean, running_var [, residual]) -> y`:
/// y = act((x - running_mean) / sqrt(running_var + eps) * gamma + beta [+ residual]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormInference {
    /// Added to the variance.
    pub eps: f32,
    /// act is a ReLU instead of the identity.
    pub relu: bool,
    /// There is a sixth operand of x's shape.
    pub residual: bool,
}

impl BatchNormInference {
    /// Normalises `y` by the operands from number `first` on: gamma, beta, mean, variance and, if there is one, the residual.
    pub(in crate::ops) fn normalize_in_place<T: Storage>(
        &self,
        args: &CpuArgs<'_>,
        first: usize,
        y: &mut [T],
    ) {
        let operand = |index| args.input::<T::Sum>(first + index);
        let normalize = Normalize {
            x: None,
            residual: self.residual.then(|| args.input::<T>(first + 4)),
            residual_norm: None,
            mean: operand(2),
            spread: Spread::Var(operand(3), T::Sum::from_f64(f64::from(self.eps))),
            gamma: operand(0),
            beta: operand(1),
            relu: self.relu,
        };
        normalize.write(Blocks::new(args.output_shape(0)), y);
    }
}

impl Op for BatchNormInference {
    fn name(&self) -> &'static str {
        "batch_norm_inference_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![check_operands(inputs, 0, 1..5, 5 + usize::from(self.residual))?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(4, inputs, outputs)
    }

    /// The running statistics are constants here, so fine-tuning with frozen batch norm trains gamma and beta only.
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        refuse_fused(self.name(), self.relu || self.residual, backward)?;
        let dy = backward.dy(self.name())?;
        let &[x, gamma, _, running_mean, running_var] = backward.inputs else {
            unreachable!("the plain form was inferred with five operands")
        };
        let op = BatchNormInferenceBwd { eps: self.eps };
        let grads = backward.apply("bwd", op, &[dy, x, gamma, running_mean, running_var])?;
        Ok(vec![Some(grads[0]), Some(grads[1]), Some(grads[2]), None, None])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        let node = OnnxNode::new("BatchNormalization").with("epsilon", OnnxAttribute::Float(self.eps));
        (!self.relu && !self.residual).then(|| node.into())
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: &BatchNormInference, args: &CpuArgs<'_>) {
            op.normalize_in_place(args, 1, args.output_over_input::<T>(0, 0));
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let running = Norm::Running { mean: &args.inputs[3], var: &args.inputs[4], eps: self.eps };
        launch::normalize(args, launcher, self.relu, running, false)
    }
}
