//! A batch of random numbers, the same on every device and rank.

use residuum::batch::Batch;
use residuum::rng::{Stream, Use};
use residuum::step::StepConfig;

/// Batch `step` of a run with `config`: random pixels and labels.
pub fn random_batch(config: &StepConfig, num_classes: usize, step: u64) -> Batch {
    let mut stream = Stream::new(step, 0, 0, Use::Augment);
    let num_elems = config.batch_size * config.image_size * config.image_size * 3;
    let images = (0..num_elems).map(|_| stream.normal()).collect();
    let labels = (0..config.batch_size).map(|_| stream.below(num_classes as u32) as i32).collect();
    Batch::new(images, labels)
}
