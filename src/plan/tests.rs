//! The planner's promises: no two live values share memory, and dead ones are reused.

use super::*;
use crate::graph::Init;
use crate::ops::{add, relu, stem_conv2d};
use crate::tensor::Layout;

fn residual_chain() -> (Graph, ValueId) {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [2, 3, 5, 7], DType::F32);
    let bias = graph.parameter("bias", [2, 3, 5, 7], Layout::Flat, Init::Constant(0.5));
    let mut value = add(&mut graph, "shift", x, bias).unwrap();
    for depth in 0..4 {
        let active = relu(&mut graph, &format!("relu{depth}"), value).unwrap();
        value = add(&mut graph, &format!("sum{depth}"), active, value).unwrap();
    }
    graph.keep(value);
    (graph, value)
}

#[test]
fn values_alive_together_never_overlap() {
    let (graph, _) = residual_chain();
    let program = plan(&[&graph], DeviceKind::Cpu).unwrap();
    for step in &program.plans[0].steps {
        for (i, a) in step.inputs.iter().enumerate() {
            for b in step.inputs.iter().skip(i + 1) {
                assert!(!a.overlaps(b), "{}", step.name);
            }
            for output in &step.outputs {
                let in_place = output.offset_bytes == a.offset_bytes && i == 0;
                assert!(in_place || !a.overlaps(output), "{}", step.name);
            }
        }
    }
}

#[test]
fn a_chain_of_any_depth_needs_three_buffers_and_its_input() {
    let (graph, value) = residual_chain();
    let program = plan(&[&graph], DeviceKind::Cpu).unwrap();
    let buffer_bytes = align(graph.value(value).ty.num_bytes());
    assert_eq!(program.persistent_bytes, buffer_bytes);
    assert_eq!(program.input_bytes, buffer_bytes);
    assert!(program.plans[0].live.arena_bytes <= 4 * buffer_bytes, "{:?}", program.plans[0].live);
    assert_eq!(program.peak_bytes, program.persistent_bytes + program.plans[0].live.arena_bytes);
}

#[test]
fn graphs_share_persistent_values_by_name() {
    let (first, _) = residual_chain();
    let (second, _) = residual_chain();
    let program = plan(&[&first, &second], DeviceKind::Cpu).unwrap();
    assert_eq!(program.persistent.len(), 1);
    assert_eq!(program.plans[0].slot("bias").unwrap(), program.plans[1].slot("bias").unwrap());
    assert!(program.plans[0].slot("nothing").is_err());
}

#[test]
fn graphs_that_disagree_about_a_parameter_are_refused() {
    let (first, _) = residual_chain();
    let mut second = Graph::new(DType::F32);
    second.parameter("bias", [3], Layout::Flat, Init::Constant(0.0));
    let message = plan(&[&first, &second], DeviceKind::Cpu).unwrap_err().to_string();
    assert!(message.contains("bias") && message.contains("f32 3"), "{message}");
}

#[test]
fn a_layer_larger_than_its_kernels_count_is_refused_by_name() {
    // The stem sees 2^10 elements in blocks of an image of 10x10 pixels, and its kernel counts fewer than 2^32.
    let planned = |images: usize, device| {
        let mut graph = Graph::new(DType::Bf16);
        let x = graph.input("x", [images, 10, 10, 3], DType::Bf16);
        stem_conv2d(&mut graph, "conv1", x, 8).unwrap();
        plan(&[&graph], device).map_err(|error| error.to_string())
    };
    assert!(planned((1 << 22) - 1, DeviceKind::Cuda).is_ok());
    for device in [DeviceKind::Cuda, DeviceKind::Simt] {
        let message = planned(1 << 22, device).unwrap_err();
        assert_eq!(
            message,
            "space_to_depth `conv1.blocks`: has 4294967296 elements of blocks, and its kernels count fewer than \
             4294967296; use a smaller batch or smaller images"
        );
    }
    assert!(planned(1 << 22, DeviceKind::Cpu).is_ok());
}

#[test]
fn transient_values_begin_at_a_line_of_a_cache() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [3], DType::F32);
    let y = relu(&mut graph, "y", x).unwrap();
    graph.keep(y);
    let program = plan(&[&graph], DeviceKind::Cuda).unwrap();
    let [x, y] = ["x", "y"].map(|name| program.plans[0].slot(name).unwrap().offset_bytes);
    assert_eq!((x, program.input_bytes, y), (0, LINE_BYTES, LINE_BYTES));
}
