//! Sums by a balanced tree: of what every rank sent, and of the micro-batches of an update.
//!
//! Terms are added in pairs, then their sums in pairs, and so on. So ranks that are near each other may add up first, and what they
//! have goes on as one; whoever adds in this order has the same bits, however many of the terms come at once.

use crate::device::cpu::{CpuArgs, Real, Storage, for_each_chunk, vectorized};
use crate::device::kernels::multi_tensor::PLACE_BYTES;
use crate::device::kernels::tree_sum::MOST_TREE_LEVELS;
use crate::device::kernels::{self, TreeAccumulateUpdateArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::cast;
use crate::ops::checks::{Checks, Contents, Draw, DrawTrial, Trial, in_f32, state};
use crate::ops::launch::only_f32;
use crate::ops::multi_tensor::{Groups, launch_tables};
use crate::ops::ordered_sum::{VEC_ELEMS, check_received, launch_rank_sum};
use crate::ops::{CHUNK_ELEMS, dispatch_real, dispatch_storage, float, sum_dtype};
use crate::tensor::{DType, Shape};

/// `(sum [n], received [ranks, n])`, changing the sum: it becomes that of all ranks, a power of two. What was sent may be bf16 and
/// the sum f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeSum;

/// Elements whose sums that wait for their pairs lie near each other.
const BLOCK_ELEMS: usize = 64;

impl Op for TreeSum {
    fn name(&self) -> &'static str {
        "tree_sum"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let received = check_received(inputs)?;
        let ranks = received.shape.dims()[0];
        if !ranks.is_power_of_two() || ranks.ilog2() as usize > MOST_TREE_LEVELS {
            let most = 1 << MOST_TREE_LEVELS;
            return Err(format!("adds in pairs what 1, 2, 4, .. {most} ranks sent, got {received}"));
        }
        Ok(vec![])
    }

    /// The sum is written alone.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_flops(inputs[1].shape.num_elems())
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (sum, received) = (args.input_mut::<T::Sum>(0), args.input::<T>(1));
            let num_elems = sum.len();
            for_each_chunk(sum, CHUNK_ELEMS, |start, sum| {
                vectorized(|| {
                    for (block, sum) in sum.chunks_mut(BLOCK_ELEMS).enumerate() {
                        add_in_pairs(received, num_elems, start + block * BLOCK_ELEMS, sum);
                    }
                });
            });
        }
        dispatch_storage!(args.input_dtype(1), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch_rank_sum(args, launcher, [&kernels::TREE_SUM_F32, &kernels::TREE_SUM_BF16])
    }
}

/// Sums up the elements from `start` on of the rows of `received`, which are `row` long.
#[inline(always)]
fn add_in_pairs<T: Storage>(received: &[T], row: usize, start: usize, sum: &mut [T::Sum]) {
    // Of each level, what waits for its pair.
    let mut waiting = [[T::Sum::ZERO; BLOCK_ELEMS]; MOST_TREE_LEVELS + 1];
    for (rank, sent) in received.chunks_exact(row).enumerate() {
        sum.iter_mut().zip(&sent[start..]).for_each(|(sum, term)| *sum = term.load());
        let num_pairs = rank.trailing_ones() as usize;
        for left in &waiting[..num_pairs] {
            sum.iter_mut().zip(left).for_each(|(sum, &left)| *sum = left + *sum);
        }
        waiting[num_pairs][..sum.len()].copy_from_slice(sum);
    }
}

/// `(round, (sum, waiting, term)...)`, changing the sums and what waits: after the last of 2^levels rounds, numbered from 0, the sum
/// is that of the terms of all. What waits for its pair meanwhile is a row of `waiting` each
/// ([`TreeAccumulate::waiting_type`]). The round is one i32.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeAccumulate {
    num_waiting: usize,
    groups: Groups,
}

impl TreeAccumulate {
    /// For `count` tensors and so many rounds, a power of two.
    pub fn new(num_rounds: usize, count: usize) -> TreeAccumulate {
        assert!(num_rounds.is_power_of_two(), "rounds have pairs");
        TreeAccumulate { num_waiting: num_waiting(num_rounds), groups: Groups::new(1, 3, &[0, 1], count) }
    }

    /// What waits for its pair next to a sum of type `sum`.
    pub fn waiting_type(num_rounds: usize, sum: ValueType) -> ValueType {
        ValueType { shape: Shape::from([num_waiting(num_rounds), row_elems(sum)]), dtype: sum.dtype }
    }
}

/// Of each level but the last, whose sum is all.
fn num_waiting(num_rounds: usize) -> usize {
    num_rounds.ilog2().saturating_sub(1) as usize
}

