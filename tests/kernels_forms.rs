//! Kernels where random shapes do not go: rows for many blocks, sums of many chunks, means that dwarf the deviation, ties and
//! NaN, rounding halfway.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;

use devices::{Open, Watch, on_each_device};
use half::bf16;
use residuum::check::Trial;
use residuum::device::DeviceKind;
use residuum::exec::{Session, Start};
use residuum::graph::{Graph, Init, ValueId};
use residuum::ops::{
    BatchNormBwd, BatchNormTrain, ClipNorm, Mask, MaxPool, PoolWindow, Reduce, Reduction, SoftmaxXent, add,
    cast,
};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::tensor::{DType, Layout, Shape};

/// Holds every device to the CPU, and to itself in other orders of threads.
fn check(float: DType, trial: &Trial) {
    on_each_device(|device, open| {
        let name = format!("{} in {float} on {device}", trial.name);
        let outcome = trial
            .run(float, open(Watch { seed: 1, judged: true }))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(outcome.passed(), "{name}: error {:.1e}: {}", outcome.error, outcome.worst);
        let bits = [2, 3, 4].map(|seed| {
            let results = trial.on_device(float, open(Watch { seed, judged: false })).unwrap();
            results.into_iter().flat_map(|tensor| tensor.values).map(f64::to_bits).collect::<Vec<_>>()
        });
        assert!(
            bits.iter().all(|other| *other == bits[0]),
            "{name}: other bits with threads in other orders"
        );
    });
}

/// What `record` records on operands of its own.
fn trial(name: &str, record: impl Fn(&mut Graph) + 'static) -> Trial {
    Trial::new(name, move |graph| {
        record(graph);
        Ok(())
    })
}

fn check_both(name: &str, record: impl Fn(&mut Graph) + 'static) {
    let trial = trial(name, record);
    check(DType::F32, &trial);
    check(DType::Bf16, &trial);
}

/// A session that runs `graph` with every access judged, where that can be.
fn session_of(graph: &Graph, open: Open) -> Session {
    let device = open(Watch { seed: 1, judged: true });
    Session::on(plan(&[graph], device.kind()).unwrap(), device, Start::Seed(0)).unwrap()
}

fn input(graph: &mut Graph, name: &str, shape: impl Into<Shape>) -> ValueId {
    let float = graph.float();
    graph.input(name, shape, float)
}

fn vector(graph: &mut Graph, name: &str, channels: usize) -> ValueId {
    graph.input(name, [channels], DType::F32)
}

fn state(graph: &mut Graph, name: &str, shape: impl Into<Shape>) -> ValueId {
    graph.state(name, shape, Layout::Flat, Init::Constant(0.0))
}

#[test]
fn sums_of_many_chunks_match_the_cpu() {
    check_both("reduce", |graph| {
        let x = input(graph, "x", [300_007]);
        graph.apply("sum", Reduce(Reduction::Sum), &[x]).unwrap();
    });
}

/// Rows for many blocks, in whole vectors and not; random shapes have a few.
#[test]
fn batch_norm_of_many_blocks_matches_the_cpu_in_every_form() {
    for (shape, (relu, residual)) in [
        ([2, 61, 67, 4], (false, false)),
        ([1, 37, 41, 33], (true, false)),
        ([2, 61, 67, 16], (true, false)),
        ([2, 61, 67, 8], (true, true)),
    ] {
        check_both(&format!("batch norm {shape:?} relu {relu} residual {residual}"), move |graph| {
            let c = shape[3];
            let [x, dy, mask] = ["x", "dy", "mask"].map(|name| input(graph, name, shape));
            let [gamma, beta, mean, rstd] =
                ["gamma", "beta", "mean", "rstd"].map(|name| vector(graph, name, c));
            let [running_mean, running_var] =
                ["running_mean", "running_var"].map(|name| state(graph, name, [c]));
            let mut operands = vec![x, gamma, beta, running_mean, running_var];
            operands.extend(residual.then_some(mask));
            let op = BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu, residual };
            graph.apply("y", op, &operands).unwrap();
            let mut operands = vec![dy, x, gamma, mean, rstd];
            operands.extend(relu.then_some(mask));
            let of_result = relu.then_some(Mask::Result);
            graph.apply("dx", BatchNormBwd { mask: of_result, residual }, &operands).unwrap();
            if relu && !residual {
                operands[5] = beta;
                let again = BatchNormBwd { mask: Some(Mask::Recomputed), residual };
                graph.apply("dx_again", again, &operands).unwrap();
            }
        });
    }
}

