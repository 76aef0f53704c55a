//! Whole training steps on a GPU: numbers of the CPU, the same bits every time, and memory that stays as it is.
//!
//! Where no GPU is, the tests say so, and with `RESIDUUM_TEST_DEVICES=cuda` they fail. They run again on the software GPU,
//! which takes smaller images and fewer steps.

#[path = "common/again.rs"]
mod again;
#[path = "common/gpu.rs"]
mod first_gpu;
#[path = "common/software.rs"]
mod software;
#[path = "common/training.rs"]
mod stepping;

use first_gpu::gpu;
use residuum::device::Device;
use residuum::device::cuda::Driver;
use residuum::models::{Model, Options};
use residuum::step::{StepConfig, Training};
use residuum::train::precision::Precision;
use software::is_software;
use stepping::{damp_branches, run, weight_bits};

const BATCH: usize = 8;
const CLASSES: usize = 7;
const LR: f64 = 0.001;

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&[""], "on_the_software_gpu");
}

fn training(name: &str, precision: Precision, device: Device, size: usize) -> Training {
    let model = Model::new(name, Options::new(CLASSES)).unwrap();
    let (float, allow_tf32) = (precision.into(), precision.allows_tf32(device.kind()));
    let config =
        StepConfig { float, allow_tf32, smoothing: 0.1, seed: 5, ..StepConfig::new(model, BATCH, size) };
    let mut training = Training::new(config, device).unwrap();
    damp_branches(&mut training, if name == "resnet50" { ".bn3.weight" } else { ".bn2.weight" });
    training
}

fn assert_losses_of_the_cpu(name: &str, precision: Precision, device: Device, tolerance: f32) {
    let size = if is_software(device) { 32 } else { 64 };
    let losses = |precision, device| run(&mut training(name, precision, device, size), CLASSES, LR, 0, 3);
    let (expected, got) = (losses(Precision::F32, Device::Cpu), losses(precision, device));
    println!("{name} {precision}: {got:?} for {expected:?}");
    for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got - expected).abs() / expected;
        assert!(error <= tolerance, "{name} {precision}, step {step}: loss {got}, the CPU's {expected}");
    }
}

#[test]
fn training_steps_in_f32_agree_with_the_cpu() {
    let Some(device) = gpu() else { return };
    // In f32 the software GPU takes half a minute for the second.
    for name in ["resnet18", "resnet50"].into_iter().take(if is_software(device) { 1 } else { 2 }) {
        assert_losses_of_the_cpu(name, Precision::F32, device, 1e-4);
    }
}

#[test]
fn training_steps_in_tf32_agree_with_the_cpu_to_three_thousandths() {
    let Some(device) = gpu() else { return };
    assert_losses_of_the_cpu("resnet18", Precision::Tf32, device, 3e-3);
}

#[test]
fn training_steps_in_bf16_agree_with_the_cpu_to_a_hundredth() {
    let Some(device) = gpu() else { return };
    for name in ["resnet18", "resnet50"] {
        assert_losses_of_the_cpu(name, Precision::Bf16, device, 1e-2);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = gpu() else { return };
    let (size, steps) = if is_software(device) { (16, 2) } else { (64, 20) };
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let whole_run = || {
            let mut training = training("resnet18", precision, device, size);
            (run(&mut training, CLASSES, LR, 0, steps), weight_bits(&training))
        };
        let (first, second) = (whole_run(), whole_run());
        assert!(first.0.iter().all(|loss| loss.is_finite()), "{precision}: {:?}", first.0);
        assert_eq!(first.0, second.0, "{precision}: losses");
        assert!(first.1 == second.1, "{precision}: weights differ");
    }
}

#[test]
fn memory_stays_as_it_is_over_many_steps() {
    /// The system counts pages that come and go with the processes beside this one.
    const SLACK_BYTES: usize = 16 << 20;
    let Some(device @ Device::Cuda(ordinal)) = gpu() else { return };
    let (size, before, steps) = if is_software(device) { (16, 2, 4) } else { (64, 100, 1_000) };
    let mut training = training("resnet18", Precision::Bf16, device, size);
    let used_bytes = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident_pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        (4096 * resident_pages, Driver::start().unwrap().free_bytes(ordinal).unwrap())
    };
    run(&mut training, CLASSES, LR, 0, before);
    let (host_before, free_before) = used_bytes();
    run(&mut training, CLASSES, LR, before, before + steps);
    let (host, free) = used_bytes();
    println!("host {host_before} then {host} bytes, GPU free {free_before} then {free}");
    assert!(host <= host_before + SLACK_BYTES, "the host's memory grew from {host_before} to {host} bytes");
    assert!(
        free + SLACK_BYTES >= free_before,
        "the GPU's free memory fell from {free_before} to {free} bytes"
    );
}
