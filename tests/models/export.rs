//! Models written for other programs: the ONNX file read back field by field, and run by onnxruntime where there is one.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::graph::Graph;
use residuum::infer::export::{write_onnx, write_safetensors};
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::infer::onnx::OnnxModel;
use residuum::ops::{
    Conv2dConfig, Window, adaptive_avg_pool, add_bias, concat, conv2d, flatten, linear, relu,
};
use residuum::plan::plan;
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::tensor::{DType, Tensor};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::formula;
use crate::formula_model;
use crate::python::python_with;

const CLASSES: usize = 7;
const SIZE: usize = 64;
const BATCH: usize = 3;

/// One field of a protobuf message.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Int(u64),
    Bytes(&'a [u8]),
    Float(f32),
}

/// The fields of a message, in order.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let len = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let (this, rest) = bytes.split_at(len);
        *bytes = rest;
        this.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Int(varint(&mut bytes)),
            2 => {
                let len = varint(&mut bytes) as usize;
                let (this, rest) = bytes.split_at(len);
                bytes = rest;
                Field::Bytes(this)
            }
            5 => {
                let (this, rest) = bytes.split_first_chunk().unwrap();
                bytes = rest;
                Field::Float(f32::from_le_bytes(*this))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn all_bytes(message: &[u8], number: u64) -> Vec<&[u8]> {
    let bytes = fields(message).into_iter().filter(|(n, _)| *n == number);
    bytes
        .map(|(_, field)| if let Field::Bytes(bytes) = field { bytes } else { panic!("{field:?}") })
        .collect()
}

fn texts(message: &[u8], number: u64) -> Vec<&str> {
    all_bytes(message, number).into_iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect()
}

fn ints(message: &[u8], number: u64) -> Vec<u64> {
    let ints = fields(message).into_iter().filter(|(n, _)| *n == number);
    ints.map(|(_, field)| if let Field::Int(int) = field { int } else { panic!("{field:?}") }).collect()
}

struct Node<'a> {
    op: &'a str,
    name: &'a str,
    inputs: Vec<&'a str>,
    output: &'a str,
    attributes: Vec<&'a [u8]>,
}

impl<'a> Node<'a> {
    fn read(message: &'a [u8]) -> Node<'a> {
        Node {
            op: texts(message, 4)[0],
            name: texts(message, 3)[0],
            inputs: texts(message, 1),
            output: texts(message, 2)[0],
            attributes: all_bytes(message, 5),
        }
    }

    fn attribute(&self, name: &str) -> &'a [u8] {
        self.attributes.iter().find(|attribute| texts(attribute, 1) == [name]).unwrap()
    }
}

/// The extents in a ValueInfoProto; the batch is 0.
fn extents(info: &[u8]) -> Vec<u64> {
    let shape = all_bytes(all_bytes(all_bytes(info, 2)[0], 1)[0], 2)[0];
    let extent = |dim: &[u8]| match texts(dim, 2)[..] {
        ["batch"] => 0,
        _ => ints(dim, 1)[0],
    };
    all_bytes(shape, 1).into_iter().map(extent).collect()
}

