//! Every kernel against the CPU: the cases of the operations' registry, layers of the networks, and random shapes. One
//! body for the emulator, with every access judged, and for a GPU.

#[path = "common/devices.rs"]
mod devices;

use devices::{Watch, on_each_device};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use residuum::check::{Outcome, cases, random, run};
use residuum::device::kernels::KERNELS;
use residuum::device::{DeviceKind, Kernel, KernelDevice, LaunchArgs, Launcher, Record, RecordList};
use residuum::tensor::DType;

/// Seeds of random shapes; each is one trial of every operation in both types.
const SEEDS: std::ops::Range<u64> = 0..32;

#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note(&mut self, name: &str, outcome: residuum::Result<Outcome>) {
        match outcome {
            Ok(outcome) if outcome.passed() => {}
            Ok(Outcome { error, worst, .. }) => self.0.push(format!("{name}: error {error:.1e}: {worst}")),
            Err(error) => self.0.push(format!("{name}: {error}")),
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "{} failed:\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn check_cases(float: DType) {
    on_each_device(|device, open| {
        let mut failures = Failures::default();
        for (name, case) in cases("") {
            let outcome = run(&name, &case, float, open(Watch { seed: 7, judged: true }));
            failures.note(&format!("{name} in {float} on {device}"), outcome);
        }
        failures.assert_none();
    });
}

#[test]
fn every_case_agrees_with_the_cpu_in_f32() {
    check_cases(DType::F32);
}

#[test]
fn every_case_agrees_with_the_cpu_in_bf16() {
    check_cases(DType::Bf16);
}

fn check_random(float: DType) {
    on_each_device(|device, open| {
        let mut failures = Failures::default();
        for seed in SEEDS {
            for trial in random(seed) {
                let outcome = trial.run(float, open(Watch { seed, judged: true }));
                failures.note(&format!("{} in {float} on {device}", trial.name), outcome);
            }
        }
        failures.assert_none();
    });
}

#[test]
fn random_shapes_agree_with_the_cpu_in_f32() {
    check_random(DType::F32);
}

#[test]
fn random_shapes_agree_with_the_cpu_in_bf16() {
    check_random(DType::Bf16);
}

#[test]
fn random_shapes_give_the_same_bits_every_time_and_in_any_order_of_threads() {
    on_each_device(|device, open| {
        for trial in random(1000).into_iter().chain(random(1001)) {
            for float in [DType::F32, DType::Bf16] {
                let bits = [1, 2, 3].map(|seed| {
                    let results = trial.on_device(float, open(Watch { seed, judged: false })).unwrap();
                    results.into_iter().flat_map(|tensor| tensor.values).map(f64::to_bits).collect::<Vec<_>>()
                });
                assert!(
                    bits.iter().all(|other| *other == bits[0]),
                    "{} in {float} on {device}: other bits with other orders of threads",
                    trial.name
                );
            }
        }
    });
}

type Names = Arc<Mutex<BTreeSet<&'static str>>>;

/// A device that notes which kernels are launched on it.
struct Noting(Box<dyn KernelDevice>, Names);

struct NotingLauncher<'a>(&'a mut dyn Launcher, &'a Names);

impl KernelDevice for Noting {
    fn kind(&self) -> DeviceKind {
        self.0.kind()
    }

    fn allocate(&mut self, num_bytes: usize) -> residuum::Result<u64> {
        self.0.allocate(num_bytes)
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> residuum::Result<()> {
        self.0.upload(offset_bytes, bytes)
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> residuum::Result<()> {
        self.0.download(offset_bytes, bytes)
    }

    fn run(&mut self, key: (usize, usize, usize), record: Record<'_>) -> residuum::Result<()> {
        let names = &self.1;
        self.0.run(key, &mut |launcher| record(&mut NotingLauncher(launcher, names)))
    }

    fn take_busy_time(&mut self) -> residuum::Result<Duration> {
        self.0.take_busy_time()
    }

    fn run_timed(&mut self, record: RecordList<'_>, times: &mut [Duration]) -> residuum::Result<()> {
        self.0.run_timed(record, times)
    }
}

impl Launcher for NotingLauncher<'_> {
    fn bind(&mut self, args: &LaunchArgs<'_>, mutates: &[usize]) {
        self.0.bind(args, mutates);
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> residuum::Result<()> {
        self.1.lock().unwrap().insert(kernel.name);
        self.0.launch(kernel, grid, block, shared_bytes, arguments)
    }
}

#[test]
fn no_kernel_is_left_out() {
    on_each_device(|device, open| {
        let names = Names::default();
        for float in [DType::F32, DType::Bf16] {
            for trial in (0..16).flat_map(random) {
                let noting = Noting(open(Watch { seed: 0, judged: false }), Arc::clone(&names));
                trial.on_device(float, Box::new(noting)).unwrap();
            }
        }
        let launched = names.lock().unwrap();
        // Which tile is taken depends on the shape; the unit tests of the convolution launch all of them.
        let missing: Vec<_> = KERNELS
            .iter()
            .map(|kernel| kernel.name)
            .filter(|name| !launched.contains(name) && !name.contains("tile"))
            .collect();
        assert!(missing.is_empty(), "random shapes never reach {missing:?} on {device}");
    });
}
