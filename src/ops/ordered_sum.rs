//! The sum of what every rank sent, in the order of ranks.

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, Entry, RankSumArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::cast;
use crate::ops::checks::{Checks, Draw, DrawTrial, Trial, in_f32, state};
use crate::ops::launch::{only_f32, vec_grid};
use crate::ops::{CHUNK_ELEMS, dispatch_storage, float, sum_dtype};
use crate::tensor::DType;

/// `(sum [n], received [ranks, n])`, changing the sum: to each element is added what rank 0 sent, then what rank 1 sent, and so
/// on, which are the bits of one rank that adds as many batches one after the other. What was sent may be bf16 and the sum f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderedSum;

/// Elements that a thread takes at once; n is a multiple of it.
pub(super) const VEC_ELEMS: usize = 4;

/// Checks the operands of a sum of what every rank sent, of which it gives the second.
///
/// # Errors
/// What does not fit, as [`Op::infer`] says it.
pub(super) fn check_received(inputs: &[ValueType]) -> InferResult<ValueType> {
    let [sum, received] = inputs else {
        return Err(format!("takes a sum and what was received, got {} operands", inputs.len()));
    };
    let num_elems = sum.shape.num_elems();
    let fits = received.shape.rank() == 2 && received.shape.last() == num_elems;
    if !fits || sum.shape.rank() != 1 || !num_elems.is_multiple_of(VEC_ELEMS) {
        return Err(format!(
            "needs a sum of n elements, n a multiple of {VEC_ELEMS}, and n of each rank, got {sum} and {received}"
        ));
    }
    if sum.dtype != sum_dtype(float(*received)?.dtype) {
        return Err(format!(
            "needs a sum of the type of what was received, or f32 for bf16, got {sum} and {received}"
        ));
    }
    Ok(*received)
}

/// Launches a sum of what every rank sent: the first kernel for f32, the second for bf16.
///
/// # Errors
/// What the launcher reports.
pub(super) fn launch_rank_sum(
    args: &LaunchArgs<'_>,
    launcher: &mut dyn Launcher,
    [of_f32, of_bf16]: [&Entry<RankSumArgs>; 2],
) -> Result<()> {
    let [sum, received] = [args.inputs[0], args.inputs[1]];
    only_f32("a sum of ranks", sum.dtype)?;
    let arguments = RankSumArgs {
        received: args.input(1),
        sum: args.input(0),
        num_elems: sum.shape.num_elems() as u64,
        num_ranks: received.shape.dims()[0] as u32,
        reserved: 0,
    };
    let kernel = if received.dtype == DType::Bf16 { of_bf16 } else { of_f32 };
    kernel.launch(launcher, vec_grid(&sum), &arguments)
}

impl Op for OrderedSum {
    fn name(&self) -> &'static str {
        "ordered_sum"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        check_received(inputs)?;
        Ok(vec![])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let flops = inputs[1].shape.num_elems();
        Cost::traffic(inputs, outputs).and_again(inputs, self.mutates()).with_flops(flops)
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (sum, received) = (args.input_mut::<T::Sum>(0), args.input::<T>(1));
            let num_elems = sum.len();
            for_each_chunk(sum, CHUNK_ELEMS, |start, sum| {
                for sent in received.chunks_exact(num_elems) {
                    let terms = &sent[start..][..sum.len()];
                    vectorized(|| sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term.load()));
                }
            });
        }
        dispatch_storage!(args.input_dtype(1), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch_rank_sum(args, launcher, [&kernels::ORDERED_SUM_F32, &kernels::ORDERED_SUM_BF16])
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    // A kernel of its own for each type.
    let of_type = |dtype| Box::new(move |draw: &mut Draw| trial(dtype, draw)) as DrawTrial;
    Checks { cases: vec![], trials: [DType::F32, DType::Bf16].map(of_type).into() }
}

fn trial(dtype: DType, draw: &mut Draw) -> Trial {
    let (num_ranks, num_elems) = (draw.within(1, 9), VEC_ELEMS * draw.num_elems());
    Trial::new(format!("ordered sum of {num_elems} elements of {num_ranks} ranks in {dtype}"), move |graph| {
        let sum = state(graph, "sum", [num_elems]);
        let received = in_f32(graph, "received", [num_ranks, num_elems]);
        let received = cast(graph, "sent", received, dtype)?;
        graph.apply("add", OrderedSum, &[sum, received])?;
        Ok(())
    })
}
