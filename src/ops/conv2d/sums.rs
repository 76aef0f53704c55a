//! A dgrad whose result is the gradient of a batch norm: the sums of that batch norm's backward pass are taken of it as it is
//! stored, behind the mask of the ReLU between the two.

use super::launch::{self, ByChoice, Choice, Stored};
use super::variants::Pass;
use super::{Conv2dDgrad, Convolve, CpuWorkspace};
use crate::device::cpu::CpuArgs;
use crate::device::cpu::conv::Conv2dDims;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::batch_norm::{
    Blocks, BwdAddresses, Mask, Masking, Norm, bwd_partials, finalize_sums, mask_addresses, masked_sums,
    partials_bytes,
};
use crate::ops::{dispatch_storage, sum_dtype};
use crate::tensor::Shape;

/// `(dy, w, x, gamma, save_mean, save_rstd [, y or beta] [, sum]) -> (dz, dgamma, dbeta)`: [`Conv2dDgrad`] of dy and w, to which
/// `sum` is added, where `mask` lets it through; and the sums that
/// [`BatchNormBwd`](crate::ops::BatchNormBwd) takes of dz and the batch norm's x. Set by fusion, before a
/// [`BatchNormDx`](crate::ops::BatchNormDx).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dDgradSums {
    /// The convolution's part.
    pub dgrad: Conv2dDgrad,
    /// Where the ReLU behind the batch norm let nothing through; none without one.
    pub mask: Option<Mask>,
}

impl Conv2dDgradSums {
    fn dims(&self, w: Shape) -> Conv2dDims {
        self.dgrad.window.dims(self.dgrad.x.nhwc(), w.nhwc())
    }

    /// Place of `sum` among the operands.
    fn addend(&self) -> usize {
        6 + usize::from(self.mask.is_some())
    }
}

impl ByChoice for Conv2dDgradSums {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let addend = self.dgrad.accumulate.then(|| self.addend());
        let norm = Norm::Saved { mean: &args.inputs[4], rstd: &args.inputs[5] };
        let [y, beta] = mask_addresses(self.mask, args.optional_input(6));
        let Choice { variant, ref dims, .. } = *choice;
        let partials = if variant.leaves_sums() {
            launch::launch(choice, Stored::WithSums { addend, y, beta }, args, launcher)?;
            variant.sums_partials(dims, args.workspace())
        } else {
            launch::launch(choice, Stored::Sums { addend }, args, launcher)?;
            let (dy, x) = (args.output(0), &args.inputs[2]);
            let dz = if self.mask.is_some() { dy } else { 0 };
            let of = BwdAddresses { dy, gamma: args.input(3), y, beta };
            bwd_partials(x, of, dz, norm, args, launcher)?
        };
        finalize_sums(partials, norm, args, launcher)
    }

    fn workspace_by(&self, choice: &Choice) -> usize {
        let Choice { variant, ref dims, .. } = *choice;
        if variant.leaves_sums() {
            variant.sums_partials(dims, 0).num_bytes()
        } else {
            partials_bytes(self.dgrad.x, variant.dtype)
        }
    }
}

impl Op for Conv2dDgradSums {
    fn name(&self) -> &'static str {
        "conv2d_dgrad_sums"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let count = self.addend() + usize::from(self.dgrad.accumulate);
        if inputs.len() != count {
            return Err(format!("takes {count} operands, got {}", inputs.len()));
        }
        let sum = &inputs[self.addend()..];
        let dx = self.dgrad.infer(&[&inputs[..2], sum].concat())?[0];
        let vector = ValueType { shape: [dx.shape.last()].into(), dtype: sum_dtype(dx.dtype) };
        let of_mask = match self.mask {
            None => vec![],
            Some(Mask::Result) => vec![dx],
            Some(Mask::Recomputed) => vec![vector],
        };
        let expected = [vec![dx, vector, vector, vector], of_mask].concat();
        if inputs[2..self.addend()] != expected {
            return Err(format!("takes dy and w, then {expected:?}, got {inputs:?}"));
        }
        Ok(vec![dx, vector, vector])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "dgamma", "dbeta"]
    }

    /// Flops are the products' alone, as where a dgrad adds to a sum.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let dgrad = self.dgrad.cost(&inputs[..2], outputs);
        Cost { bytes: Cost::traffic(inputs, outputs).bytes, ..dgrad }
    }

    fn in_place(&self) -> &'static [InPlace] {
        match (self.dgrad.accumulate, self.mask.is_some()) {
            (false, _) => &[],
            (true, false) => &[InPlace { output: 0, input: 6 }],
            (true, true) => &[InPlace { output: 0, input: 7 }],
        }
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let (dims, dtype) = (self.dims(inputs[1].shape), inputs[0].dtype);
        match device {
            DeviceKind::Cpu => CpuWorkspace::DGRAD.with_blocks(dtype, &dims, inputs[2].shape),
            DeviceKind::Cuda | DeviceKind::Simt => {
                Choice::new(Pass::Dgrad, dtype, dims).map_or(0, |choice| self.workspace_by(&choice))
            }
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Convolve>(op: &Conv2dDgradSums, args: &CpuArgs<'_>) {
            let adds = op.dgrad.accumulate;
            let dz = if adds { args.output_over_input::<T>(0, op.addend()) } else { args.output(0) };
            let (dims, workspace) = (op.dims(args.input_shape(1)), args.workspace::<f64>());
            let lines = bytemuck::cast_slice_mut(workspace);
            T::dgrad(&dims, args.input(0), args.input(1), adds, dz, lines);
            let mask = op.mask.map(|mask| match mask {
                Mask::Result => Masking::Result(args.input::<T>(6)),
                Mask::Recomputed => Masking::Recomputed { gamma: args.input(3), beta: args.input(6) },
            });
            let blocks = Blocks::new(args.input_shape(2));
            let norm = [args.input(4), args.input(5)];
            let sums = [args.output(2), args.output(1)];
            masked_sums(dz, args.input::<T>(2), mask, norm, blocks, workspace, sums);
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.dims(args.inputs[1].shape);
        self.launch_by(&Choice::new(Pass::Dgrad, args.inputs[0].dtype, dims)?, args, launcher)
    }
}
