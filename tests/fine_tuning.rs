//! Starting from another network's weights: what is taken over, what learns, and how fast.

use std::path::Path;

use residuum::batch::Batch;
use residuum::device::{Device, DeviceKind};
use residuum::exec::Session;
use residuum::models::{Model, Network, Objects, ObjectsKind, Options, Variant};
use residuum::plan::plan;
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::step::weights::{Weights, model_tensors};
use residuum::step::{StepConfig, Trained, Training, evaluation_graph, pretrained};

const SIZE: usize = 32;
const BATCH: usize = 3;

fn model(categories: usize) -> Model {
    Model::new("resnet18", Options::new(categories)).unwrap()
}

fn training(config: StepConfig, seed: u64) -> Training {
    Training::new(StepConfig { seed, ..config }, Device::Cpu).unwrap()
}

/// The weights of a ResNet-18 for 7 categories in a file, but for those `drop` names.
fn weight_file(dir: &Path, drop: &str) -> std::path::PathBuf {
    let mut tensors = training(StepConfig::new(model(7), BATCH, SIZE), 5).weights().unwrap();
    tensors.retain(|tensor| tensor.name != drop);
    let path = dir.join("weights.safetensors");
    checkpoint::write_atomic(&path, &tensors, &serde_json::json!({})).unwrap();
    path
}

fn tensors(session: &Session) -> Vec<NamedTensor<'static>> {
    model_tensors(session, Weights::Trained, 0).unwrap()
}

fn same(a: &NamedTensor<'_>, b: &NamedTensor<'_>) -> bool {
    a.as_f32() == b.as_f32()
}

/// Names of the tensors that a step of training changes.
fn changed(trained: Trained) -> Vec<String> {
    let config = StepConfig { trained, ..StepConfig::new(model(4), BATCH, SIZE) };
    let mut training = training(config, 1);
    let before = tensors(training.session());
    let images = (0..BATCH * SIZE * SIZE * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    training.step(&Batch::new(images, vec![0, 2, 3]), 0.1).unwrap();
    let differs = |(a, b): &(&NamedTensor<'_>, &NamedTensor<'_>)| a.as_f32().is_some() && !same(a, b);
    let after = tensors(training.session());
    before.iter().zip(&after).filter(differs).map(|(a, _)| a.name.to_string()).collect()
}

#[test]
fn frozen_layers_keep_weights_and_statistics() {
    assert_eq!(changed(Trained::LastLayer), ["fc.weight", "fc.bias"]);
}

#[test]
fn a_backbone_has_a_rate_of_its_own() {
    let all = changed(Trained::All);
    assert_eq!(all.len(), 62 + 2 * 20, "every parameter and every running statistic");
    assert_eq!(changed(Trained::TwoRates { backbone_lr_scale: 0.1 }), all);
    let only_statistics = changed(Trained::TwoRates { backbone_lr_scale: 0.0 });
    assert!(only_statistics.iter().all(|name| name.starts_with("fc.") || name.contains("running")));
    assert_eq!(only_statistics.len(), 2 + 2 * 20);
}

#[test]
fn all_but_the_last_layer_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "");
    let source = checkpoint::read(&path).unwrap();
    let config = StepConfig { ema_decay: Some(0.9), ..StepConfig::new(model(4), BATCH, SIZE) };
    let mut training = training(config, 1);
    let before = tensors(training.session());
    pretrained::load(training.session_mut(), &model(4), Variant::V1_5, &path).unwrap();
    let trained = tensors(training.session());
    for (before, after) in before.iter().zip(&trained).filter(|(a, _)| a.as_f32().is_some()) {
        if after.name.starts_with("fc.") {
            assert!(same(before, after), "{}", after.name);
        } else {
            assert!(same(source.get(&after.name).unwrap(), after), "{}", after.name);
        }
    }
    for average in training.weights().unwrap() {
        let source = trained.iter().find(|tensor| tensor.name == average.name).unwrap();
        assert!(
            average.as_f32().is_none() || same(&average, source),
            "the average of {} starts there too",
            average.name
        );
    }
}

#[test]
fn a_second_head_starts_fresh_behind_a_known_backbone() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "");
    let source = checkpoint::read(&path).unwrap();
    let objects = Some(Objects { kind: ObjectsKind::Masks, num_classes: 6 });
    let two_heads = model(7).with(Options { objects, ..Options::new(7) }).unwrap();
    let graph = two_head_graph(&two_heads);
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    session.initialise(1).unwrap();
    pretrained::load(&mut session, &two_heads, Variant::V1_5, &path).unwrap();
    let taken: Vec<String> = tensors(&session)
        .iter()
        .filter(|tensor| tensor.as_f32().is_some())
        .filter(|tensor| source.get(&tensor.name).is_some_and(|source| same(source, tensor)))
        .map(|tensor| tensor.name.to_string())
        .collect();
    assert!(taken.iter().any(|name| name == "layer3.0.conv1.weight"));
    assert!(!taken.iter().any(|name| name.starts_with("mask_head.") || name.starts_with("fc.")), "{taken:?}");
}

