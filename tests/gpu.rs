//! Whole training steps on a real GPU: numbers of the CPU, the same bits every time, and memory that stays as it is.
//!
//! Where no GPU is, the tests say so; with `RESIDUUM_TEST_DEVICES=cuda` they then fail.

#[path = "common/gpu.rs"]
mod first_gpu;

use first_gpu::gpu;
use residuum::device::cuda::Driver;
use residuum::device::{Device, Slot};
use residuum::exec::Session;
use residuum::graph::Role;
use residuum::models::{Form, Model};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::step::weights::initialise;
use residuum::step::{StepConfig, hyper_parameters, training_graph, values};
use residuum::tensor::DType;

const BATCH: usize = 8;
const SIZE: usize = 64;
const CLASSES: usize = 7;
const LR: f64 = 0.001;
/// Scale of the last batch norm of each branch. With 1, few images a step are chaotic: rounding decides the third loss.
const LAST_GAMMA: f32 = 0.1;

/// A session with what its host writes.
struct Training {
    session: Session,
    config: StepConfig,
    images: Slot,
    labels: Slot,
    hyper: Slot,
    loss: Slot,
}

impl Training {
    fn new(name: &str, float: DType, device: Device) -> Training {
        let model = Model::parse(name, Form::V1_5, CLASSES).unwrap();
        let config = StepConfig { float, smoothing: 0.1, ..StepConfig::new(model, BATCH, SIZE) };
        let graph = training_graph(&config).unwrap();
        let mut session = Session::open(plan(&[&graph], device.kind()).unwrap(), device).unwrap();
        initialise(&mut session, 5).unwrap();
        let last_norm = if name == "resnet50" { ".bn3.weight" } else { ".bn2.weight" };
        for p in session.program().persistent.clone() {
            if p.value.name.starts_with("layer") && p.value.name.ends_with(last_norm) {
                session.write(&p.slot, &vec![LAST_GAMMA; p.slot.shape.num_elems()]).unwrap();
            }
        }
        let [images, labels, hyper, loss] = [values::IMAGES, values::LABELS, values::HYPER, values::LOSS]
            .map(|name| session.plan(0).slot(name).unwrap());
        Training { session, config, images, labels, hyper, loss }
    }

    /// Steps `from..to`, without a stop between them; their losses.
    fn run(&mut self, from: u64, to: u64) -> Vec<f32> {
        for step in from..to {
            let mut stream = Stream::new(step, 0, 0, Use::Augment);
            let pixels: Vec<f32> = (0..self.images.shape.num_elems()).map(|_| stream.normal()).collect();
            let categories: Vec<i32> = (0..BATCH).map(|_| stream.below(CLASSES as u32) as i32).collect();
            self.session.write(&self.images, &pixels).unwrap();
            self.session.write(&self.labels, &categories).unwrap();
            self.session.run_micro_batch(0).unwrap();
            self.session.note(&self.loss).unwrap();
            let hyper = hyper_parameters(&self.config.optimiser, LR, step + 1);
            self.session.write(&self.hyper, &hyper).unwrap();
            self.session.run_update(0).unwrap();
        }
        self.session.take_notes(bytemuck::pod_collect_to_vec).unwrap()
    }

    fn weight_bits(&self) -> Vec<u32> {
        let parameters = self.session.program().persistent.iter().filter(|p| p.value.role == Role::Parameter);
        parameters
            .flat_map(|p| self.session.read::<f32>(&p.slot).unwrap().into_owned())
            .map(f32::to_bits)
            .collect()
    }
}

fn assert_losses_of_the_cpu(name: &str, float: DType, device: Device, tolerance: f32) {
    let expected = Training::new(name, DType::F32, Device::Cpu).run(0, 3);
    let got = Training::new(name, float, device).run(0, 3);
    println!("{name} {float}: {got:?} for {expected:?}");
    for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got - expected).abs() / expected;
        assert!(error <= tolerance, "{name} {float}, step {step}: loss {got}, the CPU's {expected}");
    }
}

#[test]
fn training_steps_in_f32_agree_with_the_cpu() {
    let Some(device) = gpu() else { return };
    for name in ["resnet18", "resnet50"] {
        assert_losses_of_the_cpu(name, DType::F32, device, 1e-4);
    }
}

#[test]
fn training_steps_in_bf16_agree_with_the_cpu_to_a_hundredth() {
    let Some(device) = gpu() else { return };
    for name in ["resnet18", "resnet50"] {
        assert_losses_of_the_cpu(name, DType::Bf16, device, 1e-2);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = gpu() else { return };
    for float in [DType::F32, DType::Bf16] {
        let run = || {
            let mut training = Training::new("resnet18", float, device);
            (training.run(0, 20), training.weight_bits())
        };
        let (first, second) = (run(), run());
        assert!(first.0.iter().all(|loss| loss.is_finite()), "{float}: {:?}", first.0);
        assert_eq!(first.0, second.0, "{float}: losses");
        assert!(first.1 == second.1, "{float}: weights differ");
    }
}

#[test]
fn memory_stays_as_it_is_over_a_thousand_steps() {
    /// The system counts pages that come and go with the processes beside this one.
    const SLACK_BYTES: usize = 16 << 20;
    let Some(device @ Device::Cuda(ordinal)) = gpu() else { return };
    let mut training = Training::new("resnet18", DType::Bf16, device);
    let used_bytes = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident_pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        (4096 * resident_pages, Driver::start().unwrap().free_bytes(ordinal).unwrap())
    };
    training.run(0, 100);
    let (host_before, free_before) = used_bytes();
    training.run(100, 1_100);
    let (host, free) = used_bytes();
    println!("host {host_before} then {host} bytes, GPU free {free_before} then {free}");
    assert!(host <= host_before + SLACK_BYTES, "the host's memory grew from {host_before} to {host} bytes");
    assert!(
        free + SLACK_BYTES >= free_before,
        "the GPU's free memory fell from {free_before} to {free} bytes"
    );
}
