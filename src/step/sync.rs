//! Batch norms by the batches of all ranks (`--sync-bn`), as a pass over the fused training graph.
//!
//! Forward, a batch norm or the convolution before it takes mean and variance of its own batch; all ranks' are gathered, and of them
//! each makes the mean and rstd that it normalises by. Backward, sums are taken over the own rows, which are this rank's part of the
//! gradients of gamma and beta; their means over the ranks are what dx takes through the statistics. So a rank's batch has the
//! gradient that it would have as a part of one batch of all.

use std::collections::HashMap;

use super::exchange::Statistics;
use crate::error::Result;
use crate::graph::{Exchange, Graph, Node, ValueId};
use crate::ops::{
    BatchNormApply, BatchNormBwd, BatchNormDx, BatchNormJoinDx, BatchNormPoolDx, BatchNormStatistics,
    BatchNormSums, BatchNormSync, BatchNormSyncSums, BatchNormTrain, Conv2dStats,
};

/// Has the batch norms of `graph`, which leave `statistics` of their own batch, normalise by those of so many ranks.
pub(super) fn synchronise(graph: &mut Graph, num_ranks: usize, statistics: &Statistics) -> Result<()> {
    let nodes = graph.nodes().to_vec();
    graph.set_nodes(Vec::with_capacity(2 * nodes.len()));
    let mut pass = Pass { graph, num_ranks, statistics, replaced: HashMap::new() };
    nodes.into_iter().try_for_each(|node| pass.add(node))
}

struct Pass<'a> {
    graph: &'a mut Graph,
    num_ranks: usize,
    statistics: &'a Statistics,
    /// What readers of a value are given in its place.
    replaced: HashMap<ValueId, ValueId>,
}

impl Pass<'_> {
    /// Records `node`, or what takes its place.
    fn add(&mut self, mut node: Node) -> Result<()> {
        self.graph.set_phase(node.phase);
        for id in &mut node.inputs {
            *id = *self.replaced.get(id).unwrap_or(id);
        }
        if let Some(&norm) = node.op_as::<BatchNormTrain>() {
            return self.add_norm(&node, norm);
        }
        if let Some(&norm) = node.op_as::<BatchNormBwd>() {
            return self.add_gradients(&node, norm);
        }
        // Where fusion has left dgamma and dbeta among the operands of what takes dx.
        let is_dx = node.op_as::<BatchNormDx>().is_some() || node.op_as::<BatchNormPoolDx>().is_some();
        let sums: &[usize] = match node.op_as::<BatchNormJoinDx>() {
            Some(_) => &[5, 11],
            None if is_dx => &[5],
            None => &[],
        };
        for &at in sums {
            let name = format!("{}.sync{at}", node.name);
            let means = self.means(&name, &node.inputs[at..at + 2])?;
            node.inputs[at..at + 2].copy_from_slice(&means);
        }
        self.graph.push_node(node.clone());
        if let Some(&Conv2dStats { eps, .. }) = node.op_as() {
            let (own, results) = (&node.inputs[2..4], &node.outputs);
            self.add_sync(&node.name, results[0], own, &results[1..], eps)?;
        }
        Ok(())
    }

    /// A batch norm that takes the statistics of its operand itself.
    fn add_norm(&mut self, node: &Node, norm: BatchNormTrain) -> Result<()> {
        let Node { name, inputs, outputs, .. } = node;
        let BatchNormTrain { eps, relu, residual, .. } = norm;
        let (x, own) = (inputs[0], &inputs[3..5]);
        self.graph.apply(&format!("{name}.statistics"), BatchNormStatistics, &[x, own[0], own[1]])?;
        let saved = self.add_sync(name, x, own, &outputs[1..], eps)?;
        let op = BatchNormApply { relu, residual, bits: false };
        let operands = [&inputs[..3], &saved, &inputs[5..]].concat();
        let y = self.graph.apply_one(&format!("{name}.apply"), op, &operands)?;
        self.replaced.insert(outputs[0], y);
        Ok(())
    }

    /// Of `own`, mean and variance of the rows of `normalised`, and those of the other ranks: mean and rstd of all, in the place of
    /// `saved`.
    fn add_sync(
        &mut self,
        name: &str,
        normalised: ValueId,
        own: &[ValueId],
        saved: &[ValueId],
        eps: f32,
    ) -> Result<Vec<ValueId>> {
        let of_ranks = self.gather(&format!("{name}.of_ranks"), own)?;
        let Statistics { own: kept, running, shares, .. } = self.statistics;
        let place = kept.iter().position(|id| *id == own[0]).expect("batch norms keep their statistics");
        let shape = self.graph.shape(normalised);
        let op = BatchNormSync { rows: shape.num_elems() / shape.last(), eps, bn_momentum: shares[place] };
        let operands = [&[of_ranks], &running[place..place + 2]].concat();
        let synced = self.graph.apply(&format!("{name}.sync"), op, &operands)?;
        self.replaced.extend(saved.iter().copied().zip(synced.iter().copied()));
        Ok(synced)
    }

    /// A batch norm's backward pass: its sums, what all ranks make of them, and dx.
    fn add_gradients(&mut self, node: &Node, BatchNormBwd { mask, .. }: BatchNormBwd) -> Result<()> {
        let Node { name, inputs, outputs, .. } = node;
        let sums = self.graph.apply(&format!("{name}.sums"), BatchNormSums { mask }, inputs)?;
        let dz = sums.get(2).map_or(inputs[0], |&dz| dz);
        let means = self.means(&format!("{name}.sync"), &sums[..2])?;
        let operands = [&[dz], &inputs[1..5], &means].concat();
        let dx = self.graph.apply_one(&format!("{name}.dx"), BatchNormDx, &operands)?;
        self.replaced.extend(outputs.iter().copied().zip([dx, sums[0], sums[1], dz]));
        Ok(())
    }

    /// The means over all ranks of dgamma and dbeta.
    fn means(&mut self, name: &str, sums: &[ValueId]) -> Result<Vec<ValueId>> {
        let of_ranks = self.gather(&format!("{name}.of_ranks"), sums)?;
        self.graph.apply(name, BatchNormSyncSums, &[of_ranks])
    }

    fn gather(&mut self, name: &str, operands: &[ValueId]) -> Result<ValueId> {
        self.graph.apply_one(name, Exchange::AllGather { num_ranks: self.num_ranks }, operands)
    }
}
