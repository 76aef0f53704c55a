//! After its first steps, training allocates nothing inside a step. The only test of its process, since the counter
//! sees every thread.

#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use counting::NUM_ALLOCATIONS;

use residuum::batch::{BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::device::{Device, DeviceKind};
use residuum::fuse::Fusion;
use residuum::models::Variant;
use residuum::step::Training;
use residuum::train::config::{OptimiserKind, TrainConfig};
use residuum::train::schedule::Schedule;

const BATCH_SIZE: usize = 4;
const IMAGE_SIZE: usize = 24;
const NUM_CATEGORIES: usize = 7;
/// Steps after which all buffers are in circulation and the pool's queues have grown to their size.
const WARM_UP_STEPS: u64 = 12;
const COUNTED_STEPS: u64 = 12;

/// A training with the batches that it takes.
struct Run {
    training: Training,
    loader: Loader,
    schedule: Schedule,
}

impl Run {
    fn new(config: TrainConfig) -> Run {
        let scenes = SceneOptions {
            split: Split::Train,
            num_images: 50,
            num_categories: NUM_CATEGORIES,
            image_size: IMAGE_SIZE,
            seed: 1,
        };
        let options = LoaderOptions {
            augment: "flip,shift".parse().unwrap(),
            normalization: Normalization::default(),
            contents: BatchContents::Images,
            seed: 1,
            workers: 1,
            prefetch: 4,
            ..LoaderOptions::new(BATCH_SIZE)
        };
        Run {
            training: Training::new(
                config.step_config(NUM_CATEGORIES, DeviceKind::Cpu).unwrap(),
                Device::Cpu,
            )
            .unwrap(),
            loader: Loader::train(Arc::new(Pack::from_scenes(&scenes)), &options, 0, 0).unwrap(),
            schedule: config
                .schedule(config.lr_for(scenes.num_images), 12, 2 * (WARM_UP_STEPS + COUNTED_STEPS))
                .unwrap(),
        }
    }

    /// One update, with the reading of its results; returns its loss.
    fn step(&mut self, number: u64) -> f32 {
        for _ in 0..self.training.config().grad_accum_steps {
            let batch = self.loader.next().unwrap().unwrap();
            self.training.step(&batch, self.schedule.lr(number)).unwrap();
            self.loader.recycle(batch);
        }
        self.training.loss().unwrap()
    }
}

/// Allocations of the counted steps under `config`.
fn count_allocations(config: TrainConfig) -> usize {
    let mut run = Run::new(config);
    // On one of the pool's threads, as the trainer does: handing work over from outside would allocate.
    rayon::scope(|_| {
        (0..WARM_UP_STEPS).for_each(|number| _ = run.step(number));
        let before = NUM_ALLOCATIONS.load(Ordering::Relaxed);
        let losses = (0..COUNTED_STEPS).map(|number| run.step(WARM_UP_STEPS + number));
        let finite = losses.filter(|loss| loss.is_finite()).count();
        let count = NUM_ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(finite, COUNTED_STEPS as usize);
        count
    })
}

#[test]
fn a_training_step_allocates_nothing() {
    let plain = TrainConfig { img_size: IMAGE_SIZE, batch_size: BATCH_SIZE, ..TrainConfig::defaults(None) };
    let everything = TrainConfig {
        grad_accum_steps: 2,
        clip_grad: Some(1.0),
        opt: OptimiserKind::AdamW,
        lr: Some(1e-3),
        model_ema_decay: Some(0.9),
        smoothing: 0.1,
        form: Variant::V2,
        ..plain.clone()
    };
    let bottlenecks = TrainConfig { model: "resnet50".into(), ..plain.clone() };
    let unfused = TrainConfig { fuse: Fusion::NONE, ..plain.clone() };
    let cases =
        [("plain", plain), ("everything", everything), ("bottlenecks", bottlenecks), ("unfused", unfused)];
    for (name, config) in cases {
        assert_eq!(count_allocations(config), 0, "{name}");
    }
}
