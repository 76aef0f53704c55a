//! The training state: one file that holds all a run needs to continue bit for bit.
//!
//! Weights, optimiser and averaged weights are its tensors, and [`TrainState`] is its metadata. Because it is
//! one file, replaced by one rename, a process may die at any moment and the next finds either this state or
//! the one before, whole. It is written between optimiser steps, so it never holds half-accumulated
//! gradients; random numbers need no state at all, since they are a function of (seed, epoch, sample).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::run::checkpoint::{self, NamedTensor};
use crate::run::metrics::Epoch;

/// Raised whenever the meaning of the file changes.
pub const FORMAT: u32 = 2;
/// The format whose states do not say what they belong to.
const WITHOUT_ORIGIN: u32 = 1;

/// The numbers of a training state. Every field must be there when one is read: a run that resumes from a
/// default resumes from something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// The version of the file's format, [`FORMAT`].
    pub format: u32,
    /// What the state belongs to; `None` in files of format 1 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The model the tensors belong to, such as `resnet18`.
    pub model: String,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// The epoch the next batch belongs to, counted from 0.
    pub epoch: u64,
    /// Batches of this epoch already trained on.
    pub batch_in_epoch: u64,
    /// Training images seen in the whole run.
    pub samples: u64,
    /// Wall time of training so far in seconds, over all processes of the run.
    #[serde(with = "exact")]
    pub train_seconds: f64,
    /// What the epoch in progress has summed up so far.
    pub partial: EpochSums,
    /// The best evaluation so far.
    #[serde(deserialize_with = "Option::deserialize")]
    pub best: Option<Best>,
    /// The epochs done, in order. Numbers that are not finite become NaN.
    pub history: Vec<Epoch>,
}

impl TrainState {
    /// The state before the first step.
    pub fn first(origin: Origin, model: String, seed: u64) -> TrainState {
        TrainState {
            format: FORMAT,
            origin: Some(origin),
            model,
            seed,
            step: 0,
            epoch: 0,
            batch_in_epoch: 0,
            samples: 0,
            train_seconds: 0.0,
            partial: EpochSums::default(),
            best: None,
            history: Vec::new(),
        }
    }
}

impl TrainState {
    /// The epochs since the best one, if they are at least `patience` and the last of them has just been evaluated.
    pub fn idle_epochs(&self, patience: u64) -> Option<u64> {
        let idle = self.epoch.saturating_sub(self.best?.epoch + 1);
        (self.batch_in_epoch == 0 && idle >= patience).then_some(idle)
    }

    /// Whether a run of `total_steps` that has this `patience` ends here.
    pub fn is_over(&self, total_steps: u64, patience: Option<u64>) -> bool {
        self.step >= total_steps || patience.is_some_and(|patience| self.idle_epochs(patience).is_some())
    }
}

/// What a state belongs to: with other settings or images, a run would not go on but become another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The settings that decide results, by name.
    pub settings: BTreeMap<String, String>,
    /// Names of the categories, by label.
    pub categories: Vec<String>,
    /// Fingerprint of the training images.
    pub train_images: u64,
    /// Fingerprint of the validation images.
    pub val_images: u64,
    /// Where the run took on the batch size it has.
    pub base: Base,
}

/// Where a run took on the batch size it has: at its start, or where it resumed with another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The epoch.
    pub epoch: u64,
    /// Batches of this size that stand for what was trained of that epoch before.
    pub batch_in_epoch: u64,
    /// Optimiser steps done before.
    pub step: u64,
    /// Training images seen before.
    pub samples: u64,
}

/// Sums over the batches of the epoch in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSums {
    /// Sum of the losses of `samples` images.
    #[serde(with = "exact")]
    pub loss: f64,
    /// Images seen.
    pub samples: u64,
    /// Images whose label was the first guess.
    pub correct1: u64,
    /// Wall time of training in seconds.
    #[serde(with = "exact")]
    pub train_seconds: f64,
    /// The part of `train_seconds` spent waiting for data.
    #[serde(with = "exact")]
    pub data_wait_seconds: f64,
}

/// The evaluation that `best.safetensors` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Epoch of the evaluation, counted from 0.
    pub epoch: u64,
    /// Its top-1 validation error in percent.
    #[serde(with = "exact")]
    pub err1: f64,
}

/// Writes the state to `path`, replacing an earlier one atomically. The tensors' names are the
/// caller's.
///
/// # Errors
/// As [`checkpoint::write_atomic`].
pub fn save(path: &Path, state: &TrainState, tensors: &[NamedTensor]) -> Result<()> {
    let metadata = serde_json::to_value(state).expect("a state of numbers and strings is JSON");
    checkpoint::write_atomic(path, tensors, &metadata)
}

/// Whether a file with this `metadata` is a state, of this version or another.
pub(super) fn is_state(metadata: &Value) -> bool {
    format_of(metadata).is_some()
}

fn format_of(metadata: &Value) -> Option<u64> {
    metadata.get("format").and_then(Value::as_u64)
}

