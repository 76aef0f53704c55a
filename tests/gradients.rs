//! Every operation's gradient against finite differences in f64, and its f32 code against its f64 code.

use residuum::check::{Recording, finite_differences};
use residuum::ops::registry;
use residuum::tensor::DType;

#[test]
fn every_gradient_matches_finite_differences() {
    for (op, checks) in registry() {
        for case in checks.cases {
            let outcome = finite_differences(&case).unwrap();
            assert!(outcome.passed(), "{op}/{}: error {:.1e}: {}", case.name, outcome.error, outcome.worst);
        }
    }
}

#[test]
fn f32_code_agrees_with_f64_code() {
    for (op, checks) in registry() {
        for case in checks.cases {
            let recorded = |float| Recording::of_case(&case, float).unwrap().on_cpu().unwrap();
            let (mut single, mut double) = (recorded(DType::F32), recorded(DType::F64));
            let contents = double.contents(23);
            assert_eq!(single.recording.results, double.recording.results);
            let (got, expected) = (single.evaluate(&contents).unwrap(), double.evaluate(&contents).unwrap());
            for (name, (got, expected)) in single.recording.results.iter().zip(got.iter().zip(&expected)) {
                assert_eq!(got.len(), expected.len(), "{op}/{}: {name}", case.name);
                let scale = expected.iter().fold(1.0f64, |most, v| most.max(v.abs()));
                for (j, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let error = (got - expected).abs() / scale;
                    assert!(error <= 2e-6, "{op}/{}: {name}[{j}]: {got} for {expected}", case.name);
                }
            }
        }
    }
}
