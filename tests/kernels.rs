//! Every kernel against the CPU: the cases of the operations' registry, layers of the networks, and random shapes. One
//! body for the emulator, with every access judged, and for a GPU.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/failures.rs"]
mod failures;
#[path = "common/software.rs"]
mod software;

use std::ops::Range;

use devices::{Watch, on_each_device};
use failures::Failures;
use software::is_software;

use residuum::check::{Launched, TABLE_SEEDS, cases, random, run};
use residuum::tensor::DType;

/// Seeds of random shapes; each is one trial of every operation in both types.
const SEEDS: Range<u64> = 0..32;
/// Those of them that `check-kernels` does not give the software GPU in `tests/softgpu/`; it has the cases there, too, and
/// fails where a kernel is not launched.
const SEEDS_OF_SOFTWARE: Range<u64> = 26..32;

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
        for seed in if is_software(device) { SEEDS_OF_SOFTWARE } else { SEEDS } {
            for trial in random(seed).into_iter().filter(|trial| trial.is_for(float)) {
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
            for float in [DType::F32, DType::Bf16].into_iter().filter(|&float| trial.is_for(float)) {
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

#[test]
fn the_table_of_check_kernels_launches_every_kernel() {
    on_each_device(|device, open| {
        let launched = Launched::default();
        let open = || launched.watch(open(Watch { seed: 0, judged: false }));
        for float in [DType::F32, DType::Bf16] {
            for (name, case) in cases("") {
                run(&name, &case, float, open()).unwrap();
            }
            for trial in TABLE_SEEDS.flat_map(random).filter(|trial| trial.is_for(float)) {
                trial.on_device(float, open()).unwrap();
            }
        }
        let missing = launched.missing();
        assert!(missing.is_empty(), "on {device} the table never launches {missing:?}; give them a trial");
    });
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&["random_shapes"], "on_the_software_gpu");
}
