//! The passes over whole training graphs: what differentiation, fusion and accumulation make of them.

use residuum::autodiff::differentiate;
use residuum::device::DeviceKind;
use residuum::exec::Session;
use residuum::fuse::{Rewrite, fuse};
use residuum::graph::{Graph, Init, Role};
use residuum::models::{Form, Model};
use residuum::ops::{SgdConfig, add, relu};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::step::weights::initialise;
use residuum::step::{Optimiser, StepConfig, evaluation_graph, hyper_parameters, training_graph, values};
use residuum::tensor::{DType, Layout};

fn step_config(name: &str) -> StepConfig {
    StepConfig {
        optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }),
        smoothing: 0.1,
        fuse: false,
        ..StepConfig::new(Model::parse(name, Form::V1_5, 5).unwrap(), 3, 32)
    }
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == op).count()
}

#[test]
fn every_rewrite_finds_all_its_places_in_a_residual_network() {
    for (name, norms) in [("resnet18", 20), ("resnet50", 53)] {
        let textbook = training_graph(&step_config(name)).unwrap();
        let adds = count(&textbook, "add_fwd");
        assert!(count(&textbook, "relu_fwd") > 0 && count(&textbook, "relu_bwd") > 0 && adds > 0);

        let forward = fuse(&textbook, &[Rewrite::BatchNormRelu]).unwrap();
        assert_eq!(count(&forward, "relu_fwd"), 0, "{name}");
        assert_eq!(count(&forward, "batch_norm_fwd"), norms, "{name}");
        assert_eq!(
            count(&forward, "relu_bwd"),
            count(&textbook, "relu_bwd"),
            "only the forward pass changes"
        );

        let backward = fuse(&textbook, &[Rewrite::BatchNormReluBwd]).unwrap();
        assert_eq!(count(&backward, "relu_bwd"), 0, "{name}");
        assert_eq!(count(&backward, "batch_norm_bwd"), norms, "{name}");

        let all = fuse(&textbook, &Rewrite::ALL).unwrap();
        assert_eq!(count(&all, "add_fwd"), 0, "{name}: residual adds and gradient sums are all taken in");
        let evaluation = fuse(&evaluation_graph(&step_config(name), "").unwrap(), &Rewrite::ALL).unwrap();
        assert_eq!(count(&evaluation, "relu_fwd") + count(&evaluation, "add_fwd"), 0, "{name}");
    }
}

#[test]
fn a_value_the_host_reads_is_not_fused_away() {
    let mut graph = training_graph(&step_config("resnet18")).unwrap();
    let shown = graph.find("layer1.0.add").unwrap();
    graph.keep(shown);
    let fused = fuse(&graph, &Rewrite::ALL).unwrap();
    assert!(fused.nodes().iter().any(|node| node.outputs.contains(&shown)));
}

#[test]
fn gradients_of_a_value_used_twice_are_summed() {
    let mut graph = Graph::new(DType::F64);
    let x = graph.input("x", [3], DType::F64);
    let dy = graph.input("dy", [3], DType::F64);
    let active = relu(&mut graph, "relu", x).unwrap();
    let twice = add(&mut graph, "twice", active, active).unwrap();
    let y = add(&mut graph, "y", twice, x).unwrap();
    let dx = differentiate(&mut graph, y, dy, &[x]).unwrap()[0];
    graph.keep(dx);
    let name = graph.value(dx).name.clone();
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
    let (x, dy, dx) = (slot(&session, "x"), slot(&session, "dy"), slot(&session, &name));
    session.write(&x, &[-1.0f64, 0.5, 2.0]).unwrap();
    session.write(&dy, &[1.0f64, 10.0, 100.0]).unwrap();
    session.run_micro_batch(0).unwrap();
    assert_eq!(*session.read::<f64>(&dx).unwrap(), [1.0, 30.0, 300.0]);
}

