//! A recorded forward pass as an ONNX model.
//!
//! The unfused evaluation graph is textbook operations, and ONNX has one for each: nodes are translated in order and keep
//! their names, filters keep torchvision's layout (OIHW), images become NCHW.

mod proto;

use prost::Message;
use proto::{AttributeType, Extent};

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Role, Value, ValueId};
use crate::ops::{
    Add, BatchNormInference, Concat, Conv2dFprop, GlobalAvgPool, LinearFprop, MaxPool, PoolWindow, Relu,
    Window,
};

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
        let metadata = self.metadata.iter();
        let model = proto::Model {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph_message()?),
            opset_import: vec![proto::OperatorSetId { domain: String::new(), version: OPSET }],
            metadata_props: metadata
                .map(|(key, value)| proto::StringStringEntry { key: key.to_string(), value: value.clone() })
                .collect(),
        };
        Ok(model.encode_to_vec())
    }

    fn graph_message(&self) -> Result<proto::Graph> {
        let nodes: Vec<Vec<proto::Node>> =
            self.graph.nodes().iter().map(|node| self.translate(node)).collect::<Result<_>>()?;
        let persistent = self.graph.values().iter().filter(|value| value.role.is_persistent());
        let [_, height, width, channels] = self.graph.shape(self.images).as_4d().ok_or_else(|| {
            self.unsupported("input", &self.graph.value(self.images).name, "is no batch of images")
        })?;
        let classes = self.graph.shape(self.logits).last();
        Ok(proto::Graph {
            node: nodes.concat(),
            name: env!("CARGO_PKG_NAME").into(),
            initializer: persistent.map(|value| self.tensor(value)).collect::<Result<_>>()?,
            input: vec![value_info(IMAGES, &[channels, height, width])],
            output: vec![value_info(LOGITS, &[classes])],
        })
    }

    fn tensor(&self, value: &Value) -> Result<proto::Tensor> {
        Ok(proto::Tensor {
            dims: as_i64(&value.layout.file_extents(value.ty.shape)),
            data_type: proto::FLOAT,
            name: value.name.clone(),
            raw_data: bytemuck::cast_slice((self.weights)(&value.name)?).to_vec(),
        })
    }

    /// The ONNX nodes that compute what `node` does.
    fn translate(&self, node: &Node) -> Result<Vec<proto::Node>> {
        let name = &node.name;
        let operands = node.inputs.iter().map(|&id| self.name(node, id)).collect::<Result<Vec<_>>>()?;
        let output = self.name(node, node.outputs[0])?;
        let (op_type, attribute) = if let Some(Conv2dFprop { window }) = node.op_as() {
            let [_, r, s, _] = self.graph.shape(node.inputs[1]).nhwc();
            ("Conv", conv_attributes([r, s], window))
        } else if let Some(&BatchNormInference { eps, relu: false, residual: false }) = node.op_as() {
            ("BatchNormalization", vec![float("epsilon", eps)])
        } else if node.op_as::<Relu>().is_some() {
            ("Relu", vec![])
        } else if let Some(MaxPool(window)) = node.op_as() {
            ("MaxPool", pool_attributes(window))
        } else if node.op_as::<Add>().is_some() {
            ("Add", vec![])
        } else if node.op_as::<Concat>().is_some() {
            ("Concat", vec![int("axis", 1)])
        } else if node.op_as::<GlobalAvgPool>().is_some() {
            // ONNX keeps the height and width of 1.
            let pooled = format!("{output}.pooled");
            let pool = onnx_node("GlobalAveragePool", name, operands, &pooled, vec![]);
            let name = format!("{name}.flatten");
            return Ok(vec![pool, onnx_node("Flatten", &name, vec![pooled], &output, vec![int("axis", 1)])]);
        } else if node.op_as::<LinearFprop>().is_some() {
            ("Gemm", vec![int("transB", 1)])
        } else {
            return Err(self.unsupported(node.op.name(), name, "has no counterpart in the ONNX export"));
        };
        Ok(vec![onnx_node(op_type, name, operands, &output, attribute)])
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

fn onnx_node(
    op_type: &str,
    name: &str,
    input: Vec<String>,
    output: &str,
    attribute: Vec<proto::Attribute>,
) -> proto::Node {
    proto::Node { input, output: vec![output.into()], name: name.into(), op_type: op_type.into(), attribute }
}

fn float(name: &str, value: f32) -> proto::Attribute {
    let r#type = AttributeType::Float.into();
    proto::Attribute { name: name.into(), f: Some(value), r#type, ..Default::default() }
}

fn int(name: &str, value: i64) -> proto::Attribute {
    let r#type = AttributeType::Int.into();
    proto::Attribute { name: name.into(), i: Some(value), r#type, ..Default::default() }
}

fn ints(name: &str, values: &[usize]) -> proto::Attribute {
    let r#type = AttributeType::Ints.into();
    proto::Attribute { name: name.into(), ints: as_i64(values), r#type, ..Default::default() }
}

fn as_i64(extents: &[usize]) -> Vec<i64> {
    extents.iter().map(|&extent| extent as i64).collect()
}

fn conv_attributes(kernel: [usize; 2], window: &Window) -> Vec<proto::Attribute> {
    let &Window { stride_h, stride_w, pad_h, pad_w } = window;
    window_attributes(kernel, [stride_h, stride_w], [pad_h, pad_w])
}

fn pool_attributes(window: &PoolWindow) -> Vec<proto::Attribute> {
    let &PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w } = window;
    window_attributes([kernel_h, kernel_w], [stride_h, stride_w], [pad_h, pad_w])
}

fn window_attributes(
    kernel: [usize; 2],
    strides: [usize; 2],
    [pad_h, pad_w]: [usize; 2],
) -> Vec<proto::Attribute> {
    vec![
        ints("kernel_shape", &kernel),
        ints("strides", &strides),
        // Above, left, below, right.
        ints("pads", &[pad_h, pad_w, pad_h, pad_w]),
    ]
}

/// Says that `name` is f32 `[batch, extents...]`.
fn value_info(name: &str, extents: &[usize]) -> proto::ValueInfo {
    let fixed = extents.iter().map(|&extent| Extent::Fixed(extent as i64));
    let dim = [Extent::Named("batch".into())].into_iter().chain(fixed);
    let dim = dim.map(|extent| proto::Dimension { extent: Some(extent) }).collect();
    let tensor = proto::TensorType { elem_type: proto::FLOAT, shape: Some(proto::TensorShape { dim }) };
    proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type: Some(tensor) }) }
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
