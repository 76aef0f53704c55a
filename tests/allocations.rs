//! After its first steps, training allocates nothing inside a step. The only test of its process, since the counter
//! sees every thread.

#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use counting::NUM_ALLOCATIONS;

use residuum::batch::{Deliver, Loader, LoaderOptions, Normalization};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::device::{DeviceKind, Slot};
use residuum::exec::Session;
use residuum::models::Form;
use residuum::step::weights;
use residuum::step::{Optimiser, hyper_parameters, values};
use residuum::train::config::{OptimiserKind, TrainConfig};
use residuum::train::schedule::Schedule;
use residuum::train::trainer::program;

const BATCH_SIZE: usize = 4;
const IMAGE_SIZE: usize = 24;
const NUM_CATEGORIES: usize = 7;
/// Steps after which all buffers are in circulation and the pool's queues have grown to their size.
const WARM_UP_STEPS: u64 = 12;
const COUNTED_STEPS: u64 = 12;

/// What a step touches.
struct Run {
    session: Session,
    loader: Loader,
    schedule: Schedule,
    grad_accum_steps: usize,
    optimiser: Optimiser,
    images: Slot,
    labels: Slot,
    loss: Slot,
    hits: Slot,
    hyper: Slot,
}

impl Run {
    fn new(config: TrainConfig) -> Run {
        let step = config.step_config(NUM_CATEGORIES).unwrap();
        let mut session = Session::new(program(&step, DeviceKind::Cpu).unwrap()).unwrap();
        weights::initialise(&mut session, config.seed).unwrap();
        let scenes = SceneOptions {
            split: Split::Train,
            num_images: 50,
            num_categories: NUM_CATEGORIES,
            image_size: IMAGE_SIZE,
            seed: 1,
        };
        let options = LoaderOptions {
            batch_size: BATCH_SIZE,
            augment: "flip,shift".parse().unwrap(),
            normalization: Normalization::default(),
            deliver: Deliver::Images,
            seed: 1,
            workers: 1,
            prefetch: 4,
        };
        let slot = |name| session.plan(0).slot(name).unwrap();
        Run {
            images: slot(values::IMAGES),
            labels: slot(values::LABELS),
            loss: slot(values::LOSS),
            hits: slot(values::HITS),
            hyper: slot(values::HYPER),
            loader: Loader::train(Arc::new(Pack::from_scenes(&scenes)), &options, 0, 0).unwrap(),
            schedule: config.schedule(12, 2 * (WARM_UP_STEPS + COUNTED_STEPS)).unwrap(),
            session,
            grad_accum_steps: config.grad_accum_steps,
            optimiser: step.optimiser,
        }
    }

    /// One update as the trainer makes it, with the reading of its notes; returns the loss of its first batch.
    fn step(&mut self, number: u64) -> f32 {
        for _ in 0..self.grad_accum_steps {
            let batch = self.loader.next().unwrap().unwrap();
            self.session.write(&self.images, &batch.images).unwrap();
            self.session.write(&self.labels, &batch.labels).unwrap();
            self.loader.recycle(batch);
            self.session.run_micro_batch(0).unwrap();
            self.session.note(&self.loss).unwrap();
            self.session.note(&self.hits).unwrap();
        }
        let hyper = hyper_parameters(&self.optimiser, self.schedule.lr(number), number + 1);
        self.session.write(&self.hyper, &hyper).unwrap();
        self.session.run_update(0).unwrap();
        self.session.take_notes(|notes| bytemuck::pod_read_unaligned(&notes[..4])).unwrap()
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
        lr: 1e-3,
        model_ema_decay: Some(0.9),
        smoothing: 0.1,
        form: Form::V2,
        ..plain.clone()
    };
    let bottlenecks = TrainConfig { model: "resnet50".into(), ..plain.clone() };
    let unfused = TrainConfig { fuse: false, ..plain.clone() };
    let cases =
        [("plain", plain), ("everything", everything), ("bottlenecks", bottlenecks), ("unfused", unfused)];
    for (name, config) in cases {
        assert_eq!(count_allocations(config), 0, "{name}");
    }
}
