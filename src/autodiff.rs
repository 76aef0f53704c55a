//! Reverse-mode differentiation: a graph that computes values becomes one that also computes gradients.
//!
//! Nodes are visited last to first; each operation records the nodes of its own gradient
//! ([`crate::graph::Op::gradient`]). A value used several times gets the sum of its gradients, added in the order in
//! which the backward pass makes them, so the result never depends on anything but the graph.

use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, Phase, ValueId};
use crate::ops;

/// Appends the gradient of `output` with respect to each value of `wanted` and returns the gradients in that order.
///
/// `seed` is the gradient of the final result with respect to `output`, of the same shape: a scalar 1 for a loss.
///
/// # Errors
/// [`Error::Graph`] if an operation on the way has no gradient, or `output` does not depend on a wanted value.
pub fn differentiate(
    graph: &mut Graph,
    output: ValueId,
    seed: ValueId,
    wanted: &[ValueId],
) -> Result<Vec<ValueId>> {
    let forward = graph.nodes().to_vec();
    let mut reached = vec![false; graph.values().len()];
    for &id in wanted {
        reached[id.index()] = true;
    }
    for node in &forward {
        if node.inputs.iter().any(|id| reached[id.index()]) {
            node.outputs.iter().for_each(|id| reached[id.index()] = true);
        }
    }

    graph.set_phase(Phase::Backward);
    let mut gradients: Vec<Option<ValueId>> = vec![None; graph.values().len()];
    gradients[output.index()] = Some(seed);
    for node in forward.iter().rev() {
        let upstream: Vec<Option<ValueId>> = node.outputs.iter().map(|id| gradients[id.index()]).collect();
        let needed: Vec<bool> = node.inputs.iter().map(|id| reached[id.index()]).collect();
        if upstream.iter().all(Option::is_none) || !needed.contains(&true) {
            continue;
        }
        let contributions = node.op.gradient(&mut Backward {
            graph: &mut *graph,
            name: &node.name,
            inputs: &node.inputs,
            outputs: &node.outputs,
            upstream: &upstream,
            wanted: &needed,
        })?;
        for ((&input, contribution), needed) in node.inputs.iter().zip(contributions).zip(needed) {
            let Some(contribution) = contribution.filter(|_| needed) else { continue };
            gradients[input.index()] = Some(match gradients[input.index()] {
                None => contribution,
                Some(sum) => {
                    let name = format!("{}.grad_sum_{}", graph.value(input).name, node.name);
                    graph.apply_one(&name, ops::Add, &[sum, contribution])?
                }
            });
        }
    }
    wanted
        .iter()
        .map(|id| {
            gradients[id.index()].ok_or_else(|| Error::Graph {
                op: "autodiff",
                node: graph.value(*id).name.clone(),
                message: "the loss does not depend on it; leave it out of the trained values".into(),
            })
        })
        .collect()
}
