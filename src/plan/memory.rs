//! Lifetimes of transient values, and their places in the arena.
//!
//! A value lives from the step that makes it to the last step that reads it. Values joined by an in-place operation
//! share one buffer. Buffers are placed largest first, each at the lowest offset that is free during its whole life. Before
//! them lie the small inputs, one behind the other and for the whole run, so that the host writes them to a device at once.

use super::align;
use crate::device::DeviceKind;
use crate::graph::{Graph, Node, Role, ValueId};

/// What fills the transient part of the arena.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveBytes {
    /// Size of the transient part.
    pub arena_bytes: usize,
    /// The step during which most bytes are alive.
    pub fullest_step: usize,
    /// Bytes alive during that step by role; what is left of `arena_bytes` is lost to gaps.
    pub by_role: Vec<(Role, usize)>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub offset_bytes: usize,
    pub num_bytes: usize,
}

pub(super) struct TransientLayout {
    /// By value; `None` for persistent values, for those made in their place, and for those that no node touches.
    pub value_offsets: Vec<Option<usize>>,
    /// By node.
    pub workspaces: Vec<Place>,
    pub live: LiveBytes,
}

#[derive(Debug, Clone)]
struct Buffer {
    first_step: usize,
    last_step: usize,
    num_bytes: usize,
    offset_bytes: usize,
    role: Role,
}

/// An input of more bytes is uploaded by itself, and its memory serves other values after its last use.
const MOST_INPUT_BYTES: usize = 256 << 10;

/// The small inputs of a graph, each with its place from where they begin, and the bytes that all take.
fn small_inputs(graph: &Graph, last_use: &[Option<usize>]) -> (Vec<(ValueId, usize)>, usize) {
    let is_small = |id: &ValueId| {
        let value = graph.value(*id);
        value.role == Role::Input
            && last_use[id.index()].is_some()
            && value.ty.num_bytes() <= MOST_INPUT_BYTES
    };
    let mut end_bytes = 0;
    let place = |id: ValueId| {
        let offset_bytes = end_bytes;
        end_bytes = align(offset_bytes + graph.value(id).ty.num_bytes());
        (id, offset_bytes)
    };
    let inputs = graph.value_ids().filter(is_small).map(place).collect();
    (inputs, end_bytes)
}

/// Bytes of the small inputs of a graph.
pub(super) fn input_bytes(graph: &Graph) -> usize {
    small_inputs(graph, &last_uses(graph)).1
}

/// Lays out a graph's transient values, the first `input_bytes` for small inputs.
pub(super) fn lay_out(graph: &Graph, device: DeviceKind, input_bytes: usize) -> TransientLayout {
    let last_use = last_uses(graph);
    let (inputs, _) = small_inputs(graph, &last_use);
    let is_placed = |id: ValueId| inputs.iter().any(|&(input, _)| input == id);
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut buffer_of: Vec<Option<usize>> = vec![None; graph.values().len()];
    let open = |buffers: &mut Vec<Buffer>, buffer_of: &mut [Option<usize>], id: ValueId, step: usize| {
        let value = graph.value(id);
        buffer_of[id.index()] = Some(buffers.len());
        buffers.push(Buffer {
            first_step: step,
            last_step: last_use[id.index()].unwrap_or(step),
            num_bytes: value.ty.num_bytes(),
            offset_bytes: 0,
            role: value.role,
        });
    };
    for id in graph.value_ids() {
        if graph.value(id).role == Role::Input && last_use[id.index()].is_some() && !is_placed(id) {
            open(&mut buffers, &mut buffer_of, id, 0);
        }
    }
    let mut workspace_buffers = Vec::with_capacity(graph.nodes().len());
    for (step, node) in graph.nodes().iter().enumerate() {
        for (position, &id) in node.outputs.iter().enumerate() {
            if graph.place(id).is_some() {
                continue;
            }
            match reusable_operand(graph, node, position, step, &last_use).and_then(|i| buffer_of[i.index()])
            {
                Some(buffer) => {
                    buffers[buffer].last_step = last_use[id.index()].unwrap_or(step);
                    buffer_of[id.index()] = Some(buffer);
                }
                None => open(&mut buffers, &mut buffer_of, id, step),
            }
        }
        let types = |ids: &[ValueId]| ids.iter().map(|&id| graph.value(id).ty).collect::<Vec<_>>();
        let num_bytes = node.op.workspace_bytes(device, &types(&node.inputs), &types(&node.outputs));
        workspace_buffers.push((num_bytes > 0).then(|| {
            let role = Role::Workspace;
            buffers.push(Buffer { first_step: step, last_step: step, num_bytes, offset_bytes: 0, role });
            buffers.len() - 1
        }));
    }
    let arena_bytes = input_bytes + place(&mut buffers);
    buffers.iter_mut().for_each(|buffer| buffer.offset_bytes += input_bytes);
    let mut value_offsets: Vec<Option<usize>> =
        buffer_of.iter().map(|b| b.map(|b| buffers[b].offset_bytes)).collect();
    let last_step = graph.nodes().len().saturating_sub(1);
    for &(id, offset_bytes) in &inputs {
        value_offsets[id.index()] = Some(offset_bytes);
        let (num_bytes, role) = (graph.value(id).ty.num_bytes(), Role::Input);
        buffers.push(Buffer { first_step: 0, last_step, num_bytes, offset_bytes, role });
    }
    TransientLayout {
        value_offsets,
        workspaces: workspace_buffers
            .iter()
            .map(|b| {
                b.map_or(Place::default(), |b| Place {
                    offset_bytes: buffers[b].offset_bytes,
                    num_bytes: buffers[b].num_bytes,
                })
            })
            .collect(),
        live: live_bytes(&buffers, graph.nodes().len(), arena_bytes),
    }
}

