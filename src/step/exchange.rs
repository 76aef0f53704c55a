//! What ranks exchange in a step: gradients, and the statistics that batch norms take of a batch.
//!
//! With N ranks of A rounds an update, round a of rank r is micro-batch a*N + r of one rank that accumulates N*A of them, and the
//! results have its bits. In each round a rank sends every other one its share of the gradient, adds up what it receives of its
//! own share in the order of ranks, and blends the statistics of all ranks' batches into its running ones in that order. Before
//! the update the shares of the sum are gathered. Gradients go in buckets, each as soon as the backward pass has made the last of it.
//!
//! In the order of a tree ([`SumOrder::Tree`]) ranks of a machine send each other their shares first, and of the sum of a machine each
//! sends its share to those of the other machines that have the same one.
//!
//! With [`AllReduce::Nccl`] each rank sums the gradients of its own rounds, and the library adds up these sums before the update: less is
//! sent between machines, and bits depend on how many ranks there are.
//!
//! Gradients may be sent as bf16 ([`StepConfig::grad_wire`]): each is rounded once, sums are f32, and a sum is rounded once more
//! when it is gathered.

mod places;
mod ranks;

use std::ops::Range;
use std::sync::Arc;

use super::StepConfig;
use super::update::{accumulate_as_tree, interleave, zero};
use crate::device::ALIGNMENT_BYTES;
use crate::dist::Group;
use crate::error::{Error, Result};
use crate::graph::{Exchange, Graph, Phase, Role, ValueId, ValueType};
use crate::named::named;
use crate::ops::{Accumulate, BatchNormTrain, Blend, CastTensors, CopyTensors, OrderedSum, TreeSum};
use crate::plan::align;
use crate::tensor::{DType, Layout};

pub use places::Traffic;
pub(super) use ranks::{Ranks, check_ranks};

named! {
    /// Who adds up the gradients of ranks.
    pub enum AllReduce {
        /// The kernels of this crate, in the order of ranks: the bits of one rank.
        Ordered = "ordered",
        /// NCCL, in an order of its own.
        Nccl = "nccl",
    }
}

named! {
    /// In which order the gradients of the micro-batches of an update are added. Either has the same bits for every number of ranks.
    pub enum SumOrder {
        /// One after the other.
        Chain = "chain",
        /// In pairs, then their sums in pairs, and so on: of ranks on several machines, each machine's are added up there and sent as
        /// one.
        Tree = "tree",
    }
}

/// Fails on a tree of what has no pairs, or that another is to add up.
///
/// # Errors
/// [`Error::Usage`] with the number of batches.
pub fn check_sum_order(order: SumOrder, all_reduce: AllReduce, batches_per_update: usize) -> Result<()> {
    if order == SumOrder::Chain {
        return Ok(());
    }
    if all_reduce == AllReduce::Nccl {
        let what = "--all-reduce nccl with --sum-order tree: NCCL adds in an order of its own; leave one out";
        return Err(Error::Usage(what.into()));
    }
    if batches_per_update.is_power_of_two() {
        return Ok(());
    }
    let more = batches_per_update.next_power_of_two();
    Err(Error::Usage(format!(
        "--sum-order tree adds the batches of an update in pairs, and {batches_per_update} are no power of two: take {} or {more} (ranks \
         times --grad-accum-steps, or --micro-batches), or leave the order out",
        more / 2
    )))
}

/// Statistics of this rank's batch.
const OWN_PREFIX: &str = "exchange.own.";

/// The names of what a bucket's gradients go through.
struct Names(usize);

impl Names {
    fn of(&self, what: &str) -> String {
        format!("exchange.{}.{what}", self.0)
    }

    /// Before the name of a parameter: its gradient, of the micro-batch and then of the update.
    fn gradient_prefix(&self) -> String {
        self.of("gradient.")
    }

    /// Fills the gradients up to a whole share for each rank.
    fn pad(&self) -> String {
        self.of("pad")
    }

    /// This rank's share of the gradients, from each rank that adds up with it first.
    fn received(&self) -> String {
        self.of("received")
    }

