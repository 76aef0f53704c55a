//! The passes over whole training graphs: what differentiation, fusion and accumulation make of them.

use residuum::autodiff::differentiate;
use residuum::batch::Batch;
use residuum::device::kernels::Kernel;
use residuum::device::{Device, DeviceKind, LaunchArgs, Launcher};
use residuum::exec::Session;
use residuum::fuse::{Fusion, Rewrite, fuse};
use residuum::graph::{Graph, Init, Node, Role};
use residuum::models::{Model, Options};
use residuum::ops::{AdamConfig, BatchNormBwd, Conv2dDgradSums, Mask, SgdConfig, add, relu};
use residuum::plan::{Plan, Step, plan};
use residuum::rng::{Stream, Use};
use residuum::run::checkpoint::NamedTensor;
use residuum::step::{
    EVAL, Optimiser, PixelSource, StepConfig, TRAIN, Trained, Training, evaluation_graph, program,
    training_graph,
};
use residuum::tensor::{DType, Layout, Shape};

fn step_config(name: &str) -> StepConfig {
    StepConfig {
        optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }),
        smoothing: 0.1,
        fuse: Fusion::NONE,
        seed: 3,
        ..StepConfig::new(Model::new(name, Options::new(5)).unwrap(), 3, 32)
    }
}

/// Three random images of 32 x 32 pixels.
fn batch(seed: u64) -> Batch {
    let mut stream = Stream::new(seed, 0, 0, Use::Augment);
    Batch::new((0..3 * 32 * 32 * 3).map(|_| stream.normal()).collect(), vec![0, 3, 4])
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == op).count()
}

/// How many masks are computed again, how many are read from the result, and how many are bits.
fn masks(graph: &Graph) -> [usize; 3] {
    let mask_of = |node: &Node| {
        let of_dgrad = node.op_as().and_then(|op: &Conv2dDgradSums| op.mask);
        node.op_as().and_then(|op: &BatchNormBwd| op.mask).or(of_dgrad)
    };
    [Mask::Recomputed, Mask::Result, Mask::Bits]
        .map(|mask| graph.nodes().iter().filter(|node| mask_of(node) == Some(mask)).count())
}

#[test]
fn every_rewrite_finds_all_its_places_in_a_residual_network() {
    for (name, norms, before_a_relu, before_an_add, alone) in
        [("resnet18", 20, 9, 8, 5), ("resnet50", 53, 33, 16, 6)]
    {
        let textbook = training_graph(&step_config(name)).unwrap();
        let adds = count(&textbook, "add_fwd");
        assert!(count(&textbook, "relu_fwd") > 0 && count(&textbook, "relu_bwd") > 0 && adds > 0);

        let forward = fuse(&textbook, &[Rewrite::BnAddRelu]).unwrap();
        assert_eq!(count(&forward, "relu_fwd"), 0, "{name}");
        assert_eq!(count(&forward, "batch_norm_fwd"), norms, "{name}");
        assert_eq!(
            count(&forward, "relu_bwd"),
            count(&textbook, "relu_bwd"),
            "only the forward pass changes"
        );

        let backward = fuse(&textbook, &[Rewrite::BnAddReluBwd]).unwrap();
        assert_eq!(count(&backward, "relu_bwd"), 0, "{name}");
        assert_eq!(count(&backward, "batch_norm_bwd"), norms, "{name}");
        let ends = before_a_relu + before_an_add;
        assert_eq!(masks(&backward), [0, ends, 0], "{name}: the forward pass's ReLUs are nodes of their own");

        let all = fuse(&textbook, &Rewrite::ALL).unwrap();
        assert_eq!(count(&all, "add_fwd"), 0, "{name}: residual adds and gradient sums are all taken in");
        assert_eq!(count(&all, "batch_norm_pool_dx"), 1, "{name}: behind the stem");
        assert_eq!(count(&all, "max_pool_bwd"), 0, "{name}");
        assert_eq!(masks(&all), [before_a_relu, before_an_add, 0], "{name}");
        let in_bf16 = training_graph(&StepConfig { float: DType::Bf16, ..step_config(name) }).unwrap();
        let in_bf16 = fuse(&in_bf16, &Rewrite::ALL).unwrap();
        assert_eq!(masks(&in_bf16), [before_a_relu, 0, before_an_add], "{name}");
        assert_eq!(count(&all, "conv2d_fprop_stats"), norms, "{name}");
        let joins = alone - 2;
        assert_eq!(count(&all, "batch_norm_join"), joins, "{name}: the ends of downsampled blocks");
        assert_eq!(count(&all, "batch_norm_apply"), norms - 1 - 2 * joins, "{name}");
        assert_eq!(count(&all, "batch_norm_pool_fwd"), 1, "{name}: behind the stem");
        assert_eq!(count(&all, "max_pool_fwd"), 0, "{name}");
        // The last, and of each downsampled block the shortcut's have no dgrad of their own behind them.
        assert_eq!(count(&all, "conv2d_dgrad_sums"), norms - alone + 1, "{name}");
        assert_eq!(count(&all, "batch_norm_join_dx"), joins, "{name}");
        assert_eq!(count(&all, "batch_norm_dx"), norms - alone - joins, "{name}");
        assert_eq!(count(&all, "batch_norm_bwd"), 1, "{name}: the last");
        let evaluation = fuse(&evaluation_graph(&step_config(name), "").unwrap(), &Rewrite::ALL).unwrap();
        assert_eq!(count(&evaluation, "relu_fwd") + count(&evaluation, "add_fwd"), 0, "{name}");
        assert_eq!(count(&evaluation, "conv2d_batch_norm"), norms, "{name}");
        assert_eq!(count(&evaluation, "batch_norm_inference_fwd"), 0, "{name}");
    }
}

