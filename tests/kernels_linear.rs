//! The last layer beyond the cases of the operations' registry: tiles and splits that end unevenly, any order of threads.

#[path = "common/devices.rs"]
mod devices;

use devices::{Open, Watch, on_each_device};
use residuum::autodiff::differentiate;
use residuum::check::run;
use residuum::exec::{Session, Start};
use residuum::graph::{Graph, ValueId};
use residuum::ops::{Case, LinearFprop, linear};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
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
fn linear_gradients(open: Open, seed: u64) -> Vec<Vec<f32>> {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [37, 130], DType::F32);
    let y = linear(&mut graph, "fc", x, 11).unwrap();
    let dy = graph.input("dy", [37, 11], DType::F32);
    let wanted: Vec<ValueId> = graph.parameters().chain([x]).collect();
    let gradients = differentiate(&mut graph, y, dy, &wanted).unwrap();
    let names: Vec<String> = gradients
        .into_iter()
        .chain([y])
        .map(|id| {
            graph.keep(id);
            graph.value(id).name.clone()
        })
        .collect();
    let device = open(Watch { seed, judged: false });
    let mut session = Session::on(plan(&[&graph], device.kind()).unwrap(), device, Start::Seed(0)).unwrap();
    let mut stream = Stream::new(3, 0, 0, Use::Init);
    for name in ["x", "dy", "fc.weight", "fc.bias"] {
        let slot = session.plan(0).slot(name).unwrap();
        let values: Vec<f32> = (0..slot.shape.num_elems()).map(|_| stream.normal()).collect();
        session.write(&slot, &values).unwrap();
    }
    session.run_micro_batch(0).unwrap();
    names
        .iter()
        .map(|name| session.read::<f32>(&session.plan(0).slot(name).unwrap()).unwrap().into_owned())
        .collect()
}

#[test]
fn linear_computes_the_same_bits_in_any_order_of_threads() {
    on_each_device(|_, open| {
        let [first, second] = [1, 2].map(|seed| linear_gradients(open, seed));
        assert!(first.iter().flatten().all(|v| v.is_finite()));
        assert_eq!(first, second);
    });
}
