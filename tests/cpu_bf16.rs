//! The CPU in bf16: held to the CPU in f32 as kernels are, and beside kernels in bf16, which round in the same places.

#[path = "common/devices.rs"]
mod devices;
#[path = "common/failures.rs"]
mod failures;

use devices::{Watch, on_each_device};
use failures::Failures;

use residuum::check::{Trial, cases, random, run_on_cpu};
use residuum::tensor::DType;

/// Seeds of random shapes; each is one trial of every operation.
const SEEDS: std::ops::Range<u64> = 0..32;

fn trials() -> impl Iterator<Item = Trial> {
    SEEDS.flat_map(random).filter(|trial| trial.is_for(DType::Bf16))
}

#[test]
fn every_case_in_bf16_agrees_with_f32() {
    let mut failures = Failures::default();
    for (name, case) in cases("") {
        failures.note(&name, run_on_cpu(&name, &case, DType::Bf16));
    }
    failures.assert_none();
}

#[test]
fn random_shapes_in_bf16_agree_with_f32() {
    let mut failures = Failures::default();
    for trial in trials() {
        failures.note(&trial.name, trial.run_on_cpu(DType::Bf16));
    }
    failures.assert_none();
}

/// Sums in another order, and a multiplication and an addition rounded as one, differ by a rounding of f32. Few results lie
/// so close to a tie of bf16 that this takes them to a neighbour; where operands have three values only, as many as have the same.
#[test]
fn random_shapes_in_bf16_have_the_bits_of_kernels_but_for_roundings_of_f32() {
    on_each_device(|device, open| {
        let (mut all, mut others) = (0, 0);
        for trial in trials() {
            let cpu = trial.on_cpu(DType::Bf16).unwrap();
            let kernels = trial.on_device(DType::Bf16, open(Watch { seed: 1, judged: false })).unwrap();
            for (cpu, kernels) in cpu.iter().zip(&kernels).filter(|(cpu, _)| cpu.dtype == DType::Bf16) {
                let largest = cpu.values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
                for (i, (a, b)) in cpu.values.iter().zip(&kernels.values).enumerate() {
                    let neighbour = a.abs() / 128.0 + 1e-5 * largest;
                    assert!(
                        (a - b).abs() <= neighbour,
                        "{}: `{}`[{i}] is {a}, and {b} on {device}",
                        trial.name,
                        cpu.name
                    );
                    others += usize::from(a != b);
                }
                all += cpu.values.len();
            }
        }
        assert!(all > 1_000_000 && others * 5_000 <= all, "{others} of {all} differ on {device}");
    });
}
