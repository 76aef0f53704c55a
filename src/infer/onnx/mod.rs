//! A recorded forward pass as an ONNX model.
//!
//! The unfused evaluation graph is textbook operations, each of which says what it is in ONNX (`Op::onnx`). Nodes keep their
//! order and their names, filters keep torchvision's layout (OIHW), images become NCHW.

mod proto;

use prost::Message;
use proto::{AttributeType, Extent};

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Onnx, OnnxAttribute, OnnxNode, Role, ValueId, ValueType};

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
        let [_, height, width, channels] = self.graph.shape(self.images).as_4d().ok_or_else(|| {
            self.unsupported("input", &self.graph.value(self.images).name, "is not a batch of images")
        })?;
        let classes = self.graph.shape(self.logits).last();
        let mut graph = proto::Graph {
            name: env!("CARGO_PKG_NAME").into(),
            input: vec![value_info(IMAGES, &[channels, height, width])],
            output: vec![value_info(LOGITS, &[classes])],
            ..proto::Graph::default()
        };
        for value in self.graph.values().iter().filter(|value| value.role.is_persistent()) {
            let extents = value.layout.file_extents(value.ty.shape);
            graph.initializer.push(tensor(&value.name, &extents, (self.weights)(&value.name)?));
        }
        for node in self.graph.nodes() {
            self.translate(node, &mut graph)?;
        }
        Ok(graph)
    }

    /// Appends what computes the first result of `node`.
    fn translate(&self, node: &Node, graph: &mut proto::Graph) -> Result<()> {
        let operands = node.inputs.iter().map(|&id| self.name(node, id)).collect::<Result<Vec<_>>>()?;
        let output = self.name(node, node.outputs[0])?;
        let types: Vec<ValueType> = node.inputs.iter().map(|&id| self.graph.value(id).ty).collect();
        let problem = match node.op.onnx(&types) {
            Some(Onnx::Nodes(chain)) => {
                push_chain(graph, chain, &node.name, operands, &output);
                return Ok(());
            }
            Some(Onnx::ConvBias) => match self.conv_before(node, &operands[0], graph) {
                Some(conv) => {
                    conv.input.extend(operands.into_iter().nth(1));
                    conv.output = vec![output];
                    return Ok(());
                }
                None => "does not follow a convolution",
            },
            None => "has no counterpart in the ONNX export",
        };
        Err(self.unsupported(node.op.name(), &node.name, problem))
    }

    /// The convolution without a bias that makes `operand`, the first operand of `node`, for that node alone.
    fn conv_before<'g>(
        &self,
        node: &Node,
        operand: &str,
        graph: &'g mut proto::Graph,
    ) -> Option<&'g mut proto::Node> {
        let reads = self.graph.nodes().iter().flat_map(|reader| &reader.inputs);
        let is_private = reads.filter(|&&id| id == node.inputs[0]).count() == 1;
        let maker = graph.node.iter_mut().find(|made| made.output[0] == operand)?;
        (is_private && maker.op_type == "Conv" && maker.input.len() == 2).then_some(maker)
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

/// Appends `chain`, from `operands` to `output`. Nodes after the first, results between nodes and constants are named after
/// the operator.
fn push_chain(
    graph: &mut proto::Graph,
    chain: Vec<OnnxNode>,
    name: &str,
    operands: Vec<String>,
    output: &str,
) {
    let count = chain.len();
    let mut input = operands;
    for (index, node) in chain.into_iter().enumerate() {
        let inner_name = format!("{output}.{}", node.op_type.to_lowercase());
        for (position, constant) in node.constants.iter().enumerate() {
            let name = format!("{inner_name}.{position}");
            graph.initializer.push(tensor(&name, constant.shape().dims(), constant.data()));
            input.push(name);
        }
        let result = if index + 1 == count { output } else { &inner_name };
        graph.node.push(proto::Node {
            input: std::mem::replace(&mut input, vec![result.to_string()]),
            output: vec![result.to_string()],
            name: if index == 0 { name.to_string() } else { inner_name.clone() },
            op_type: node.op_type.into(),
            attribute: node.attributes.into_iter().map(attribute).collect(),
        });
    }
}

fn attribute((name, value): (&str, OnnxAttribute)) -> proto::Attribute {
    let named = proto::Attribute { name: name.into(), ..proto::Attribute::default() };
    match value {
        OnnxAttribute::Float(f) => {
            proto::Attribute { f: Some(f), r#type: AttributeType::Float.into(), ..named }
        }
        OnnxAttribute::Int(i) => proto::Attribute { i: Some(i), r#type: AttributeType::Int.into(), ..named },
        OnnxAttribute::Ints(ints) => {
            proto::Attribute { ints: as_i64(&ints), r#type: AttributeType::Ints.into(), ..named }
        }
        OnnxAttribute::Text(text) => {
            proto::Attribute { s: Some(text.into()), r#type: AttributeType::String.into(), ..named }
        }
    }
}

fn tensor(name: &str, extents: &[usize], elems: &[f32]) -> proto::Tensor {
    let raw_data = bytemuck::cast_slice(elems).to_vec();
    proto::Tensor { dims: as_i64(extents), data_type: proto::FLOAT, name: name.into(), raw_data }
}

fn as_i64(extents: &[usize]) -> Vec<i64> {
    extents.iter().map(|&extent| extent as i64).collect()
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
    use crate::ops::{Conv2dConfig, add, add_bias, conv2d, global_avg_pool, linear, mean, relu};
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
    fn a_bias_without_a_convolution_of_its_own_is_named() {
        let mut graph = Graph::new(DType::F32);
        let images = graph.input("images", [1, 4, 5, 3], DType::F32);
        let x = conv2d(&mut graph, "conv", images, Conv2dConfig::square(2, 3, 1)).unwrap();
        let biased = add_bias(&mut graph, "conv", x).unwrap();
        let pooled = global_avg_pool(&mut graph, "pool", biased).unwrap();
        assert!(write(&graph, images, pooled).is_ok());
        let both = add(&mut graph, "both", x, biased).unwrap();
        let pooled = global_avg_pool(&mut graph, "pool2", both).unwrap();
        let message = write(&graph, images, pooled).unwrap_err().to_string();
        assert!(message.contains("`conv.add_bias`") && message.contains("does not follow"), "{message}");
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
