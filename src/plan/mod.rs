//! From graphs to a fixed list of steps over one arena.
//!
//! Persistent values (parameters, running statistics, optimiser state) come first, once for all graphs of a program and
//! matched by name; after them every graph lays out its own transient values, one graph at a time being active. The sum
//! is what a run allocates, known before any device is touched.

mod memory;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::device::{ALIGNMENT_BYTES, DeviceKind, LaunchArgs, Nowhere, Slot};
use crate::error::{Error, Result};
use crate::graph::{Cost, Graph, Op, Phase, Role, Value, ValueId};
use crate::tensor::DType;

pub use memory::LiveBytes;

/// One node, ready to run.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name of the node.
    pub name: String,
    /// Operation to run.
    pub op: Arc<dyn Op>,
    /// Where the operands lie.
    pub inputs: Vec<Slot>,
    /// Where the results go.
    pub outputs: Vec<Slot>,
    /// Scratch memory; empty for most.
    pub workspace: Slot,
    /// Part of the step.
    pub phase: Phase,
    /// Work and compulsory traffic.
    pub cost: Cost,
}

/// The steps of one graph.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Steps in execution order.
    pub steps: Vec<Step>,
    /// Index of the first step that is not of [`Phase::Forward`] or [`Phase::Backward`].
    pub first_exchange: usize,
    /// Index of the first step of [`Phase::Update`].
    pub first_update: usize,
    /// Indices of the steps at which ranks send each other values ([`Op::exchange`]).
    pub exchanges: Vec<usize>,
    /// Bytes of the transient part, and what fills it where it is fullest.
    pub live: LiveBytes,
    places: HashMap<String, (Slot, Access)>,
    /// The transient values that the host may use: few, and asked for in every step.
    host_values: Vec<(Slot, Access)>,
}

/// When the host may use the memory of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// At any time between runs: parameters, state and data.
    Always,
    /// Before a run, for writing: an input, whose memory serves other values after its last use.
    BeforeRun,
    /// Before a run, for writing, and after it, for reading: a value that the graph keeps.
    Kept,
    /// Never: the value shares its memory with others during the run.
    Never,
}

impl Access {
    /// Whether the value can be read after a run.
    pub fn is_readable(self) -> bool {
        matches!(self, Access::Always | Access::Kept)
    }

    /// Whether the value can be written before a run.
    pub fn is_writable(self) -> bool {
        self != Access::Never
    }
}

/// A value that outlives a step.
#[derive(Debug, Clone)]
pub struct Persistent {
    /// The value as recorded.
    pub value: Value,
    /// Place of the value in the arena.
    pub slot: Slot,
}

/// Plans that share one arena.
#[derive(Debug, Clone)]
pub struct Program {
    /// Plans of the graphs, in the order given.
    pub plans: Vec<Plan>,
    /// Parameters and state of all graphs: parameters first, in order of recording.
    pub persistent: Vec<Persistent>,
    /// Bytes of the persistent part.
    pub persistent_bytes: usize,
    /// Bytes behind it for the small inputs of a graph, which lie there in one piece, up to where a line of a GPU's cache begins.
    pub input_bytes: usize,
    /// Bytes of the arena: the persistent part and the largest transient part.
    pub peak_bytes: usize,
}

impl Plan {
    /// The slot of the value called `name`, which the host may write before a run or read after it.
    ///
    /// # Errors
    /// [`Error::Graph`] if the graph has no such value, fusion removed it, or its memory is shared during a run because
    /// the graph does not keep it ([`Graph::keep`]).
    pub fn slot(&self, name: &str) -> Result<Slot> {
        self.place(name, Access::is_writable)
    }

    /// The slot of the value called `name`, which the host may read after a run.
    ///
    /// # Errors
    /// As [`Plan::slot`], and for an input that the graph does not keep.
    pub fn readable_slot(&self, name: &str) -> Result<Slot> {
        self.place(name, Access::is_readable)
    }

    fn place(&self, name: &str, allowed: impl Fn(Access) -> bool) -> Result<Slot> {
        match self.places.get(name) {
            Some((slot, access)) if allowed(*access) => Ok(*slot),
            Some(_) => Err(Error::Graph {
                op: "plan",
                node: name.to_string(),
                message:
                    "shares its memory with other values during a run; call Graph::keep on it before planning"
                        .into(),
            }),
            None => Err(no_value(name)),
        }
    }

