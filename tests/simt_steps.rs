//! Whole training steps with the real kernels on the emulator, against the CPU.

#![cfg(residuum_simt)]

use residuum::autodiff::differentiate;
use residuum::device::DeviceKind;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::exec::Session;
use residuum::fuse::{Rewrite, fuse};
use residuum::graph::{Graph, Init, Phase, Role, ValueId};
use residuum::models::{Form, Model};
use residuum::ops::{
    BnConfig, ClipNorm, Conv2dConfig, Mode, PoolWindow, Sgd, SgdConfig, Window, add, batch_norm, cast,
    conv2d, fill, global_avg_pool, linear, max_pool, relu, softmax_xent,
};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::step::weights::initialise;
use residuum::step::{Optimiser, StepConfig, hyper_parameters, training_graph, values};
use residuum::tensor::DType;

const BATCH: usize = 4;
const SIZE: usize = 32;
const CLASSES: usize = 7;
const LR: f64 = 0.001;
/// Scale of the last batch norm of each branch. With 1, four images a step are chaotic: rounding decides the third loss.
const LAST_GAMMA: f32 = 0.1;

fn config(name: &str, float: DType) -> StepConfig {
    StepConfig {
        float,
        optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }),
        smoothing: 0.1,
        ..StepConfig::new(Model::parse(name, Form::V1_5, CLASSES).unwrap(), BATCH, SIZE)
    }
}

/// Losses of `steps` updates and the weights behind them; on the emulator with a seed, on the CPU without.
fn train(config: &StepConfig, steps: u64, seed: Option<u64>) -> (Vec<f32>, Vec<f32>) {
    let graph = training_graph(config).unwrap();
    let mut session = match seed {
        None => Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap(),
        Some(seed) => {
            let device = Box::new(SimtDevice::new(seed, Checks::Off).unwrap());
            Session::on(plan(&[&graph], DeviceKind::Simt).unwrap(), device).unwrap()
        }
    };
    initialise(&mut session, 5).unwrap();
    let last_norm = if config.model.name() == "resnet18" { ".bn2.weight" } else { ".bn3.weight" };
    for p in session.program().persistent.clone() {
        if p.value.name.starts_with("layer") && p.value.name.ends_with(last_norm) {
            session.write(&p.slot, &vec![LAST_GAMMA; p.slot.shape.num_elems()]).unwrap();
        }
    }
    let slot = |session: &Session, name| session.plan(0).slot(name).unwrap();
    let [images, labels, hyper, loss] =
        [values::IMAGES, values::LABELS, values::HYPER, values::LOSS].map(|name| slot(&session, name));
    let mut losses = Vec::new();
    for step in 0..steps {
        let mut stream = Stream::new(step, 0, 0, Use::Augment);
        let pixels: Vec<f32> = (0..images.shape.num_elems()).map(|_| stream.normal()).collect();
        let categories: Vec<i32> = (0..BATCH).map(|_| stream.below(CLASSES as u32) as i32).collect();
        session.write(&images, &pixels).unwrap();
        session.write(&labels, &categories).unwrap();
        session.run_micro_batch(0).unwrap();
        losses.push(session.read::<f32>(&loss).unwrap()[0]);
        session.write(&hyper, &hyper_parameters(&config.optimiser, LR, step + 1)).unwrap();
        session.run_update(0).unwrap();
    }
    let parameters = session.program().persistent.iter().filter(|p| p.value.role == Role::Parameter);
    let weights = parameters.flat_map(|p| session.read::<f32>(&p.slot).unwrap().into_owned()).collect();
    (losses, weights)
}

fn assert_losses(got: &[f32], expected: &[f32], tolerance: f32) {
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / expected;
        assert!(error <= tolerance, "step {step}: loss {got}, the CPU's {expected}");
    }
}

#[test]
fn training_steps_of_a_basic_and_a_bottleneck_net_agree_with_the_cpu() {
    for name in ["resnet18", "resnet50"] {
        let config = config(name, DType::F32);
        let (expected, _) = train(&config, 3, None);
        let (got, _) = train(&config, 3, Some(1));
        println!("{name}: {got:?} for {expected:?}");
        assert_losses(&got, &expected, 1e-4);
    }
}

#[test]
fn bf16_losses_stay_within_a_hundredth() {
    for name in ["resnet18", "resnet50"] {
        let (expected, _) = train(&config(name, DType::F32), 3, None);
        let (got, _) = train(&config(name, DType::Bf16), 3, Some(1));
        println!("{name}: {got:?} for {expected:?}");
        assert_losses(&got, &expected, 1e-2);
    }
}

