//! Gradients on their way to other ranks while the backward pass goes on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{Graph, Node, Phase, ValueId};
use crate::ops::CopyTensors;

/// Moves what sends a bucket of gradients, which is recorded behind the backward pass, to where the last of them is made; and with it
/// what is recorded between its copy and the next. A gradient that is sent as it is, is made where it is sent from.
pub(super) fn overlap(graph: &mut Graph) {
    let is_copy = |node: &Node| node.phase == Phase::Backward && node.op_as::<CopyTensors>().is_some();
    let mut rest = graph.nodes().to_vec();
    let Some(first) = rest.iter().position(is_copy) else { return };
    let num_sending = rest[first..].iter().take_while(|node| node.phase == Phase::Backward).count();
    let sending: Vec<Node> = rest.drain(first..first + num_sending).collect();
    let made = rest.iter().enumerate().flat_map(|(at, node)| node.outputs.iter().map(move |&id| (id, at)));
    let maker: HashMap<ValueId, usize> = made.collect();
    let mut behind: HashMap<usize, Vec<Node>> = HashMap::new();
    let mut last = 0;
    for bucket in sending.chunk_by(|_, next| !is_copy(next)) {
        let (copies, _) = bucket[0].inputs.as_chunks();
        // Not before the bucket before it, on whose sums it may come.
        last = copies.iter().map(|[_, gradient]| maker[gradient]).fold(last, usize::max);
        let nodes = behind.entry(last).or_default();
        let is_rounded = |[to, gradient]: &[ValueId; 2]| graph.value(*to).ty != graph.value(*gradient).ty;
        let (copied, made_there): (Vec<_>, Vec<_>) = copies.iter().copied().partition(is_rounded);
        made_there.into_iter().for_each(|[place, gradient]| graph.make_in(gradient, place));
        if !copied.is_empty() {
            let op = Arc::new(CopyTensors::new(copied.len()));
            nodes.push(Node { op, inputs: copied.concat(), ..bucket[0].clone() });
        }
        nodes.extend_from_slice(&bucket[1..]);
    }
    let with_sends = |(at, node)| [node].into_iter().chain(behind.remove(&at).unwrap_or_default());
    let nodes = rest.into_iter().enumerate().flat_map(with_sends).collect();
    graph.set_nodes(nodes);
}
