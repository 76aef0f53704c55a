//! The last layer beyond the cases of the operations' registry: tiles and splits that end unevenly, any order of threads.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;

use devices::{Open, Watch, on_each_device};
use residuum::check::{Recording, run};
use residuum::graph::{Graph, ValueId};
use residuum::ops::{Case, LinearFprop, linear};
use residuum::tensor::DType;

fn linear_of(graph: &mut Graph, x: &[ValueId]) -> residuum::Result<ValueId> {
    graph.apply_one("linear", LinearFprop, x)
}

#[test]
fn linear_matches_the_cpu_where_tiles_and_splits_end_unevenly() {
    on_each_device(|device, open| {
        for case in [
            Case::new("one_row", &[&[1, 5], &[3, 5], &[3]], linear_of),
            Case::new("uneven_tiles", &[&[70, 33], &[67, 33], &[67]], linear_of),
            Case::new("features_in_uneven_parts", &[&[6, 1001], &[9, 1001], &[9]], linear_of),
            Case::new("a_batch_and_a_hundred_classes", &[&[66, 512], &[100, 512], &[100]], linear_of),
        ] {
            let outcome = run(case.name, &case, DType::F32, open(Watch { seed: 13, judged: true })).unwrap();
            assert!(outcome.passed(), "{} on {device}: error {:.1e}", case.name, outcome.error);
        }
    });
}

/// The result and the gradients of a linear layer, computed with threads in the order of `seed`.
fn linear_gradients(open: Open, seed: u64) -> Vec<Vec<f64>> {
    let operands = [("x", [37, 130].into(), DType::F32)];
    let recording = Recording::new(DType::F32, &operands, |graph, x| linear(graph, "fc", x[0], 11)).unwrap();
    let mut recorded = recording.on_device(open(Watch { seed, judged: false })).unwrap();
    let contents = recorded.contents(3);
    recorded.evaluate(&contents).unwrap()
}

#[test]
fn linear_computes_the_same_bits_in_any_order_of_threads() {
    on_each_device(|_, open| {
        let [first, second] = [1, 2].map(|seed| linear_gradients(open, seed));
        assert!(first.iter().flatten().all(|v| v.is_finite()));
        assert_eq!(first, second);
    });
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&[""], "on_the_software_gpu");
}