/// Each rewrite left out alone, and all of them.
fn left_out() -> impl Iterator<Item = (&'static str, Fusion)> {
    let alone = Rewrite::ALL.into_iter().map(|rewrite| (rewrite.name(), Fusion::without(&[rewrite])));
    alone.chain([(Fusion::EVERY, Fusion::NONE)])
}

/// Counts launches.
struct Launches(usize);

impl Launcher for Launches {
    fn has_warp_groups(&self) -> bool {
        false
    }

    fn launch(
        &mut self,
        _: &'static Kernel,
        _: [u32; 3],
        _: [u32; 3],
        _: u32,
        _: &[u8],
    ) -> residuum::Result<()> {
        self.0 += 1;
        Ok(())
    }
}

fn num_launches(plan: &Plan) -> usize {
    let mut launches = Launches(0);
    for Step { op, inputs, outputs, workspace, .. } in &plan.steps {
        let args = LaunchArgs { arena_address: 0, inputs, outputs, workspace: *workspace };
        op.launch(&args, &mut launches).unwrap();
    }
    launches.0
}

#[test]
fn every_rewrite_saves_launches() {
    let launches = |fuse| {
        let pixels = PixelSource::Batch;
        let config = StepConfig { fuse, float: DType::Bf16, pixels, ..step_config("resnet18") };
        let program = program(&config, DeviceKind::Cuda).unwrap();
        [TRAIN, EVAL].map(|plan| num_launches(&program.plans[plan]))
    };
    let fused = launches(Fusion::ALL);
    for (name, fuse) in left_out() {
        let got = launches(fuse);
        println!("without {name}: {got:?} launches, {fused:?} with it");
        assert!(got[TRAIN] >= fused[TRAIN] && got[EVAL] >= fused[EVAL], "{name}");
        assert!(got != fused, "{name} changes nothing");
    }
}

#[test]
fn a_step_without_any_of_the_rewrites_agrees_with_the_fused_one_to_rounding() {
    // Loss, then parameters and running statistics after the step, then the scores that evaluation gives another batch.
    let numbers = |fuse| {
        let mut training = Training::new(StepConfig { fuse, ..step_config("resnet9") }, Device::Cpu).unwrap();
        training.step(&batch(1), 0.01).unwrap();
        let loss = ("loss".to_string(), vec![training.loss().unwrap()]);
        let scores = ("scores".to_string(), training.predict(&batch(2)).unwrap());
        let tensors = training.weights().unwrap();
        let floats = |tensor: &NamedTensor| Some((tensor.name.to_string(), tensor.as_f32()?.to_vec()));
        let mut numbers: Vec<(String, Vec<f32>)> = tensors.iter().filter_map(floats).collect();
        numbers.extend([loss, scores]);
        numbers
    };
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let fused = numbers(Fusion::ALL);
    assert!(fused.iter().flat_map(|(_, values)| values).all(|value| value.is_finite()));
    for (left_out, fuse) in left_out() {
        let got = numbers(fuse);
        assert_eq!(got.len(), fused.len());
        let mut most = 0.0f32;
        for ((name, got), (expected_name, expected)) in got.iter().zip(&fused) {
            assert!(name == expected_name && got.len() == expected.len());
            let apart: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
            let error = largest(&apart) / largest(expected).max(1e-3);
            assert!(
                apart.iter().all(|apart| apart.is_finite()) && error <= 1e-5,
                "without {left_out}: {name} is off by {error}"
            );
            most = most.max(error);
        }
        println!("without {left_out}: off by {most:e} at most");
    }
}

