//! A convolution and the statistics of the batch norm that follows it in training: they are taken of the sums as these are
//! stored.

use super::launch::{self, ByChoice, Choice, Stored};
use super::variants::Pass;
use super::{Conv2dFprop, Convolve, CpuWorkspace, Window};
use crate::device::cpu::CpuArgs;
use crate::device::cpu::conv::Conv2dDims;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::batch_norm::{
    Blocks, Statistics, StatisticsAddresses, check_rows, partials_bytes, statistics_partials,
};
use crate::ops::{dispatch_storage, sum_dtype};
use crate::tensor::Shape;

/// `(x, w, running_mean, running_var) -> (y, save_mean, save_rstd)`, changing the running statistics: [`Conv2dFprop`], and of
/// its result what [`BatchNormTrain`](crate::ops::BatchNormTrain) normalises by. Set by fusion, before a
/// [`BatchNormApply`](crate::ops::BatchNormApply).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2dStats {
    /// Strides and padding.
    pub window: Window,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the new running statistics.
    pub bn_momentum: f32,
}

impl Conv2dStats {
    fn dims(&self, x: Shape, w: Shape) -> Conv2dDims {
        self.window.dims(x.nhwc(), w.nhwc())
    }
}

impl ByChoice for Conv2dStats {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let to = StatisticsAddresses {
            save_mean: args.output(1),
            save_rstd: args.output(2),
            running_mean: args.input(2),
            running_var: args.input(3),
            eps: self.eps,
            bn_momentum: self.bn_momentum,
        };
        let Choice { variant, ref dims, .. } = *choice;
        let partials = if variant.leaves_sums() {
            launch::launch(choice, Stored::WithStatistics, args, launcher)?;
            variant.statistics_partials(dims, args.workspace())
        } else {
            launch::launch(choice, Stored::Sums { addend: None }, args, launcher)?;
            statistics_partials(&args.outputs[0], args, launcher)?
        };
        to.finalize(partials, launcher)
    }

    fn workspace_by(&self, choice: &Choice) -> usize {
        let Choice { variant, ref dims, .. } = *choice;
        if variant.leaves_sums() {
            variant.statistics_partials(dims, 0).num_bytes()
        } else {
            partials_bytes([dims.n, dims.p(), dims.q(), dims.k].into(), variant.dtype)
        }
    }
}

impl Op for Conv2dStats {
    fn name(&self) -> &'static str {
        "conv2d_fprop_stats"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, w, running @ ..] = inputs else {
            return Err(format!("takes x, w and running statistics, got {} operands", inputs.len()));
        };
        let y = Conv2dFprop { window: self.window }.infer(&[*x, *w])?[0];
        check_rows(y)?;
        let vector = ValueType { shape: [y.shape.last()].into(), dtype: sum_dtype(y.dtype) };
        if running != [vector, vector] {
            return Err(format!("takes x, w and two running statistics of {vector}, got {inputs:?}"));
        }
        Ok(vec![y, vector, vector])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "save_mean", "save_rstd"]
    }

    /// Flops are the products' alone, as where a batch norm by running statistics is taken in.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let conv = Conv2dFprop { window: self.window }.cost(&inputs[..2], outputs);
        Cost { bytes: Cost::traffic(inputs, outputs).bytes, ..conv }.and_again(inputs, self.mutates())
    }

    fn mutates(&self) -> &[usize] {
        &[2, 3]
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        let dims = self.dims(inputs[0].shape, inputs[1].shape);
        let dtype = inputs[0].dtype;
        match device {
            DeviceKind::Cpu => CpuWorkspace::FPROP.with_blocks(dtype, &dims, outputs[0].shape),
            DeviceKind::Cuda | DeviceKind::Simt => {
                let choice = Choice::new(Pass::Fprop, self.window, dtype, dims);
                choice.map_or(0, |choice| self.workspace_by(&choice))
            }
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Convolve>(op: &Conv2dStats, args: &CpuArgs<'_>) {
            let dims = op.dims(args.input_shape(0), args.input_shape(1));
            let (y, workspace) = (args.output::<T>(0), args.workspace::<f64>());
            T::fprop(&dims, args.input(0), args.input(1), y, bytemuck::cast_slice_mut(workspace));
            let statistics = Statistics {
                save_mean: args.output::<T::Sum>(1),
                save_rstd: args.output(2),
                running_mean: args.input_mut(2),
                running_var: args.input_mut(3),
                eps: op.eps,
                bn_momentum: op.bn_momentum,
            };
            statistics.take(y, Blocks::new(args.output_shape(0)), workspace);
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.dims(args.inputs[0].shape, args.inputs[1].shape);
        self.launch_by(&Choice::new(Pass::Fprop, self.window, args.inputs[0].dtype, dims)?, args, launcher)
    }
}
