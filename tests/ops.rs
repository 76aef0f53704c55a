//! What finite differences cannot show of the operations: statistics, fused forms, ties, NaN, independence of threads.

#[path = "common/runner.rs"]
mod runner;

use std::collections::BTreeSet;

use residuum::check::random;
use residuum::device::cpu::Real;
use residuum::graph::{Graph, Init, ValueId, ValueType};
use residuum::ops::{
    self, BatchNormBwd, BatchNormInference, BatchNormTrain, BnConfig, Conv2dBatchNorm, Mask, Mode,
    PoolWindow, ReluBwd, Window, add, conv2d_with, relu,
};
use residuum::rng::{Stream, Use};
use residuum::tensor::{DType, Layout, Shape};
use runner::Runner;

fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Init);
    (0..len).map(|_| stream.normal()).collect()
}

fn record(build: impl FnOnce(&mut Graph)) -> Runner {
    let mut graph = Graph::new(DType::F32);
    build(&mut graph);
    Runner::new(&graph)
}

fn keep(graph: &mut Graph, values: &[ValueId]) {
    values.iter().for_each(|&id| graph.keep(id));
}

/// Records x, gamma, beta and the running statistics, in the order in which batch norm takes them.
fn bn_operands(graph: &mut Graph, shape: impl Into<Shape>) -> Vec<ValueId> {
    let shape = shape.into();
    let channels = [shape.last()];
    vec![
        graph.input("x", shape, DType::F32),
        graph.input("gamma", channels, DType::F32),
        graph.input("beta", channels, DType::F32),
        graph.state("running_mean", channels, Layout::Flat, Init::Constant(0.0)),
        graph.state("running_var", channels, Layout::Flat, Init::Constant(1.0)),
    ]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn running_statistics_move_by_bn_momentum_and_take_the_unbiased_variance() {
    let mut runner = record(|graph| {
        let operands = bn_operands(graph, [4, 1, 1, 2]);
        let op = BatchNormTrain { eps: 0.0, bn_momentum: 0.25, relu: false, residual: false };
        let outputs = graph.apply("bn", op, &operands).unwrap();
        keep(graph, &outputs);
    });
    // Means 3 and -1; centred squares 4+1+1+4 = 10 and 9+1+1+9 = 20: biased 2.5 and 5, unbiased 10/3 and 20/3.
    runner.write("x", &[1.0f32, -4.0, 2.0, -2.0, 4.0, 0.0, 5.0, 2.0]);
    runner.write("gamma", &[1.0f32, 1.0]);
    runner.write("beta", &[0.0f32, 0.0]);
    runner.write("running_mean", &[1.0f32, 2.0]);
    runner.write("running_var", &[1.0f32, 2.0]);
    runner.run();
    assert_eq!(runner.read::<f32>("bn.save_mean"), [3.0, -1.0]);
    assert_eq!(
        runner.read::<f32>("bn.save_rstd"),
        [(1.0 / 2.5f64.sqrt()) as f32, (1.0 / 5f64.sqrt()) as f32]
    );
    assert_eq!(runner.read::<f32>("running_mean"), [0.75 + 0.75, 1.5 - 0.25]);
    // The batch's variance is rounded to f32 before a quarter of it is blended in.
    let blended = |running: f64, unbiased: f64| (0.75 * running + 0.25 * f64::from(unbiased as f32)) as f32;
    assert_eq!(runner.read::<f32>("running_var"), [blended(1.0, 10.0 / 3.0), blended(2.0, 20.0 / 3.0)]);
}

#[test]
fn statistics_are_accurate_where_the_mean_dwarfs_the_deviation() {
    // The last block is not full, and 19 channels make a wide tile and three single ones.
    let (rows, channels) = (20_011, 19);
    let mut runner = record(|graph| {
        let operands = bn_operands(graph, [rows, channels]);
        let op = BatchNormTrain { eps: 1e-5, bn_momentum: 1.0, relu: false, residual: false };
        let outputs = graph.apply("bn", op, &operands).unwrap();
        keep(graph, &outputs);
    });
    let x: Vec<f32> = normal(rows * channels, 3).into_iter().map(|v| 100.0 + v).collect();
    runner.write("x", &x);
    runner.run();
    let (mean, rstd) = (runner.read::<f32>("bn.save_mean"), runner.read::<f32>("bn.save_rstd"));
    let running_var = runner.read::<f32>("running_var");
    for c in 0..channels {
        let column = || x.iter().skip(c).step_by(channels).map(|&v| f64::from(v));
        let exact_mean = column().sum::<f64>() / rows as f64;
        let m2 = column().map(|v| (v - exact_mean).powi(2)).sum::<f64>();
        let exact_rstd = 1.0 / (m2 / rows as f64 + 1e-5).sqrt();
        for (name, got, exact) in [
            ("mean", mean[c], exact_mean),
            ("rstd", rstd[c], exact_rstd),
            ("variance", running_var[c], m2 / (rows - 1) as f64),
        ] {
            let error = (f64::from(got) - exact).abs() / exact;
            assert!(error <= 1e-6, "{name} of channel {c}: {got} for {exact}, off by {error:.1e}");
        }
    }
}

#[test]
fn batch_norm_gives_the_same_bits_on_any_number_of_threads() {
    let shape = [5, 23, 29, 83];
    let outputs = |num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        let mut runner = record(|graph| {
            let mut operands = bn_operands(graph, shape);
            operands.push(graph.input("residual", shape, DType::F32));
            let op = BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu: true, residual: true };
            let forward = graph.apply("bn", op, &operands).unwrap();
            let dy = graph.input("dy", shape, DType::F32);
            let op = BatchNormBwd { mask: Some(Mask::Result), residual: true };
            let operands = [dy, operands[0], operands[1], forward[1], forward[2], forward[0]];
            let backward = graph.apply("bwd", op, &operands).unwrap();
            keep(graph, &forward);
            keep(graph, &backward);
        });
        let len = shape.iter().product();
        for (name, seed) in [("x", 1), ("residual", 2), ("dy", 3)] {
            runner.write(name, &normal(len, seed));
        }
        runner.write("gamma", &normal(shape[3], 4));
        runner.write("beta", &normal(shape[3], 5));
        pool.install(|| runner.run());
        [
            "bn",
            "bn.save_mean",
            "bn.save_rstd",
            "running_mean",
            "running_var",
            "bwd",
            "bwd.dgamma",
            "bwd.dbeta",
            "bwd.dz",
        ]
        .map(|name| bits(&runner.read::<f32>(name)))
    };
    let one = outputs(1);
    assert!(one[5].iter().any(|&dx| dx != 0), "the backward pass wrote nothing");
    assert!(one == outputs(2) && one == outputs(3));
}

