//! The learning rate as a pure function of the step: a resumed run cannot get another one.
//!
//! Warm-up comes first, then the decay runs over the steps that remain, as PyTorch's `SequentialLR(LinearLR,
//! CosineAnnealingLR)` does and timm with `--warmup-prefix`. Milestones are epochs of the whole run, as the
//! user counts them.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Not at all.
    Constant,
    /// By a factor at each milestone.
    Step,
    /// Along half a cosine wave, down to the least rate at the end of the run.
    Cosine,
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(text: &str) -> Result<Decay> {
        match text {
            "constant" => Ok(Decay::Constant),
            "step" => Ok(Decay::Step),
            "cosine" => Ok(Decay::Cosine),
            other => Err(Error::Usage(format!("--sched {other}: give constant, step or cosine"))),
        }
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Decay::Constant => "constant",
            Decay::Step => "step",
            Decay::Cosine => "cosine",
        })
    }
}

/// The length of the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Warmup {
    /// So many optimiser steps.
    Steps(u64),
    /// So many epochs, which need not be whole.
    Epochs(f64),
}

/// What the user chooses of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape of the decay.
    pub decay: Decay,
    /// The rate at the end of the warm-up.
    pub lr: f64,
    /// The rate a cosine ends at.
    pub min_lr: f64,
    /// The rate of the first step of a warm-up.
    pub warmup_lr: f64,
    /// The length of the warm-up.
    pub warmup: Warmup,
    /// Epochs, in rising order, at whose start a step decay multiplies the rate by `decay_rate`.
    pub milestones: Vec<f64>,
    /// The factor of a step decay.
    pub decay_rate: f64,
}

/// The learning rate of every step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    lr: f64,
    warmup_lr: f64,
    warmup_steps: u64,
    shape: Shape,
}

/// A decay with its times in steps.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Constant,
    Step { milestones: Vec<u64>, rate: f64 },
    Cosine { min_lr: f64, steps: u64 },
}

impl Schedule {
    /// The schedule of a run of `total_steps` optimiser steps, `steps_per_epoch` of them in an epoch.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the flag, if a rate is negative or not finite, if milestones are missing,
    /// negative or not rising, or if the warm-up is as long as the run.
    pub fn new(config: &ScheduleConfig, steps_per_epoch: u64, total_steps: u64) -> Result<Schedule> {
        config.validate()?;
        let to_steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        let warmup_steps = match config.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Epochs(epochs) => to_steps(epochs),
        };
        if warmup_steps > 0 && warmup_steps >= total_steps {
            return Err(Error::Usage(format!(
                "the warm-up takes {warmup_steps} steps and the run only {total_steps}; shorten it with \
                 --warmup-epochs or train longer"
            )));
        }
        let shape = match config.decay {
            Decay::Constant => Shape::Constant,
            Decay::Step => Shape::Step {
                milestones: config.milestones.iter().map(|&epoch| to_steps(epoch)).collect(),
                rate: config.decay_rate,
            },
            Decay::Cosine => Shape::Cosine { min_lr: config.min_lr, steps: total_steps - warmup_steps },
        };
        Ok(Schedule { lr: config.lr, warmup_lr: config.warmup_lr, warmup_steps, shape })
    }

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

