//! A recorded forward pass as an ONNX model.
//!
//! The unfused evaluation graph is textbook operations, and ONNX has one for each: nodes are translated in order and keep
//! their names, filters keep torchvision's layout (OIHW), images become NCHW. The messages and field numbers are those of
//! `onnx.proto`; a generated schema would be larger than this writer.

mod proto;

use std::any::Any;

use proto::Message;

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op, Role, ValueId};
use crate::ops::{
    Add, BatchNormInference, Concat, Conv2dFprop, GlobalAvgPool, LinearFprop, MaxPool, PoolWindow, Relu,
    Window,
};
use crate::tensor::{Layout, Shape};

/// The operator set: the oldest in which every operation written here has its present form, read by all runtimes
/// since 2020.
const OPSET: i64 = 13;
/// The version of the file format that came with it.
const IR_VERSION: i64 = 7;

/// Name of the images among the model's inputs.
pub const IMAGES: &str = "images";
/// Name of the model's output.
pub const LOGITS: &str = "logits";

/// What is to be written.
#[derive(Clone, Copy)]
pub struct OnnxModel<'a> {
    /// The forward pass in evaluation mode, f32 and not fused.
    pub graph: &'a Graph,
    /// Its normalised images, `[1, S, S, 3]`; `[batch, 3, S, S]` in the model.
    pub images: ValueId,
    /// The class scores, `[1, classes]`; `[batch, classes]` in the model.
    pub logits: ValueId,
    /// The elements of a persistent value by name, in the layout of weight files.
    pub weights: &'a dyn Fn(&str) -> Result<&'a [f32]>,
    /// Keys and values that tell a reader how to use the model.
    pub metadata: &'a [(&'a str, String)],
}

impl OnnxModel<'_> {
    /// The bytes of the ONNX file.
    ///
    /// # Errors
    /// [`Error::Graph`] naming the first operation without a counterpart, or what `weights` reports.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let graph = self.graph_message()?;
        let mut model = Message::default();
        model
            .int(1, IR_VERSION)
            .string(2, env!("CARGO_PKG_NAME"))
            .string(3, env!("CARGO_PKG_VERSION"))
            .raw(7, &graph)
            .message(8, |opset| {
                opset.string(1, "").int(2, OPSET);
            });
        for (key, value) in self.metadata {
            model.message(14, |entry| {
                entry.string(1, key).string(2, value);
            });
        }
        Ok(model.into_bytes())
    }

    /// A GraphProto.
    fn graph_message(&self) -> Result<Vec<u8>> {
        let mut message = Message::default();
        for node in self.graph.nodes() {
            for translated in self.translate(node)? {
                message.message(1, |node| translated.write(node));
            }
        }
        message.string(2, env!("CARGO_PKG_NAME"));
        for value in self.graph.values().iter().filter(|value| value.role.is_persistent()) {
            let elems = (self.weights)(&value.name)?;
            message.message(5, |tensor| {
                for extent in file_extents(value.layout, value.ty.shape) {
                    tensor.int(1, extent as i64);
                }
                tensor.int(2, FLOAT).string(8, &value.name).raw(9, bytemuck::cast_slice(elems));
            });
        }
        let [_, height, width, channels] = self.graph.shape(self.images).as_4d().ok_or_else(|| {
            self.unsupported("input", &self.graph.value(self.images).name, "is no batch of images")
        })?;
        message.message(11, |info| value_info(info, IMAGES, &[channels, height, width]));
        message.message(12, |info| value_info(info, LOGITS, &[self.graph.shape(self.logits).last()]));
        Ok(message.into_bytes())
    }

    /// The ONNX nodes that compute what `node` does.
    fn translate(&self, node: &Node) -> Result<Vec<OnnxNode>> {
        let name = &node.name;
        let operands = node.inputs.iter().map(|&id| self.name(node, id)).collect::<Result<Vec<_>>>()?;
        let output = self.name(node, node.outputs[0])?;
        let one = |op_type, inputs: Vec<String>, attributes| {
            Ok(vec![OnnxNode { op_type, name: name.clone(), inputs, output: output.clone(), attributes }])
        };
        if let Some(Conv2dFprop { window }) = cast_op(node) {
            let [_, r, s, _] = self.graph.shape(node.inputs[1]).as_4d().expect("a filter is KRSC");
            return one("Conv", operands, conv_attributes([r, s], window));
        }
        if let Some(&BatchNormInference { eps, relu: false, residual: false }) = cast_op(node) {
            return one("BatchNormalization", operands, vec![Attribute::Float("epsilon", eps)]);
        }
        if cast_op::<Relu>(node).is_some() {
            return one("Relu", operands, vec![]);
        }
        if let Some(MaxPool(window)) = cast_op(node) {
            return one("MaxPool", operands, pool_attributes(window));
        }
        if cast_op::<Add>(node).is_some() {
            return one("Add", operands, vec![]);
        }
        if cast_op::<Concat>(node).is_some() {
            return one("Concat", operands, vec![Attribute::Int("axis", 1)]);
        }
        if cast_op::<GlobalAvgPool>(node).is_some() {
            // ONNX keeps the height and width of 1.
            let pooled = format!("{output}.pooled");
            let pool = OnnxNode {
                op_type: "GlobalAveragePool",
                name: name.clone(),
                inputs: operands,
                output: pooled.clone(),
                attributes: vec![],
            };
            let flatten = OnnxNode {
                op_type: "Flatten",
                name: format!("{name}.flatten"),
                inputs: vec![pooled],
                output,
                attributes: vec![Attribute::Int("axis", 1)],
            };
            return Ok(vec![pool, flatten]);
        }
        if cast_op::<LinearFprop>(node).is_some() {
            return one("Gemm", operands, vec![Attribute::Int("transB", 1)]);
        }
        Err(self.unsupported(node.op.name(), name, "has no counterpart in the ONNX export"))
    }

    /// The name of a value in the model.
    fn name(&self, node: &Node, id: ValueId) -> Result<String> {
        let value = self.graph.value(id);
        match value.role {
            _ if id == self.images => Ok(IMAGES.to_string()),
            _ if id == self.logits => Ok(LOGITS.to_string()),
            Role::Input => Err(self.unsupported(
                node.op.name(),
                &node.name,
                &format!("reads the input `{}`, and the ONNX export knows images only", value.name),
            )),
            _ => Ok(value.name.clone()),
        }
    }

    fn unsupported(&self, op: &'static str, node: &str, what: &str) -> Error {
        let message = format!("{what}; export the weights with --format safetensors");
        Error::Graph { op, node: node.to_string(), message }
    }
}