#[test]
fn the_order_of_threads_changes_no_bit_of_a_step() {
    let config = config("resnet18", DType::F32);
    let (_, first) = train(&config, 1, Some(1));
    let (_, second) = train(&config, 1, Some(2));
    assert!(first.iter().zip(&second).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// A step of a net with a stem, a block that changes stride and channels, and a bottleneck, few channels each: every
/// result, and every parameter and state behind it, as bits.
fn small_step(float: DType, seed: u64) -> Vec<u32> {
    let mut graph = Graph::new(float);
    let images = graph.input("images", [3, 17, 15, 3], DType::F32);
    let labels = graph.input("labels", [3], DType::I32);
    let hyper = graph.input("hyper", [4], DType::F32);
    let x = cast(&mut graph, "images.cast", images, float).unwrap();
    let x = unit(&mut graph, "stem", x, (16, 7, 2), true);
    let x = max_pool(&mut graph, "pool", x, PoolWindow::square(3, 2, 1)).unwrap();
    let left = unit(&mut graph, "wide.conv", x, (24, 3, 2), false);
    let right = unit(&mut graph, "wide.shortcut", x, (24, 1, 2), false);
    let x = joined(&mut graph, "wide", left, right);
    let narrow = unit(&mut graph, "bottleneck.conv1", x, (8, 1, 1), true);
    let narrow = unit(&mut graph, "bottleneck.conv2", narrow, (8, 3, 1), true);
    let branch = unit(&mut graph, "bottleneck.conv3", narrow, (24, 1, 1), false);
    let x = joined(&mut graph, "bottleneck", branch, x);
    let x = global_avg_pool(&mut graph, "features", x).unwrap();
    let logits = linear(&mut graph, "fc", x, 5).unwrap();
    let loss = softmax_xent(&mut graph, "loss", logits, labels, 0.1).unwrap().loss;
    graph.keep(loss);
    let parameters: Vec<ValueId> = graph.parameters().collect();
    graph.set_phase(Phase::Backward);
    let one = fill(&mut graph, "one", [], 1.0).unwrap();
    let gradients = differentiate(&mut graph, loss, one, &parameters).unwrap();
    graph.set_phase(Phase::Update);
    let scale = graph.apply("clip", ClipNorm::new(0.5, gradients.len()), &gradients).unwrap()[0];
    let mut operands = vec![hyper, scale];
    for (parameter, gradient) in parameters.iter().zip(&gradients) {
        let value = graph.value(*parameter).clone();
        let name = format!("velocity.{}", value.name);
        let velocity = graph.state(&name, value.ty.shape, value.layout, Init::Constant(0.0));
        operands.extend([*parameter, *gradient, velocity]);
    }
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    graph.apply("sgd", Sgd::new(sgd, parameters.len()), &operands).unwrap();
    let graph = fuse(&graph, &Rewrite::ALL).unwrap();

    let device = Box::new(SimtDevice::new(seed, Checks::Off).unwrap());
    let mut session = Session::on(plan(&[&graph], DeviceKind::Simt).unwrap(), device).unwrap();
    initialise(&mut session, 3).unwrap();
    let mut stream = Stream::new(1, 0, 0, Use::Augment);
    let slot = |session: &Session, name| session.plan(0).slot(name).unwrap();
    let images = slot(&session, "images");
    let pixels: Vec<f32> = (0..images.shape.num_elems()).map(|_| stream.normal()).collect();
    session.write(&images, &pixels).unwrap();
    session.write(&slot(&session, "labels"), &[4i32, 0, 2]).unwrap();
    session.write(&slot(&session, "hyper"), &[0.1f32, 0.0, 0.0, 0.0]).unwrap();
    session.run_micro_batch(0).unwrap();
    session.run_update(0).unwrap();
    let persistent = session.program().persistent.iter().map(|p| p.slot);
    let values = persistent.chain([slot(&session, "loss")]);
    values.flat_map(|slot| session.read::<f32>(&slot).unwrap().into_owned()).map(f32::to_bits).collect()
}

/// Convolution and batch norm, then ReLU if asked; channels, kernel and stride.
fn unit(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    (out_channels, kernel, stride): (usize, usize, usize),
    relu_after: bool,
) -> ValueId {
    let config =
        Conv2dConfig { out_channels, kernel: [kernel; 2], window: Window::square(stride, kernel / 2) };
    let y = conv2d(graph, name, x, config).unwrap();
    let y = batch_norm(graph, &format!("{name}.bn"), y, BnConfig::new(Mode::Train)).unwrap();
    if relu_after { relu(graph, &format!("{name}.relu"), y).unwrap() } else { y }
}

fn joined(graph: &mut Graph, name: &str, left: ValueId, right: ValueId) -> ValueId {
    let sum = add(graph, &format!("{name}.add"), left, right).unwrap();
    relu(graph, &format!("{name}.relu"), sum).unwrap()
}

#[test]
fn ten_orders_of_threads_give_the_same_bits_of_a_step() {
    for float in [DType::F32, DType::Bf16] {
        let first = small_step(float, 0);
        assert!(first.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        for seed in 1..10 {
            assert!(small_step(float, seed) == first, "other bits in {float} with threads in order {seed}");
        }
    }
}