#[test]
fn a_parameter_the_loss_does_not_depend_on_is_named() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [3], DType::F32);
    let unused = graph.parameter("unused", [3], Layout::Flat, Init::Constant(0.0));
    let y = relu(&mut graph, "y", x).unwrap();
    let message = differentiate(&mut graph, y, x, &[unused]).unwrap_err().to_string();
    assert!(message.contains("`unused`"), "{message}");
}

/// The weights after one update from `batches`, all micro-batches of it.
fn weights_after_one_update(config: &StepConfig, batches: &[u64]) -> Vec<f32> {
    assert_eq!(batches.len(), config.grad_accum_steps);
    let graph = training_graph(config).unwrap();
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    initialise(&mut session, 3).unwrap();
    let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
    let (images, labels) = (slot(&session, values::IMAGES), slot(&session, values::LABELS));
    for &seed in batches {
        let mut stream = Stream::new(seed, 0, 0, Use::Augment);
        let pixels: Vec<f32> = (0..images.shape.num_elems()).map(|_| stream.normal()).collect();
        session.write(&images, &pixels).unwrap();
        session.write(&labels, &[0i32, 3, 4]).unwrap();
        session.run_micro_batch(0).unwrap();
    }
    let hyper = slot(&session, values::HYPER);
    session.write(&hyper, &hyper_parameters(&config.optimiser, 0.1, 1)).unwrap();
    session.run_update(0).unwrap();
    let persistent = session.program().persistent.iter();
    let parameters = persistent.filter(|p| p.value.role == Role::Parameter);
    parameters.flat_map(|p| session.read::<f32>(&p.slot).unwrap().into_owned()).collect()
}

#[test]
fn accumulating_a_batch_twice_is_the_update_of_that_batch() {
    let once = step_config("resnet18");
    let twice = StepConfig { grad_accum_steps: 2, ..once };
    let expected = weights_after_one_update(&once, &[1]);
    let got = weights_after_one_update(&twice, &[1, 1]);
    let other = weights_after_one_update(&twice, &[1, 2]);
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(expected.iter().all(|v| v.is_finite()));
    assert!(largest(&got, &expected) <= 1e-6, "off by {}", largest(&got, &expected));
    assert!(largest(&other, &expected) > 1e-4, "the second batch must count");
}

#[test]
fn averaged_weights_follow_the_trained_ones() {
    let config = StepConfig { ema_decay: Some(0.75), ..step_config("resnet18") };
    let graph = training_graph(&config).unwrap();
    let eval = evaluation_graph(&config, "ema.").unwrap();
    let mut session = Session::new(plan(&[&graph, &eval], DeviceKind::Cpu).unwrap()).unwrap();
    initialise(&mut session, 3).unwrap();
    let place = |session: &Session, name: &str| {
        let found = session.program().persistent.iter().find(|p| p.value.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).slot
    };
    let (bias, average) = (place(&session, "fc.bias"), place(&session, "ema.fc.bias"));
    assert_eq!(session.read::<f32>(&bias).unwrap(), session.read::<f32>(&average).unwrap());
    assert_eq!(session.plan(1).slot("ema.fc.bias").unwrap(), average, "evaluation reads the average");
    let before = session.read::<f32>(&bias).unwrap().into_owned();
    let images = session.plan(0).slot(values::IMAGES).unwrap();
    session.write(&images, &vec![0.5f32; images.shape.num_elems()]).unwrap();
    let labels = session.plan(0).slot(values::LABELS).unwrap();
    session.write(&labels, &[1i32, 1, 2]).unwrap();
    session.run_micro_batch(0).unwrap();
    let hyper = session.plan(0).slot(values::HYPER).unwrap();
    session.write(&hyper, &hyper_parameters(&config.optimiser, 0.5, 1)).unwrap();
    session.run_update(0).unwrap();
    let (after, average) = (session.read::<f32>(&bias).unwrap(), session.read::<f32>(&average).unwrap());
    for ((before, after), average) in before.iter().zip(&*after).zip(&*average) {
        assert_ne!(before, after);
        assert!((average - (0.75 * before + 0.25 * after)).abs() <= 1e-6);
    }
}