/// Runs act(bn(x) + residual) as one operation and as the chain of three, and compares bits.
fn fused_forward_is_the_chain(mode: Mode) {
    let shape = [3, 5, 7, 21];
    let normalise = |graph: &mut Graph, name: &str, fused: bool, operands: &[ValueId]| {
        let (eps, bn_momentum, relu, residual) = (1e-5, 0.1, fused, fused);
        match mode {
            Mode::Train => graph.apply(name, BatchNormTrain { eps, bn_momentum, relu, residual }, operands),
            Mode::Eval => graph.apply(name, BatchNormInference { eps, relu, residual }, operands),
        }
        .unwrap()[0]
    };
    let mut runner = record(|graph| {
        let mut operands = bn_operands(graph, shape);
        let residual = graph.input("residual", shape, DType::F32);
        let plain = normalise(graph, "plain", false, &operands);
        let sum = add(graph, "sum", plain, residual).unwrap();
        let chain = relu(graph, "chain", sum).unwrap();
        operands.push(residual);
        let fused = normalise(graph, "fused", true, &operands);
        keep(graph, &[chain, fused]);
    });
    let len = shape.iter().product();
    runner.write("x", &normal(len, 1));
    runner.write("residual", &normal(len, 2));
    runner.write("gamma", &normal(shape[3], 3));
    runner.write("beta", &normal(shape[3], 4));
    runner.write("running_mean", &normal(shape[3], 5));
    runner.write("running_var", &vec![1.5f32; shape[3]]);
    runner.run();
    let chain = runner.read::<f32>("chain");
    assert!(chain.contains(&0.0) && chain.iter().any(|&v| v > 1.0));
    assert_eq!(runner.read::<f32>("fused"), chain);
}

