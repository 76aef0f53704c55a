//! A convolution and the batch norm that follows it in inference: the sums are normalised as they are stored.

use super::launch::{self, ByChoice, Choice, Stored};
use super::variants::Pass;
use super::{Conv2dFprop, CpuWorkspace, Window};
use crate::device::cpu::conv::{self, Finish, FinishNorm, mixed};
use crate::device::cpu::{CpuArgs, Element};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::batch_norm::BatchNormInference;
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

    /// What the CPU's fprop makes of its sums.
    fn finish<'a, T: Element>(&self, args: &CpuArgs<'a>) -> FinishNorm<'a, T> {
        FinishNorm {
            gamma: args.input(2),
            beta: args.input(3),
            mean: args.input(4),
            var: args.input(5),
            eps: self.norm.eps,
            residual: self.norm.residual.then(|| args.input(6)),
            relu: self.norm.relu,
        }
    }
}

impl ByChoice for Conv2dBatchNorm {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let stored = Stored::Normalized { eps: self.norm.eps, relu: self.norm.relu };
        launch::launch(choice, stored, args, launcher)
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
        let workspace = CpuWorkspace {
            f32_elems: conv::fprop_norm_workspace_elems,
            bf16_bytes: mixed::fprop_workspace_bytes,
        };
        workspace.num_bytes(device, inputs[0].dtype, &dims)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let dims = self.window.dims(args.input_shape(0).nhwc(), args.input_shape(1).nhwc());
        let (x, w, y) = (0, 1, 0);
        match args.input_dtype(0) {
            DType::Bf16 => mixed::fprop(
                &dims,
                args.input(x),
                args.input(w),
                Some(self.finish(args)),
                args.output(y),
                args.workspace::<f32>(),
            ),
            DType::F32 => conv::conv2d_fprop(
                &dims,
                args.input(x),
                args.input(w),
                Finish::Norm(self.finish(args)),
                args.output(y),
                args.workspace::<f32>(),
            ),
            _ => {
                let y = args.output::<f64>(y);
                conv::conv2d_fprop_reference(&dims, args.input(x), args.input(w), y);
                self.norm.normalize_in_place(args, 2, y);
            }
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), args.inputs[1].shape.nhwc());
        self.launch_by(&Choice::new(Pass::Fprop, self.window, args.inputs[0].dtype, dims)?, args, launcher)
    }
}
