//! The contract of an operation: everything the engine asks of it, in one trait.

use std::any::Any;
use std::fmt;

use super::{Graph, Onnx, ValueId};
use crate::device::cpu::CpuArgs;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::dist::Group;
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape};

/// Shape and element type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// Extents, outermost first.
    pub shape: Shape,
    /// Type of the elements.
    pub dtype: DType,
}

impl ValueType {
    /// Bytes that a value of this type takes in memory.
    pub fn num_bytes(&self) -> usize {
        self.shape.num_elems() * self.dtype.size_bytes()
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dtype, self.shape)
    }
}

/// What a shape rule finds out, by default the types of the results; or a sentence saying what was got, what was expected
/// and what to change.
pub type InferResult<T = Vec<ValueType>> = std::result::Result<T, String>;

/// What a node has to do and to move, whatever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counting as two.
    pub flops: u64,
    /// Bytes that cross memory at least: every operand as often as the operation passes over it, every result, and what
    /// is changed in place once more.
    pub bytes: u64,
}

impl Cost {
    /// Every operand read once, every result written once, no arithmetic.
    pub fn traffic(inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost { flops: 0, bytes: inputs.iter().chain(outputs).map(|ty| ty.num_bytes() as u64).sum() }
    }

    /// This cost with that many floating-point operations.
    pub fn with_flops(self, flops: usize) -> Cost {
        Cost { flops: flops as u64, ..self }
    }

    /// This cost and once more the bytes of the operands at `positions`: a second pass reads them, or they are changed.
    pub fn and_again(self, inputs: &[ValueType], positions: &[usize]) -> Cost {
        let bytes: usize = positions.iter().map(|&i| inputs[i].num_bytes()).sum();
        Cost { bytes: self.bytes + bytes as u64, ..self }
    }
}

/// A result that may be written over an operand whose last use this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlace {
    /// Position among the results.
    pub output: usize,
    /// Position among the operands.
    pub input: usize,
}

/// What ranks send each other at a node, which is of this operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// `(x...) -> [operands, ranks, shape of x...]`, of operands of one type: each rank's, in the order of ranks.
    AllGather {
        /// How many ranks there are.
        num_ranks: usize,
    },
    /// `(received [ranks, n], sent...)`, changing what is received: what is sent lies in a row and is as long; part i of it goes to
    /// the i-th rank of the group, and row i comes from it. On a GPU the nodes behind this one run meanwhile, up to the next
    /// [`Exchange::Arrive`] or the end of their phase.
    AllToAll(Group),
    /// `()`: nodes behind this one find what was sent before.
    Arrive,
}

/// An operation: shape rule, cost, gradient, CPU code and kernel launch.
///
/// One file in `src/ops/` implements it, names its operands and results, and lists test cases.
pub trait Op: Any + fmt::Debug + Send + Sync {
    /// `<op>_<pass>`, e.g. `conv2d_fprop`.
    fn name(&self) -> &'static str;

    /// The types of the results for operands of these types.
    ///
    /// # Errors
    /// A sentence saying what was got, what was expected and what to change; the caller adds operation and node.
    fn infer(&self, inputs: &[ValueType]) -> InferResult;

    /// Suffixes of the results' names; the first is usually empty, and results without one are numbered.
    fn output_names(&self) -> &'static [&'static str] {
        &[""]
    }

    /// Work and compulsory traffic. The default counts every operand and result once, what the operation changes once
    /// more, and no arithmetic.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).and_again(inputs, self.mutates())
    }

    /// Records the gradient of the operands, one entry each; `None` where the operand gets none.
    ///
    /// # Errors
    /// [`Error::Graph`] if the operation has no gradient or the recorded nodes do not fit.
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        Err(Error::Graph {
            op: self.name(),
            node: backward.name.to_string(),
            message: "has no gradient; compute the loss from values that do not pass through it".into(),
        })
    }

    /// What computes the same in an ONNX file, for operands of these types; `None` if nothing does.
    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        None
    }

    /// Operands whose memory is changed, e.g. running statistics and optimiser state.
    fn mutates(&self) -> &[usize] {
        &[]
    }

    /// Results that may take over an operand's memory. Its CPU code must then reach the pair through
    /// [`CpuArgs::output_over_input`].
    fn in_place(&self) -> &'static [InPlace] {
        &[]
    }

    /// What ranks send each other, for an [`Exchange`], which has neither CPU code nor kernels: the session asks the other ranks where
    /// it comes to the node.
    fn exchange(&self) -> Option<Exchange> {
        None
    }

    /// Bytes of scratch memory on `device`.
    fn workspace_bytes(&self, _device: DeviceKind, _inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        0
    }

    /// Computes the results on the CPU.
    fn cpu(&self, args: &CpuArgs<'_>);

    /// Launches the kernels that compute the results on a kernel device. The planner calls it, too, with a launcher
    /// that does nothing and addresses of nothing, to hear whether there are kernels for such operands.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no kernel for this operation, operands are larger than it counts, or the device refuses
    /// the launch.
    fn launch(&self, _args: &LaunchArgs<'_>, _launcher: &mut dyn Launcher) -> Result<()> {
        Err(Error::Device(format!("{} has no kernel; run it on the CPU", self.name())))
    }
}

/// What an operation sees while its gradient is recorded.
pub struct Backward<'a> {
    /// Where gradient nodes go.
    pub graph: &'a mut Graph,
    /// Name of the forward node; gradient nodes are called `<name>.<pass>`.
    pub name: &'a str,
    /// Operands of the forward node.
    pub inputs: &'a [ValueId],
    /// Results of the forward node.
    pub outputs: &'a [ValueId],
    /// Gradient of each result; `None` where nothing depends on it.
    pub upstream: &'a [Option<ValueId>],
    /// Whether each operand's gradient is wanted; work for others may be left out.
    pub wanted: &'a [bool],
}

impl Backward<'_> {
    /// The gradient of the first result, or [`Error::Graph`] if only other results were used.
    ///
    /// # Errors
    /// If nothing depends on the first result.
    pub fn dy(&self, op: &'static str) -> Result<ValueId> {
        self.upstream.first().copied().flatten().ok_or_else(|| Error::Graph {
            op,
            node: self.name.to_string(),
            message: "only its secondary results are used, which carry no gradient".into(),
        })
    }

    /// Records a gradient node called `<forward node>.<pass>` with one result.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_one(&mut self, pass: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId> {
        self.graph.apply_one(&format!("{}.{pass}", self.name), op, inputs)
    }

    /// Records a gradient node called `<forward node>.<pass>`.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply(&mut self, pass: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.graph.apply(&format!("{}.{pass}", self.name), op, inputs)
    }
}
