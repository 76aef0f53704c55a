//! Whole networks against PyTorch: logits, losses, gradients, running statistics and updates, from weights that both
//! sides compute by formula (`tests/golden/models.py`).

#[path = "../common/mod.rs"]
mod common;
mod explain;
mod export;
#[path = "../common/python.rs"]
mod python;
mod torch_save;
mod vgg;

use std::path::{Path, PathBuf};

use common::formula;
use residuum::batch::Batch;
use residuum::device::Slot;
use residuum::exec::Session;
use residuum::fuse::Fusion;
use residuum::graph::{Graph, Role};
use residuum::infer::model_file::ModelFile;
use residuum::models::{Model, Options, Variant};
use residuum::plan::{Persistent, plan};
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::run::model_card::ModelCard;
use residuum::step::weights::{Weights, load_model, model_tensors};
use residuum::step::{StepConfig, Training, evaluation_graph, training_graph, values};
use residuum::tensor::{Layout, Tensor};

const CLASSES: usize = 100;
const SIZE: usize = 64;
const EVAL_BATCH: usize = 4;
const TRAIN_BATCH: usize = 16;
const SAMPLES: usize = 512;
const LR: f64 = 0.05;

fn step_config(name: &str, form: Variant, batch_size: usize, fuse: Fusion) -> StepConfig {
    StepConfig { fuse, ..StepConfig::new(model(name, form, CLASSES), batch_size, SIZE) }
}

fn model(name: &str, form: Variant, num_classes: usize) -> Model {
    Model::new(name, Options { form, ..Options::new(num_classes) }).unwrap()
}

/// A session of one graph, with the weights of the formula.
fn session(name: &str, graph: &Graph) -> Session {
    let mut session = Session::new(plan(&[graph], residuum::device::DeviceKind::Cpu).unwrap()).unwrap();
    write_formula(name, &mut session);
    session
}

/// Sets the weights of the network called `name` to those of the formula.
fn write_formula(name: &str, session: &mut Session) {
    let (last_norm, last_layer) = match name {
        "resnet18" | "resnet34" => ("bn2", "fc"),
        "vgg11_bn" => ("none", "classifier.6"),
        _ => ("bn3", "fc"),
    };
    let tensors: Vec<NamedTensor> = model_tensors(session, Weights::Trained, 0)
        .unwrap()
        .into_iter()
        .filter(|tensor| tensor.as_f32().is_some())
        .map(|tensor| {
            let values = formula::tensor(&tensor.name, &tensor.shape, last_norm);
            NamedTensor::f32(tensor.name, &tensor.shape, values)
        })
        .collect();
    load_model(session, last_layer, &tensors, Path::new("formula")).unwrap();
}

/// The network `name` in this form with the weights of the formula, as a file would hold it.
fn formula_model(name: &str, form: &str, classes: usize, img_size: usize) -> ModelFile {
    let card = ModelCard {
        objects: None,
        model: name.into(),
        form: form.into(),
        img_size,
        categories: (0..classes).map(|label| format!("category {label}")).collect(),
        mean: [0.5, 0.25, 0.125],
        std: [0.25, 0.5, 1.0],
    };
    let config = StepConfig::new(model(name, form.parse().unwrap(), classes), 1, img_size);
    let graph = evaluation_graph(&config, "").unwrap();
    let tensors = model_tensors(&session(name, &graph), Weights::Trained, 3).unwrap();
    ModelFile::new(Path::new("formula"), card, tensors)
}

/// Writes the operands of graph `index` of `session`: the images of `stream`, and their labels.
fn feed(session: &mut Session, index: usize, stream: &str) {
    let images = session.plan(index).slot(values::IMAGES).unwrap();
    let [batch, size, _, _] = images.shape.as_4d().unwrap();
    let nchw = formula::images(stream, batch, size);
    session.write::<f32>(&images, &formula::nchw_to_nhwc(&nchw, [batch, 3, size, size])).unwrap();
    let labels = session.plan(index).slot(values::LABELS).unwrap();
    session.write::<i32>(&labels, &formula::labels(stream, batch, CLASSES)).unwrap();
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_tensors(name: &str) -> checkpoint::Checkpoint {
    checkpoint::read(&golden(name)).unwrap()
}

fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn recorded_losses(model: &str) -> Vec<f64> {
    let losses = &golden_json("models.json")[model]["losses"];
    losses.as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect()
}

fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum();
    let norm: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    (difference / norm.max(1e-30)).sqrt()
}

