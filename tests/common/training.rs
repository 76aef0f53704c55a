//! Networks in training on random batches, the same on every device.
// Each test file uses some of it.
#![allow(dead_code)]

use residuum::batch::Batch;
use residuum::graph::Role;
use residuum::rng::{Stream, Use};
use residuum::step::{StepConfig, Training};

/// Scale of the last batch norm of each branch. With 1, few images a step are chaotic: rounding decides the third loss.
const LAST_GAMMA: f32 = 0.1;

/// Batch `step` of a run with `config`: random pixels and labels.
pub fn random_batch(config: &StepConfig, num_classes: usize, step: u64) -> Batch {
    let mut stream = Stream::new(step, 0, 0, Use::Augment);
    let num_elems = config.batch_size * config.image_size * config.image_size * 3;
    let images = (0..num_elems).map(|_| stream.normal()).collect();
    let labels = (0..config.batch_size).map(|_| stream.below(num_classes as u32) as i32).collect();
    Batch::new(images, labels)
}

/// Sets the scale of the last batch norm of every branch, called `<block><last_norm>`.
pub fn damp_branches(training: &mut Training, last_norm: &str) {
    for p in training.session().program().persistent.clone() {
        if p.value.role == Role::Parameter
            && p.value.name.starts_with("layer")
            && p.value.name.ends_with(last_norm)
        {
            let gamma = vec![LAST_GAMMA; p.slot.shape.num_elems()];
            training.session_mut().write(&p.slot, &gamma).unwrap();
        }
    }
}

/// The losses of steps `from..to`, without a stop between them.
pub fn run(training: &mut Training, num_classes: usize, lr: f64, from: u64, to: u64) -> Vec<f32> {
    for step in from..to {
        let batch = random_batch(training.config(), num_classes, step);
        training.step(&batch, lr).unwrap();
    }
    training.take_results(|results| results.map(|result| result.loss).collect()).unwrap()
}

/// Every parameter, as bits.
pub fn weight_bits(training: &Training) -> Vec<u32> {
    let session = training.session();
    let parameters = session.program().persistent.iter().filter(|p| p.value.role == Role::Parameter);
    parameters.flat_map(|p| session.read::<f32>(&p.slot).unwrap().into_owned()).map(f32::to_bits).collect()
}