/// Elements of a row, so that the next begins where a value may.
fn row_elems(sum: ValueType) -> usize {
    sum.shape.num_elems().next_multiple_of(PLACE_BYTES / size_of::<f32>())
}

impl Op for TreeAccumulate {
    fn name(&self) -> &'static str {
        "tree_accumulate_update"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let (groups, rest) = inputs.get(1..).unwrap_or_default().as_chunks();
        if groups.is_empty() || !rest.is_empty() || inputs[0].dtype != DType::I32 {
            return Err("takes a round in i32, and of each tensor its sum, what waits and the term".into());
        }
        for [sum, waiting, term] in groups {
            let shape = Shape::from([self.num_waiting, row_elems(*sum)]);
            if term != sum || *waiting != (ValueType { shape, dtype: sum.dtype }) {
                return Err(format!(
                    "needs a sum and a term of one type, and {shape} that wait, got {sum}, {term} and {waiting}"
                ));
            }
            if float(*sum)?.dtype != sum_dtype(sum.dtype) {
                return Err(format!("needs sums in f32, got {sum}"));
            }
        }
        Ok(vec![])
    }

    /// Of the rounds of an update, on average: each reads its term, adds once, and leaves a sum.
    fn cost(&self, inputs: &[ValueType], _outputs: &[ValueType]) -> Cost {
        let (groups, _) = inputs[1..].as_chunks::<3>();
        let sums: Vec<ValueType> = groups.iter().map(|[sum, ..]| *sum).collect();
        let flops = sums.iter().map(|sum| sum.shape.num_elems()).sum();
        Cost::traffic(&[&inputs[..1], &sums, &sums].concat(), &sums).with_flops(flops)
    }

    fn mutates(&self) -> &[usize] {
        self.groups.mutated()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: &TreeAccumulate, args: &CpuArgs<'_>) {
            let num_pairs = args.input::<i32>(0)[0].trailing_ones() as usize;
            for start in op.groups.starts(args.num_inputs()) {
                let (sum, waiting) = (args.input_mut::<T>(start), args.input_mut::<T>(start + 1));
                let row = waiting.len() / op.num_waiting.max(1);
                let (pairs, rest) = waiting.split_at_mut(num_pairs.min(op.num_waiting) * row);
                let takes_sum = num_pairs > op.num_waiting;
                let left = if num_pairs < op.num_waiting { &mut rest[..sum.len()] } else { sum };
                add_pairs(left, takes_sum, pairs, row, args.input::<T>(start + 2));
            }
        }
        dispatch_real!(args.input_dtype(1), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[1].dtype)?;
        let (groups, _) = args.inputs[1..].as_chunks::<3>();
        launch_tables(groups.iter().copied(), |tensors, num_blocks| {
            let arguments = TreeAccumulateUpdateArgs {
                arena: args.arena_address,
                round: args.input(0),
                tensors,
                num_waiting: self.num_waiting as u32,
                reserved: 0,
            };
            kernels::TREE_ACCUMULATE_UPDATE.launch(launcher, num_blocks, &arguments)
        })
    }
}

/// Leaves the sum of `term` and of the rows of `pairs`, each `row` long, the first row first; at the end of what was `left` before,
/// where that is the last of the pairs.
fn add_pairs<T: Real>(left: &mut [T], takes_left: bool, pairs: &[T], row: usize, term: &[T]) {
    for_each_chunk(left, CHUNK_ELEMS, |start, left| {
        vectorized(|| {
            for (block, left) in left.chunks_mut(BLOCK_ELEMS).enumerate() {
                let start = start + block * BLOCK_ELEMS;
                let mut sum = [T::ZERO; BLOCK_ELEMS];
                let sum = &mut sum[..left.len()];
                sum.copy_from_slice(&term[start..][..left.len()]);
                for waited in pairs.chunks_exact(row.max(1)) {
                    sum.iter_mut().zip(&waited[start..]).for_each(|(sum, &waited)| *sum = waited + *sum);
                }
                if takes_left {
                    sum.iter_mut().zip(&*left).for_each(|(sum, &waited)| *sum = waited + *sum);
                }
                left.copy_from_slice(sum);
            }
        });
    });
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    // A kernel of its own for each type.
    let of_type = |dtype| Box::new(move |draw: &mut Draw| sum_trial(dtype, draw)) as DrawTrial;
    let mut trials: Vec<DrawTrial> = [DType::F32, DType::Bf16].map(of_type).into();
    trials.push(Box::new(accumulate_trial));
    Checks { cases: vec![], trials }
}