#[test]
fn the_onnx_file_holds_the_network_as_recorded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    let file = formula_model("resnet18", "v1.5", CLASSES, SIZE);
    write_onnx(&file, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(ints(&bytes, 1), [7], "version of the format");
    assert_eq!(ints(all_bytes(&bytes, 8)[0], 2), [13], "operator set");

    let graph = all_bytes(&bytes, 7)[0];
    let nodes: Vec<Node> = all_bytes(graph, 1).into_iter().map(Node::read).collect();
    let count = |op| nodes.iter().filter(|node| node.op == op).count();
    let counts =
        ["Conv", "BatchNormalization", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
            .map(|op| (op, count(op)));
    let expected = [20, 20, 17, 1, 8, 1, 1, 1];
    assert_eq!(counts.map(|(_, count)| count), expected, "{counts:?}");
    assert_eq!(nodes.len(), expected.iter().sum::<usize>());

    // Weights as in the file, every operand made before it is read, every name made once.
    let initialisers = all_bytes(graph, 5);
    let weights: Vec<&NamedTensor> =
        file.tensors().iter().filter(|tensor| tensor.as_f32().is_some()).collect();
    assert_eq!(initialisers.len(), weights.len());
    let mut known = HashSet::from(["images"]);
    for initialiser in initialisers {
        let name = texts(initialiser, 8)[0];
        let weight = weights.iter().find(|tensor| tensor.name == name).unwrap();
        let shape: Vec<u64> = weight.shape.iter().map(|&extent| extent as u64).collect();
        assert_eq!(ints(initialiser, 1), shape, "{name}");
        assert_eq!(
            all_bytes(initialiser, 9)[0],
            bytemuck::cast_slice::<f32, u8>(weight.as_f32().unwrap()),
            "{name}"
        );
        assert!(known.insert(name), "{name}");
    }
    for node in &nodes {
        assert!(node.inputs.iter().all(|input| known.contains(input)), "{}: {:?}", node.name, node.inputs);
        assert!(known.insert(node.output), "{}", node.output);
    }
    assert_eq!(nodes.last().unwrap().output, "logits");
    assert_eq!(extents(all_bytes(graph, 11)[0]), [0, 3, SIZE as u64, SIZE as u64]);
    assert_eq!(extents(all_bytes(graph, 12)[0]), [0, CLASSES as u64]);

    let node = |name: &str| nodes.iter().find(|node| node.name == name).unwrap();
    assert_eq!(node("conv1").inputs, ["images", "conv1.weight"]);
    for (attribute, values) in
        [("kernel_shape", vec![7, 7]), ("strides", vec![2, 2]), ("pads", vec![3, 3, 3, 3])]
    {
        assert_eq!(ints(node("conv1").attribute(attribute), 8), values, "{attribute}");
    }
    let epsilon = fields(node("bn1").attribute("epsilon"));
    assert!(epsilon.iter().any(|(n, field)| *n == 2 && matches!(field, Field::Float(1e-5))), "{epsilon:?}");
    assert_eq!(node("layer4.1.add").inputs, ["layer4.1.bn2", "layer4.0.relu"]);
    assert_eq!(ints(node("fc").attribute("transB"), 3), [1]);

    let metadata: Vec<(&str, &str)> =
        all_bytes(&bytes, 14).into_iter().map(|entry| (texts(entry, 1)[0], texts(entry, 2)[0])).collect();
    for expected in [("mean", "0.5,0.25,0.125"), ("std", "0.25,0.5,1"), ("img_size", "64"), ("form", "v1.5")]
    {
        assert!(metadata.contains(&expected), "{metadata:?}");
    }
    let categories = metadata.iter().find(|(key, _)| *key == "categories").unwrap().1;
    assert_eq!(serde_json::from_str::<Vec<String>>(categories).unwrap(), file.card.categories);
}

#[test]
fn exported_weights_are_the_same_weights() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.safetensors");
    let file = formula_model("resnet18", "v2", CLASSES, SIZE);
    write_safetensors(&file, &path).unwrap();
    let again = ModelFile::read(&path, &CardOverrides::default()).unwrap();
    assert_eq!(again.card, file.card);
    assert_eq!(again.tensors().len(), file.tensors().len());
    for tensor in again.tensors() {
        assert!(file.tensors().contains(tensor), "{}", tensor.name);
    }
}

fn python_with_onnxruntime() -> Option<PathBuf> {
    python_with("onnx, onnxruntime, safetensors")
}

