//! Where in the arena what ranks exchange lies, and how many bytes it is.

use std::ops::Range;

use super::{AllReduce, Groups, Names, OWN_PREFIX, rank_prefix};
use crate::device::Slot;
use crate::dist::Group;
use crate::graph::Exchange;
use crate::plan::Program;
use crate::step::{StepConfig, TRAIN};

/// Places, in bytes.
pub(super) struct Places {
    pub(super) buckets: Vec<BucketPlace>,
    /// The statistics of the own batch, and where those of all ranks begin.
    pub(super) statistics: Option<(Range<usize>, usize)>,
}

/// Place of a bucket.
pub(super) struct BucketPlace {
    /// In a row, filled up to whole shares where there are some.
    pub(super) gradients: Range<usize>,
    /// The sum of the own share, as it is sent; none where the library adds.
    pub(super) sum: Option<Range<usize>>,
    /// Where what ranks send each other first is received.
    pub(super) received: Option<Range<usize>>,
}

impl Places {
    /// `None` if the program is not of a training with ranks.
    pub(super) fn of(program: &Program) -> Option<Places> {
        let block = |prefixes: &[&str]| {
            let is_member = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
            let members = program.persistent.iter().filter(|p| is_member(&p.value.name));
            let places = members.map(|p| p.slot.offset_bytes..p.slot.offset_bytes + p.slot.num_bytes());
            places.reduce(|first, next| first.start..next.end)
        };
        let bucket = |number| {
            let names = Names(number);
            let gradients = block(&[&names.gradient_prefix(), &names.pad()])?;
            let received = block(&[&names.received()]);
            let sum = block(&[&names.rounded_sum()]).or_else(|| block(&[&names.sum()]));
            Some(BucketPlace { gradients, sum: sum.filter(|_| received.is_some()), received })
        };
        let buckets: Vec<BucketPlace> = (0..).map_while(bucket).collect();
        // Up to the next value, so that those of all ranks are as long.
        let statistics = block(&[OWN_PREFIX]).zip(block(&[&rank_prefix(0)]));
        let statistics = statistics.map(|(own, all)| (own.start..all.start, all.start));
        (!buckets.is_empty()).then_some(Places { buckets, statistics })
    }
}

/// Bytes that a rank of a training sends to the others, and a machine to other machines. It receives as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// In and after a micro-batch: of its gradient all but the own share, unless NCCL adds, and the statistics of its batch norms to
    /// each of the others; of images of the full size.
    pub micro_batch_bytes: usize,
    /// Before an update: the own share of the sum to each of the others, or what a ring sends for NCCL's sum.
    pub update_bytes: usize,
    /// In and after a micro-batch, from a machine of [`StepConfig::ranks_per_node`] ranks.
    pub node_micro_batch_bytes: usize,
    /// Before an update, from a machine. A ring leaves it at one rank.
    pub node_update_bytes: usize,
}

impl Traffic {
    /// Of a program that was planned for `config`; `None` for one of a rank without others.
    pub fn of(program: &Program, config: &StepConfig) -> Option<Traffic> {
        let Places { buckets, statistics } = Places::of(program)?;
        let StepConfig { num_ranks, ranks_per_node, .. } = *config;
        // To all ranks of a group, of the others those of other machines.
        let elsewhere = |rank: &usize| rank / ranks_per_node > 0;
        let of_others = |group: Group| [group.size - 1, group.members(0).filter(elsewhere).count()];
        let all = of_others(Group::all(num_ranks));

        let mut micro_batch = [0; 2];
        let mut send = |counts: [usize; 2], bytes: usize| {
            micro_batch.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count * bytes);
        };
        let train = &program.plans[TRAIN];
        for step in train.exchanges.iter().map(|&step| &train.steps[step]) {
            match step.op.exchange() {
                Some(Exchange::AllGather { .. }) => send(all, step.inputs.iter().map(Slot::num_bytes).sum()),
                Some(Exchange::AllToAll(group)) => {
                    send(of_others(group), step.inputs[0].num_bytes() / group.size)
                }
                _ => {}
            }
        }
        send(all, statistics.map_or(0, |(own, _)| own.len()));

        let gradient_bytes: usize = buckets.iter().map(|bucket| bucket.gradients.len()).sum();
        let share_bytes: usize = buckets.iter().flat_map(|bucket| &bucket.sum).map(Range::len).sum();
        let [update_bytes, node_update_bytes] = match config.all_reduce {
            AllReduce::Ordered => {
                let to_nodes = Groups::of(config).across.map_or(all, of_others)[1];
                [all[0] * share_bytes, ranks_per_node * to_nodes * share_bytes]
            }
            AllReduce::Nccl => {
                let ring = 2 * gradient_bytes * all[0] / num_ranks;
                [ring, if all[1] > 0 { ring } else { 0 }]
            }
        };
        let [micro_batch_bytes, to_nodes] = micro_batch;
        let node_micro_batch_bytes = ranks_per_node * to_nodes;
        Some(Traffic { micro_batch_bytes, update_bytes, node_micro_batch_bytes, node_update_bytes })
    }

    /// Bytes that a rank sends for an update of so many micro-batches on each.
    pub fn bytes_of(&self, micro_batches: usize) -> usize {
        micro_batches * self.micro_batch_bytes + self.update_bytes
    }

    /// Bytes that a machine sends to others for an update of so many micro-batches on each rank.
    pub fn node_bytes_of(&self, micro_batches: usize) -> usize {
        micro_batches * self.node_micro_batch_bytes + self.node_update_bytes
    }
}