/// So a batch's may be kept, sent and blended in later, and the bits are those of the operation that blends at once.
#[test]
fn running_statistics_follow_those_of_the_batch_as_they_are_kept() {
    const CHANNELS: usize = 203;
    const SHARE: f32 = 0.1;
    let mut graph = Graph::new(DType::F32);
    let x = input(&mut graph, "x", [2, 3, 5, CHANNELS]);
    let [gamma, beta] = ["gamma", "beta"].map(|name| vector(&mut graph, name, CHANNELS));
    for (name, bn_momentum) in [("moved", SHARE), ("kept", 1.0)] {
        let [mean, var] = ["mean", "var"].map(|what| {
            let start = Init::Normal { std: 1.0 };
            graph.state(&format!("{name}.{what}"), [CHANNELS], Layout::Flat, start)
        });
        let op = BatchNormTrain { eps: 1e-5, bn_momentum, relu: false, residual: false };
        graph.apply(name, op, &[x, gamma, beta, mean, var]).unwrap();
    }
    let check = |mut session: Session, device: &str| {
        let read = |session: &Session, name: &str| session.value::<f32>(0, name).unwrap().into_owned();
        let names = ["moved.mean", "moved.var"];
        let before = names.map(|name| read(&session, name));
        for name in ["kept.mean", "kept.var"] {
            session.set(0, name, &[f32::NAN; CHANNELS]).unwrap();
        }
        let mut stream = Stream::new(1, 0, 0, Use::Augment);
        let x: Vec<f32> = (0..2 * 3 * 5 * CHANNELS).map(|_| stream.normal()).collect();
        session.set(0, "x", &x).unwrap();
        for name in ["gamma", "beta"] {
            session.set(0, name, &[1.0_f32; CHANNELS]).unwrap();
        }
        session.run_micro_batch(0).unwrap();
        for (name, before) in names.iter().zip(before) {
            let batch = read(&session, &name.replace("moved", "kept"));
            let share = f64::from(SHARE);
            let blend = |(running, batch): (f32, f32)| {
                share.mul_add(batch.into(), (1.0 - share) * f64::from(running)) as f32
            };
            let expected: Vec<u32> = before.into_iter().zip(batch).map(blend).map(f32::to_bits).collect();
            let got: Vec<u32> = read(&session, name).into_iter().map(f32::to_bits).collect();
            assert!(got == expected, "{name} on {device}");
        }
    };
    check(Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap(), "the CPU");
    on_each_device(|device, open| check(session_of(&graph, open), &device.to_string()));
}

#[test]
fn casts_round_to_nearest_even_and_come_back() {
    for len in [1, 7, 8, 4097] {
        let record = move |graph: &mut Graph| {
            // Operands fit in bf16, their sum does not.
            let [a, b] = ["a", "b"].map(|name| graph.input(name, [len], DType::F32));
            let sum = add(graph, "sum", a, b).unwrap();
            let narrow = cast(graph, "narrow", sum, DType::Bf16).unwrap();
            cast(graph, "wide", narrow, DType::F32).unwrap();
        };
        check(DType::F32, &trial("cast", record));
    }
    // Halfway cases go to the even neighbour, overflow to infinity, and a NaN stays one.
    let x = [
        1.0,
        f32::from_bits(0x3f80_8000),
        f32::from_bits(0x3f81_8000),
        f32::from_bits(0x3f80_8001),
        f32::MAX,
        -0.0,
        f32::NAN,
        1e-40,
    ];
    let mut graph = Graph::new(DType::F32);
    let id = graph.input("x", [x.len()], DType::F32);
    let y = cast(&mut graph, "y", id, DType::Bf16).unwrap();
    graph.keep(y);
    on_each_device(|_, open| {
        let mut session = session_of(&graph, open);
        let (from, to) = (session.plan(0).slot("x").unwrap(), session.plan(0).slot("y").unwrap());
        session.write(&from, &x).unwrap();
        session.run_micro_batch(0).unwrap();
        let got = session.read::<bf16>(&to).unwrap();
        for (x, y) in x.iter().zip(got.iter()) {
            let expected = bf16::from_f32(*x);
            assert!(
                y.to_bits() == expected.to_bits() || (x.is_nan() && y.is_nan()),
                "{x}: {y} for {expected}"
            );
        }
    });
}

#[test]
fn statistics_survive_a_mean_that_dwarfs_the_deviation() {
    let shape = [4099, 7];
    let mut graph = Graph::new(DType::F32);
    let operands = [
        graph.input("x", shape, DType::F32),
        vector(&mut graph, "gamma", 7),
        vector(&mut graph, "beta", 7),
        state(&mut graph, "running_mean", [7]),
        state(&mut graph, "running_var", [7]),
    ];
    let op = BatchNormTrain { eps: 1e-5, bn_momentum: 1.0, relu: false, residual: false };
    for id in graph.apply("y", op, &operands).unwrap() {
        graph.keep(id);
    }
    on_each_device(|_, open| {
        let mut session = session_of(&graph, open);
        let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
        let mut stream = Stream::new(5, 0, 0, Use::Init);
        let x: Vec<f32> = (0..7 * 4099).map(|_| 1000.0 + stream.normal()).collect();
        let at = slot(&session, "x");
        session.write(&at, &x).unwrap();
        for name in ["gamma", "beta", "running_mean", "running_var"] {
            let at = slot(&session, name);
            session.write(&at, &[0.0f32; 7]).unwrap();
        }
        session.run_micro_batch(0).unwrap();
        let var = session.read::<f32>(&slot(&session, "running_var")).unwrap();
        for c in 0..7 {
            let column = || x.iter().skip(c).step_by(7).map(|&v| f64::from(v));
            let mean = column().sum::<f64>() / 4099.0;
            let exact = column().map(|v| (v - mean).powi(2)).sum::<f64>() / 4098.0;
            let error = (f64::from(var[c]) - exact).abs() / exact;
            assert!(error <= 2e-6, "variance of channel {c}: {} for {exact}, off by {error:.1e}", var[c]);
        }
    });
}