#[test]
fn a_value_the_host_reads_is_not_fused_away() {
    let mut graph = training_graph(&step_config("resnet18")).unwrap();
    let shown = graph.find("layer1.0.add").unwrap();
    graph.keep(shown);
    let fused = fuse(&graph, &Rewrite::ALL).unwrap();
    assert!(fused.nodes().iter().any(|node| node.outputs.contains(&shown)));
}

#[test]
fn gradients_of_a_value_used_twice_are_summed() {
    let mut graph = Graph::new(DType::F64);
    let x = graph.input("x", [3], DType::F64);
    let dy = graph.input("dy", [3], DType::F64);
    let active = relu(&mut graph, "relu", x).unwrap();
    let twice = add(&mut graph, "twice", active, active).unwrap();
    let y = add(&mut graph, "y", twice, x).unwrap();
    let dx = differentiate(&mut graph, y, dy, &[x]).unwrap()[0];
    graph.keep(dx);
    let name = graph.value(dx).name.clone();
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
    let (x, dy, dx) = (slot(&session, "x"), slot(&session, "dy"), slot(&session, &name));
    session.write(&x, &[-1.0f64, 0.5, 2.0]).unwrap();
    session.write(&dy, &[1.0f64, 10.0, 100.0]).unwrap();
    session.run_micro_batch(0).unwrap();
    assert_eq!(*session.read::<f64>(&dx).unwrap(), [1.0, 30.0, 300.0]);
}

#[test]
fn a_parameter_the_loss_does_not_depend_on_is_named() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [3], DType::F32);
    let unused = graph.parameter("unused", [3], Layout::Flat, Init::Constant(0.0));
    let y = relu(&mut graph, "y", x).unwrap();
    let message = differentiate(&mut graph, y, x, &[unused]).unwrap_err().to_string();
    assert!(message.contains("`unused`"), "{message}");
}

/// A parameter and its elements.
#[derive(Debug, Clone, PartialEq)]
struct Weights {
    shape: Shape,
    elems: Vec<f32>,
}

/// The weights after one update from `batches`, all micro-batches of it.
fn weights_after_one_update(config: &StepConfig, batches: &[u64]) -> Vec<f32> {
    parameters_after_one_update(config, batches).into_iter().flat_map(|weights| weights.elems).collect()
}

/// [`weights_after_one_update`], parameter by parameter.
fn parameters_after_one_update(config: &StepConfig, batches: &[u64]) -> Vec<Weights> {
    assert_eq!(batches.len(), config.grad_accum_steps);
    let mut training = Training::new(config.clone(), Device::Cpu).unwrap();
    for &seed in batches {
        training.step(&batch(seed), 0.1).unwrap();
    }
    let session = training.session();
    let parameters = session.program().persistent.iter().filter(|p| p.value.role == Role::Parameter);
    let elems = |slot| session.read::<f32>(slot).unwrap().into_owned();
    parameters.map(|p| Weights { shape: p.slot.shape, elems: elems(&p.slot) }).collect()
}

#[test]
fn accumulating_a_batch_twice_is_the_update_of_that_batch() {
    let once = step_config("resnet18");
    let twice = StepConfig { grad_accum_steps: 2, ..once.clone() };
    let expected = weights_after_one_update(&once, &[1]);
    let got = weights_after_one_update(&twice, &[1, 1]);
    let other = weights_after_one_update(&twice, &[1, 2]);
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(expected.iter().all(|v| v.is_finite()));
    assert!(largest(&got, &expected) <= 1e-6, "off by {}", largest(&got, &expected));
    assert!(largest(&other, &expected) > 1e-4, "the second batch must count");
}

#[test]
fn averaged_weights_follow_the_trained_ones() {
    let config = StepConfig { ema_decay: Some(0.75), ..step_config("resnet18") };
    let mut training = Training::new(config, Device::Cpu).unwrap();
    let bias = |training: &Training, name: &str| {
        let session = training.session();
        let slot = session.program().persistent(name).unwrap().slot;
        session.read::<f32>(&slot).unwrap().into_owned()
    };
    assert_eq!(bias(&training, "fc.bias"), bias(&training, "ema.fc.bias"));
    let average = training.session().program().persistent("ema.fc.bias").unwrap().slot;
    let evaluated = training.session().plan(EVAL).slot("ema.fc.bias").unwrap();
    assert_eq!(evaluated, average, "evaluation reads the average");
    let before = bias(&training, "fc.bias");
    training.step(&Batch::new(vec![0.5; 3 * 32 * 32 * 3], vec![1, 1, 2]), 0.5).unwrap();
    let (after, average) = (bias(&training, "fc.bias"), bias(&training, "ema.fc.bias"));
    for ((before, after), average) in before.iter().zip(&after).zip(&average) {
        assert_ne!(before, after);
        assert!((average - (0.75 * before + 0.25 * after)).abs() <= 1e-6);
    }
    let exported = training.weights().unwrap();
    let exported = exported.iter().find(|tensor| tensor.name == "fc.bias").unwrap();
    assert_eq!(exported.as_f32().unwrap(), average, "averages are what is exported");
}

