//! A convolution and the batch norm that follows it in inference: the sums are normalised as they are stored.

use super::launch::{self, Stored};
use super::variants::Pass;
use super::{Conv2dFprop, Window, cpu_workspace};
use crate::device::cpu::conv::{self, Finish, FinishNorm};
use crate::device::cpu::{CpuArgs, Real};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::batch_norm::BatchNormInference;
use crate::ops::dispatch_real;
use crate::tensor::DType;

/// `(x, w, gamma, beta, running_mean, running_var [, residual]) -> y`: [`BatchNormInference`] of [`Conv2dFprop`]. Set by
/// fusion; there is no gradient, which would need the sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2dBatchNorm {
    /// Strides and padding.
    pub window: Window,
    /// What follows, its operands after the convolution's.
    pub norm: BatchNormInference,
}

impl Conv2dBatchNorm {
    fn conv(&self) -> Conv2dFprop {
        Conv2dFprop { window: self.window }
    }

    /// What the kernels of fprop store.
    pub(super) fn stored(&self) -> Stored {
        Stored::Normalized { eps: self.norm.eps, relu: self.norm.relu }
    }
}

impl Op for Conv2dBatchNorm {
    fn name(&self) -> &'static str {
        "conv2d_batch_norm"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let Some((conv, norm)) = inputs.split_at_checked(2) else {
            return Err(format!(
                "takes x and w, then a batch norm's operands, got {} operands",
                inputs.len()
            ));
        };
        let sums = self.conv().infer(conv)?;
        self.norm.infer(&[&sums, norm].concat())
    }

    /// Flops are the products' alone, as where a dgrad adds to a sum.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost { bytes: Cost::traffic(inputs, outputs).bytes, ..self.conv().cost(&inputs[..2], outputs) }
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let dims = self.window.dims(inputs[0].shape.nhwc(), inputs[1].shape.nhwc());
        cpu_workspace(device, &inputs[0], conv::fprop_norm_workspace_elems(&dims))
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let dims = self.window.dims(args.input_shape(0).nhwc(), args.input_shape(1).nhwc());
        if args.input_dtype(0) == DType::F32 {
            let norm = FinishNorm {
                gamma: args.input(2),
                beta: args.input(3),
                mean: args.input(4),
                var: args.input(5),
                eps: self.norm.eps,
                residual: self.norm.residual.then(|| args.input(6)),
                relu: self.norm.relu,
            };
            let (x, w, y, workspace) =
                (args.input(0), args.input(1), args.output(0), args.workspace::<f32>());
            return conv::conv2d_fprop(&dims, x, w, Finish::Norm(norm), y, workspace);
        }
        fn run<T: Real>(op: &Conv2dBatchNorm, dims: &conv::Conv2dDims, args: &CpuArgs<'_>) {
            let y = args.output::<T>(0);
            conv::conv2d_fprop_reference::<T>(dims, args.input(0), args.input(1), y);
            op.norm.normalize_in_place(args, 2, y);
        }
        dispatch_real!(args.input_dtype(0), run(self, &dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), args.inputs[1].shape.nhwc());
        launch::launch(Pass::Fprop, &dims, self.stored(), args, launcher)
    }
}
