//! Images made by the host, by the device from the pixels of a batch, and by the device from a data set it holds: the same
//! training step.
#![cfg(residuum_simt)]

use std::sync::Arc;

use residuum::batch::{BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::Split;
use residuum::data::annotations::{Annotations, SplitAnnotations};
use residuum::data::pack::Pack;
use residuum::data::scenes::SceneOptions;
use residuum::device::DeviceKind;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::exec::{Session, Start};
use residuum::models::{Model, Objects, ObjectsKind, Options};
use residuum::step::{PixelSource, StepConfig, Training, program};
use residuum::tensor::DType;

const BATCH: usize = 4;
const SIZE: usize = 32;
const CATEGORIES: usize = 3;
const NUM_IMAGES: usize = 11;

/// The losses of two training steps and then of an evaluation on the emulator.
fn losses(pixels: PixelSource, contents: BatchContents, kind: ObjectsKind, float: DType) -> Vec<f64> {
    let scenes = SceneOptions {
        split: Split::Train,
        num_images: NUM_IMAGES,
        num_categories: CATEGORIES,
        image_size: SIZE,
        seed: 1,
    };
    let (pack, annotations) = (Arc::new(Pack::from_scenes(&scenes)), Annotations::from_scenes(&scenes));
    let objects = Some(Objects { kind, num_classes: annotations.num_classes() });
    let model = Model::new("resnet18", Options { objects, ..Options::new(CATEGORIES) }).unwrap();
    let config = StepConfig {
        pixels,
        largest_annotation: annotations.capacity(1),
        has_steps: true,
        float,
        seed: 1,
        ..StepConfig::new(model, BATCH, SIZE)
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
        batch_size: BATCH,
        augment: "compose,trivial-augment,rand-augment".parse().unwrap(),
        normalization: Normalization::default(),
        contents,
        seed: 5,
        workers: 1,
        prefetch: 2,
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
    let by_host = losses(PixelSource::Host, BatchContents::Images, kind, float);
    let of_batch = losses(PixelSource::Batch, BatchContents::Pixels, kind, float);
    let held = PixelSource::Resident { train: NUM_IMAGES, val: NUM_IMAGES };
    assert_eq!(
        of_batch,
        losses(held, BatchContents::Indices, kind, float),
        "the same kernel on the same pixels"
    );
    for (host, device) in by_host.iter().zip(&of_batch) {
        let error = (host - device).abs() / host;
        assert!(error <= tolerance, "{by_host:?} by the host, {of_batch:?} by the device");
    }
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