#[test]
fn a_training_goes_on_from_its_file_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("training.safetensors");
    let config = StepConfig {
        optimiser: Optimiser::Adam(AdamConfig {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            decoupled: true,
        }),
        ema_decay: Some(0.75),
        grad_accum_steps: 2,
        ..step_config("resnet18")
    };
    let mut whole = Training::new(config.clone(), Device::Cpu).unwrap();
    (0..4).for_each(|step| whole.step(&batch(step), 0.01).unwrap());
    whole.save(&path).unwrap();
    whole.step(&batch(4), 0.01).unwrap();
    let message = whole.save(&path).unwrap_err().to_string();
    assert!(message.contains("1 of 2 batches"), "{message}");
    whole.step(&batch(5), 0.01).unwrap();

    let mut resumed = Training::new(StepConfig { seed: 99, ..config }, Device::Cpu).unwrap();
    resumed.load(&path).unwrap();
    assert_eq!(resumed.num_updates(), 2);
    (4..6).for_each(|step| resumed.step(&batch(step), 0.01).unwrap());
    for (a, b) in whole.state().unwrap().iter().zip(&resumed.state().unwrap()) {
        assert!(a.name == b.name && a.as_f32() == b.as_f32(), "{} differs", a.name);
    }
    let scores = whole.predict(&batch(6)).unwrap();
    assert_eq!(scores, resumed.predict(&batch(6)).unwrap());
    assert!(scores.len() == 3 * 5 && scores.iter().all(|score| score.is_finite()));
    assert_ne!(scores, whole.predict(&batch(7)).unwrap(), "scores are those of the batch");
}

#[test]
fn a_state_is_the_same_however_many_batches_an_update_sums() {
    let of = |grad_accum_steps| StepConfig { grad_accum_steps, ..step_config("resnet18") };
    let mut twice = Training::new(of(2), Device::Cpu).unwrap();
    (0..2).for_each(|step| twice.step(&batch(step), 0.01).unwrap());
    let state = twice.state().unwrap();
    assert!(state.iter().all(|tensor| !tensor.name.starts_with("accumulated.")));
    let mut once = Training::new(StepConfig { seed: 99, ..of(1) }, Device::Cpu).unwrap();
    once.restore(&state, twice.num_updates(), "memory".as_ref()).unwrap();
    assert!(state == once.state().unwrap());
}

#[test]
fn sums_of_gradients_that_earlier_versions_saved_are_zeros() {
    let config = StepConfig { grad_accum_steps: 2, ..step_config("resnet18") };
    let mut whole = Training::new(config.clone(), Device::Cpu).unwrap();
    (0..2).for_each(|step| whole.step(&batch(step), 0.01).unwrap());
    let mut state: Vec<NamedTensor<'static>> = Vec::new();
    for tensor in whole.state().unwrap() {
        let elems = tensor.as_f32().unwrap().to_vec();
        if !tensor.name.contains("running_") && !tensor.name.starts_with("optimiser.") {
            let zeros = vec![0.0; elems.len()];
            state.push(NamedTensor::f32(format!("accumulated.{}", tensor.name), &tensor.shape, zeros));
        }
        state.push(NamedTensor::f32(tensor.name.to_string(), &tensor.shape, elems));
    }
    for grad_accum_steps in [1, 2] {
        let mut resumed =
            Training::new(StepConfig { grad_accum_steps, ..config.clone() }, Device::Cpu).unwrap();
        // What is summed of an update that was begun is not to go into the next one.
        resumed.step(&batch(7), 0.01).unwrap();
        resumed.restore(&state, whole.num_updates(), "memory".as_ref()).unwrap();
        assert!(whole.state().unwrap() == resumed.state().unwrap());
        if grad_accum_steps == 2 {
            for step in 2..4 {
                whole.step(&batch(step), 0.01).unwrap();
                resumed.step(&batch(step), 0.01).unwrap();
            }
            assert!(whole.state().unwrap() == resumed.state().unwrap());
        }
    }
    state.push(NamedTensor::f32("accumulated.fc.weigth", &[1], vec![0.0]));
    let message = whole.restore(&state, 1, "memory".as_ref()).unwrap_err().to_string();
    assert!(
        message.contains("accumulated.fc.weigth") && message.contains("is not in the model"),
        "{message}"
    );
}

