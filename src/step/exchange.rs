//! What ranks exchange in a step: gradients, and the statistics that batch norms take of a batch.
//!
//! With N ranks of A rounds an update, round a of rank r is micro-batch a*N + r of one rank that accumulates N*A of them, and the
//! results have its bits. In each round a rank sends every other one its share of the gradient, adds up what it receives of its
//! own share in the order of ranks, and blends the statistics of all ranks' batches into its running ones in that order. Before
//! the update the shares of the sum are gathered.

use std::ops::Range;
use std::sync::Arc;

use super::update::{interleave, zero};
use crate::device::{ALIGNMENT_BYTES, Slot};
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::{Graph, Phase, Role, ValueId};
use crate::ops::{Accumulate, BatchNormTrain, Blend, Clear, OrderedSum};
use crate::plan::{Program, align};
use crate::tensor::{Layout, Shape};

/// Names begin so: gradients, of the micro-batch and then of the update.
const GRADIENT_PREFIX: &str = "exchange.gradient.";
/// Statistics of this rank's batch.
const OWN_PREFIX: &str = "exchange.own.";
/// Fills the gradients up to a whole share for each rank.
const PAD: &str = "exchange.pad";
/// This rank's share of the gradient, from each rank.
const RECEIVED: &str = "exchange.received";
/// Its sum over the micro-batches of an update.
const SUM: &str = "exchange.sum";

/// Statistics of the batch norms of a training graph: those that are carried on, and those of one batch.
pub(super) struct Statistics {
    running: Vec<ValueId>,
    /// How much of a batch's goes into each.
    shares: Vec<f32>,
    /// Of each rank's batch.
    of_ranks: Vec<Vec<ValueId>>,
}

/// Has the batch norms of a forward pass leave the statistics of the batch and their running ones as they are.
pub(super) fn keep_statistics(graph: &mut Graph, num_ranks: usize) -> Statistics {
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
    let mut own = companions(OWN_PREFIX, &running).into_iter();
    let of_ranks = (0..num_ranks).map(|rank| companions(&rank_prefix(rank), &running)).collect();
    for node in &mut nodes {
        if let Some(&norm) = node.op_as::<BatchNormTrain>() {
            node.op = Arc::new(BatchNormTrain { bn_momentum: 1.0, ..norm });
            node.inputs[3..5].iter_mut().zip(&mut own).for_each(|(operand, own)| *operand = own);
        }
    }
    graph.set_nodes(nodes);
    Statistics { running, shares, of_ranks }
}

fn rank_prefix(rank: usize) -> String {
    format!("exchange.rank{rank}.")
}

/// Records the exchange of the `gradients` of `parameters`, and of what batch norms kept. The results hold the gradients of an
/// update when all its rounds are done.
pub(super) fn exchange(
    graph: &mut Graph,
    num_ranks: usize,
    parameters: &[ValueId],
    gradients: &[ValueId],
    statistics: &Statistics,
) -> Result<Vec<ValueId>> {
    // The gradients of a micro-batch, one after another: what an operation makes lies anywhere.
    let sent = graph.companions(GRADIENT_PREFIX, parameters, Role::Exchanged, zero);
    graph.apply("exchange.clear", Clear::new(sent.len()), &sent)?;
    graph.apply("exchange.copy", Accumulate::new(sent.len()), &interleave(&[], &[&sent, gradients]))?;

    let num_bytes: usize = sent.iter().map(|&id| align(graph.value(id).ty.num_bytes())).sum();
    let share_bytes = num_bytes.div_ceil(num_ranks * ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    let elem_bytes = graph.value(sent[0]).ty.dtype.size_bytes();
    let mut buffer =
        |name: &str, role, shape: Shape| graph.persistent(name, shape, role, Layout::Flat, zero(name));
    buffer(PAD, Role::Exchanged, [(num_ranks * share_bytes - num_bytes) / elem_bytes].into());
    let share = share_bytes / elem_bytes;
    let received = buffer(RECEIVED, Role::Exchanged, [num_ranks, share].into());
    let sum = buffer(SUM, Role::Accumulated, [share].into());

    graph.set_phase(Phase::Exchange);
    graph.apply(SUM, OrderedSum, &[sum, received])?;
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
    Ok(sent)
}

/// Records what makes the sum ready for the next update.
pub(super) fn clear(graph: &mut Graph) -> Result<()> {
    let sum = graph.find(SUM).expect("an exchange has a sum");
    graph.apply("clear", Clear::new(1), &[sum])?;
    Ok(())
}

/// Where in the arena what ranks exchange lies, in bytes.
struct Places {
    gradients: Range<usize>,
    received: usize,
    sum: Range<usize>,
    /// The statistics of the own batch, and where those of all ranks begin.
    statistics: Option<(Range<usize>, usize)>,
}

impl Places {
    /// # Errors
    /// [`Error::Graph`] if the program is not of a training with ranks.
    fn of(program: &Program) -> Result<Places> {
        let first = |prefix: &str| {
            program.persistent.iter().find(|p| p.value.name.starts_with(prefix)).map(|p| p.slot.offset_bytes)
        };
        let bytes = |slot: Slot| slot.offset_bytes..slot.offset_bytes + slot.num_bytes();
        let received = bytes(program.persistent(RECEIVED)?.slot);
        let start = first(GRADIENT_PREFIX).unwrap_or(received.start);
        let places = Places {
            gradients: start..received.start,
            received: received.start,
            sum: bytes(program.persistent(SUM)?.slot),
            statistics: first(OWN_PREFIX).zip(first(&rank_prefix(0))).map(|(own, all)| (own..all, all)),
        };
        assert_eq!(
            places.gradients.len(),
            received.len(),
            "gradients lie in a row, filled up to whole shares"
        );
        Ok(places)
    }
}

/// Bytes that a rank of a training sends to the others. It receives as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// After a micro-batch: of its gradient all but the own share, and the statistics of its batch norms to each of the others.
    pub micro_batch_bytes: usize,
    /// Before an update: the own share of the sum to each of the others.
    pub update_bytes: usize,
}

impl Traffic {
    /// Of a program that was planned for ranks; `None` for one without.
    pub fn of(program: &Program) -> Option<Traffic> {
        let Places { gradients, sum, statistics, .. } = Places::of(program).ok()?;
        let others = gradients.len() / sum.len() - 1;
        let of_batch = sum.len() + statistics.map_or(0, |(own, _)| own.len());
        Some(Traffic { micro_batch_bytes: others * of_batch, update_bytes: others * sum.len() })
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
        Ok(Ranks { collective, places: Places::of(program)? })
    }

    /// What follows a micro-batch of plan `plan`.
    pub(super) fn exchange(&mut self, session: &mut Session, plan: usize) -> Result<()> {
        let Ranks { collective, places } = self;
        let collective = &mut **collective;
        session.all_to_all(collective, places.gradients.clone(), places.received)?;
        if let Some((own, all)) = &places.statistics {
            session.all_gather(collective, own.clone(), *all)?;
        }
        session.run_exchange(plan)
    }

    /// What comes before an update.
    pub(super) fn gather(&mut self, session: &mut Session) -> Result<()> {
        let Ranks { collective, places } = self;
        session.all_gather(&mut **collective, places.sum.clone(), places.gradients.start)
    }
}

/// Fails unless `collective` joins as many ranks as the graphs were made for.
pub(super) fn check_ranks(num_ranks: usize, collective: &dyn Collective) -> Result<()> {
    match collective.rank().count {
        count if count == num_ranks => Ok(()),
        count => {
            Err(Error::Usage(format!("the step is planned for {num_ranks} ranks, and {count} are there")))
        }
    }
}
