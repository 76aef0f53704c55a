//! Whole training steps with the real kernels on the emulator, against the CPU.

#![cfg(residuum_simt)]

#[path = "common/training.rs"]
mod stepping;

use residuum::Result;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::fuse::{Fusion, Rewrite};
use residuum::graph::{Graph, ValueId};
use residuum::models::{Inputs, Model, Network, Options};
use residuum::ops::{
    BnConfig, Conv2dConfig, Mode, PoolWindow, SgdConfig, adaptive_avg_pool, add, add_bias, batch_norm,
    conv2d, dropout, flatten, global_avg_pool, linear, max_pool, relu,
};
use residuum::step::{Optimiser, StepConfig, Training, program};
use residuum::tensor::DType;
use stepping::random_batch::random_batch;
use stepping::{damp_branches, run, weight_bits};

const BATCH: usize = 4;
const SIZE: usize = 32;
const CLASSES: usize = 7;
const LR: f64 = 0.001;

fn config(name: &str, float: DType) -> StepConfig {
    let size = if name == "resnet9" { SIZE / 2 } else { SIZE };
    config_at(name, float, size)
}

fn config_at(name: &str, float: DType, size: usize) -> StepConfig {
    StepConfig {
        float,
        optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }),
        smoothing: 0.1,
        seed: 5,
        ..StepConfig::new(Model::new(name, Options::new(CLASSES)).unwrap(), BATCH, size)
    }
}

/// Losses of `steps` updates and the weights after them, as bits; on the emulator with a seed, on the CPU without.
fn train(name: &str, float: DType, steps: u64, seed: Option<u64>) -> (Vec<f32>, Vec<u32>) {
    train_by(name, config(name, float), steps, seed)
}

fn train_by(name: &str, config: StepConfig, steps: u64, seed: Option<u64>) -> (Vec<f32>, Vec<u32>) {
    let mut training = training(config, seed);
    let last_norm = match name {
        "resnet9" => ".residual.1.bn.weight",
        "resnet18" => ".bn2.weight",
        _ => ".bn3.weight",
    };
    damp_branches(&mut training, last_norm);
    let losses = run(&mut training, CLASSES, LR, 0, steps);
    (losses, weight_bits(&training))
}

/// On the emulator with a seed, on the CPU without.
fn training(config: StepConfig, seed: Option<u64>) -> Training {
    match seed {
        None => Training::new(config, Device::Cpu).unwrap(),
        Some(seed) => {
            let device = Box::new(SimtDevice::new(seed, Checks::Off).unwrap());
            let program = program(&config, DeviceKind::Simt).unwrap();
            let start = Start::Seed(config.seed);
            Training::in_session(config, Session::on(program, device, start).unwrap()).unwrap()
        }
    }
}

fn assert_losses(got: &[f32], expected: &[f32], tolerance: f32) {
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / expected;
        assert!(error <= tolerance, "step {step}: loss {got}, the CPU's {expected}");
    }
}

#[test]
fn training_steps_of_residual_nets_agree_with_the_cpu() {
    // The third step is the first whose gradients come from weights that momentum has moved; a ResNet-50 takes long for one.
    for (name, steps) in [("resnet9", 3), ("resnet18", 3), ("resnet50", 2)] {
        let (expected, _) = train(name, DType::F32, steps, None);
        let (got, _) = train(name, DType::F32, steps, Some(1));
        println!("{name}: {got:?} for {expected:?}");
        assert_losses(&got, &expected, 1e-4);
    }
}

#[test]
fn tf32_losses_stay_within_three_thousandths() {
    let losses = |allow_tf32, device| {
        let config = StepConfig { allow_tf32, ..config_at("resnet18", DType::F32, SIZE) };
        train_by("resnet18", config, 3, device).0
    };
    let (expected, got) = (losses(false, None), losses(true, Some(1)));
    println!("{got:?} for {expected:?}");
    assert_losses(&got, &expected, 3e-3);
    assert_ne!(got, expected);
}

#[test]
fn bf16_losses_stay_within_a_hundredth() {
    // At 32 pixels a ResNet-50 ends in maps of one: batch norms of four numbers, where roundings decide what comes out.
    for (name, size, steps) in [("resnet18", SIZE, 3), ("resnet50", 2 * SIZE, 2)] {
        let losses = |float, device| train_by(name, config_at(name, float, size), steps, device).0;
        let expected = losses(DType::F32, None);
        for device in [None, Some(1)] {
            let got = losses(DType::Bf16, device);
            println!("{name}: {got:?} for {expected:?}");
            assert_losses(&got, &expected, 1e-2);
        }
    }
}

#[test]
fn the_order_of_threads_changes_no_bit_of_a_step() {
    let config = || config_at("resnet18", DType::F32, SIZE / 2);
    let weights = |seed| train_by("resnet18", config(), 1, Some(seed)).1;
    assert!(weights(1) == weights(2));
}

/// A net with a stem, a block that changes stride and channels, and a bottleneck, few channels each.
struct SmallNet;