    /// Whether `slot` is that of a transient value which the host may use as `allowed` says.
    pub(crate) fn reaches(&self, slot: &Slot, allowed: impl Fn(Access) -> bool) -> bool {
        self.host_values.iter().any(|(place, access)| place == slot && allowed(*access))
    }

    /// The name of a value at `slot`.
    pub(crate) fn name_of(&self, slot: &Slot) -> Option<&str> {
        self.places.iter().find(|(_, (place, _))| place == slot).map(|(name, _)| name.as_str())
    }

    /// The name of the value at `slot` that can be read after a run.
    pub fn kept_name(&self, slot: &Slot) -> Option<&str> {
        let mut places = self.places.iter();
        let is_it = |(place, access): &(Slot, Access)| place == slot && access.is_readable();
        places.find(|(_, place)| is_it(place)).map(|(name, _)| name.as_str())
    }

    /// Work and compulsory traffic of all steps.
    pub fn cost(&self) -> Cost {
        self.steps.iter().fold(Cost::default(), |sum, step| Cost {
            flops: sum.flops + step.cost.flops,
            bytes: sum.bytes + step.cost.bytes,
        })
    }
}

impl Program {
    /// The persistent value called `name`.
    ///
    /// # Errors
    /// [`Error::Graph`] if there is none.
    pub fn persistent(&self, name: &str) -> Result<&Persistent> {
        self.persistent.iter().find(|p| p.value.name == name).ok_or_else(|| Error::Graph {
            op: "plan",
            node: name.to_string(),
            message: "is not a persistent value of the program".into(),
        })
    }

    /// Bytes of persistent values for which `select` holds.
    pub fn persistent_bytes_where(&self, select: impl Fn(&Value) -> bool) -> usize {
        self.persistent.iter().filter(|p| select(&p.value)).map(|p| p.slot.num_bytes()).sum()
    }
}

fn no_value(name: &str) -> Error {
    let message = "is not a value of the planned graph".into();
    Error::Graph { op: "plan", node: name.to_string(), message }
}

/// Lays out `graphs` for `device`.
///
/// # Errors
/// [`Error::Graph`] if a graph does not verify, two graphs disagree about a persistent value, or an operation has no kernel
/// for what it is given on a device that needs one.
pub fn plan(graphs: &[&Graph], device: DeviceKind) -> Result<Program> {
    let persistent = layout_persistent(graphs)?;
    let persistent_bytes =
        persistent.last().map_or(0, |last| align(last.slot.offset_bytes + last.slot.num_bytes()));
    let places: HashMap<&str, Slot> = persistent.iter().map(|p| (p.value.name.as_str(), p.slot)).collect();
    let input_bytes = graphs.iter().map(|graph| memory::input_bytes(graph)).max().unwrap_or(0);
    let input_bytes = (persistent_bytes + input_bytes).next_multiple_of(LINE_BYTES) - persistent_bytes;
    let plans: Vec<Plan> = graphs
        .iter()
        .map(|graph| {
            graph.verify()?;
            let plan = lay_out(graph, device, &places, persistent_bytes, input_bytes);
            if device != DeviceKind::Cpu {
                plan.steps.iter().try_for_each(rehearse)?;
            }
            Ok(plan)
        })
        .collect::<Result<_>>()?;
    let transient_bytes = plans.iter().map(|plan| plan.live.arena_bytes).max().unwrap_or(0);
    let peak_bytes = persistent_bytes + transient_bytes;
    Ok(Program { plans, persistent, persistent_bytes, input_bytes, peak_bytes })
}

/// Launches a step without a device, so that a layer larger than its kernels count is refused by name when it is planned,
/// before there is any memory.
fn rehearse(step: &Step) -> Result<()> {
    let (inputs, outputs, workspace) = (&step.inputs, &step.outputs, step.workspace);
    let args = LaunchArgs { arena_address: 0, inputs, outputs, workspace };
    step.op.launch(&args, &mut Nowhere).map_err(|error| Error::Graph {
        op: step.op.name(),
        node: step.name.clone(),
        message: error.to_string(),
    })
}

/// A line of a GPU's L1, at which transient values begin: the largest of them come first, and a row of theirs that lies in as few
/// lines as it can is read once.
const LINE_BYTES: usize = 128;

