//! What an operation is in the ONNX standard: a description, from which `infer::onnx` writes files. Operands and results
//! keep their order there; images are NCHW, filters OIHW.

use crate::tensor::Tensor;

/// The counterpart of an operation among ONNX's operators.
#[derive(Debug, Clone, PartialEq)]
pub enum Onnx {
    /// A chain of nodes: the first reads the operands, each further one the result of the node before it.
    Nodes(Vec<OnnxNode>),
    /// A further operand, the second one, of the `Conv` node that makes the first operand.
    ConvBias,
}

impl From<OnnxNode> for Onnx {
    fn from(node: OnnxNode) -> Onnx {
        Onnx::Nodes(vec![node])
    }
}

/// One node of an ONNX graph, without its names.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxNode {
    /// Name of the operator, such as `Conv`.
    pub op_type: &'static str,
    /// Settings of the operator by name.
    pub attributes: Vec<(&'static str, OnnxAttribute)>,
    /// Constant operands, which follow those that are computed.
    pub constants: Vec<Tensor>,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq)]
pub enum OnnxAttribute {
    /// A 32-bit floating-point number (FLOAT).
    Float(f32),
    /// An integer (INT).
    Int(i64),
    /// A list of integers (INTS).
    Ints(Vec<usize>),
    /// A text (STRING).
    Text(&'static str),
}

impl OnnxNode {
    /// A node with the default settings of `op_type`.
    pub fn new(op_type: &'static str) -> OnnxNode {
        OnnxNode { op_type, attributes: Vec::new(), constants: Vec::new() }
    }

    /// This node with one more setting.
    pub fn with(mut self, name: &'static str, value: OnnxAttribute) -> OnnxNode {
        self.attributes.push((name, value));
        self
    }

    /// This node with the settings of a window that moves over an image, height before width.
    pub fn with_window(self, kernel: [usize; 2], strides: [usize; 2], [top, left]: [usize; 2]) -> OnnxNode {
        self.with("kernel_shape", OnnxAttribute::Ints(kernel.into()))
            .with("strides", OnnxAttribute::Ints(strides.into()))
            .with("pads", OnnxAttribute::Ints(vec![top, left, top, left]))
    }
}
