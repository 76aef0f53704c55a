//! The recorded computation: values with shape, type and role, and the nodes that make them.
//!
//! A model is ordinary Rust that calls operation builders on a [`Graph`] once. Shapes are static, every node is
//! checked when it is recorded, and the order of recording is an order of execution: later passes
//! ([`crate::autodiff`], [`crate::fuse`], [`crate::plan`]) only append, replace or number nodes.

mod dump;
mod onnx;
mod op;
mod verify;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

pub use onnx::{Onnx, OnnxAttribute, OnnxNode};
pub use op::{Backward, Cost, Exchange, InPlace, InferResult, Op, ValueType};

use crate::error::{Error, Result};
use crate::tensor::{DType, Layout, Shape};

/// Names one value of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a value exists, which decides how long it lives and whether it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Written by the host before a step: images, labels, hyper-parameters.
    Input,
    /// Learned; lives as long as the run.
    Parameter,
    /// Part of the model, kept from step to step but not learned: running statistics.
    State,
    /// Kept by the optimiser from step to step: velocities and moments.
    Optimiser,
    /// Gradients summed over the micro-batches of an update.
    Accumulated,
    /// What ranks send each other in a step, and what they receive.
    Exchanged,
    /// A moving average of a parameter or of state.
    Average,
    /// Written by the host before the first step and never changed: the pixels of a data set. Neither learned nor saved.
    Data,
    /// Made by the forward pass.
    Activation,
    /// Made by the backward pass.
    Gradient,
    /// Scratch memory of a single node.
    Workspace,
}

impl Role {
    /// Whether values of this role keep their contents between steps.
    pub fn is_persistent(self) -> bool {
        !matches!(self, Role::Input | Role::Activation | Role::Gradient | Role::Workspace)
    }

    /// Whether values of this role are the model: what a weight file holds.
    pub fn is_model(self) -> bool {
        matches!(self, Role::Parameter | Role::State)
    }

    /// The lower-case name used in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Role::Input => "input",
            Role::Parameter => "parameter",
            Role::State => "state",
            Role::Optimiser => "optimiser",
            Role::Accumulated => "accumulated",
            Role::Exchanged => "exchanged",
            Role::Average => "average",
            Role::Data => "data",
            Role::Activation => "activation",
            Role::Gradient => "gradient",
            Role::Workspace => "workspace",
        }
    }
}

/// How a persistent value starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal { std: f32 },
    /// Uniform in `-bound..bound`.
    Uniform { bound: f32 },
    /// As the persistent value of this name.
    CopyOf(String),
}

/// Which part of a training step a node belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The model and its loss.
    Forward,
    /// Gradients; with [`Phase::Forward`] this is what runs once per micro-batch.
    Backward,
    /// What each micro-batch adds to sums and statistics once every rank has sent its own; only where there are several.
    Exchange,
    /// Optimiser, averages; runs once per step.
    Update,
}

/// What a forward pass is recorded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training: a batch norm normalises by the batch, whose statistics the running ones follow; dropout drops.
    Train,
    /// Evaluation: a batch norm normalises by the running statistics, which stay as they are; dropout does nothing.
    Eval,
}

/// One tensor of the computation.
#[derive(Debug, Clone)]
pub struct Value {
    /// Unique within the graph, e.g. `layer2.0.conv1`.
    pub name: String,
    /// Extents and element type.
    pub ty: ValueType,
    /// Role in the step, which decides how long the value lives.
    pub role: Role,
    /// Meaning of the dimensions.
    pub layout: Layout,
    /// Starting contents of a persistent value.
    pub init: Option<Init>,
}

/// One operation applied to values.
#[derive(Debug, Clone)]
pub struct Node {
    /// Path in the model, e.g. `layer2.0.conv1`; the backward nodes of a layer append their pass.
    pub name: String,
    /// Operation that the node applies.
    pub op: Arc<dyn Op>,
    /// Operands in the order the operation documents.
    pub inputs: Vec<ValueId>,
    /// Results in the order the operation documents.
    pub outputs: Vec<ValueId>,
    /// Part of the step.
    pub phase: Phase,
}

