//! Images made by the host, by the device from the pixels of a batch, and by the device from a data set it holds: the same
//! training step.
#![cfg(residuum_simt)]

use std::sync::Arc;

use residuum::Result;
use residuum::batch::{BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::Split;
use residuum::data::annotations::{Annotations, SplitAnnotations};
use residuum::data::pack::Pack;
use residuum::data::scenes::SceneOptions;
use residuum::device::DeviceKind;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::exec::{Session, Start};
use residuum::graph::{Graph, ValueId};
use residuum::models::{Inputs, Network, Objects, ObjectsKind};
use residuum::ops::{
    BnConfig, Mode, PoolWindow, batch_norm, concat, global_avg_pool, linear, max_pool, relu, stem_conv2d,
};
use residuum::step::{PixelSource, StepConfig, Training, program};
use residuum::tensor::DType;

const BATCH: usize = 4;
const SIZE: usize = 32;
const CATEGORIES: usize = 3;
const NUM_IMAGES: usize = 11;

/// What of a ResNet sees the images and the objects: its stem and its last layer.
struct Stem(Objects);

impl Network for Stem {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let objects = inputs.objects.expect("it takes objects in");
        let image = match self.0.kind {
            ObjectsKind::Vector => inputs.images,
            _ => concat(graph, "image_and_codes", &[inputs.images, objects])?,
        };
        let x = stem_conv2d(graph, "conv1", image, 64)?;
        let x = batch_norm(graph, "bn1", x, BnConfig::new(mode))?;
        let x = relu(graph, "relu", x)?;
        let x = max_pool(graph, "maxpool", x, PoolWindow::square(3, 2, 1))?;
        let mut x = global_avg_pool(graph, "avgpool", x)?;
        if self.0.kind == ObjectsKind::Vector {
            x = concat(graph, "features", &[x, objects])?;
        }
        linear(graph, "fc", x, CATEGORIES)
    }

    fn objects(&self) -> Option<Objects> {
        Some(self.0)
    }
}

/// The losses of two training steps and then of an evaluation on the emulator; `seed` decides how images are changed.
fn losses(
    pixels: PixelSource,
    contents: BatchContents,
    (kind, float): (ObjectsKind, DType),
    seed: u64,
) -> Vec<f64> {
    let scenes = SceneOptions {
        split: Split::Train,
        num_images: NUM_IMAGES,
        num_categories: CATEGORIES,
        image_size: SIZE,
        seed: 1,
    };
    let (pack, annotations) = (Arc::new(Pack::from_scenes(&scenes)), Annotations::from_scenes(&scenes));
    let network = Stem(Objects { kind, num_classes: annotations.num_classes() });
    let config = StepConfig {
        pixels,
        largest_annotation: annotations.capacity(1),
        has_steps: true,
        float,
        seed: 1,
        ..StepConfig::new(network, BATCH, SIZE)
    };
    let device = Box::new(SimtDevice::new(3, Checks::Off).unwrap());
    let session = Session::on(program(&config, DeviceKind::Simt).unwrap(), device, Start::Seed(1)).unwrap();
    let mut training = Training::in_session(config, session).unwrap();
    let annotations = Arc::new(annotations);
    training.set_annotations(Some(SplitAnnotations { train: annotations.clone(), val: annotations }));
    if matches!(pixels, PixelSource::Resident { .. }) {
        training.upload_pixels(&pack, &pack).unwrap();
    }
    let options = LoaderOptions {
        augment: "compose,trivial-augment,rand-augment".parse().unwrap(),
        normalization: Normalization::default(),
        contents,
        seed,
        workers: 1,
        prefetch: 2,
        ..LoaderOptions::new(BATCH)
    };
    let mut loader = Loader::train(Arc::clone(&pack), &options, 0, 0).unwrap();
    for _ in 0..2 {
        let batch = loader.next().unwrap().unwrap();
        training.step(&batch, 0.01).unwrap();
        loader.recycle(batch);
    }
    let mut losses: Vec<f64> =
        training.take_results(|results| results.map(|result| result.loss.into()).collect()).unwrap();
    losses.push(training.evaluate(&pack, &options, || None).unwrap().loss);
    losses
}

fn check(kind: ObjectsKind, float: DType, tolerance: f64) {
    let setting = (kind, float);
    let by_host = losses(PixelSource::Host, BatchContents::Images, setting, 5);
    let of_batch = losses(PixelSource::Batch, BatchContents::Pixels, setting, 5);
    let held = PixelSource::Resident { train: NUM_IMAGES, val: NUM_IMAGES };
    assert_eq!(
        of_batch,
        losses(held, BatchContents::Indices, setting, 5),
        "the same kernel on the same pixels"
    );
    let errors = |other: &[f64]| -> Vec<f64> {
        by_host.iter().zip(other).map(|(host, other)| (host - other).abs() / host).collect()
    };
    let is_small = |error: &f64| *error <= tolerance;
    assert!(errors(&of_batch).iter().all(is_small), "{by_host:?} by the host, {of_batch:?} by the device");
    // A network this small could take any images for the same.
    let of_others = losses(PixelSource::Batch, BatchContents::Pixels, setting, 6);
    println!("{kind} {float}: off by {:?}, of other images by {:?}", errors(&of_batch), errors(&of_others));
    let told = errors(&of_others).iter().any(|error| *error > 3.0 * tolerance);
    assert!(told, "{by_host:?}, and {of_others:?} of images changed otherwise");
}

#[test]
fn who_makes_the_images_does_not_matter() {
    check(ObjectsKind::Vector, DType::F32, 1e-4);
}

/// In bf16 the device makes the images in the blocks that the stem reads; the graph has no images then.
#[test]
fn who_makes_the_images_does_not_matter_in_bf16() {
    check(ObjectsKind::Vector, DType::Bf16, 1e-2);
}

#[test]
fn objects_are_drawn_where_their_images_are() {
    check(ObjectsKind::Codes, DType::F32, 1e-4);
}
