//! The last layer and bf16 convolutions on the emulator, beyond the cases of the operations' registry.

#![cfg(residuum_simt)]

use residuum::autodiff::differentiate;
use residuum::check::run;
use residuum::device::DeviceKind;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::exec::Session;
use residuum::graph::{Graph, Role, ValueId};
use residuum::ops::{Case, Conv2dConfig, LinearFprop, Window, conv2d, linear};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;

fn linear_of(graph: &mut Graph, x: &[ValueId]) -> residuum::Result<ValueId> {
    graph.apply_one("linear", LinearFprop, x)
}

#[test]
fn linear_matches_the_cpu_where_tiles_and_splits_end_unevenly() {
    for case in [
        Case::new("one_row", &[&[1, 5], &[3, 5], &[3]], linear_of),
        Case::new("uneven_tiles", &[&[70, 33], &[67, 33], &[67]], linear_of),
        Case::new("features_in_uneven_parts", &[&[6, 1001], &[9, 1001], &[9]], linear_of),
        Case::new("a_batch_and_a_hundred_classes", &[&[66, 512], &[100, 512], &[100]], linear_of),
    ] {
        let device = Box::new(SimtDevice::new(13, Checks::Full).unwrap());
        let outcome = run(case.name, &case, DType::F32, device).unwrap();
        assert!(outcome.passed(), "{}: error {:.1e}", case.name, outcome.error);
    }
}

/// The result and the gradients of a linear layer, computed with threads in the order of `seed`.
fn linear_gradients(seed: u64) -> Vec<Vec<f32>> {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [37, 130], DType::F32);
    let y = linear(&mut graph, "fc", x, 11).unwrap();
    let dy = graph.input("dy", [37, 11], DType::F32);
    let wanted: Vec<ValueId> = graph.parameters().chain([x]).collect();
    let gradients = differentiate(&mut graph, y, dy, &wanted).unwrap();
    let names: Vec<String> = gradients
        .into_iter()
        .chain([y])
        .map(|id| {
            graph.keep(id);
            graph.value(id).name.clone()
        })
        .collect();
    let program = plan(&[&graph], DeviceKind::Simt).unwrap();
    let device = SimtDevice::new(seed, Checks::Off).unwrap();
    let mut session = Session::on(program, Box::new(device)).unwrap();
    let mut stream = Stream::new(3, 0, 0, Use::Init);
    for name in ["x", "dy", "fc.weight", "fc.bias"] {
        let slot = session.plan(0).slot(name).unwrap();
        let values: Vec<f32> = (0..slot.shape.num_elems()).map(|_| stream.normal()).collect();
        session.write(&slot, &values).unwrap();
    }
    session.run_micro_batch(0).unwrap();
    names
        .iter()
        .map(|name| session.read::<f32>(&session.plan(0).slot(name).unwrap()).unwrap().into_owned())
        .collect()
}

#[test]
fn linear_computes_the_same_bits_in_any_order_of_threads() {
    let [first, second] = [1, 2].map(linear_gradients);
    assert!(first.iter().flatten().all(|v| v.is_finite()));
    assert_eq!(first, second);
}

#[test]
fn bf16_convolution_keeps_its_parameter_and_its_gradient_in_f32() {
    let mut graph = Graph::new(DType::Bf16);
    let x = graph.input("x", [2, 6, 5, 8], DType::Bf16);
    let config = Conv2dConfig { out_channels: 16, kernel: [3, 3], window: Window::square(1, 1) };
    let y = conv2d(&mut graph, "conv", x, config).unwrap();
    assert_eq!(graph.value(y).ty.dtype, DType::Bf16);
    let parameters: Vec<ValueId> = graph.parameters().collect();
    let dy = graph.input("dy", graph.shape(y), DType::Bf16);
    let gradients = differentiate(&mut graph, y, dy, &parameters).unwrap();
    assert_eq!(gradients.len(), 1);
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        assert_eq!(graph.value(*parameter).role, Role::Parameter);
        assert_eq!(graph.value(*parameter).ty.dtype, DType::F32);
        assert_eq!(graph.value(gradient).ty, graph.value(*parameter).ty);
    }
}