#[test]
fn fused_batch_norm_is_batch_norm_then_add_then_relu() {
    fused_forward_is_the_chain(Mode::Train);
    fused_forward_is_the_chain(Mode::Eval);
}

/// Runs a convolution that takes in its batch norm, and the two apart, and compares values.
fn a_convolution_takes_in_its_batch_norm<T: Real>(dtype: DType) {
    let (shape, filter, window) = ([2, 5, 7, 3], [21, 3, 3, 3], Window::square(2, 1));
    let y = [2, 3, 4, 21];
    for (relu, residual) in [(false, false), (true, false), (true, true)] {
        let norm = BatchNormInference { eps: 1e-5, relu, residual };
        let mut graph = Graph::new(dtype);
        let [x, w] = [("x", shape), ("w", filter)].map(|(name, shape)| graph.input(name, shape, dtype));
        let mut after: Vec<ValueId> =
            ["gamma", "beta", "mean", "var"].map(|name| graph.input(name, [y[3]], dtype)).into();
        after.extend(residual.then(|| graph.input("residual", y, dtype)));
        let sums = conv2d_with(&mut graph, "sums", x, w, window).unwrap();
        let apart = graph.apply_one("apart", norm, &[&[sums], &after[..]].concat()).unwrap();
        let op = Conv2dBatchNorm { window, norm };
        let together = graph.apply_one("together", op, &[&[x, w], &after[..]].concat()).unwrap();
        keep(&mut graph, &[apart, together]);
        let mut runner = Runner::new(&graph);
        for (name, len, seed) in
            [("x", 2 * 5 * 7 * 3, 1), ("w", 21 * 27, 2), ("gamma", 21, 3), ("beta", 21, 4), ("mean", 21, 5)]
        {
            runner.write_real::<T>(name, &normal(len, seed));
        }
        runner.write_real::<T>("var", &[1.5; 21]);
        if residual {
            runner.write_real::<T>("residual", &normal(y.iter().product(), 6));
        }
        runner.run();
        let apart = runner.read::<T>("apart");
        assert!(apart.iter().any(|&v| v > T::ONE) && apart.contains(&T::ZERO) == relu);
        assert!(runner.read::<T>("together") == apart, "{dtype}, {norm:?}");
    }
}

#[test]
fn a_convolution_with_its_batch_norm_is_the_two_apart() {
    a_convolution_takes_in_its_batch_norm::<f32>(DType::F32);
    a_convolution_takes_in_its_batch_norm::<f64>(DType::F64);
}

/// With `reuse`, x and dy come from nodes and die here, so that dx and dz are written over them.
fn fused_backward_is_the_chain(residual: bool, reuse: bool) {
    let shape = [2, 11, 3, 18];
    let names = ["x", "dy", "y", "gamma", "mean", "rstd"];
    let operands = |graph: &mut Graph| {
        let vector = [shape[3]];
        let images = names[..3].iter().map(|name| graph.input(name, shape, DType::F32)).collect::<Vec<_>>();
        let vectors = names[3..].iter().map(|name| graph.input(name, vector, DType::F32)).collect::<Vec<_>>();
        let twice = |graph: &mut Graph, name: &str, id| {
            if reuse { add(graph, name, id, id).unwrap() } else { id }
        };
        let (x, dy) = (twice(graph, "x2", images[0]), twice(graph, "dy2", images[1]));
        (dy, x, images[2], vectors)
    };
    let chain = record(|graph| {
        let (dy, x, y, v) = operands(graph);
        let dz = graph.apply_one("bwd.dz", ReluBwd, &[dy, y]).unwrap();
        let op = BatchNormBwd { mask: None, residual: false };
        let outputs = graph.apply("bwd", op, &[dz, x, v[0], v[1], v[2]]).unwrap();
        keep(graph, &outputs);
        graph.keep(dz);
    });
    let fused = record(|graph| {
        let (dy, x, y, v) = operands(graph);
        let op = BatchNormBwd { mask: Some(Mask::Result), residual };
        let outputs = graph.apply("bwd", op, &[dy, x, v[0], v[1], v[2], y]).unwrap();
        keep(graph, &outputs);
    });
    let len = shape.iter().product();
    let [chain, fused] = [chain, fused].map(|mut runner| {
        for (seed, name) in names.iter().enumerate() {
            runner.write(name, &normal(if seed < 3 { len } else { shape[3] }, seed as u64));
        }
        runner.run();
        runner
    });
    let outputs = ["bwd", "bwd.dgamma", "bwd.dbeta", "bwd.dz"];
    for name in &outputs[..if residual { 4 } else { 3 }] {
        let expected = chain.read::<f32>(name);
        assert!(expected.iter().any(|&v| v != 0.0), "{name}");
        assert_eq!(fused.read::<f32>(name), expected, "{name}, residual {residual}, reuse {reuse}");
    }
}

