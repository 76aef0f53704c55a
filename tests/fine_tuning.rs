//! Starting from another network's weights: what is taken over, what learns, and how fast.

use std::path::Path;

use residuum::device::DeviceKind;
use residuum::exec::Session;
use residuum::models::{Form, Model, Objects, ObjectsKind};
use residuum::plan::plan;
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::step::pretrained;
use residuum::step::weights::{initialise, model_tensors};
use residuum::step::{StepConfig, Trained, evaluation_graph, hyper_parameters, training_graph, values};

const SIZE: usize = 32;
const BATCH: usize = 3;

fn model(categories: usize) -> Model {
    Model::parse("resnet18", Form::V1_5, categories).unwrap()
}

fn session(config: &StepConfig, seed: u64) -> Session {
    let graph = training_graph(config).unwrap();
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    initialise(&mut session, seed).unwrap();
    session
}

/// The weights of a ResNet-18 for 7 categories in a file, but for those `drop` names.
fn weight_file(dir: &Path, drop: &str) -> std::path::PathBuf {
    let mut tensors = model_tensors(&session(&StepConfig::new(model(7), BATCH, SIZE), 5), "", 9).unwrap();
    tensors.retain(|tensor| tensor.name != drop);
    let path = dir.join("weights.safetensors");
    checkpoint::write_atomic(&path, &tensors, &serde_json::json!({})).unwrap();
    path
}

fn tensors(session: &Session) -> Vec<NamedTensor<'static>> {
    model_tensors(session, "", 0).unwrap()
}

fn same(a: &NamedTensor<'_>, b: &NamedTensor<'_>) -> bool {
    a.as_f32() == b.as_f32()
}

/// Names of the tensors that a step of training changes.
fn changed(trained: Trained, backbone_lr: f64) -> Vec<String> {
    let config = StepConfig { trained, ..StepConfig::new(model(4), BATCH, SIZE) };
    let mut session = session(&config, 1);
    let before = tensors(&session);
    let slot = |name: &str| session.plan(0).slot(name).unwrap();
    let (images, labels, hyper) = (slot(values::IMAGES), slot(values::LABELS), slot(values::HYPER));
    let backbone = session.plan(0).slot(values::HYPER_BACKBONE).ok();
    let pixels: Vec<f32> = (0..images.shape.num_elems()).map(|i| (i as f32 * 0.7).sin()).collect();
    session.write(&images, &pixels).unwrap();
    session.write(&labels, &[0, 2, 3]).unwrap();
    session.write(&hyper, &hyper_parameters(&config.optimiser, 0.1, 1)).unwrap();
    if let Some(backbone) = backbone {
        session.write(&backbone, &hyper_parameters(&config.optimiser, backbone_lr, 1)).unwrap();
    }
    session.run_micro_batch(0).unwrap();
    session.run_update(0).unwrap();
    let differs = |(a, b): &(&NamedTensor<'_>, &NamedTensor<'_>)| a.as_f32().is_some() && !same(a, b);
    before.iter().zip(&tensors(&session)).filter(differs).map(|(a, _)| a.name.to_string()).collect()
}

#[test]
fn frozen_layers_keep_weights_and_statistics() {
    assert_eq!(changed(Trained::LastLayer, 0.0), ["fc.weight", "fc.bias"]);
}

#[test]
fn a_backbone_has_a_rate_of_its_own() {
    let all = changed(Trained::All, 0.0);
    assert_eq!(all.len(), 62 + 2 * 20, "every parameter and every running statistic");
    assert_eq!(changed(Trained::TwoRates, 0.01), all);
    let only_statistics = changed(Trained::TwoRates, 0.0);
    assert!(only_statistics.iter().all(|name| name.starts_with("fc.") || name.contains("running")));
    assert_eq!(only_statistics.len(), 2 + 2 * 20);
}

#[test]
fn all_but_the_last_layer_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "");
    let source = checkpoint::read(&path).unwrap();
    let config = StepConfig { ema_decay: Some(0.9), ..StepConfig::new(model(4), BATCH, SIZE) };
    let mut session = session(&config, 1);
    let before = tensors(&session);
    pretrained::load(&mut session, &config.model, &path).unwrap();
    for (before, after) in before.iter().zip(&tensors(&session)).filter(|(a, _)| a.as_f32().is_some()) {
        if after.name.starts_with("fc.") {
            assert!(same(before, after), "{}", after.name);
        } else {
            assert!(same(source.get(&after.name).unwrap(), after), "{}", after.name);
        }
    }
    let trained = tensors(&session);
    for average in model_tensors(&session, "ema.", 0).unwrap() {
        let source = trained.iter().find(|tensor| tensor.name == average.name).unwrap();
        assert!(same(&average, source), "the average of {} starts there too", average.name);
    }
}

#[test]
fn a_second_head_starts_fresh_behind_a_known_backbone() {
    let dir = tempfile::tempdir().unwrap();
    let path = weight_file(dir.path(), "");
    let source = checkpoint::read(&path).unwrap();
    let objects = Some(Objects { kind: ObjectsKind::Masks, num_classes: 6 });
    let two_heads = Model { objects, ..model(7) };
    let graph = two_head_graph(&two_heads);
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    initialise(&mut session, 1).unwrap();
    pretrained::load(&mut session, &two_heads, &path).unwrap();
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
        let model = Model::parse(name, Form::V1_5, 4).unwrap();
        let mut session = session(&StepConfig::new(model, BATCH, SIZE), 1);
        let error = pretrained::load(&mut session, &model, path).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    };
    assert!(
        message("resnet18", &path).contains("`layer3.1.conv2.weight` of shape [256, 256, 3, 3] is missing")
    );
    let whole = weight_file(dir.path(), "");
    assert!(message("resnet34", &whole).contains("`layer1.2.conv1.weight`"));
    let pickle = dir.path().join("net.pth");
    std::fs::write(&pickle, "PK").unwrap();
    assert!(message("resnet18", &pickle).contains("safetensors.torch.save_file"));
}

#[test]
fn evaluation_does_not_ask_what_is_trained() {
    let of = |trained| {
        let config = StepConfig { trained, ..StepConfig::new(model(4), BATCH, SIZE) };
        evaluation_graph(&config, "").unwrap().to_string()
    };
    assert_eq!(of(Trained::All), of(Trained::LastLayer));
}
