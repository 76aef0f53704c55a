//! Networks in training on random batches, the same on every device.

#[path = "random_batch.rs"]
pub mod random_batch;

use random_batch::random_batch;
use residuum::graph::Role;
use residuum::step::Training;

/// Scale of the last batch norm of each branch. With 1, few images a step are chaotic: rounding decides the third loss.
const LAST_GAMMA: f32 = 0.1;

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