/// The sampled elements of a tensor in file order, as the script takes them.
fn sampled(tensor: Tensor) -> Vec<f32> {
    let data = tensor.into_data();
    if data.len() <= SAMPLES {
        return data;
    }
    (0..SAMPLES).map(|i| data[i * data.len() / SAMPLES]).collect()
}

fn tensor_at(session: &Session, slot: &Slot, layout: Layout) -> Tensor {
    Tensor::new(slot.shape, session.read::<f32>(slot).unwrap().into_owned()).to_file_layout(layout)
}

fn median(mut values: Vec<f64>) -> f64 {
    assert!(values.iter().all(|v| !v.is_nan()) && !values.is_empty());
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn check_logits(recorded: &str, name: &str, form: Variant) {
    let config = step_config(name, form, EVAL_BATCH, Fusion::ALL);
    let mut session = session(name, &evaluation_graph(&config, "").unwrap());
    let file = golden_tensors("models.safetensors");
    assert_logits(&mut session, 0, file.get(&format!("{recorded}/eval/logits")).unwrap());
}

/// Runs graph `index`, an evaluation, and compares its logits.
fn assert_logits(session: &mut Session, index: usize, expected: &NamedTensor<'_>) {
    feed(session, index, "eval");
    session.run_micro_batch(index).unwrap();
    let slot = session.plan(index).slot(values::LOGITS).unwrap();
    let got = session.read::<f32>(&slot).unwrap();
    let name = &expected.name;
    let expected = expected.as_f32().unwrap();
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= 2e-5, "{name}: logit {i} is {got}, PyTorch's {expected}");
    }
}

#[test]
fn logits_match_pytorch() {
    check_logits("resnet18", "resnet18", Variant::V1_5);
    check_logits("resnet34", "resnet34", Variant::V1_5);
    check_logits("resnet50", "resnet50", Variant::V1_5);
    check_logits("resnet50_v1", "resnet50", Variant::V1);
    check_logits("resnet18_v2", "resnet18", Variant::V2);
    check_logits("resnet50_v2", "resnet50", Variant::V2);
}

/// What a training run left, tensor by tensor under torchvision's names.
struct Trained {
    losses: Vec<f64>,
    gradients: Vec<(String, Vec<f32>)>,
    buffers: Vec<(String, Vec<f32>)>,
    updates: Vec<(String, Vec<f32>)>,
}

fn train(name: &str, form: Variant, steps: usize, fuse: Fusion) -> Trained {
    let config = step_config(name, form, TRAIN_BATCH, fuse);
    let mut graph = training_graph(&config).unwrap();
    keep_gradients(&mut graph);
    let eval = evaluation_graph(&config, "").unwrap();
    let program = plan(&[&graph, &eval], residuum::device::DeviceKind::Cpu).unwrap();
    let mut session = Session::new(program).unwrap();
    write_formula(name, &mut session);
    let mut training = Training::in_session(config, session).unwrap();
    let persistent = training.session().program().persistent.clone();
    let of_role = |role: Role| persistent.iter().filter(move |p| p.value.role == role);
    let read = |session: &Session, p: &Persistent| sampled(tensor_at(session, &p.slot, p.value.layout));
    let before: Vec<Vec<f32>> = of_role(Role::Parameter).map(|p| read(training.session(), p)).collect();
    let mut trained = Trained { losses: vec![], gradients: vec![], buffers: vec![], updates: vec![] };
    for step in 0..steps {
        let stream = format!("step{step}");
        let nchw = formula::images(&stream, TRAIN_BATCH, SIZE);
        let images = formula::nchw_to_nhwc(&nchw, [TRAIN_BATCH, 3, SIZE, SIZE]);
        training.step(&Batch::new(images, formula::labels(&stream, TRAIN_BATCH, CLASSES)), LR).unwrap();
        trained.losses.push(f64::from(training.loss().unwrap()));
        if step == 0 {
            trained.gradients = gradients(training.session(), &persistent);
            trained.buffers = running_statistics(training.session(), &persistent);
        }
    }
    let session = training.session();
    for (p, before) in of_role(Role::Parameter).zip(before) {
        let update = read(session, p).iter().zip(before).map(|(after, before)| after - before).collect();
        trained.updates.push((p.value.name.clone(), update));
    }
    trained
}