impl Node {
    /// The operation as a `T`, if it is one.
    pub fn op_as<T: Op>(&self) -> Option<&T> {
        (self.op.as_ref() as &dyn Any).downcast_ref()
    }
}

/// A recorded computation in execution order.
#[derive(Debug, Clone)]
pub struct Graph {
    float: DType,
    allows_tf32: bool,
    values: Vec<Value>,
    nodes: Vec<Node>,
    results: Vec<ValueId>,
    aliases: Vec<(String, ValueId)>,
    /// Persistent values in whose memory others are made.
    places: HashMap<ValueId, ValueId>,
    scope: String,
    persistent_prefix: String,
    phase: Phase,
}

impl Graph {
    /// An empty graph whose floating-point values are of type `float`.
    pub fn new(float: DType) -> Graph {
        Graph {
            float,
            allows_tf32: false,
            values: Vec::new(),
            nodes: Vec::new(),
            results: Vec::new(),
            aliases: Vec::new(),
            places: HashMap::new(),
            scope: String::new(),
            persistent_prefix: String::new(),
            phase: Phase::Forward,
        }
    }

    /// The element type of this graph's floating-point values.
    pub fn float(&self) -> DType {
        self.float
    }

    /// Whether convolutions of f32 recorded from here on may multiply in TF32
    /// ([`allow_tf32`](crate::ops::Window::allow_tf32)).
    pub fn allow_tf32(&mut self, allows: bool) {
        self.allows_tf32 = allows;
    }

    /// What [`Graph::allow_tf32`] was last told, false at first.
    pub fn allows_tf32(&self) -> bool {
        self.allows_tf32
    }

    /// Puts `prefix` before the name of every persistent value recorded from here on, so that the same model
    /// code can read another set of weights (the averaged ones, say).
    pub fn set_persistent_prefix(&mut self, prefix: &str) {
        self.persistent_prefix = prefix.to_string();
    }

    /// Sets the phase of nodes recorded from here on.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Records what `body` records with `name.` before every name.
    pub fn scoped<R>(&mut self, name: &str, body: impl FnOnce(&mut Graph) -> R) -> R {
        let outer = self.scope.len();
        self.scope.push_str(name);
        self.scope.push('.');
        let result = body(self);
        self.scope.truncate(outer);
        result
    }

