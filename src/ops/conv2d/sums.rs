//! A dgrad whose result is the gradient of a batch norm: the sums of that batch norm's backward pass are taken of it as it is
//! stored, behind the mask of the ReLU between the two.

use super::launch::{self, ByChoice, Choice, Stored};
use super::variants::{Pass, Variant};
use super::{Conv2dDgrad, Convolve, CpuWorkspace};
use crate::device::cpu::CpuArgs;
use crate::device::cpu::conv::Conv2dDims;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::batch_norm::{
    Blocks, BwdAddresses, Mask, MaskAddresses, Masking, Norm, Partials, ShortcutAddresses, bwd_partials,
    finalize_sums_to, masked_sums, partials_bytes,
};
use crate::ops::{dispatch_storage, sum_dtype};
use crate::tensor::Shape;

/// `(dy, w, x, gamma, save_mean, save_rstd [, y, beta or bits] [, x', save_mean', save_rstd'] [, sum]) -> (dz, dgamma, dbeta [, dgamma',
/// dbeta'])`: [`Conv2dDgrad`] of dy and w, to which `sum` is added, where `mask` lets it through; and the sums that
/// [`BatchNormBwd`](crate::ops::BatchNormBwd) takes of dz and the batch norm's x. Set by fusion, before a
/// [`BatchNormDx`](crate::ops::BatchNormDx), or where `joins` before a [`BatchNormJoinDx`](crate::ops::BatchNormJoinDx).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dDgradSums {
    /// The convolution's part.
    pub dgrad: Conv2dDgrad,
    /// Where the ReLU behind the batch norm let nothing through; none without one.
    pub mask: Option<Mask>,
    /// y is the sum of two batch norms, whose sums are both taken: those of x', too. The mask is not computed from x then.
    pub joins: bool,
}

impl Conv2dDgradSums {
    fn dims(&self, w: Shape) -> Conv2dDims {
        self.dgrad.window.dims(self.dgrad.x.nhwc(), w.nhwc())
    }

    /// Place of x', the first operand of the second batch norm.
    fn shortcut(&self) -> usize {
        6 + usize::from(self.mask.is_some())
    }

    /// Place of `sum` among the operands.
    fn addend(&self) -> usize {
        self.shortcut() + if self.joins { 3 } else { 0 }
    }

    /// Whether the sums are taken as dz is stored.
    fn takes_along(&self, variant: &Variant) -> bool {
        variant.leaves_sums() && self.mask != Some(Mask::Result)
    }

    fn num_sums(&self) -> usize {
        2 + usize::from(self.joins)
    }

    fn launch_finalize(
        &self,
        partials: Partials,
        norm: Norm<'_>,
        args: &LaunchArgs<'_>,
        launcher: &mut dyn Launcher,
    ) -> Result<()> {
        let shortcut = (partials.num_sums == 3).then(|| ShortcutAddresses {
            rstd: args.input(self.shortcut() + 2),
            dgamma: args.output(3),
            dbeta: args.output(4),
        });
        finalize_sums_to([args.output(1), args.output(2)], partials, norm, shortcut, args, launcher)
    }
}

