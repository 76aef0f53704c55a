//! The learning rate as a pure function of the step: a resumed run cannot get another one.
//!
//! Warm-up comes first, then the decay runs over the steps that remain, as PyTorch's `SequentialLR(LinearLR,
//! CosineAnnealingLR)` does and timm with `--warmup-prefix`. Milestones are steps of the whole run.

use std::f64::consts::PI;

use crate::named::named;

named! {
    /// How the learning rate falls after the warm-up.
    pub enum Decay {
        /// The rate stays as it is after the warm-up.
        Constant = "constant",
        /// By a factor at each milestone.
        Step = "step",
        /// Along half a cosine wave, down to the least rate at the end of the run.
        Cosine = "cosine",
    }
}

/// The learning rate of every step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub lr: f64,
    /// The rate of the first step of a warm-up.
    pub warmup_lr: f64,
    /// Steps over which the rate rises; none, and the first step has the full rate.
    pub warmup_steps: u64,
    /// What follows the warm-up.
    pub shape: Shape,
}

/// A [`Decay`] with its times in steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// The same rate to the end.
    Constant,
    /// The rate times `rate` at each milestone.
    Step {
        /// Steps of the run, in rising order.
        milestones: Vec<u64>,
        /// Factor of the rate.
        rate: f64,
    },
    /// Half a cosine wave.
    Cosine {
        /// The rate at its end.
        min_lr: f64,
        /// Length of the warm-up in steps.
        steps: u64,
    },
}

impl Schedule {
    /// The learning rate of optimiser step `step`, counted from 0 over the whole run.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let progress = step as f64 / self.warmup_steps as f64;
            return self.warmup_lr + progress * (self.lr - self.warmup_lr);
        }
        match &self.shape {
            Shape::Constant => self.lr,
            Shape::Step { milestones, rate } => {
                let passed = milestones.partition_point(|&milestone| milestone <= step);
                self.lr * rate.powi(passed as i32)
            }
            Shape::Cosine { min_lr, steps } => {
                let progress = (step - self.warmup_steps).min(*steps) as f64 / (*steps).max(1) as f64;
                min_lr + 0.5 * (self.lr - min_lr) * (1.0 + (PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::TrainConfig;

    fn config(sched: Decay) -> TrainConfig {
        let (min_lr, warmup_lr, warmup_steps) = (0.0, 0.0, Some(0));
        TrainConfig { sched, min_lr, warmup_lr, warmup_steps, ..TrainConfig::defaults(None) }
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        let error = (found - expected).abs();
        assert!(error <= 1e-15, "{found} is not {expected}");
    }

    #[test]
    fn warm_up_is_linear_and_ends_at_the_rate() {
        let config = TrainConfig { warmup_lr: 0.1, warmup_epochs: Some(1.5), ..config(Decay::Constant) };
        let schedule = config.schedule(0.4, 4, 20).unwrap();
        // Six steps, each 0.05 higher.
        let expected = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4];
        for (step, expected) in expected.into_iter().enumerate() {
            assert_close(schedule.lr(step as u64), expected);
        }
        assert_close(schedule.lr(u64::MAX), 0.4);
    }

    #[test]
    fn cosine_passes_its_known_points_after_the_warm_up() {
        let config = TrainConfig { min_lr: 0.1, warmup_steps: Some(3), ..config(Decay::Cosine) };
        let schedule = config.schedule(0.4, 5, 15).unwrap();
        assert_close(schedule.lr(0), 0.0);
        assert_close(schedule.lr(3), 0.4);
        // A third of the way, cos(60 degrees) = 1/2; half-way 0; two thirds -1/2.
        assert_close(schedule.lr(7), 0.1 + 0.15 * 1.5);
        assert_close(schedule.lr(9), 0.25);
        assert_close(schedule.lr(11), 0.1 + 0.15 * 0.5);
        assert_close(schedule.lr(15), 0.1);
        assert_close(schedule.lr(1_000), 0.1);
    }

    #[test]
    fn cosine_matches_pytorch() {
        // torch.optim.lr_scheduler.SequentialLR(LinearLR(start_factor=0.01, total_iters=4),
        // CosineAnnealingLR(T_max=6, eta_min=0.001), milestones=[4]) with lr=0.05, evaluated in f64.
        let (min_lr, warmup_lr, warmup_steps) = (0.001, 0.0005, Some(4));
        let config = TrainConfig { min_lr, warmup_lr, warmup_steps, ..config(Decay::Cosine) };
        let schedule = config.schedule(0.05, 10, 10).unwrap();
        let expected =
            [0.0005, 0.012875, 0.02525, 0.037625, 0.05, 0.046717622, 0.03775, 0.0255, 0.01325, 0.004282378];
        for (step, expected) in expected.into_iter().enumerate() {
            let error = (schedule.lr(step as u64) - expected).abs();
            assert!(error <= 5e-10, "step {step}: {} is not {expected}", schedule.lr(step as u64));
        }
    }

    #[test]
    fn steps_fall_at_their_milestones() {
        let config =
            TrainConfig { decay_milestones: vec![1.0, 2.5], warmup_steps: Some(2), ..config(Decay::Step) };
        let schedule = config.schedule(0.4, 4, 16).unwrap();
        for (step, expected) in [(1, 0.2), (2, 0.4), (3, 0.4), (4, 0.04), (9, 0.04), (10, 0.004), (15, 0.004)]
        {
            assert_close(schedule.lr(step), expected);
        }
    }
}
