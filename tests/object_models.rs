//! Networks that take objects in: their gradients by finite differences, and what knowing the objects is worth.

use residuum::autodiff::differentiate;
use residuum::device::{Device, DeviceKind};
use residuum::exec::Session;
use residuum::graph::{Graph, Role};
use residuum::models::{Inputs, Model, Network, Objects, ObjectsKind, Options};
use residuum::ops::{CODE_CHANNELS, Mode, fill, softmax_xent};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;
use residuum::train::config::TrainConfig;
use residuum::train::trainer::Trainer;

const BATCH: usize = 3;
const SIZE: usize = 48;
const OBJECT_CLASSES: usize = 5;
/// Half the distance of the two points of a central difference.
const STEP: f64 = 1e-6;

/// The loss of a model in f64 and its gradient with respect to the parameters called `names`.
struct Loss {
    session: Session,
    gradients: Vec<String>,
}

impl Loss {
    fn new(kind: ObjectsKind, names: &[&str]) -> Loss {
        let objects = Some(Objects { kind, num_classes: OBJECT_CLASSES });
        let model = Model::new("resnet18", Options { objects, ..Options::new(4) }).unwrap();
        let mut graph = Graph::new(DType::F64);
        let images = graph.input("images", [BATCH, SIZE, SIZE, 3], DType::F64);
        let objects = match kind {
            ObjectsKind::Masks => graph.input("objects", [BATCH, SIZE, SIZE, OBJECT_CLASSES], DType::F64),
            ObjectsKind::Codes => graph.input("objects", [BATCH, SIZE, SIZE, CODE_CHANNELS], DType::F64),
            ObjectsKind::Vector => graph.input("objects", [BATCH, OBJECT_CLASSES], DType::F64),
        };
        let labels = graph.input("labels", [BATCH], DType::I32);
        let inputs = Inputs { images, objects: Some(objects) };
        let logits = model.forward(&mut graph, inputs, Mode::Train).unwrap();
        let loss = softmax_xent(&mut graph, "loss", logits, labels, 0.1).unwrap().loss;
        let wanted: Vec<_> = names.iter().map(|name| graph.find(name).unwrap()).collect();
        let one = fill(&mut graph, "one", [], 1.0).unwrap();
        let gradients = differentiate(&mut graph, loss, one, &wanted).unwrap();
        graph.keep(loss);
        gradients.iter().for_each(|&id| graph.keep(id));
        let gradients = gradients.iter().map(|&id| graph.value(id).name.clone()).collect();
        let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
        let mut stream = Stream::new(3, 0, 0, Use::Init);
        for p in session.program().persistent.clone() {
            let name = &p.value.name;
            let scale =
                if name.ends_with("conv1.weight") || name.ends_with("conv2.weight") { 0.1 } else { 0.3 };
            let centre = if p.value.role == Role::Parameter && name.ends_with("bias") { 0.0 } else { 1.0 };
            let centre = if p.slot.shape.rank() == 4 || name == "fc.weight" { 0.0 } else { centre };
            let values: Vec<f64> =
                (0..p.slot.shape.num_elems()).map(|_| centre + scale * f64::from(stream.normal())).collect();
            session.write::<f64>(&p.slot, &values).unwrap();
        }
        Loss { session, gradients }
    }

    fn run(&mut self) -> f64 {
        let mut stream = Stream::new(4, 0, 0, Use::Augment);
        let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
        let images = slot(&self.session, "images");
        let pixels: Vec<f64> = (0..images.shape.num_elems()).map(|_| f64::from(stream.normal())).collect();
        self.session.write::<f64>(&images, &pixels).unwrap();
        let objects = slot(&self.session, "objects");
        let there: Vec<f64> =
            (0..objects.shape.num_elems()).map(|_| f64::from(u8::from(stream.uniform() < 0.3))).collect();
        self.session.write::<f64>(&objects, &there).unwrap();
        let labels = slot(&self.session, "labels");
        self.session.write::<i32>(&labels, &[2, 0, 3]).unwrap();
        self.session.run_micro_batch(0).unwrap();
        self.session.read::<f64>(&slot(&self.session, "loss")).unwrap()[0]
    }
}

/// Holds the derivative along a random direction in each parameter to the difference of two losses.
fn check(kind: ObjectsKind, names: &[&str]) {
    let mut loss = Loss::new(kind, names);
    loss.run();
    let read = |session: &Session, name: &str| {
        session.read::<f64>(&session.plan(0).slot(name).unwrap()).unwrap().into_owned()
    };
    let gradients: Vec<Vec<f64>> = loss.gradients.iter().map(|name| read(&loss.session, name)).collect();
    for (name, gradient) in names.iter().zip(gradients) {
        let slot = loss.session.plan(0).slot(name).unwrap();
        let start = read(&loss.session, name);
        let mut stream = Stream::new(5, 0, crc32c::crc32c(name.as_bytes()), Use::Init);
        let direction: Vec<f64> = start.iter().map(|_| f64::from(stream.normal())).collect();
        let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        let direction: Vec<f64> = direction.iter().map(|d| d / length).collect();
        let mut at = |step: f64| {
            let moved: Vec<f64> = start.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            loss.session.write::<f64>(&slot, &moved).unwrap();
            loss.run()
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        loss.session.write::<f64>(&slot, &start).unwrap();
        let derivative: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "{kind} {name}: nothing to compare");
        let error = (difference - derivative).abs();
        assert!(
            error <= 1e-5 * norm,
            "{kind} {name}: {derivative} by the graph, {difference} by differences"
        );
    }
}

#[test]
fn gradients_of_two_heads_match_finite_differences() {
    check(
        ObjectsKind::Masks,
        &[
            "conv1.weight",
            "mask_head.conv1.weight",
            "mask_head.layer1.0.conv2.weight",
            "layer2.0.conv1.weight",
        ],
    );
}

#[test]
fn gradients_with_a_presence_vector_match_finite_differences() {
    check(ObjectsKind::Vector, &["conv1.weight", "layer4.1.bn1.bias", "fc.weight"]);
}

#[test]
fn gradients_with_codes_match_finite_differences() {
    check(ObjectsKind::Codes, &["conv1.weight", "layer3.0.downsample.0.weight", "fc.weight"]);
}

/// Top-1 error in percent of a short training run on generated scenes, whose objects decide the category.
fn error_with(objects: Option<ObjectsKind>, output: &std::path::Path) -> f64 {
    let config = TrainConfig {
        objects,
        limit_train: Some(240),
        limit_val: Some(200),
        batch_size: 16,
        epochs: 6,
        lr: Some(0.05),
        output: output.to_path_buf(),
        ..TrainConfig::defaults(None)
    };
    Trainer::start(config, Device::Cpu).unwrap().run().unwrap().last.eval_err1
}

#[test]
fn networks_that_see_the_objects_err_less() {
    let runs = tempfile::tempdir().unwrap();
    let without = error_with(None, runs.path());
    for way in [ObjectsKind::Vector, ObjectsKind::Codes, ObjectsKind::Masks] {
        let with = error_with(Some(way), runs.path());
        println!("{way}: {with:.1} % against {without:.1} %");
        assert!(with < without - 30.0, "{with} % with {way}, {without} % without");
    }
}