#[test]
fn max_pool_prefers_nan_then_the_first_maximum() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [1, 3, 3, 2], DType::F32);
    let outputs = graph.apply("y", MaxPool(PoolWindow::square(3, 2, 1)), &[x]).unwrap();
    outputs.iter().for_each(|&id| graph.keep(id));
    on_each_device(|_, open| {
        let mut session = session_of(&graph, open);
        let nan = f32::NAN;
        let first = [-1.0, -1.0, -3.0, -4.0, nan, -2.0, -7.0, -1.0, -5.0];
        let x: Vec<f32> = first.into_iter().flat_map(|v| [v, f32::NEG_INFINITY]).collect();
        let at = session.plan(0).slot("x").unwrap();
        session.write(&at, &x).unwrap();
        session.run_micro_batch(0).unwrap();
        let y = session.read::<f32>(&session.plan(0).slot("y").unwrap()).unwrap();
        assert!(
            y.iter().step_by(2).all(|v| v.is_nan())
                && y.iter().skip(1).step_by(2).all(|v| *v == f32::NEG_INFINITY)
        );
        let argmax = session.read::<u8>(&session.plan(0).slot("y.argmax").unwrap()).unwrap();
        assert_eq!(*argmax, [8, 4, 6, 3, 2, 1, 0, 0]);
    });
}

/// Loss and hits of `logits` against `labels` on a device.
fn loss_and_hits(open: Open, logits: &[f32], labels: &[i32]) -> (f32, Vec<i32>) {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("logits", [labels.len(), logits.len() / labels.len()], DType::F32);
    let l = graph.input("labels", [labels.len()], DType::I32);
    let outputs = graph.apply("loss", SoftmaxXent { label_smoothing: 0.0 }, &[x, l]).unwrap();
    outputs.iter().for_each(|&id| graph.keep(id));
    let mut session = session_of(&graph, open);
    let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
    let (logits_at, labels_at) = (slot(&session, "logits"), slot(&session, "labels"));
    session.write(&logits_at, logits).unwrap();
    session.write(&labels_at, labels).unwrap();
    session.run_micro_batch(0).unwrap();
    let loss = session.read::<f32>(&slot(&session, "loss")).unwrap()[0];
    (loss, session.read::<i32>(&slot(&session, "loss.hits")).unwrap().into_owned())
}

#[test]
fn hits_break_ties_by_number_and_nan_is_no_hit() {
    on_each_device(|_, open| {
        let (_, hits) = loss_and_hits(open, &[1.0; 24], &[0, 4, 5, -1]);
        assert_eq!(hits, [1, 2, 3]);
        let nan = f32::NAN;
        let (loss, hits) = loss_and_hits(open, &[9.0, nan, 1.0, nan, 0.0, 0.0, 5.0, 1.0, 1.0], &[0, 0, 0]);
        assert!(loss.is_nan());
        assert_eq!(hits, [1, 1, 3]);
        let (loss, hits) = loss_and_hits(open, &[nan, 2.0, 3.0, 1.0], &[-1, -1]);
        assert_eq!((loss, hits), (0.0, vec![0, 0, 0]));
        let (loss, hits) = loss_and_hits(open, &[1.0, 2.0, 3.0, 4.0], &[2, 1]);
        assert!(loss.is_nan(), "a label that is no class shows in the loss");
        assert_eq!(hits, [1, 1, 2]);
    });
}

#[test]
fn a_norm_that_is_no_number_gives_a_scale_that_is_none() {
    let mut graph = Graph::new(DType::F32);
    let grad = state(&mut graph, "grad", [5]);
    let outputs = graph.apply("clip", ClipNorm::new(1.0, 1), &[grad]).unwrap();
    outputs.iter().for_each(|&id| graph.keep(id));
    on_each_device(|_, open| {
        let mut session = session_of(&graph, open);
        let at = session.plan(0).slot("grad").unwrap();
        session.write(&at, &[1.0, f32::NAN, 0.0, 2.0, 3.0]).unwrap();
        session.run_micro_batch(0).unwrap();
        assert!(session.read::<f32>(&session.plan(0).slot("clip").unwrap()).unwrap()[0].is_nan());
    });
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&[""], "on_the_software_gpu");
}