    /// Where several machines add up, the sum of those of this one.
    fn node_sum(&self) -> String {
        self.of("node_sum")
    }

    /// This rank's share of that sum, from each machine.
    fn of_nodes(&self) -> String {
        self.of("of_nodes")
    }

    /// The sum of all ranks' micro-batches of a round, where it is not that of an update.
    fn round_sum(&self) -> String {
        self.of("round_sum")
    }

    /// The sum over the micro-batches of an update.
    fn sum(&self) -> String {
        self.of("sum")
    }

    /// That sum as it is sent, where that is of another type.
    fn rounded_sum(&self) -> String {
        self.of("rounded")
    }
}

/// Statistics of the batch norms of a training graph: those that are carried on, and those of one batch.
pub(super) struct Statistics {
    pub(super) running: Vec<ValueId>,
    /// How much of a batch's goes into each.
    pub(super) shares: Vec<f32>,
    /// Of this rank's batch.
    pub(super) own: Vec<ValueId>,
    /// Of each rank's batch; none where batch norms are synchronised, which blend as they normalise.
    of_ranks: Vec<Vec<ValueId>>,
}

/// Has the batch norms of a forward pass leave the statistics of the batch and their running ones as they are.
pub(super) fn keep_statistics(graph: &mut Graph, config: &StepConfig) -> Statistics {
    let mut nodes = graph.nodes().to_vec();
    let (mut running, mut shares) = (Vec::new(), Vec::new());
    for node in &nodes {
        if let Some(norm) = node.op_as::<BatchNormTrain>() {
            running.extend_from_slice(&node.inputs[3..5]);
            shares.extend([norm.bn_momentum; 2]);
        }
    }
    let mut companions =
        |prefix: &str, running: &[ValueId]| graph.companions(prefix, running, Role::Exchanged, zero);
    let own = companions(OWN_PREFIX, &running);
    let num_kept = if config.synchronises() { 0 } else { config.num_ranks };
    let of_ranks = (0..num_kept).map(|rank| companions(&rank_prefix(rank), &running)).collect();
    let mut of_node = own.iter();
    for node in &mut nodes {
        if let Some(&norm) = node.op_as::<BatchNormTrain>() {
            node.op = Arc::new(BatchNormTrain { bn_momentum: 1.0, ..norm });
            node.inputs[3..5].iter_mut().zip(&mut of_node).for_each(|(operand, &own)| *operand = own);
        }
    }
    graph.set_nodes(nodes);
    Statistics { running, shares, own, of_ranks }
}

fn rank_prefix(rank: usize) -> String {
    format!("exchange.rank{rank}.")
}

/// Records the exchange of the `gradients` of `parameters`, and of what batch norms kept. The first results hold the gradients of
/// an update, as they were sent, when all its rounds are done; the second are this rank's shares of their sum.
pub(super) fn exchange(
    graph: &mut Graph,
    config: &StepConfig,
    parameters: &[ValueId],
    gradients: &[ValueId],
    statistics: &Statistics,
) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
    if config.all_reduce == AllReduce::Nccl {
        let prefix = Names(0).gradient_prefix();
        let sums = graph.companions(&prefix, parameters, Role::Accumulated, zero);
        graph.apply("accumulate", Accumulate::new(sums.len()), &interleave(&[], &[&sums, gradients]))?;
        blend(graph, statistics)?;
        return Ok((sums.clone(), sums));
    }
    let own = graph.value(gradients[0]).ty.dtype;
    let wire = if config.rounds_gradients() { DType::Bf16 } else { own };
    let Groups { first, across } = Groups::of(config);
    let mut buckets: Vec<Bucket> = Vec::new();
    for members in cut(graph, config, parameters, wire) {
        let names = Names(buckets.len());
        let (parameters, gradients) = (&parameters[members.clone()], &gradients[members]);
        let (sent, pad) = fill(graph, config, &names, (parameters, gradients), wire)?;
        if let (Some(across), Some(before)) = (across, buckets.last_mut()) {
            // What the ranks of a machine sent has had a bucket's time to arrive.
            graph.apply(&before.names.of("arrive"), Exchange::Arrive, &[])?;
            before.send_sum(graph, across, own)?;
        }
        let row: Vec<ValueId> = sent.iter().copied().chain([pad]).collect();
        let received = send(graph, (&names.of("send"), &names.received()), first, &row, wire)?;
        buckets.push(Bucket { names, sent, received });
    }
    graph.set_phase(Phase::Exchange);
    if let (Some(across), Some(last)) = (across, buckets.last_mut()) {
        last.send_sum(graph, across, own)?;
        graph.apply("exchange.arrive", Exchange::Arrive, &[])?;
    }
    let sums = add_up(graph, config, &buckets, own)?;
    if wire != own {
        for (bucket, &sum) in buckets.iter().zip(&sums) {
            let name = bucket.names.rounded_sum();
            let rounded = ValueType { dtype: wire, ..graph.value(sum).ty };
            let rounded_sum = buffer(graph, &name, rounded, Role::Exchanged);
            graph.apply(&name, CopyTensors::new(1), &[rounded_sum, sum])?;
        }
    }
    blend(graph, statistics)?;
    // The last layers' are first.
    let sent = buckets.into_iter().rev().flat_map(|bucket| bucket.sent).collect();
    Ok((sent, sums))
}