/// TensorProto.DataType.
const FLOAT: i64 = 1;

struct OnnxNode {
    op_type: &'static str,
    name: String,
    inputs: Vec<String>,
    output: String,
    attributes: Vec<Attribute>,
}

enum Attribute {
    Float(&'static str, f32),
    Int(&'static str, i64),
    Ints(&'static str, Vec<usize>),
}

impl OnnxNode {
    /// A NodeProto.
    fn write(&self, message: &mut Message) {
        for input in &self.inputs {
            message.string(1, input);
        }
        message.string(2, &self.output).string(3, &self.name).string(4, self.op_type);
        for attribute in &self.attributes {
            message.message(5, |message| attribute.write(message));
        }
    }
}

impl Attribute {
    /// An AttributeProto; field 20 tells which of the others holds the value.
    fn write(&self, message: &mut Message) {
        match self {
            Attribute::Float(name, value) => message.string(1, name).float(2, *value).int(20, 1),
            Attribute::Int(name, value) => message.string(1, name).int(3, *value).int(20, 2),
            Attribute::Ints(name, values) => {
                message.string(1, name);
                for &value in values {
                    message.int(8, value as i64);
                }
                message.int(20, 7)
            }
        };
    }
}

fn cast_op<T: Op>(node: &Node) -> Option<&T> {
    (node.op.as_ref() as &dyn Any).downcast_ref()
}

fn conv_attributes(kernel: [usize; 2], window: &Window) -> Vec<Attribute> {
    let &Window { stride_h, stride_w, pad_h, pad_w } = window;
    window_attributes(kernel, [stride_h, stride_w], [pad_h, pad_w])
}

fn pool_attributes(window: &PoolWindow) -> Vec<Attribute> {
    let &PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w } = window;
    window_attributes([kernel_h, kernel_w], [stride_h, stride_w], [pad_h, pad_w])
}

fn window_attributes(kernel: [usize; 2], strides: [usize; 2], [pad_h, pad_w]: [usize; 2]) -> Vec<Attribute> {
    vec![
        Attribute::Ints("kernel_shape", kernel.into()),
        Attribute::Ints("strides", strides.into()),
        // Above, left, below, right.
        Attribute::Ints("pads", vec![pad_h, pad_w, pad_h, pad_w]),
    ]
}

/// The extents of a persistent value in weight files.
fn file_extents(layout: Layout, shape: Shape) -> Vec<usize> {
    match (layout, shape.as_4d()) {
        (Layout::Krsc, Some([k, r, s, c])) => vec![k, c, r, s],
        _ => shape.dims().to_vec(),
    }
}

/// A ValueInfoProto of f32 `[batch, extents...]`.
fn value_info(message: &mut Message, name: &str, extents: &[usize]) {
    message.string(1, name).message(2, |ty| {
        ty.message(1, |tensor| {
            tensor.int(1, FLOAT).message(2, |shape| {
                shape.message(1, |dim| {
                    dim.string(2, "batch");
                });
                for &extent in extents {
                    shape.message(1, |dim| {
                        dim.int(1, extent as i64);
                    });
                }
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{linear, mean, relu};
    use crate::tensor::DType;

    fn write(graph: &Graph, images: ValueId, logits: ValueId) -> Result<Vec<u8>> {
        let weights = |_: &str| Ok(&[][..]);
        OnnxModel { graph, images, logits, weights: &weights, metadata: &[] }.to_bytes()
    }

    #[test]
    fn an_operation_without_a_counterpart_is_named() {
        let mut graph = Graph::new(DType::F32);
        let images = graph.input("images", [1, 4, 5, 3], DType::F32);
        let clipped = relu(&mut graph, "clip", images).unwrap();
        let scalar = mean(&mut graph, "brightness", clipped).unwrap();
        let message = write(&graph, images, scalar).unwrap_err().to_string();
        assert!(message.contains("`brightness`") && message.contains("--format safetensors"), "{message}");
    }

    #[test]
    fn an_input_that_is_no_image_is_named() {
        let mut graph = Graph::new(DType::F32);
        let images = graph.input("images", [1, 4, 5, 3], DType::F32);
        let objects = graph.input("objects", [1, 6], DType::F32);
        let scores = linear(&mut graph, "fc", objects, 2).unwrap();
        let message = write(&graph, images, scores).unwrap_err().to_string();
        assert!(message.contains("`objects`") && message.contains("images only"), "{message}");
    }
}