/// Keeps what [`gradients`] reads.
fn keep_gradients(graph: &mut Graph) {
    let update = graph.nodes().iter().find(|node| node.op.name() == "sgd_update").unwrap();
    for group in update.inputs.clone()[2..].chunks_exact(3) {
        graph.keep(group[1]);
    }
}

/// The gradients, which the optimiser's step names in groups of (param, grad, velocity) behind two scalars.
fn gradients(session: &Session, persistent: &[Persistent]) -> Vec<(String, Vec<f32>)> {
    let update = session.plan(0).steps.iter().find(|step| step.op.name() == "sgd_update").unwrap();
    update.inputs[2..]
        .chunks_exact(3)
        .map(|group| {
            let parameter = persistent.iter().find(|p| p.slot == group[0]).unwrap();
            let gradient = sampled(tensor_at(session, &group[1], parameter.value.layout));
            (parameter.value.name.clone(), gradient)
        })
        .collect()
}

fn running_statistics(session: &Session, persistent: &[Persistent]) -> Vec<(String, Vec<f32>)> {
    persistent
        .iter()
        .filter(|p| p.value.name.contains(".running_"))
        .map(|p| (p.value.name.clone(), sampled(tensor_at(session, &p.slot, p.value.layout))))
        .collect()
}

fn errors(got: &[(String, Vec<f32>)], recorded: &str, file: &checkpoint::Checkpoint) -> Vec<f64> {
    got.iter()
        .map(|(name, values)| {
            let key = format!("{recorded}/{name}");
            let expected = file.get(&key).unwrap_or_else(|| panic!("{key} is not recorded"));
            relative_l2(values, expected.as_f32().unwrap())
        })
        .collect()
}

fn assert_losses(got: &[f64], model: &str, tolerances: &[f64]) {
    let recorded = recorded_losses(model);
    for (step, ((got, expected), tolerance)) in got.iter().zip(&recorded).zip(tolerances).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= *tolerance, "{model} step {step}: loss {got}, PyTorch's {expected}, off by {error}");
    }
}

fn check_resnet18_run(fuse: Fusion) {
    let trained = train("resnet18", Variant::V1_5, 5, fuse);
    assert_losses(&trained.losses, "resnet18", &[5e-6, 2e-5, 5e-5, 2e-4, 2e-4]);
    let file = golden_tensors("models.safetensors");
    let gradients = errors(&trained.gradients, "resnet18/train/grads", &file);
    let buffers = errors(&trained.buffers, "resnet18/train/buffers", &file);
    let updates = errors(&trained.updates, "resnet18/train/updates", &file);
    let worst_buffer = buffers.iter().copied().fold(0.0, f64::max);
    println!("gradients {:.1e}, worst buffer {worst_buffer:.1e}", median(gradients.clone()));
    println!("updates {:.1e}, losses {:?}", median(updates.clone()), trained.losses);
    assert!(worst_buffer <= 5e-6, "running statistics off by {worst_buffer}");
    assert!(median(gradients) <= 2e-3);
    assert!(median(updates) <= 2e-2);
}

#[test]
fn five_training_steps_of_resnet18_match_pytorch() {
    check_resnet18_run(Fusion::ALL);
}

#[test]
fn the_textbook_graph_matches_pytorch_too() {
    check_resnet18_run(Fusion::NONE);
}

#[test]
fn training_steps_of_the_other_networks_match_pytorch() {
    let tolerances = [5e-6, 2e-5];
    assert_losses(&train("resnet34", Variant::V1_5, 2, Fusion::ALL).losses, "resnet34", &tolerances);
    let file = golden_tensors("models.safetensors");
    let resnet50 = train("resnet50", Variant::V1_5, 2, Fusion::ALL);
    assert_losses(&resnet50.losses, "resnet50", &tolerances);
    assert!(median(errors(&resnet50.gradients, "resnet50/train/grads", &file)) <= 2e-3);
    assert_losses(&train("resnet50", Variant::V1, 1, Fusion::ALL).losses, "resnet50_v1", &tolerances);
    let v2 = train("resnet18", Variant::V2, 2, Fusion::ALL);
    assert_losses(&v2.losses, "resnet18_v2", &tolerances);
    assert!(median(errors(&v2.gradients, "resnet18_v2/train/grads", &file)) <= 2e-3);
    assert_losses(&train("resnet50", Variant::V2, 1, Fusion::ALL).losses, "resnet50_v2", &tolerances);
}