impl ScheduleConfig {
    /// Checks rates and milestones, which do not depend on the length of the run.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let rates = [
            ("--lr", self.lr),
            ("--min-lr", self.min_lr),
            ("--warmup-lr", self.warmup_lr),
            ("--decay-rate", self.decay_rate),
        ];
        if let Some((flag, value)) =
            rates.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0))
        {
            return Err(Error::Usage(format!("{flag} {value}: give a number of 0 or more")));
        }
        if let Warmup::Epochs(epochs) = self.warmup
            && !(epochs.is_finite() && epochs >= 0.0)
        {
            return Err(Error::Usage(format!("--warmup-epochs {epochs}: give a number of 0 or more")));
        }
        if self.decay != Decay::Step {
            return Ok(());
        }
        let rising = self.milestones.is_sorted_by(|a, b| a < b);
        let in_range = self.milestones.iter().all(|epoch| epoch.is_finite() && *epoch >= 0.0);
        if self.milestones.is_empty() || !rising || !in_range {
            return Err(Error::Usage(format!(
                "--sched step with --decay-milestones {:?}: give epochs in rising order, such as 30,60,80",
                self.milestones
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(decay: Decay) -> ScheduleConfig {
        ScheduleConfig {
            decay,
            lr: 0.4,
            min_lr: 0.0,
            warmup_lr: 0.0,
            warmup: Warmup::Steps(0),
            milestones: vec![],
            decay_rate: 0.1,
        }
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        let error = (found - expected).abs();
        assert!(error <= 1e-15, "{found} is not {expected}");
    }

    #[test]
    fn warm_up_is_linear_and_ends_at_the_rate() {
        let schedule = Schedule::new(
            &ScheduleConfig { warmup_lr: 0.1, warmup: Warmup::Epochs(1.5), ..config(Decay::Constant) },
            4,
            20,
        )
        .unwrap();
        // Six steps, each 0.05 higher.
        let expected = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4];
        for (step, expected) in expected.into_iter().enumerate() {
            assert_close(schedule.lr(step as u64), expected);
        }
        assert_close(schedule.lr(u64::MAX), 0.4);
    }

    #[test]
    fn cosine_passes_its_known_points_after_the_warm_up() {
        let schedule = Schedule::new(
            &ScheduleConfig { min_lr: 0.1, warmup: Warmup::Steps(3), ..config(Decay::Cosine) },
            5,
            15,
        )
        .unwrap();
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
        let schedule = Schedule::new(
            &ScheduleConfig {
                lr: 0.05,
                min_lr: 0.001,
                warmup_lr: 0.0005,
                warmup: Warmup::Steps(4),
                ..config(Decay::Cosine)
            },
            10,
            10,
        )
        .unwrap();
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
            ScheduleConfig { milestones: vec![1.0, 2.5], warmup: Warmup::Steps(2), ..config(Decay::Step) };
        let schedule = Schedule::new(&config, 4, 16).unwrap();
        for (step, expected) in [(1, 0.2), (2, 0.4), (3, 0.4), (4, 0.04), (9, 0.04), (10, 0.004), (15, 0.004)]
        {
            assert_close(schedule.lr(step), expected);
        }
    }

    #[test]
    fn unusable_values_name_their_flag() {
        let cases = [
            (ScheduleConfig { lr: -0.1, ..config(Decay::Constant) }, "--lr -0.1"),
            (ScheduleConfig { lr: f64::NAN, ..config(Decay::Constant) }, "--lr NaN"),
            (ScheduleConfig { warmup_lr: f64::INFINITY, ..config(Decay::Constant) }, "--warmup-lr inf"),
            (ScheduleConfig { warmup: Warmup::Epochs(-1.0), ..config(Decay::Cosine) }, "--warmup-epochs -1"),
            (
                ScheduleConfig { warmup: Warmup::Steps(20), ..config(Decay::Cosine) },
                "the warm-up takes 20 steps",
            ),
            (config(Decay::Step), "--decay-milestones []"),
            (ScheduleConfig { milestones: vec![3.0, 2.0], ..config(Decay::Step) }, "rising order"),
            (ScheduleConfig { milestones: vec![f64::NAN], ..config(Decay::Step) }, "rising order"),
        ];
        for (config, expected) in cases {
            let error = Schedule::new(&config, 4, 20).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(expected), "{error} does not say {expected:?}");
        }
        assert!("linear".parse::<Decay>().unwrap_err().to_string().contains("constant, step or cosine"));
        assert_eq!("cosine".parse::<Decay>().unwrap().to_string(), "cosine");
    }
}