#[test]
fn fused_batch_norm_bwd_is_relu_bwd_then_batch_norm_bwd() {
    for (residual, reuse) in [(false, false), (false, true), (true, false), (true, true)] {
        fused_backward_is_the_chain(residual, reuse);
    }
}

#[test]
fn a_mask_that_is_computed_again_is_that_of_the_result() {
    let shape = [3, 5, 7, 19];
    let gradients = |mask: Mask| {
        let mut runner = record(|graph| {
            let operands = bn_operands(graph, shape);
            let op = BatchNormTrain { eps: 1e-5, bn_momentum: 0.1, relu: true, residual: false };
            let forward = graph.apply("bn", op, &operands).unwrap();
            let dy = graph.input("dy", shape, DType::F32);
            let sixth = if mask == Mask::Result { forward[0] } else { operands[2] };
            let operands = [dy, operands[0], operands[1], forward[1], forward[2], sixth];
            let op = BatchNormBwd { mask: Some(mask), residual: false };
            let backward = graph.apply("bwd", op, &operands).unwrap();
            keep(graph, &backward);
        });
        for (name, seed, len) in [("x", 1, 1995), ("dy", 2, 1995), ("gamma", 3, 19), ("beta", 4, 19)] {
            runner.write(name, &normal(len, seed));
        }
        runner.run();
        ["bwd", "bwd.dgamma", "bwd.dbeta"].map(|name| bits(&runner.read::<f32>(name)))
    };
    let expected = gradients(Mask::Result);
    assert!(expected.iter().flatten().any(|&bits| bits != 0));
    assert!(gradients(Mask::Recomputed) == expected);
}

#[test]
fn batch_norm_lets_nan_through_its_relu() {
    let mut runner = record(|graph| {
        let operands = bn_operands(graph, [3, 2]);
        let op = BatchNormInference { eps: 0.0, relu: true, residual: false };
        let y = graph.apply_one("bn", op, &operands).unwrap();
        graph.keep(y);
    });
    runner.write("x", &[1.0f32, f32::NAN, -1.0, 2.0, 0.5, -2.0]);
    runner.write("gamma", &[1.0f32, 1.0]);
    runner.write("beta", &[0.0f32, 0.0]);
    runner.write("running_var", &[1.0f32, 1.0]);
    runner.run();
    let y = runner.read::<f32>("bn");
    assert!(y[1].is_nan());
    assert_eq!([y[0], y[2], y[3], y[4], y[5]], [1.0, 0.0, 2.0, 0.5, 0.0]);
}

#[test]
fn a_batch_norm_that_cannot_take_a_variance_says_so() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [1, 1, 1, 3], DType::F32);
    let message = ops::batch_norm(&mut graph, "bn1", x, BnConfig::new(Mode::Train)).unwrap_err().to_string();
    assert!(message.contains("bn1") && message.contains("at least 2"), "{message}");
    let names = ["weight", "bias", "running_mean", "running_var"].map(|name| format!("bn1.{name}"));
    assert!(names.iter().all(|name| graph.find(name).is_some()));
}