fn sum_trial(dtype: DType, draw: &mut Draw) -> Trial {
    let (num_ranks, num_elems) = (1 << draw.within(0, 5), VEC_ELEMS * draw.num_elems());
    Trial::new(format!("tree sum of {num_elems} elements of {num_ranks} ranks in {dtype}"), move |graph| {
        let sum = state(graph, "sum", [num_elems]);
        let received = in_f32(graph, "received", [num_ranks, num_elems]);
        let received = cast(graph, "sent", received, dtype)?;
        graph.apply("add", TreeSum, &[sum, received])?;
        Ok(())
    })
}

fn accumulate_trial(draw: &mut Draw) -> Trial {
    let (num_rounds, sizes) = (1 << draw.within(0, 4), draw.tensor_sizes());
    let round = draw.within(0, num_rounds - 1);
    let count = sizes.len();
    let title =
        format!("round {round} of {num_rounds} of a tree: {count} tensors, the first of {}", sizes[0]);
    let trial = Trial::new(title, move |graph| {
        let mut operands = vec![graph.input("round", [1], DType::I32)];
        for (i, &size) in sizes.iter().enumerate() {
            let sum = state(graph, &format!("sum.{i}"), [size]);
            let waiting = TreeAccumulate::waiting_type(num_rounds, graph.value(sum).ty);
            let waiting = state(graph, &format!("waiting.{i}"), waiting.shape);
            operands.extend([sum, waiting, state(graph, &format!("term.{i}"), [size])]);
        }
        graph.apply("accumulate", TreeAccumulate::new(num_rounds, count), &operands)?;
        Ok(())
    });
    trial.with_operand("round", Contents::I32(vec![round as i32]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::exec::{Session, Start};
    use crate::graph::Graph;
    use crate::plan::plan;

    /// Terms that have another sum when they are added one after the other.
    const TERMS: [f32; 4] = [1e8, 3.0, -1e8, 5.0];

    fn session(record: impl FnOnce(&mut Graph)) -> Session {
        let mut graph = Graph::new(DType::F32);
        record(&mut graph);
        let program = plan(&[&graph], Device::Cpu.kind()).unwrap();
        Session::open(program, Device::Cpu, Start::Seed(0)).unwrap()
    }

    #[test]
    fn ranks_and_rounds_add_in_the_same_pairs() {
        let expected = (TERMS[0] + TERMS[1]) + (TERMS[2] + TERMS[3]);
        assert_ne!(expected, TERMS.iter().sum::<f32>());
        let mut at_once = session(|graph| {
            let sum = state(graph, "sum", [4]);
            let received = in_f32(graph, "received", [4, 4]);
            graph.apply("add", TreeSum, &[sum, received]).unwrap();
        });
        at_once.set(0, "received", &TERMS.map(|term| [term; 4]).concat()).unwrap();
        at_once.run_micro_batch(0).unwrap();
        assert_eq!(*at_once.value::<f32>(0, "sum").unwrap(), [expected; 4]);

        let mut by_rounds = session(|graph| {
            let round = graph.input("round", [1], DType::I32);
            let sum = state(graph, "sum", [5]);
            let waiting = TreeAccumulate::waiting_type(4, graph.value(sum).ty);
            assert_eq!(waiting.shape.dims(), [1, 16]);
            let waiting = state(graph, "waiting", waiting.shape);
            let term = state(graph, "term", [5]);
            graph.apply("add", TreeAccumulate::new(4, 1), &[round, sum, waiting, term]).unwrap();
        });
        for (round, term) in TERMS.into_iter().enumerate() {
            by_rounds.set(0, "round", &[round as i32]).unwrap();
            by_rounds.set(0, "term", &[term; 5]).unwrap();
            by_rounds.run_micro_batch(0).unwrap();
        }
        assert_eq!(*by_rounds.value::<f32>(0, "sum").unwrap(), [expected; 5]);
    }

    #[test]
    fn what_has_no_pairs_is_refused() {
        let ty = |dims: &[usize]| ValueType { shape: Shape::new(dims), dtype: DType::F32 };
        let message = TreeSum.infer(&[ty(&[4]), ty(&[3, 4])]).unwrap_err();
        assert!(message.contains("in pairs"), "{message}");
        let round = ValueType { shape: [1].into(), dtype: DType::I32 };
        let message =
            TreeAccumulate::new(8, 1).infer(&[round, ty(&[5]), ty(&[1, 16]), ty(&[5])]).unwrap_err();
        assert!(message.contains("2x16 that wait"), "{message}");
    }
}
