//! Every kernel against the CPU on the emulator, with every access judged.

#![cfg(residuum_simt)]

use residuum::check::{cases, run};
use residuum::device::simt::{Checks, SimtDevice};
use residuum::tensor::DType;

fn check_all(float: DType) {
    let mut failures = Vec::new();
    for (name, case) in cases("") {
        match run(&name, &case, float, Box::new(SimtDevice::new(7, Checks::Full).unwrap())) {
            Ok(outcome) if outcome.passed() => {}
            Ok(outcome) => failures.push(format!("{name}: error {:.1e}", outcome.error)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} in {float}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_case_agrees_with_the_cpu_in_f32() {
    check_all(DType::F32);
}

#[test]
fn every_case_agrees_with_the_cpu_in_bf16() {
    check_all(DType::Bf16);
}