/// Reads the state at `path`.
///
/// # Errors
/// As [`checkpoint::read`], and [`Error::Checkpoint`] if the file is a weight file, was written by another
/// version, or lacks a field.
pub fn load(path: &Path) -> Result<(TrainState, Vec<NamedTensor<'static>>)> {
    let file = checkpoint::read(path)?;
    match format_of(&file.metadata) {
        Some(format) if [WITHOUT_ORIGIN, FORMAT].map(u64::from).contains(&format) => {}
        Some(format) => {
            return Err(Error::checkpoint(
                path,
                format!(
                    "is a training state of format {format}, this version reads {FORMAT}; resume with the \
                     version that wrote it (see env.json)"
                ),
            ));
        }
        None => {
            return Err(Error::checkpoint(
                path,
                "holds weights but no training state; use it with `residuum eval --weights` or `predict`, and give \
                 --resume a run folder",
            ));
        }
    }
    let incomplete =
        |what: String| Error::checkpoint(path, format!("the training state is incomplete: {what}"));
    let state: TrainState =
        serde_json::from_value(file.metadata).map_err(|error| incomplete(error.to_string()))?;
    if state.origin.is_none() && state.format != WITHOUT_ORIGIN {
        return Err(incomplete("missing field `origin`".into()));
    }
    Ok((state, file.tensors))
}

/// An f64 in JSON without the loss of a bit: a number where JSON has one, else its bits in hexadecimal.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Exact {
        Number(f64),
        Bits(String),
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = match value.is_finite() {
            true => Exact::Number(*value),
            false => Exact::Bits(format!("{:016x}", value.to_bits())),
        };
        exact.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Exact::deserialize(deserializer)? {
            Exact::Number(value) => Ok(value),
            Exact::Bits(text) => {
                let bits = u64::from_str_radix(&text, 16).map_err(de::Error::custom)?;
                Ok(f64::from_bits(bits))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::metrics;

    fn state() -> TrainState {
        let origin = Origin {
            settings: BTreeMap::from([("lr".to_string(), "0.05".to_string())]),
            categories: vec!["beach".into(), "bridge".into()],
            train_images: u64::MAX,
            val_images: 7,
            base: Base::default(),
        };
        TrainState {
            format: FORMAT,
            origin: Some(origin),
            model: "resnet18".into(),
            seed: u64::MAX,
            step: 2_346,
            epoch: 3,
            batch_in_epoch: 17,
            samples: 300_288,
            train_seconds: 1.0 / 3.0,
            partial: EpochSums {
                loss: 0.1 + 0.2,
                samples: 1_088,
                correct1: 400,
                train_seconds: f64::MIN_POSITIVE,
                data_wait_seconds: -0.0,
            },
            best: Some(Best { epoch: 2, err1: 63.7 }),
            history: vec![metrics::Epoch {
                epoch: 0,
                step: 782,
                samples: 100_096,
                lr: 0.05,
                train_loss: 4.1,
                train_err1: 91.0,
                eval_n: 10_000,
                eval_loss: 3.9,
                eval_err1: 88.25,
                eval_err5: 66.5,
                train_seconds: 1_100.0,
                data_wait_seconds: 3.0,
                img_s: 91.0,
            }],
        }
    }

    fn tensors() -> Vec<NamedTensor<'static>> {
        ["ema.fc.bias", "model.conv1.weight", "model.fc.bias", "optimizer.momentum.fc.bias"]
            .into_iter()
            .map(|name| NamedTensor::f32(name, &[2], vec![name.len() as f32, 1.0]))
            .collect()
    }

    #[test]
    fn a_state_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.state.safetensors");
        let special = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, 0.1 + 0.2, -0.0];
        for value in special {
            let mut written = state();
            written.partial.loss = value;
            save(&path, &written, &tensors()).unwrap();
            let (read, _) = load(&path).unwrap();
            assert_eq!(read.partial.loss.to_bits(), value.to_bits(), "{value}");
        }
        save(&path, &state(), &tensors()).unwrap();
        let (read, read_tensors) = load(&path).unwrap();
        assert_eq!(read, state());
        assert_eq!(read.partial.data_wait_seconds.to_bits(), (-0.0_f64).to_bits());
        assert_eq!(read_tensors, tensors());
    }

    #[test]
    fn a_missing_or_unknown_field_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.state.safetensors");
        let whole = serde_json::to_value(state()).unwrap();
        let fields: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields.len(), 12);
        for field in fields {
            let mut metadata = whole.clone();
            metadata.as_object_mut().unwrap().remove(&field);
            checkpoint::write_atomic(&path, &[], &metadata).unwrap();
            assert!(load(&path).is_err(), "{field} is missing");
        }
        let mut metadata = whole;
        metadata["scaler"] = 2.into();
        checkpoint::write_atomic(&path, &[], &metadata).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("incomplete: unknown field `scaler`"), "{error}");
    }

    #[test]
    fn a_state_of_the_first_format_does_not_say_what_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.state.safetensors");
        let old = TrainState { format: WITHOUT_ORIGIN, origin: None, ..state() };
        save(&path, &old, &tensors()).unwrap();
        assert_eq!(load(&path).unwrap().0, old);
    }

    #[test]
    fn every_flipped_bit_of_a_state_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.state.safetensors");
        save(&path, &state(), &tensors()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert!(load(&path).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(load(&path).unwrap().0, state());
    }

    #[test]
    fn weights_and_other_versions_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("best.safetensors");
        checkpoint::write_atomic(&path, &tensors(), &Value::Null).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("no training state; use it with"));
        let newer = TrainState { format: FORMAT + 1, ..state() };
        save(&path, &newer, &tensors()).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("state of format 3, this version reads 2"));
    }
}
