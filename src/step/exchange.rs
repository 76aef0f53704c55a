//! What ranks exchange in a step: gradients, and the statistics that batch norms take of a batch.
//!
//! With N ranks of A rounds an update, round a of rank r is micro-batch a*N + r of one rank that accumulates N*A of them, and the
//! results have its bits. In each round a rank sends every other one its share of the gradient, adds up what it receives of its
//! own share in the order of ranks, and blends the statistics of all ranks' batches into its running ones in that order. Before
//! the update the shares of the sum are gathered. Gradients go in buckets, each as soon as the backward pass has made the last of it.
//!
//! With [`AllReduce::Nccl`] each rank sums the gradients of its own rounds, and the library adds up these sums before the update: less is
//! sent between machines, and bits depend on how many ranks there are.
//!
//! Gradients may be sent as bf16 ([`StepConfig::grad_wire`]): each is rounded once, sums are f32, and a sum is rounded once more
//! when it is gathered.

use std::ops::Range;
use std::sync::Arc;

use super::update::{interleave, zero};
use super::{StepConfig, TRAIN};
use crate::device::{ALIGNMENT_BYTES, Slot};
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::{Exchange, Graph, Phase, Role, ValueId, ValueType};
use crate::named::named;
use crate::ops::{Accumulate, BatchNormTrain, Blend, CastTensors, CopyTensors, OrderedSum};
use crate::plan::{Program, Step, align};
use crate::tensor::{DType, Layout, Shape};

named! {
    /// Who adds up the gradients of ranks.
    pub enum AllReduce {
        /// The kernels of this crate, in the order of ranks: the bits of one rank.
        Ordered = "ordered",
        /// NCCL, in an order of its own.
        Nccl = "nccl",
    }
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

    /// This rank's share of the gradients, from each rank.
    fn received(&self) -> String {
        self.of("received")
    }

    /// Its sum over the micro-batches of an update.
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
/// an update, as they were sent, when all its rounds are done; the second are this rank's shares of their sum, to be cleared then.
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
    let mut buckets = Vec::new();
    for members in cut(graph, config, parameters, wire) {
        let (parameters, gradients) = (&parameters[members.clone()], &gradients[members]);
        buckets.push(send(graph, config, &Names(buckets.len()), (parameters, gradients), wire)?);
    }
    graph.set_phase(Phase::Exchange);
    let mut sums = Vec::new();
    for (number, bucket) in buckets.iter().enumerate() {
        let names = Names(number);
        let shape = Shape::from([graph.shape(bucket.received).last()]);
        let sum = buffer(graph, &names.sum(), ValueType { shape, dtype: own }, Role::Accumulated);
        graph.apply(&names.sum(), OrderedSum, &[sum, bucket.received])?;
        if wire != own {
            let rounded = ValueType { shape, dtype: wire };
            let rounded_sum = buffer(graph, &names.rounded_sum(), rounded, Role::Exchanged);
            graph.apply(&names.rounded_sum(), CopyTensors::new(1), &[rounded_sum, sum])?;
        }
        sums.push(sum);
    }
    blend(graph, statistics)?;
    // The last layers' are first.
    Ok((buckets.into_iter().rev().flat_map(|bucket| bucket.sent).collect(), sums))
}