impl Network for SmallNet {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let x = unit(graph, "stem", inputs.images, (16, 7, 2), mode, true)?;
        let x = max_pool(graph, "pool", x, PoolWindow::square(3, 2, 1))?;
        let left = unit(graph, "wide.conv", x, (24, 3, 2), mode, false)?;
        let right = unit(graph, "wide.shortcut", x, (24, 1, 2), mode, false)?;
        let x = joined(graph, "wide", left, right)?;
        let narrow = unit(graph, "bottleneck.conv1", x, (8, 1, 1), mode, true)?;
        let narrow = unit(graph, "bottleneck.conv2", narrow, (8, 3, 1), mode, true)?;
        let branch = unit(graph, "bottleneck.conv3", narrow, (24, 1, 1), mode, false)?;
        let x = joined(graph, "bottleneck", branch, x)?;
        let x = global_avg_pool(graph, "features", x)?;
        linear(graph, "fc", x, 5)
    }
}

/// The loss of a step of the small net, and every parameter and state after it, as bits.
fn small_step(float: DType, seed: u64) -> Vec<u32> {
    small_step_with(Fusion::ALL, float, seed).into_iter().map(f32::to_bits).collect()
}

/// [`small_step`] with these rewrites, as numbers, the loss first.
fn small_step_with(fuse: Fusion, float: DType, seed: u64) -> Vec<f32> {
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    let config = StepConfig {
        float,
        optimiser: Optimiser::Sgd(sgd),
        smoothing: 0.1,
        clip_grad: Some(0.5),
        fuse,
        seed: 3,
        ..StepConfig::new(SmallNet, 3, 17)
    };
    let batch = random_batch(&config, 5, 1);
    let mut training = training(config, Some(seed));
    training.step(&batch, 0.1).unwrap();
    let loss = training.loss().unwrap();
    let session = training.session();
    let persistent = session.program().persistent.iter();
    let values = persistent.flat_map(|p| session.read::<f32>(&p.slot).unwrap().into_owned());
    [loss].into_iter().chain(values).collect()
}

/// The layers of VGG, few channels each: biases, a pooling whose cells share pixels, hidden features that are dropped.
struct SmallVgg;

impl Network for SmallVgg {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let x = conv2d(graph, "conv", inputs.images, Conv2dConfig::square(12, 3, 1))?;
        let x = add_bias(graph, "conv", x)?;
        let x = batch_norm(graph, "bn", x, BnConfig::new(mode))?;
        let x = relu(graph, "relu", x)?;
        let x = max_pool(graph, "pool", x, PoolWindow::square(2, 2, 0))?;
        let x = adaptive_avg_pool(graph, "cells", x, [3, 5])?;
        let x = flatten(graph, "flatten", x)?;
        let x = linear(graph, "hidden", x, 40)?;
        let x = relu(graph, "hidden.relu", x)?;
        let x = dropout(graph, "hidden.dropout", x, 0.5, mode)?;
        linear(graph, "fc", x, CLASSES)
    }
}

#[test]
fn kernels_drop_the_features_that_the_cpu_drops() {
    for (float, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 1e-2)] {
        let losses = |float, seed| {
            let config = StepConfig { float, seed: 5, ..StepConfig::new(SmallVgg, BATCH, 17) };
            run(&mut training(config, seed), CLASSES, 0.1, 0, 3)
        };
        let (expected, got) = (losses(DType::F32, None), losses(float, Some(1)));
        println!("{float}: {got:?} for {expected:?}");
        assert_losses(&got, &expected, tolerance);
    }
}

/// Convolution and batch norm, then ReLU if asked; channels, kernel and stride.
fn unit(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    (out_channels, kernel, stride): (usize, usize, usize),
    mode: Mode,
    relu_after: bool,
) -> Result<ValueId> {
    let y = conv2d(graph, name, x, Conv2dConfig::square(out_channels, kernel, stride))?;
    let y = batch_norm(graph, &format!("{name}.bn"), y, BnConfig::new(mode))?;
    if relu_after { relu(graph, &format!("{name}.relu"), y) } else { Ok(y) }
}

fn joined(graph: &mut Graph, name: &str, left: ValueId, right: ValueId) -> Result<ValueId> {
    let sum = add(graph, &format!("{name}.add"), left, right)?;
    relu(graph, &format!("{name}.relu"), sum)
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

#[test]
fn kernels_agree_without_any_rewrite() {
    for (float, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 1e-2)] {
        let fused = small_step_with(Fusion::ALL, float, 1);
        for rewrite in Rewrite::ALL {
            let got = small_step_with(Fusion::without(&[rewrite]), float, 1);
            let errors: Vec<f32> = got.iter().zip(&fused).map(|(a, b)| (a - b).abs()).collect();
            let most = errors.iter().copied().fold(0.0, f32::max);
            println!("without {rewrite} in {float}: off by {most:e} at most");
            assert!(errors.iter().all(|error| *error <= tolerance), "without {rewrite} in {float}");
            let same_bits = rewrite == Rewrite::MultiTensorCast || rewrite == Rewrite::ConvBn;
            assert!(!same_bits || got == fused, "without {rewrite} in {float}: a step has other bits");
        }
    }
}