/// The last step that reads each value; results live to the end. `None` where nothing reads a value.
fn last_uses(graph: &Graph) -> Vec<Option<usize>> {
    let mut last = vec![None; graph.values().len()];
    for (step, node) in graph.nodes().iter().enumerate() {
        for id in &node.inputs {
            last[id.index()] = Some(step);
        }
    }
    for id in graph.results() {
        last[id.index()] = Some(graph.nodes().len().saturating_sub(1));
    }
    last
}

/// The operand whose buffer result `position` of `node` may take over: one that dies here, was made by a node, and is
/// given to the node once.
fn reusable_operand(
    graph: &Graph,
    node: &Node,
    position: usize,
    step: usize,
    last_use: &[Option<usize>],
) -> Option<ValueId> {
    let pair = node.op.in_place().iter().find(|pair| pair.output == position)?;
    let operand = *node.inputs.get(pair.input)?;
    let value = graph.value(operand);
    let dies_here = last_use[operand.index()] == Some(step) && !graph.results().contains(&operand);
    let given_once = node.inputs.iter().filter(|&&id| id == operand).count() == 1;
    let same_size = value.ty == graph.value(node.outputs[position]).ty;
    let made_by_node = matches!(value.role, Role::Activation | Role::Gradient);
    (dies_here && given_once && same_size && made_by_node).then_some(operand)
}

/// Gives every buffer an offset and returns the size of the whole.
fn place(buffers: &mut [Buffer]) -> usize {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].num_bytes), buffers[i].first_step, i));
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    let mut end_bytes = 0;
    for i in order {
        let mut offset_bytes = 0;
        for &other in &placed {
            let other = &buffers[other];
            let apart = other.last_step < buffers[i].first_step || buffers[i].last_step < other.first_step;
            if !apart {
                if offset_bytes + buffers[i].num_bytes <= other.offset_bytes {
                    break;
                }
                offset_bytes = offset_bytes.max(align(other.offset_bytes + other.num_bytes));
            }
        }
        buffers[i].offset_bytes = offset_bytes;
        end_bytes = end_bytes.max(align(offset_bytes + buffers[i].num_bytes));
        let position = placed.partition_point(|&p| buffers[p].offset_bytes <= offset_bytes);
        placed.insert(position, i);
    }
    end_bytes
}

fn live_bytes(buffers: &[Buffer], num_steps: usize, arena_bytes: usize) -> LiveBytes {
    let alive = |step: usize| buffers.iter().filter(move |b| b.first_step <= step && step <= b.last_step);
    let total = |step: usize| alive(step).map(|b| b.num_bytes).sum::<usize>();
    let fullest_step = (0..num_steps).max_by_key(|&step| (total(step), std::cmp::Reverse(step))).unwrap_or(0);
    let by_role = [Role::Input, Role::Activation, Role::Gradient, Role::Workspace]
        .map(|role| (role, alive(fullest_step).filter(|b| b.role == role).map(|b| b.num_bytes).sum()))
        .to_vec();
    LiveBytes { arena_bytes, fullest_step, by_role }
}