/// Loss, hits and gradient of a softmax cross-entropy, with loss gradient 1.
fn cross_entropy(logits: &[f32], labels: &[i32], smoothing: f32) -> (f32, Vec<i32>, Vec<f32>) {
    let classes = logits.len() / labels.len();
    let mut runner = record(|graph| {
        let logits = graph.input("logits", [labels.len(), classes], DType::F32);
        let labels = graph.input("labels", [labels.len()], DType::I32);
        let values = ops::softmax_xent(graph, "loss", logits, labels, smoothing).unwrap();
        let one = ops::fill(graph, "one", [], 1.0).unwrap();
        let dlogits = residuum::autodiff::differentiate(graph, values.loss, one, &[logits]).unwrap();
        keep(graph, &[values.loss, values.hits, dlogits[0]]);
    });
    runner.write("logits", logits);
    runner.write("labels", labels);
    runner.run();
    (runner.read::<f32>("loss")[0], runner.read("loss.hits"), runner.read("loss.bwd"))
}

#[test]
fn hits_rank_equal_logits_by_class_and_leave_padding_out() {
    let equal = [1.0f32; 6];
    // Of six equal logits class 0 ranks first, class 4 fifth and class 5 sixth.
    let rows: Vec<f32> = equal.repeat(4);
    let (loss, hits, dlogits) = cross_entropy(&rows, &[0, 4, 5, -1], 0.0);
    assert_eq!(hits, [1, 2, 3]);
    assert!((loss - 6f32.ln()).abs() <= 1e-6, "{loss}");
    assert_eq!(dlogits[18..], [0.0; 6]);
}

#[test]
fn every_class_is_among_the_first_five_of_three() {
    let (_, hits, _) = cross_entropy(&[3.0, 2.0, 1.0], &[2], 0.0);
    assert_eq!(hits, [0, 1, 1]);
}

#[test]
fn a_batch_of_padding_has_no_loss() {
    let (loss, hits, dlogits) = cross_entropy(&[3.0, 2.0, f32::NAN, 1.0], &[-1, -1], 0.1);
    assert_eq!((loss, hits, dlogits), (0.0, vec![0, 0, 0], vec![0.0; 4]));
}

#[test]
fn a_nan_logit_makes_the_loss_nan_and_no_hit() {
    let (loss, hits, _) = cross_entropy(&[9.0, f32::NAN, 1.0, 5.0, 1.0, 1.0], &[0, 0], 0.0);
    assert!(loss.is_nan());
    assert_eq!(hits, [1, 1, 2]);
    let (loss, hits, _) = cross_entropy(&[f32::INFINITY, 0.0], &[0], 0.1);
    assert!(loss.is_nan());
    assert_eq!(hits, [0, 0, 1]);
}

#[test]
fn a_mixed_row_has_the_weighted_loss_and_gradient_of_its_two_classes() {
    let (logits, weights) = ([1.0f32, -2.0, 0.5, 0.3, 0.9, -0.7], [0.25f32, 1.0]);
    let (labels, partners) = ([2, 0], [0, 1]);
    let mut runner = record(|graph| {
        let logits = graph.input("logits", [2, 3], DType::F32);
        let [labels, partners] = ["labels", "partners"].map(|name| graph.input(name, [2], DType::I32));
        let weights = graph.input("weights", [2], DType::F32);
        let targets = ops::Targets { labels, mix: Some(ops::Mix { partners, weights }) };
        let values = ops::softmax_xent(graph, "loss", logits, targets, 0.0).unwrap();
        let one = ops::fill(graph, "one", [], 1.0).unwrap();
        let dlogits = residuum::autodiff::differentiate(graph, values.loss, one, &[logits]).unwrap();
        keep(graph, &[values.loss, values.hits, dlogits[0]]);
    });
    runner.write("logits", &logits);
    runner.write("labels", &labels);
    runner.write("partners", &partners);
    runner.write("weights", &weights);
    runner.run();

    let (mut loss, mut dlogits) = (0.0, vec![0.0f32; 6]);
    for row in 0..2 {
        for (class, weight) in [(labels[row], weights[row]), (partners[row], 1.0 - weights[row])] {
            let (of_class, _, gradient) = cross_entropy(&logits[3 * row..][..3], &[class], 0.0);
            loss += weight * of_class / 2.0;
            (0..3).for_each(|j| dlogits[3 * row + j] += weight * gradient[j] / 2.0);
        }
    }
    assert!((runner.read::<f32>("loss")[0] - loss).abs() <= 1e-6, "{loss}");
    let got = runner.read::<f32>("loss.bwd");
    assert!(got.iter().zip(&dlogits).all(|(a, b)| (a - b).abs() <= 1e-6), "{got:?} against {dlogits:?}");
    assert_eq!(runner.read::<i32>("loss.hits"), [0, 2, 2], "ranked by the first class alone");
}