#[test]
fn a_training_with_dropout_goes_on_with_the_same_bits() {
    let model = Model::new("vgg11_bn", Options::new(5)).unwrap();
    let config = StepConfig { seed: 3, ..StepConfig::new(model, 3, 32) };
    let new = || Training::new(config.clone(), Device::Cpu).unwrap();
    let run = |training: &mut Training, steps: std::ops::Range<u64>| {
        for step in steps {
            training.step(&batch(step), 0.01).unwrap();
        }
    };
    let mut stopped = new();
    run(&mut stopped, 0..2);
    let mut resumed = new();
    resumed.restore(&stopped.state().unwrap(), stopped.num_updates(), "memory".as_ref()).unwrap();
    // The one that was not stopped after all.
    run(&mut stopped, 2..3);
    run(&mut resumed, 2..3);
    for (a, b) in stopped.state().unwrap().iter().zip(&resumed.state().unwrap()) {
        assert!(a.name == b.name && a.as_f32() == b.as_f32(), "{} differs", a.name);
    }
}

#[test]
fn values_whose_memory_is_shared_are_refused_with_what_to_do() {
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [6], DType::F32);
    let h = relu(&mut graph, "h", x).unwrap();
    let y = add(&mut graph, "y", h, h).unwrap();
    graph.keep(y);
    let mut session = Session::new(plan(&[&graph, &graph], DeviceKind::Cpu).unwrap()).unwrap();
    let message = |error: residuum::Error| error.to_string();
    let text = message(session.value::<f32>(0, "h").unwrap_err());
    assert!(text.contains("`h`") && text.contains("Graph::keep"), "{text}");
    assert!(message(session.value::<f32>(0, "z").unwrap_err()).contains("`z`"));
    let text = message(session.set(0, "x", &[1.0f32; 5]).unwrap_err());
    assert!(text.contains("`x`") && text.contains("takes 6 elements") && text.contains("got 5"), "{text}");
    assert!(message(session.set(0, "x", &[1i32; 6]).unwrap_err()).contains("holds f32, not i32"));
    session.set(0, "x", &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    session.run_micro_batch(0).unwrap();
    assert_eq!(*session.value::<f32>(0, "y").unwrap(), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    let text = message(session.value::<f32>(0, "x").unwrap_err());
    assert!(text.contains("`x`") && text.contains("Graph::keep"), "an input is gone after the run: {text}");
}

#[test]
fn weight_decay_can_spare_biases_and_norms() {
    let sgd = Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.1 });
    let adam = |decoupled| {
        Optimiser::Adam(AdamConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, decoupled })
    };
    let without = |optimiser| match optimiser {
        Optimiser::Sgd(sgd) => Optimiser::Sgd(SgdConfig { weight_decay: 0.0, ..sgd }),
        Optimiser::Adam(adam) => Optimiser::Adam(AdamConfig { weight_decay: 0.0, ..adam }),
    };
    let two_rates = Trained::TwoRates { backbone_lr_scale: 0.5 };
    for (optimiser, trained) in
        [(sgd, Trained::All), (adam(false), Trained::All), (adam(true), Trained::All), (sgd, two_rates)]
    {
        let base = StepConfig { optimiser, trained, ..step_config("resnet18") };
        let weights = |config: StepConfig| parameters_after_one_update(&config, &[4]);
        let decayed = weights(base.clone());
        let spared = weights(StepConfig { norm_decay: false, ..base.clone() });
        let undecayed = weights(StepConfig { optimiser: without(optimiser), ..base });
        let mut num_vectors = 0;
        for ((decayed, spared), undecayed) in decayed.iter().zip(&spared).zip(&undecayed) {
            let is_vector = spared.shape.rank() == 1;
            num_vectors += usize::from(is_vector);
            let expected = if is_vector { undecayed } else { decayed };
            assert_eq!(spared, expected, "{optimiser:?}");
            // A beta starts at zero, where nothing decays.
            assert!(is_vector || spared != undecayed);
        }
        assert_eq!((num_vectors, spared.len()), (20 * 2 + 1, 62), "gammas, betas and the last layer's bias");
        assert_ne!(decayed, spared);
    }
}