impl ByChoice for Conv2dDgradSums {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let addend = self.dgrad.accumulate.then(|| self.addend());
        let norm = Norm::Saved { mean: &args.inputs[4], rstd: &args.inputs[5] };
        let mask = MaskAddresses::new(self.mask, args.optional_input(6));
        let Choice { variant, ref dims, .. } = *choice;
        let first = self.shortcut();
        if self.takes_along(variant) {
            let shortcut = [0, 1].map(|n| if self.joins { args.input(first + n) } else { 0 });
            launch::launch(choice, Stored::WithSums { addend, mask, shortcut }, args, launcher)?;
            let partials = variant.sums_partials(dims, self.num_sums(), args.workspace());
            return self.launch_finalize(partials, norm, args, launcher);
        }
        launch::launch(choice, Stored::Sums { addend }, args, launcher)?;
        let (dy, x) = (args.output(0), &args.inputs[2]);
        let dz = if self.mask.is_some() { dy } else { 0 };
        let of = BwdAddresses { dy, gamma: args.input(3), mask };
        let partials = bwd_partials(x, of, dz, norm, args, launcher)?;
        self.launch_finalize(partials, norm, args, launcher)?;
        if self.joins {
            let [x, mean, rstd] = [0, 1, 2].map(|n| &args.inputs[first + n]);
            let (norm, of) = (
                Norm::Saved { mean, rstd },
                BwdAddresses { dy: dz, gamma: 0, mask: MaskAddresses::default() },
            );
            let partials = bwd_partials(x, of, 0, norm, args, launcher)?;
            finalize_sums_to([args.output(3), args.output(4)], partials, norm, None, args, launcher)?;
        }
        Ok(())
    }

    fn workspace_by(&self, choice: &Choice) -> usize {
        let Choice { variant, ref dims, .. } = *choice;
        if self.takes_along(variant) {
            variant.sums_partials(dims, self.num_sums(), 0).num_bytes()
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
        let of_mask: Vec<ValueType> = self.mask.iter().map(|mask| mask.operand(dx)).collect();
        let of_shortcut = if self.joins { vec![dx, vector, vector] } else { vec![] };
        let expected = [vec![dx, vector, vector, vector], of_mask, of_shortcut].concat();
        if inputs[2..self.addend()] != expected {
            return Err(format!("takes dy and w, then {expected:?}, got {inputs:?}"));
        }
        if self.joins && !matches!(self.mask, Some(Mask::Result | Mask::Bits)) {
            return Err("computes the mask of two batch norms from one of them; give it y or bits".into());
        }
        Ok([vec![dx, vector, vector], vec![vector; if self.joins { 2 } else { 0 }]].concat())
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "dgamma", "dbeta", "shortcut.dgamma", "shortcut.dbeta"]
    }

    /// Flops are the products' alone, as where a dgrad adds to a sum.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let dgrad = self.dgrad.cost(&inputs[..2], outputs);
        Cost { bytes: Cost::traffic(inputs, outputs).bytes, ..dgrad }
    }

    fn in_place(&self) -> &'static [InPlace] {
        match (self.dgrad.accumulate, self.addend()) {
            (false, _) => &[],
            (true, 6) => &[InPlace { output: 0, input: 6 }],
            (true, 7) => &[InPlace { output: 0, input: 7 }],
            (true, _) => &[InPlace { output: 0, input: 10 }],
        }
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let (dims, dtype) = (self.dims(inputs[1].shape), inputs[0].dtype);
        match device {
            DeviceKind::Cpu => CpuWorkspace::DGRAD.with_blocks(dtype, &dims, inputs[2].shape),
            DeviceKind::Cuda | DeviceKind::Simt => {
                let choice = Choice::new(Pass::Dgrad, self.dgrad.window, dtype, dims);
                choice.map_or(0, |choice| self.workspace_by(&choice))
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
                Mask::Bits => Masking::Bits(args.input(6)),
            });
            let blocks = Blocks::new(args.input_shape(2));
            let norm = [args.input(4), args.input(5)];
            let sums = [args.output(2), args.output(1)];
            masked_sums(dz, args.input::<T>(2), mask, norm, blocks, workspace, sums);
            if op.joins {
                let first = op.shortcut();
                let norm = [args.input(first + 1), args.input(first + 2)];
                let sums = [args.output(4), args.output(3)];
                masked_sums(dz, args.input::<T>(first), None, norm, blocks, workspace, sums);
            }
        }
        dispatch_storage!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.dims(args.inputs[1].shape);
        let choice = Choice::new(Pass::Dgrad, self.dgrad.window, args.inputs[0].dtype, dims)?;
        self.launch_by(&choice, args, launcher)
    }
}
