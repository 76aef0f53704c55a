//! Images made by the host, by the device from the pixels of a batch, and by the device from a data set it holds: the same
//! training step.
#![cfg(residuum_simt)]

use std::sync::Arc;

use residuum::batch::{Deliver, Loader, LoaderOptions, Normalization};
use residuum::data::Split;
use residuum::data::annotations::Annotations;
use residuum::data::pack::Pack;
use residuum::data::scenes::SceneOptions;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::device::{DeviceKind, Slot};
use residuum::exec::Session;
use residuum::models::{Form, Model, Objects, ObjectsKind};
use residuum::plan::plan;
use residuum::step::feed::Feed;
use residuum::step::weights::initialise;
use residuum::step::{PixelSource, StepConfig, hyper_parameters, training_graph, values};
use residuum::tensor::Shape;

const BATCH: usize = 4;
const SIZE: usize = 32;
const CATEGORIES: usize = 3;
const NUM_IMAGES: usize = 11;

/// The losses of two training steps on the emulator.
fn losses(pixels: PixelSource, deliver: Deliver, kind: ObjectsKind) -> Vec<f32> {
    let scenes = SceneOptions {
        split: Split::Train,
        num_images: NUM_IMAGES,
        num_categories: CATEGORIES,
        image_size: SIZE,
        seed: 1,
    };
    let (pack, annotations) = (Arc::new(Pack::from_scenes(&scenes)), Annotations::from_scenes(&scenes));
    let objects = Some(Objects { kind, num_classes: annotations.num_classes() });
    let model = Model { objects, ..Model::parse("resnet18", Form::V1_5, CATEGORIES).unwrap() };
    let config = StepConfig {
        pixels,
        largest_annotation: annotations.capacity(1),
        ..StepConfig::new(model, BATCH, SIZE)
    };
    let graph = training_graph(&config).unwrap();
    let program = plan(&[&graph], DeviceKind::Simt).unwrap();
    let mut session = Session::on(program, Box::new(SimtDevice::new(3, Checks::Off).unwrap())).unwrap();
    initialise(&mut session, 1).unwrap();
    if let Ok(resident) = session.plan(0).slot(values::TRAIN_PIXELS) {
        let image = Shape::new(&resident.shape.dims()[1..]);
        for index in 0..pack.len() {
            let offset_bytes = resident.offset_bytes + index * image.num_elems();
            session.write(&Slot { offset_bytes, shape: image, ..resident }, pack.pixels(index)).unwrap();
        }
    }
    let options = LoaderOptions {
        batch_size: BATCH,
        augment: "compose".parse().unwrap(),
        normalization: Normalization::default(),
        deliver,
        seed: 5,
        workers: 1,
        prefetch: 2,
    };
    let mut loader = Loader::train(Arc::clone(&pack), &options, 0, 0).unwrap();
    let mut feed = Feed::new(session.plan(0));
    let slot = |session: &Session, name: &str| session.plan(0).slot(name).unwrap();
    (1..=2)
        .map(|update| {
            let batch = loader.next().unwrap().unwrap();
            feed.write(&mut session, &batch, Some(&annotations)).unwrap();
            loader.recycle(batch);
            session.run_micro_batch(0).unwrap();
            let hyper = slot(&session, values::HYPER);
            session.write(&hyper, &hyper_parameters(&config.optimiser, 0.01, update)).unwrap();
            session.run_update(0).unwrap();
            session.read::<f32>(&slot(&session, values::LOSS)).unwrap()[0]
        })
        .collect()
}

fn check(kind: ObjectsKind) {
    let by_host = losses(PixelSource::Host, Deliver::Images, kind);
    let of_batch = losses(PixelSource::Batch, Deliver::Pixels, kind);
    let held = losses(PixelSource::Resident { train: NUM_IMAGES, val: 1 }, Deliver::Indices, kind);
    assert_eq!(of_batch, held, "the same kernel on the same pixels");
    for (host, device) in by_host.iter().zip(&of_batch) {
        let error = (host - device).abs() / host;
        assert!(error <= 1e-4, "{by_host:?} by the host, {of_batch:?} by the device");
    }
}

#[test]
fn who_makes_the_images_does_not_matter() {
    check(ObjectsKind::Vector);
}

#[test]
fn objects_are_drawn_where_their_images_are() {
    check(ObjectsKind::Codes);
}
