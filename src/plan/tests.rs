//! The planner's promises: no two live values share memory, and dead ones are reused.

use super::*;
use crate::graph::Init;
use crate::ops::{add, relu};
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
fn a_chain_of_any_depth_needs_three_buffers() {
    let (graph, value) = residual_chain();
    let program = plan(&[&graph], DeviceKind::Cpu).unwrap();
    let buffer_bytes = align(graph.value(value).ty.num_bytes());
    assert_eq!(program.persistent_bytes, buffer_bytes);
    assert!(program.plans[0].live.arena_bytes <= 3 * buffer_bytes, "{:?}", program.plans[0].live);
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
