//! Random small shapes for every operation that has kernels: odd extents, channels that no vector divides and those that
//! whole vectors and tiles do, unequal windows, from one row to more than a block takes.
//!
//! Operations draw their own ([`Checks`](crate::ops::Checks)). A seed gives the same trials on every machine. A trial's
//! name holds the seed and the shapes, so that a failure can be run again alone.

use crate::fuse::{Rewrite, fuse};
use crate::graph::Init;
use crate::ops::{Draw, DrawTrial, Trial, cast, registry};
use crate::tensor::{DType, Layout};

/// One trial of every operation, and of every kernel that an operation chooses by the dimensions, drawn from `seed`.
pub fn random(seed: u64) -> Vec<Trial> {
    let of_ops = registry().into_iter().flat_map(|(_, checks)| checks.trials);
    (0..)
        .zip(of_ops.chain([Box::new(copies) as DrawTrial]))
        .map(|(number, draw_trial)| {
            let mut trial = draw_trial(&mut Draw::new(seed, number)).with_seed(seed);
            trial.name = format!("random {seed}/{}", trial.name);
            trial
        })
        .collect()
}

/// The copies of filters that fusion joins in one launch.
fn copies(draw: &mut Draw) -> Trial {
    let sizes = draw.tensor_sizes();
    let title = format!("bf16 copies: {} tensors, the first of {}", sizes.len(), sizes[0]);
    Trial::new(title, move |graph| {
        for (i, &size) in sizes.iter().enumerate() {
            let x = graph.parameter(&format!("x.{i}"), [size], Layout::Flat, Init::Constant(0.0));
            cast(graph, &format!("y.{i}"), x, DType::Bf16)?;
        }
        *graph = fuse(graph, &[Rewrite::MultiTensorCast])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_trials_and_another_one_others() {
        let names = |seed| random(seed).into_iter().map(|trial| trial.name).collect::<Vec<_>>();
        assert_eq!(names(3), names(3));
        let without_seed = |seed| -> Vec<String> {
            names(seed).iter().map(|name| name.split_once('/').unwrap().1.to_string()).collect()
        };
        assert_ne!(without_seed(3), without_seed(4));
    }
}