    /// A value the host writes before each step.
    pub fn input(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> ValueId {
        let ty = ValueType { shape: shape.into(), dtype };
        self.push_value(Value {
            name: self.path(name),
            ty,
            role: Role::Input,
            layout: Layout::Flat,
            init: None,
        })
    }

    /// The input called `name` outside any scope, recorded at its first use: one that several layers share.
    pub fn shared_input(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> ValueId {
        self.find(name).unwrap_or_else(|| {
            let scope = std::mem::take(&mut self.scope);
            let id = self.input(name, shape, dtype);
            self.scope = scope;
            id
        })
    }

    /// A learned value: f32, or f64 in a graph of f64.
    pub fn parameter(&mut self, name: &str, shape: impl Into<Shape>, layout: Layout, init: Init) -> ValueId {
        self.persistent(name, shape.into(), Role::Parameter, layout, init)
    }

    /// A value kept between steps that is not learned.
    pub fn state(&mut self, name: &str, shape: impl Into<Shape>, layout: Layout, init: Init) -> ValueId {
        self.persistent(name, shape.into(), Role::State, layout, init)
    }

    /// A persistent value called `<prefix><name of value>` for each of `values`, of the same shape: state of an optimiser,
    /// sums of gradients, averages.
    pub fn companions(
        &mut self,
        prefix: &str,
        values: &[ValueId],
        role: Role,
        init: impl Fn(&str) -> Init,
    ) -> Vec<ValueId> {
        let mut companion = |&id: &ValueId| {
            let Value { name, ty, layout, .. } = self.value(id).clone();
            self.persistent(&format!("{prefix}{name}"), ty.shape, role, layout, init(&name))
        };
        values.iter().map(&mut companion).collect()
    }

    /// A value the host writes once, before the first step.
    pub fn data(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> ValueId {
        let ty = ValueType { shape: shape.into(), dtype };
        let name = self.path(name);
        self.push_value(Value { name, ty, role: Role::Data, layout: Layout::Flat, init: None })
    }

    /// A persistent value of any role: f32, or f64 in a graph of f64.
    pub(crate) fn persistent(
        &mut self,
        name: &str,
        shape: Shape,
        role: Role,
        layout: Layout,
        init: Init,
    ) -> ValueId {
        // Half precision is for activations: what accumulates over a run keeps f32.
        let dtype = if self.float == DType::F64 { DType::F64 } else { DType::F32 };
        self.persistent_of(name, ValueType { shape, dtype }, role, layout, init)
    }

    /// A persistent value of any role and type.
    pub(crate) fn persistent_of(
        &mut self,
        name: &str,
        ty: ValueType,
        role: Role,
        layout: Layout,
        init: Init,
    ) -> ValueId {
        let name = format!("{}{}", self.persistent_prefix, self.path(name));
        self.push_value(Value { name, ty, role, layout, init: Some(init) })
    }

    /// Records `op` on `inputs` under `name` and returns its results.
    ///
    /// # Errors
    /// [`Error::Graph`] if the operation does not accept the inputs.
    pub fn apply(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let name = self.path(name);
        let types: Vec<ValueType> = inputs.iter().map(|&id| self.value(id).ty).collect();
        let results = op.infer(&types).map_err(|message| Error::Graph {
            op: op.name(),
            node: name.clone(),
            message,
        })?;
        let role = if self.phase == Phase::Forward { Role::Activation } else { Role::Gradient };
        let outputs = results
            .into_iter()
            .enumerate()
            .map(|(position, ty)| {
                let name = match op.output_names().get(position) {
                    Some(&"") => name.clone(),
                    Some(suffix) => format!("{name}.{suffix}"),
                    None => format!("{name}.{position}"),
                };
                let layout = if ty.shape.rank() == 4 { Layout::Nhwc } else { Layout::Flat };
                self.push_value(Value { name, ty, role, layout, init: None })
            })
            .collect::<Vec<_>>();
        self.push_node(Node {
            name,
            op: Arc::new(op),
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            phase: self.phase,
        });
        Ok(outputs)
    }

    /// [`Graph::apply`] for an operation with one result.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_one(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.apply(name, op, inputs)?[0])
    }

    /// Keeps `value` readable by the host after the step.
    pub fn keep(&mut self, value: ValueId) {
        if !self.results.contains(&value) {
            self.results.push(value);
        }
    }

    /// [`Graph::keep`], and lets the host ask for the value under a second name.
    pub fn keep_as(&mut self, alias: &str, value: ValueId) {
        self.keep(value);
        self.aliases.push((alias.to_string(), value));
    }

    /// Has `value`, which a node makes, lie where the persistent value `place` of its type does: what a node would copy there is there.
    pub(crate) fn make_in(&mut self, value: ValueId, place: ValueId) {
        self.places.insert(value, place);
    }

    /// The persistent value in whose memory `value` is made.
    pub(crate) fn place(&self, value: ValueId) -> Option<ValueId> {
        self.places.get(&value).copied()
    }

    /// The second names of kept values.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.aliases.iter().map(|(alias, id)| (alias.as_str(), *id))
    }

    /// The values the host reads after a step.
    pub fn results(&self) -> &[ValueId] {
        &self.results
    }

    /// The value `id` names.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The shape of a value.
    pub fn shape(&self, id: ValueId) -> Shape {
        self.value(id).ty.shape
    }

    /// Every value, in order of recording.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The ids of every value, in order of recording.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// The ids of the learned values, in order of recording.
    pub fn parameters(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.value_ids().filter(|&id| self.value(id).role == Role::Parameter)
    }

    /// The value called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.value_ids().find(|&id| self.value(id).name == name)
    }

    /// Every node in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Replaces the node list; the graph must stay valid (see [`Graph::verify`]).
    pub fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
    }

    /// Adds a node whose results are recorded; the graph must stay valid (see [`Graph::verify`]).
    pub(crate) fn push_node(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// `name` with the scopes that are open before it.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// Adds a value, which a node is to make or which is there from the start.
    pub(crate) fn push_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() as u32 - 1)
    }
}