fn two_head_graph(model: &Model) -> residuum::graph::Graph {
    use residuum::graph::Graph;
    use residuum::models::Inputs;
    use residuum::ops::Mode;
    use residuum::tensor::DType;

    let mut graph = Graph::new(DType::F32);
    let images = graph.input("images", [2, SIZE, SIZE, 3], DType::F32);
    let masks = graph.input("masks", [2, SIZE, SIZE, 6], DType::F32);
    let inputs = Inputs { images, objects: Some(masks) };
    let logits = model.forward(&mut graph, inputs, Mode::Eval).unwrap();
    graph.keep(logits);
    graph
}

#[test]
fn files_of_another_layout_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "layer3.1.conv2.weight");
    let message = |name: &str, path: &Path| {
        let model = Model::new(name, Options::new(4)).unwrap();
        let mut training = training(StepConfig::new(model.clone(), BATCH, SIZE), 1);
        let error = pretrained::load(training.session_mut(), &model, Variant::V1_5, path).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    };
    assert!(
        message("resnet18", &path).contains("`layer3.1.conv2.weight` of shape [256, 256, 3, 3] is missing")
    );
    let whole = weight_file(dir.path(), "");
    assert!(message("resnet34", &whole).contains("`layer1.2.conv1.weight`"));
    let page = dir.path().join("net.pth");
    std::fs::write(&page, "<!doctype html>").unwrap();
    assert!(message("resnet18", &page).contains("is a web page"));
}

#[test]
fn what_is_taken_of_a_file_of_torch_save_and_what_is_left_is_said() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch/resnet18.pth");
    let mut training = training(StepConfig::new(model(4), BATCH, SIZE), 1);
    let taken = pretrained::load(training.session_mut(), &model(4), Variant::V1_5, &path).unwrap();
    let left = [("fc.bias".to_string(), vec![10]), ("fc.weight".to_string(), vec![10, 512])];
    assert_eq!((taken.num_tensors, &taken.left[..]), (120, &left[..]));
    assert_eq!(taken.fresh, ["fc.weight", "fc.bias"]);
    assert_eq!(
        taken.to_string(),
        "120 tensors are taken; `fc.bias` [10], `fc.weight` [10, 512] of the file are left out; `fc.weight`, `fc.bias` \
         begin anew"
    );
    let weights = tensors(training.session());
    let of = |name: &str| weights.iter().find(|tensor| tensor.name == name).unwrap().as_f32().unwrap();
    // One number in each tensor, as the script says: 0.001 times the place in the file, modulo 7, plus 1.
    assert_eq!(of("conv1.weight"), vec![0.001_f32; 64 * 3 * 49]);
    assert_eq!(of("bn1.running_var"), [0.005_f32; 64]);
}

#[test]
fn weights_that_are_not_finite_are_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "");
    let mut tensors = checkpoint::read(&path).unwrap().tensors;
    let spoil = |tensor: &mut NamedTensor<'static>, value: f32| {
        let mut elems = tensor.as_f32().unwrap().to_vec();
        elems[1] = value;
        *tensor = NamedTensor::f32(tensor.name.clone(), &tensor.shape.clone(), elems);
    };
    let mut message = |name: &str, value: f32| {
        let before = tensors.clone();
        spoil(tensors.iter_mut().find(|tensor| tensor.name == name).unwrap(), value);
        checkpoint::write_atomic(&path, &tensors, &serde_json::json!({})).unwrap();
        tensors = before;
        let mut training = training(StepConfig::new(model(4), BATCH, SIZE), 1);
        pretrained::load(training.session_mut(), &model(4), Variant::V1_5, &path).map_err(|e| e.to_string())
    };
    assert!(
        message("conv1.weight", f32::NAN)
            .unwrap_err()
            .contains("tensor `conv1.weight` holds NaN at [0, 0, 0, 1]")
    );
    assert!(
        message("bn1.running_var", -1.0).unwrap_err().contains("tensor `bn1.running_var` holds -1 at [1]")
    );
    // What is left out may hold what it wants.
    assert!(message("fc.weight", f32::NAN).is_ok());
}

#[test]
fn evaluation_does_not_ask_what_is_trained() {
    let of = |trained| {
        let config = StepConfig { trained, ..StepConfig::new(model(4), BATCH, SIZE) };
        evaluation_graph(&config, "").unwrap().to_string()
    };
    assert_eq!(of(Trained::All), of(Trained::LastLayer));
}