/// Which ranks send each other a round's gradients.
struct Groups {
    first: Group,
    /// And then the sums of those, where the ranks of a machine are first.
    across: Option<Group>,
}

impl Groups {
    fn of(config: &StepConfig) -> Groups {
        let (count, of_node) = (config.num_ranks, config.ranks_per_node);
        if config.sum_order == SumOrder::Chain || of_node == 1 || of_node == count {
            return Groups { first: Group::all(count), across: None };
        }
        let across = Group { size: count / of_node, stride: of_node };
        Groups { first: Group { size: of_node, stride: 1 }, across: Some(across) }
    }
}

/// Gradients that go together.
struct Bucket {
    names: Names,
    sent: Vec<ValueId>,
    /// What is to be added up next.
    received: ValueId,
}

impl Bucket {
    /// Records that the sum of what was received is sent on.
    fn send_sum(&mut self, graph: &mut Graph, group: Group, own: DType) -> Result<()> {
        let name = self.names.node_sum();
        let ty = ValueType { shape: [graph.shape(self.received).last()].into(), dtype: own };
        let sum = buffer(graph, &name, ty, Role::Exchanged);
        graph.apply(&name, TreeSum, &[sum, self.received])?;
        let names = (&self.names.of("send_on")[..], &self.names.of_nodes()[..]);
        self.received = send(graph, names, group, &[sum], own)?;
        Ok(())
    }
}

/// Records that what was received is added to the sums of an update.
fn add_up(graph: &mut Graph, config: &StepConfig, buckets: &[Bucket], own: DType) -> Result<Vec<ValueId>> {
    let num_rounds = config.grad_accum_steps;
    let is_by_rounds = config.sum_order == SumOrder::Tree && num_rounds > 1;
    let mut sums = Vec::new();
    let mut round_sums = Vec::new();
    for Bucket { names, received, .. } in buckets {
        let ty = ValueType { shape: [graph.shape(*received).last()].into(), dtype: own };
        let sum = buffer(graph, &names.sum(), ty, Role::Accumulated);
        sums.push(sum);
        let of_round = if is_by_rounds {
            round_sums.push(buffer(graph, &names.round_sum(), ty, Role::Exchanged));
            round_sums[round_sums.len() - 1]
        } else {
            sum
        };
        let name = graph.value(of_round).name.clone();
        match config.sum_order {
            SumOrder::Chain => graph.apply(&name, OrderedSum, &[of_round, *received])?,
            SumOrder::Tree => graph.apply(&name, TreeSum, &[of_round, *received])?,
        };
    }
    if is_by_rounds {
        accumulate_as_tree(graph, num_rounds, &sums, &round_sums)?;
    }
    Ok(sums)
}