pub(crate) fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT_BYTES)
}

fn layout_persistent(graphs: &[&Graph]) -> Result<Vec<Persistent>> {
    let mut found: Vec<&Value> = Vec::new();
    let mut by_name: HashMap<&str, &Value> = HashMap::new();
    for value in graphs.iter().flat_map(|graph| graph.values()).filter(|value| value.role.is_persistent()) {
        match by_name.insert(&value.name, value) {
            None => found.push(value),
            Some(earlier) if earlier.ty == value.ty => {}
            Some(earlier) => {
                return Err(Error::Graph {
                    op: "plan",
                    node: value.name.clone(),
                    message: format!("is {} in one graph and {} in another", earlier.ty, value.ty),
                });
            }
        }
    }
    found.sort_by_key(|value| value.role != Role::Parameter);
    let mut offset_bytes = 0;
    Ok(found
        .into_iter()
        .map(|value| {
            let slot = Slot { offset_bytes, shape: value.ty.shape, dtype: value.ty.dtype };
            offset_bytes = align(offset_bytes + slot.num_bytes());
            Persistent { value: value.clone(), slot }
        })
        .collect())
}

fn lay_out(
    graph: &Graph,
    device: DeviceKind,
    persistent: &HashMap<&str, Slot>,
    base_bytes: usize,
    input_bytes: usize,
) -> Plan {
    let transient = memory::lay_out(graph, device, input_bytes);
    let slot = |id: ValueId| {
        let value = graph.value(graph.place(id).unwrap_or(id));
        persistent.get(value.name.as_str()).copied().unwrap_or_else(|| Slot {
            offset_bytes: base_bytes + transient.value_offsets[id.index()].unwrap_or(0),
            shape: value.ty.shape,
            dtype: value.ty.dtype,
        })
    };
    let steps: Vec<Step> = graph
        .nodes()
        .iter()
        .zip(&transient.workspaces)
        .map(|(node, workspace)| {
            let types = |ids: &[ValueId]| ids.iter().map(|&id| graph.value(id).ty).collect::<Vec<_>>();
            Step {
                name: node.name.clone(),
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|&id| slot(id)).collect(),
                outputs: node.outputs.iter().map(|&id| slot(id)).collect(),
                workspace: Slot {
                    offset_bytes: base_bytes + workspace.offset_bytes,
                    shape: [workspace.num_bytes].into(),
                    dtype: DType::U8,
                },
                phase: node.phase,
                cost: node.op.cost(&types(&node.inputs), &types(&node.outputs)),
            }
        })
        .collect();
    let access = |id: ValueId| match graph.value(id).role {
        role if role.is_persistent() => Access::Always,
        _ if graph.results().contains(&id) => Access::Kept,
        Role::Input => Access::BeforeRun,
        _ => Access::Never,
    };
    let has_place = |id: &ValueId| {
        let is_persistent = graph.value(*id).role.is_persistent() || graph.place(*id).is_some();
        is_persistent || transient.value_offsets[id.index()].is_some()
    };
    let named = graph.value_ids().map(|id| (graph.value(id).name.as_str(), id));
    let places: HashMap<String, (Slot, Access)> = named
        .chain(graph.aliases())
        .filter(|(_, id)| has_place(id))
        .map(|(name, id)| (name.to_string(), (slot(id), access(id))))
        .collect();
    let first_of = |phase| steps.iter().position(|step| step.phase >= phase).unwrap_or(steps.len());
    let (first_exchange, first_update) = (first_of(Phase::Exchange), first_of(Phase::Update));
    let exchanges = (0..steps.len()).filter(|&step| steps[step].op.exchange().is_some()).collect();
    let of_host = |(_, access): &(Slot, Access)| matches!(access, Access::BeforeRun | Access::Kept);
    let host_values = places.values().copied().filter(of_host).collect();
    Plan { steps, first_exchange, first_update, exchanges, live: transient.live, places, host_values }
}

impl fmt::Display for Plan {
    /// One step a line: offset and type of each result, operation and node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let outputs: Vec<String> = step
                .outputs
                .iter()
                .map(|o| format!("{:#x} {} {}", o.offset_bytes, o.dtype, o.shape))
                .collect();
            writeln!(f, "{:<18} {:<44} -> {}", step.op.name(), step.name, outputs.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