/// Gradients that go together.
struct Bucket {
    sent: Vec<ValueId>,
    received: ValueId,
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

/// Records that a bucket of gradients is sent, each rank its share.
fn send(
    graph: &mut Graph,
    config: &StepConfig,
    names: &Names,
    (parameters, gradients): (&[ValueId], &[ValueId]),
    wire: DType,
) -> Result<Bucket> {
    let types: Vec<ValueType> =
        parameters.iter().map(|&id| ValueType { dtype: wire, ..graph.value(id).ty }).collect();
    let num_bytes: usize = types.iter().map(|ty| align(ty.num_bytes())).sum();
    let share_bytes = num_bytes.div_ceil(config.num_ranks * ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    let share = share_bytes / wire.size_bytes();
    // In a row, filled up to whole shares: what an operation makes lies anywhere.
    let mut sent = Vec::new();
    for (&parameter, &ty) in parameters.iter().zip(&types) {
        let name = format!("{}{}", names.gradient_prefix(), graph.value(parameter).name);
        sent.push(buffer(graph, &name, ty, Role::Exchanged));
    }
    let of_shape = |shape| ValueType { shape, dtype: wire };
    let rest = config.num_ranks * share - num_bytes / wire.size_bytes();
    let pad = buffer(graph, &names.pad(), of_shape([rest].into()), Role::Exchanged);
    let received = of_shape([config.num_ranks, share].into());
    let received = buffer(graph, &names.received(), received, Role::Exchanged);

    graph.apply(&names.of("copy"), CopyTensors::new(sent.len()), &interleave(&[], &[&sent, gradients]))?;
    graph.apply(&names.of("send"), Exchange::AllToAll, &[&[received], &sent[..], &[pad]].concat())?;
    Ok(Bucket { sent, received })
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

/// Where in the arena what ranks exchange lies, in bytes.
struct Places {
    buckets: Vec<BucketPlace>,
    /// The statistics of the own batch, and where those of all ranks begin.
    statistics: Option<(Range<usize>, usize)>,
}

/// Place of a bucket.
struct BucketPlace {
    /// In a row, filled up to whole shares where there are some.
    gradients: Range<usize>,
    /// The sum of the own share, as it is sent; none where the library adds.
    sum: Option<Range<usize>>,
}

impl Places {
    /// `None` if the program is not of a training with ranks.
    fn of(program: &Program) -> Option<Places> {
        let block = |prefixes: &[&str]| {
            let is_member = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
            let members = program.persistent.iter().filter(|p| is_member(&p.value.name));
            let places = members.map(|p| p.slot.offset_bytes..p.slot.offset_bytes + p.slot.num_bytes());
            places.reduce(|first, next| first.start..next.end)
        };
        let bucket = |number| {
            let names = Names(number);
            let gradients = block(&[&names.gradient_prefix(), &names.pad()])?;
            let sum = block(&[&names.received()])
                .and_then(|_| block(&[&names.rounded_sum()]).or_else(|| block(&[&names.sum()])));
            Some(BucketPlace { gradients, sum })
        };
        let buckets: Vec<BucketPlace> = (0..).map_while(bucket).collect();
        // Up to the next value, so that those of all ranks are as long.
        let statistics = block(&[OWN_PREFIX]).zip(block(&[&rank_prefix(0)]));
        let statistics = statistics.map(|(own, all)| (own.start..all.start, all.start));
        (!buckets.is_empty()).then_some(Places { buckets, statistics })
    }
}

/// Bytes that a rank of a training sends to the others. It receives as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// In and after a micro-batch: of its gradient all but the own share, unless NCCL adds, and the statistics of its batch norms to
    /// each of the others; of images of the full size.
    pub micro_batch_bytes: usize,
    /// Before an update: the own share of the sum to each of the others, or what a ring sends for NCCL's sum.
    pub update_bytes: usize,
}

impl Traffic {
    /// Of a program that was planned for so many ranks; `None` for one without.
    pub fn of(program: &Program, num_ranks: usize) -> Option<Traffic> {
        let Places { buckets, statistics } = Places::of(program)?;
        let (others, train) = (num_ranks - 1, &program.plans[TRAIN]);
        let is_gather = |step: &&Step| step.op.exchange() == Some(Exchange::AllGather { num_ranks });
        let gathers = train.exchanges.iter().map(|&step| &train.steps[step]).filter(is_gather);
        let gathered: usize = gathers.flat_map(|step| &step.inputs).map(Slot::num_bytes).sum();
        let statistics_bytes = others * (gathered + statistics.map_or(0, |(own, _)| own.len()));
        let gradient_bytes: usize =
            buckets.iter().map(|bucket| others * bucket.gradients.len() / num_ranks).sum();
        Some(match buckets[0].sum {
            Some(_) => {
                Traffic { micro_batch_bytes: gradient_bytes + statistics_bytes, update_bytes: gradient_bytes }
            }
            None => Traffic { micro_batch_bytes: statistics_bytes, update_bytes: 2 * gradient_bytes },
        })
    }

    /// Bytes for an update of so many micro-batches on each rank.
    pub fn bytes_of(&self, micro_batches: usize) -> usize {
        micro_batches * self.micro_batch_bytes + self.update_bytes
    }
}

/// The other processes of a training.
pub(super) struct Ranks {
    pub(super) collective: Box<dyn Collective>,
    places: Places,
}

impl Ranks {
    /// # Errors
    /// [`Error::Graph`] if the program is not of a training with ranks.
    pub(super) fn new(program: &Program, collective: Box<dyn Collective>) -> Result<Ranks> {
        let places = Places::of(program).ok_or_else(|| Error::Graph {
            op: "exchange",
            node: Names(0).gradient_prefix(),
            message: "is in no program that was planned for one rank".into(),
        })?;
        Ok(Ranks { collective, places })
    }

    /// What follows a micro-batch of plan `plan`, in which gradients were sent.
    pub(super) fn exchange(&mut self, session: &mut Session, plan: usize) -> Result<()> {
        if let Some((own, all)) = &self.places.statistics {
            session.all_gather(&mut *self.collective, own.clone(), *all)?;
        }
        session.run_exchange(plan)
    }

    /// What comes before an update.
    pub(super) fn gather(&mut self, session: &mut Session) -> Result<()> {
        let Ranks { collective, places } = self;
        let collective = &mut **collective;
        places.buckets.iter().try_for_each(|BucketPlace { gradients, sum }| match sum {
            Some(sum) => session.all_gather(collective, sum.clone(), gradients.start),
            None => session.all_reduce(collective, gradients.clone()),
        })
    }
}

/// Fails unless `collective` joins as many ranks as the graphs were made for, and has what adds up their gradients.
pub(super) fn check_ranks(config: &StepConfig, collective: &dyn Collective) -> Result<()> {
    let (planned, count) = (config.num_ranks, collective.rank().count);
    if count != planned {
        return Err(Error::Usage(format!("the step is planned for {planned} ranks, and {count} are there")));
    }
    if planned > 1 && config.all_reduce == AllReduce::Nccl && collective.communicator().is_none() {
        let what = "--all-reduce nccl: NCCL joins ranks on GPUs, and these are on others; leave it out";
        return Err(Error::Usage(what.into()));
    }
    Ok(())
}