/// Which parameters' gradients go together: the last ones first, as the backward pass makes them.
fn cut(graph: &Graph, config: &StepConfig, parameters: &[ValueId], wire: DType) -> Vec<Range<usize>> {
    let mut buckets = Vec::new();
    let (mut end, mut num_bytes) = (parameters.len(), 0);
    for (start, &id) in parameters.iter().enumerate().rev() {
        num_bytes += align(ValueType { dtype: wire, ..graph.value(id).ty }.num_bytes());
        if num_bytes >= config.bucket_bytes || start == 0 {
            buckets.push(start..end);
            (end, num_bytes) = (start, 0);
        }
    }
    buckets
}

/// Records that a bucket is filled with gradients. They lie in a row, filled up to a whole share for each rank.
fn fill(
    graph: &mut Graph,
    config: &StepConfig,
    names: &Names,
    (parameters, gradients): (&[ValueId], &[ValueId]),
    wire: DType,
) -> Result<(Vec<ValueId>, ValueId)> {
    let mut sent = Vec::new();
    let mut num_bytes = 0;
    for &parameter in parameters {
        let parameter = graph.value(parameter);
        let ty = ValueType { dtype: wire, ..parameter.ty };
        num_bytes += align(ty.num_bytes());
        let name = format!("{}{}", names.gradient_prefix(), parameter.name);
        sent.push(buffer(graph, &name, ty, Role::Exchanged));
    }
    let missing = num_bytes.next_multiple_of(config.num_ranks * ALIGNMENT_BYTES) - num_bytes;
    let pad = ValueType { shape: [missing / wire.size_bytes()].into(), dtype: wire };
    let pad = buffer(graph, &names.pad(), pad, Role::Exchanged);
    graph.apply(&names.of("copy"), CopyTensors::new(sent.len()), &interleave(&[], &[&sent, gradients]))?;
    Ok((sent, pad))
}

/// Records that each rank of a group is sent its part of a row, as node `node`; what is received is called `received`.
fn send(
    graph: &mut Graph,
    (node, received): (&str, &str),
    group: Group,
    row: &[ValueId],
    wire: DType,
) -> Result<ValueId> {
    let num_bytes: usize = row.iter().map(|&id| align(graph.value(id).ty.num_bytes())).sum();
    let shape = [group.size, num_bytes / wire.size_bytes() / group.size].into();
    let received = buffer(graph, received, ValueType { shape, dtype: wire }, Role::Exchanged);
    graph.apply(node, Exchange::AllToAll(group), &[&[received], row].concat())?;
    Ok(received)
}

/// Records a persistent value of zeros.
fn buffer(graph: &mut Graph, name: &str, ty: ValueType, role: Role) -> ValueId {
    graph.persistent_of(name, ty, role, Layout::Flat, zero(name))
}

/// Records the blending of the statistics of all ranks' batches into the running ones, in the order of ranks.
fn blend(graph: &mut Graph, statistics: &Statistics) -> Result<()> {
    graph.set_phase(Phase::Exchange);
    let mut shares = statistics.shares.clone();
    shares.sort_by(f32::total_cmp);
    shares.dedup();
    for (rank, of_rank) in statistics.of_ranks.iter().enumerate() {
        for share in &shares {
            let pairs = statistics.running.iter().zip(of_rank).zip(&statistics.shares);
            let of_share = pairs.filter(|(_, of)| *of == share);
            let (running, batch): (Vec<ValueId>, Vec<ValueId>) = of_share.map(|(pair, _)| pair).unzip();
            let operands = interleave(&[], &[&running, &batch]);
            graph.apply(
                &format!("exchange.blend{rank}.{share}"),
                Blend::new(*share, running.len()),
                &operands,
            )?;
        }
    }
    Ok(())
}

/// Records the rounding of `gradients` that no one sends, as if they were sent as bf16.
pub(super) fn round(graph: &mut Graph, name: &str, gradients: &[ValueId]) -> Result<Vec<ValueId>> {
    let sent = graph.apply(&format!("{name}.bf16"), CastTensors(DType::Bf16), gradients)?;
    widen(graph, name, &sent)
}

/// Records gradients that were sent as bf16 in the type of updates.
pub(super) fn widen(graph: &mut Graph, name: &str, sent: &[ValueId]) -> Result<Vec<ValueId>> {
    graph.apply(name, CastTensors(DType::F32), sent)
}