/// Whether onnxruntime makes of `input.safetensors` in `folder` what `logits.safetensors` holds.
fn check_with_onnxruntime(python: &Path, folder: &Path, what: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check_onnx.py");
    let files = ["model.onnx", "input.safetensors", "logits.safetensors"];
    let output = Command::new(python).current_dir(folder).arg(script).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{what}: {said}");
    assert!(output.status.success(), "{what}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Operations that no ResNet has, at odd sizes: a convolution with a bias, pooling to a grid that does not divide the image,
/// and the order in which an image is flattened.
#[test]
fn onnxruntime_computes_the_same_as_every_exported_operation() {
    let Some(python) = python_with_onnxruntime() else { return };
    let folder = TempDir::new().unwrap();
    let mut graph = Graph::new(DType::F32);
    let images = graph.input("images", [BATCH, 9, 9, 3], DType::F32);
    let window = Window { stride_h: 2, stride_w: 1, pad_h: 1, pad_w: 0, allow_tf32: false };
    let config = Conv2dConfig { out_channels: 4, kernel: [3, 2], window };
    let x = conv2d(&mut graph, "conv", images, config).unwrap();
    let x = add_bias(&mut graph, "conv", x).unwrap();
    let small = relu(&mut graph, "relu", x).unwrap();
    let x = concat(&mut graph, "concat", &[x, small]).unwrap();
    let x = adaptive_avg_pool(&mut graph, "pool", x, [3, 7]).unwrap();
    let x = flatten(&mut graph, "flatten", x).unwrap();
    let logits = linear(&mut graph, "fc", x, CLASSES).unwrap();
    graph.keep(logits);

    let program = plan(&[&graph], DeviceKind::Cpu).unwrap();
    let mut session = Session::open(program, Device::Cpu, Start::Seed(7)).unwrap();
    session.set(0, "conv.bias", &[0.5f32, -0.25, 1.0, 0.125]).unwrap();
    let pixels = Tensor::new([BATCH, 3, 9, 9], formula::images("eval", BATCH, 9));
    session.set(0, "images", pixels.permuted([0, 2, 3, 1]).data()).unwrap();
    session.run_micro_batch(0).unwrap();

    let persistent = graph.values().iter().filter(|value| value.role.is_persistent());
    let weights: HashMap<String, Tensor> = persistent
        .map(|value| {
            let elems = session.value::<f32>(0, &value.name).unwrap().into_owned();
            (value.name.clone(), Tensor::new(value.ty.shape, elems).to_file_layout(value.layout))
        })
        .collect();
    let weights = |name: &str| Ok(weights[name].data());
    let model = OnnxModel { graph: &graph, images, logits, weights: &weights, metadata: &[] };
    std::fs::write(folder.path().join("model.onnx"), model.to_bytes().unwrap()).unwrap();
    let computed = session.value::<f32>(0, &graph.value(logits).name).unwrap().into_owned();
    let write = |file: &str, tensor: NamedTensor| {
        checkpoint::write_atomic(&folder.path().join(file), &[tensor], &Value::Null).unwrap();
    };
    write("logits.safetensors", NamedTensor::f32("logits", &[BATCH, CLASSES], computed));
    write("input.safetensors", NamedTensor::f32("input", &[BATCH, 3, 9, 9], pixels.into_data()));
    check_with_onnxruntime(&python, folder.path(), "operations");
}

#[test]
fn onnxruntime_computes_the_same_logits() {
    let Some(python) = python_with_onnxruntime() else { return };
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let models = [
        ("resnet18", "v1.5", SIZE),
        ("resnet18", "v2", SIZE),
        ("resnet34", "v1.5", SIZE),
        ("resnet50", "v1", SIZE),
        ("resnet50", "v1.5", SIZE),
        ("resnet50", "v2", SIZE),
        ("resnet9", "v1.5", SIZE),
        // The pooling to 7x7 leaves the one image as it is, and makes more pixels of the other.
        ("vgg11_bn", "v1.5", 224),
        ("vgg11_bn", "v1.5", 96),
    ];
    for (name, form, size) in models {
        let images = formula::images("eval", BATCH, size);
        let input = NamedTensor::f32("input", &[BATCH, 3, size, size], images);
        checkpoint::write_atomic(&path("input.safetensors"), &[input], &Value::Null).unwrap();
        formula_model(name, form, CLASSES, size).write(&path("weights.safetensors")).unwrap();
        let residuum = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_residuum"));
            let output = command.current_dir(folder.path()).args(args).output().unwrap();
            assert!(output.status.success(), "{name} {form}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let weights = ["--weights", "weights.safetensors"];
        residuum(&[&["export", "--output", "model.onnx"], &weights[..]].concat());
        let predict = ["predict", "--input", "input.safetensors", "--output", "logits.safetensors"];
        residuum(&[&predict, &weights[..]].concat());
        check_with_onnxruntime(&python, folder.path(), &format!("{name} {form} {size}"));
    }
}
