//! Gradients on their way to other ranks while the backward pass goes on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{Exchange, Graph, Node, Phase, ValueId};
use crate::ops::CopyTensors;

/// Moves what sends a bucket of gradients, which is recorded behind the backward pass, to where the last of them is made. A gradient
/// that is sent as it is, is made where it is sent from.
pub(super) fn overlap(graph: &mut Graph) {
    let sends = |node: &Node| {
        node.phase == Phase::Backward
            && (node.op_as::<CopyTensors>().is_some() || node.op.exchange() == Some(Exchange::AllToAll))
    };
    let (sending, rest): (Vec<Node>, Vec<Node>) = graph.nodes().iter().cloned().partition(sends);
    let made = rest.iter().enumerate().flat_map(|(at, node)| node.outputs.iter().map(move |&id| (id, at)));
    let maker: HashMap<ValueId, usize> = made.collect();
    let mut behind: HashMap<usize, Vec<Node>> = HashMap::new();
    let (pairs, _) = sending.as_chunks();
    for [copy, send] in pairs {
        let (copies, _) = copy.inputs.as_chunks();
        let last = copies.iter().map(|[_, gradient]| maker[gradient]).max().expect("a bucket has gradients");
        let nodes = behind.entry(last).or_default();
        let is_rounded = |[to, gradient]: &[ValueId; 2]| graph.value(*to).ty != graph.value(*gradient).ty;
        let (copied, made_there): (Vec<_>, Vec<_>) = copies.iter().copied().partition(is_rounded);
        made_there.into_iter().for_each(|[place, gradient]| graph.make_in(gradient, place));
        if !copied.is_empty() {
            let op = Arc::new(CopyTensors::new(copied.len()));
            nodes.push(Node { op, inputs: copied.concat(), ..copy.clone() });
        }
        nodes.push(send.clone());
    }
    let with_sends = |(at, node)| [node].into_iter().chain(behind.remove(&at).unwrap_or_default());
    let nodes = rest.into_iter().enumerate().flat_map(with_sends).collect();
    graph.set_nodes(nodes);
}
