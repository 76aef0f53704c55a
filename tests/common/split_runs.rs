//! A training that several ranks split, and what it leaves on each.

use std::ops::Range;
use std::sync::Arc;

use residuum::batch::LoaderOptions;
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::models::{Model, Options};
use residuum::ops::SgdConfig;
use residuum::step::{Optimiser, StepConfig, Training};

use crate::random_batch::random_batch;

pub const CLASSES: usize = 5;
pub const LR: f64 = 0.05;
/// Batches of an update, by one rank or by several.
pub const BATCHES: usize = 6;

/// The start of most configurations.
pub fn config(model: &str) -> StepConfig {
    StepConfig {
        optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }),
        smoothing: 0.1,
        seed: 5,
        ..StepConfig::new(Model::new(model, Options::new(CLASSES)).unwrap(), 3, 32)
    }
}

/// The configuration of each of so many ranks.
pub fn split(config: &StepConfig, num_ranks: usize) -> StepConfig {
    split_of(config, BATCHES, num_ranks)
}

/// The configuration of each of so many ranks that take so many batches an update together.
pub fn split_of(config: &StepConfig, batches: usize, num_ranks: usize) -> StepConfig {
    StepConfig { num_ranks, grad_accum_steps: batches / num_ranks, ..config.clone() }
}

/// What a run leaves: its state, the losses of all batches, and an evaluation.
#[derive(Debug, PartialEq)]
pub struct Left {
    pub state: Vec<(String, Vec<u32>)>,
    pub losses: Vec<u32>,
    pub evaluation: (Vec<u32>, u64),
}

/// The state, as bits.
pub fn state(training: &Training) -> Vec<(String, Vec<u32>)> {
    let bits = |elems: &[f32]| elems.iter().map(|elem| elem.to_bits()).collect();
    training.state().unwrap().iter().map(|t| (t.name.clone(), bits(t.as_f32().unwrap()))).collect()
}

/// Updates `updates` of the run by one of `num_ranks` ranks.
pub fn train(training: &mut Training, index: usize, updates: Range<usize>) {
    let config = training.config().clone();
    for update in updates {
        for round in 0..config.grad_accum_steps {
            let number = update * config.batches_per_update() + round * config.num_ranks + index;
            training.step(&random_batch(&config, CLASSES, number as u64), LR).unwrap();
        }
    }
}

/// Trains and evaluates as rank `index`.
pub fn leave(training: &mut Training, updates: usize, index: usize) -> Left {
    train(training, index, 0..updates);
    let (num_images, image_size) = (5 * training.config().batch_size + 1, training.config().image_size);
    let scenes = SceneOptions { split: Split::Val, num_images, num_categories: 5, image_size, seed: 3 };
    let options = LoaderOptions::new(training.config().batch_size);
    let evaluation = training.evaluate(&Arc::new(Pack::from_scenes(&scenes)), &options, || None).unwrap();
    // What steps have left stays for whoever reads it, whatever is evaluated meanwhile.
    let losses = training.take_results(|results| results.map(|result| result.loss.to_bits()).collect());
    let told = evaluation
        .predictions
        .iter()
        .flat_map(|p| [p.index, p.label, p.guess, p.guess_probability.to_bits()]);
    let counts = [evaluation.correct1 as u32, evaluation.correct5 as u32, evaluation.num_images as u32];
    Left {
        state: state(training),
        losses: losses.unwrap(),
        evaluation: (told.chain(counts).collect(), evaluation.loss.to_bits()),
    }
}