#[test]
fn max_pool_prefers_nan_then_the_first_maximum_and_never_padding() {
    let mut runner = record(|graph| {
        let x = graph.input("x", [1, 3, 3, 2], DType::F32);
        let y = ops::max_pool(graph, "pool", x, PoolWindow::square(3, 2, 1)).unwrap();
        let argmax = graph.find("pool.argmax").unwrap();
        keep(graph, &[y, argmax]);
    });
    let nan = f32::NAN;
    let first = [-1.0, -1.0, -3.0, -4.0, nan, -2.0, -7.0, -1.0, -5.0];
    let second = [-2.0f32; 9];
    let x: Vec<f32> = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
    runner.write("x", &x);
    runner.run();
    let y = runner.read::<f32>("pool");
    // Every 2x2 corner of the image holds its centre, which is NaN in the first channel.
    assert!(y.iter().step_by(2).all(|v| v.is_nan()), "{y:?}");
    assert!(y.iter().skip(1).step_by(2).all(|&v| v == -2.0), "{y:?}");
    assert_eq!(runner.read::<u8>("pool.argmax"), [8, 4, 6, 3, 2, 1, 0, 0]);
}

#[test]
fn reductions_are_exact_in_f64_and_the_same_on_any_number_of_threads() {
    let len = 100_003;
    let x = normal(len, 9);
    let totals = [1, 3].map(|num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        let mut runner = record(|graph| {
            let x = graph.input("x", [len], DType::F32);
            let (sum, mean) = (ops::sum(graph, "sum", x).unwrap(), ops::mean(graph, "mean", x).unwrap());
            keep(graph, &[sum, mean]);
        });
        runner.write_real::<f32>("x", &x);
        pool.install(|| runner.run());
        (runner.read::<f32>("sum")[0], runner.read::<f32>("mean")[0])
    });
    let exact: f64 = x.iter().map(|v| v.to_f64()).sum();
    assert_eq!(totals[0], (exact as f32, (exact / len as f64) as f32));
    assert_eq!(totals[0], totals[1]);
}

/// Every node that the random trials of the kernels' checks record: all operations, their attributes varied.
#[test]
fn no_operation_panics_on_operands_it_does_not_take() {
    let shapes: [&[usize]; 7] = [&[], &[3], &[2, 3], &[2, 4, 5, 3], &[4, 3, 3, 3], &[4, 7, 7, 3], &[0, 3]];
    let dtypes = [DType::F32, DType::F64, DType::Bf16, DType::I32, DType::U8];
    let types: Vec<ValueType> = shapes
        .iter()
        .flat_map(|shape| dtypes.map(|dtype| ValueType { shape: Shape::new(shape), dtype }))
        .collect();
    let mut names = BTreeSet::new();
    for trial in (0..3).flat_map(random) {
        let graph = trial.graph(DType::F32).unwrap();
        for node in graph.nodes() {
            names.insert(node.op.name());
            for count in 0..=6 {
                for (i, &first) in types.iter().enumerate() {
                    // All of one type, and a mixture that another number starts.
                    let _ = node.op.infer(&vec![first; count]);
                    let mixed: Vec<ValueType> =
                        (0..count).map(|j| types[(i + j * (i + 3)) % types.len()]).collect();
                    let _ = node.op.infer(&mixed);
                }
            }
        }
    }
    assert!(names.len() > 30 && names.contains("conv2d_dgrad"), "only {names:?}");
}
