//! Gradient clipping by global norm, as PyTorch's `clip_grad_norm_`.

use crate::device::cpu::{CpuArgs, Real, for_each_chunk, vectorized};
use crate::device::kernels::{self, ClipNormPartialsArgs, ClipNormTotalArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Checks, Draw, Trial};
use crate::ops::multi_tensor::{Groups, num_blocks, update_trial};
use crate::ops::{CHUNK_ELEMS, dispatch_real};
use crate::tensor::Shape;

/// Independent partial sums of the inner loop, one a vector lane.
const LANES: usize = 16;

/// `(grad...) -> (scale [], norm [])`: the L2 norm of all gradients together, and
/// min(1, max_norm / (norm + 1e-6)), by which the optimiser multiplies them.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipNorm {
    max_norm: f32,
    groups: Groups,
}

impl ClipNorm {
    /// Over `count` gradients.
    pub fn new(max_norm: f32, count: usize) -> ClipNorm {
        ClipNorm { max_norm, groups: Groups::new(0, 1, &[], count) }
    }
}

fn num_chunks(ty: Shape) -> usize {
    ty.num_elems().div_ceil(CHUNK_ELEMS)
}

impl Op for ClipNorm {
    fn name(&self) -> &'static str {
        "clip_norm"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.groups.check(inputs, "a gradient")?;
        let scalar = ValueType { shape: Shape::from([]), dtype: inputs[0].dtype };
        Ok(vec![scalar; 2])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "norm"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        self.groups.cost(2, inputs, outputs)
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let num_partials = match device {
            DeviceKind::Cpu => num_chunks,
            DeviceKind::Cuda | DeviceKind::Simt => num_blocks,
        };
        inputs.iter().map(|ty| num_partials(ty.shape)).sum::<usize>() * size_of::<f64>()
    }

    /// One f64 sum of squares a chunk, added up in order: the result does not depend on the number of threads.
    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &ClipNorm, args: &CpuArgs<'_>) {
            let partials = args.workspace::<f64>();
            let mut done = 0;
            for start in op.groups.starts(args.num_inputs()) {
                let grad = args.input::<T>(start);
                let count = num_chunks(args.input_shape(start));
                for_each_chunk(&mut partials[done..done + count], 1, |chunk, partial| {
                    let end = grad.len().min((chunk + 1) * CHUNK_ELEMS);
                    partial[0] = sum_of_squares(&grad[chunk * CHUNK_ELEMS..end]);
                });
                done += count;
            }
            let norm = partials[..done].iter().sum::<f64>().sqrt();
            args.output::<T>(1)[0] = T::from_f64(norm);
            // A norm that is not a number must reach the weights, where the divergence check sees it.
            let scale = f64::from(op.max_norm) / (norm + 1e-6);
            args.output::<T>(0)[0] = T::from_f64(if scale > 1.0 { 1.0 } else { scale });
        }
        dispatch_real!(args.input_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let partials = args.workspace();
        let mut num_partials = 0;
        self.groups.launch_tables(args, |tensors, num_blocks| {
            let arguments = ClipNormPartialsArgs {
                arena: args.arena_address,
                partials: partials + (num_partials * size_of::<f64>()) as u64,
                tensors,
            };
            num_partials += num_blocks;
            kernels::CLIP_NORM_PARTIALS.launch(launcher, num_blocks, &arguments)
        })?;
        let arguments = ClipNormTotalArgs {
            partials,
            scale: args.output(0),
            norm: args.output(1),
            num_partials: num_partials as u64,
            max_norm: f64::from(self.max_norm),
        };
        kernels::CLIP_NORM_TOTAL.launch(launcher, 1, &arguments)
    }
}

fn sum_of_squares<T: Real>(values: &[T]) -> f64 {
    vectorized(|| {
        let mut sums = [0.0f64; LANES];
        let mut rows = values.chunks_exact(LANES);
        for row in &mut rows {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v.to_f64() * v.to_f64());
        }
        sums.iter().sum::<f64>() + rows.remainder().iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>()
    })
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let max_norm = draw.pick(&[1.0, 1e6]);
    update_trial(draw, "clip", 0, &["grad"], move |count| ClipNorm::new(max_norm, count))
}
