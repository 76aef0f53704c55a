//! Every setting of a training run, as `config.toml` keeps it and the flags set it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::schedule::{Decay, Schedule, ScheduleConfig, Warmup};
use crate::batch::{Augment, batches_per_epoch};
use crate::data::annotations::Capacity;
use crate::error::{Error, Result};
use crate::models::{Form, Model, Objects, ObjectsKind, Options};
use crate::ops::{AdamConfig, SgdConfig};
use crate::run::model_card::ModelCard;
use crate::step::{Optimiser, PixelSource, StepConfig, Trained, check_image_size};
use crate::tensor::DType;
use crate::transform::Normalization;

/// Settings of a run. Two runs with equal settings on the same device end in the same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Data set; generated scenes if absent.
    pub data_dir: Option<PathBuf>,
    /// Keep the first so many categories.
    pub categories: Option<usize>,
    /// Keep so many training images, spread over the categories.
    pub limit_train: Option<usize>,
    /// Keep so many validation images, spread over the categories.
    pub limit_val: Option<usize>,
    /// Leave out listed images that are missing or unreadable.
    pub allow_missing: bool,
    /// Where decoded photos are kept.
    pub cache_dir: Option<PathBuf>,
    /// Threads that prepare batches.
    pub workers: usize,
    /// Network, e.g. `resnet18`.
    pub model: String,
    /// Form of its blocks: v1, v1.5 or v2.
    pub form: String,
    /// Height and width of the images in pixels.
    pub img_size: usize,
    /// How object annotations are taken in: none, masks, vector or codes.
    pub objects: String,
    /// Weights to start from, torchvision's or this program's, all but the last layer.
    pub pretrained: Option<PathBuf>,
    /// Train the last layer alone.
    pub freeze: bool,
    /// Factor of the learning rate before the last layer.
    pub backbone_lr_scale: f64,
    /// Mean of each channel, for pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// Augmentations, see `--augment`.
    pub augment: String,
    /// Images of a batch.
    pub batch_size: usize,
    /// Batches per update.
    pub grad_accum_steps: usize,
    /// Passes over the training images, or groups of `steps_per_epoch` updates.
    pub epochs: u64,
    /// Updates of an epoch; as many as the images give if absent.
    pub steps_per_epoch: Option<u64>,
    /// Most updates of the run; the schedule then spans these.
    pub max_steps: Option<u64>,
    /// Update rule: sgd, adam or adamw.
    pub opt: String,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Momentum of SGD, first decay of Adam.
    pub momentum: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay, on every parameter.
    pub weight_decay: f32,
    /// Shape of the learning rate over time.
    pub sched: Decay,
    /// Epochs of warm-up; `warmup_steps` if absent.
    pub warmup_epochs: Option<f64>,
    /// Steps of warm-up; if absent too, 40 or a fifth of the run, whichever is less.
    pub warmup_steps: Option<u64>,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// Learning rate at the end of a cosine.
    pub min_lr: f64,
    /// Epochs after which a step schedule lowers the rate.
    pub decay_milestones: Vec<f64>,
    /// Factor of a step schedule.
    pub decay_rate: f64,
    /// Label smoothing.
    pub smoothing: f32,
    /// Largest norm of the gradient.
    pub clip_grad: Option<f32>,
    /// Decay of the averaged weights, which are then evaluated and kept as best.
    pub model_ema_decay: Option<f32>,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
    /// Where to run.
    pub device: String,
    /// Type of activations: f32 or bf16.
    pub precision: String,
    /// Run fused operations.
    pub fuse: bool,
    /// Updates between lines of the log.
    pub log_interval: u64,
    /// Updates between checkpoints within an epoch; 0 for none.
    pub recovery_interval: u64,
    /// The folder that run folders go into.
    pub output: PathBuf,
    /// Name of the run, behind its time stamp.
    pub experiment: Option<String>,
}

/// What the network has to know of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFacts {
    /// Number of categories.
    pub num_classes: usize,
    /// Number of classes of objects; of no account without `objects`.
    pub num_object_classes: usize,
    /// Rows for the largest annotation of an image.
    pub largest_annotation: Capacity,
}

impl From<usize> for DataFacts {
    /// So many categories, and MiniPlaces' objects without an annotated image.
    fn from(num_classes: usize) -> DataFacts {
        let largest_annotation = Capacity { points: 1, objects: 1 };
        DataFacts { num_classes, num_object_classes: MINIPLACES_OBJECT_CLASSES, largest_annotation }
    }
}

/// Names in MiniPlaces' object_categories.txt.
const MINIPLACES_OBJECT_CLASSES: usize = 175;

impl TrainConfig {
    /// The default settings for a data set, or for generated scenes.
    pub fn defaults(data_dir: Option<PathBuf>) -> TrainConfig {
        let scenes = data_dir.is_none();
        TrainConfig {
            data_dir,
            categories: None,
            limit_train: None,
            limit_val: None,
            allow_missing: false,
            cache_dir: None,
            workers: 1,
            model: "resnet18".into(),
            form: Form::V1_5.to_string(),
            img_size: if scenes { 32 } else { 128 },
            objects: "none".into(),
            pretrained: None,
            freeze: false,
            backbone_lr_scale: 1.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            augment: "flip".into(),
            batch_size: 64,
            grad_accum_steps: 1,
            epochs: if scenes { 8 } else { 90 },
            steps_per_epoch: None,
            max_steps: None,
            opt: "sgd".into(),
            // Scenes are few: at 0.05 some seeds end at twice the error of others.
            lr: if scenes { 0.03 } else { 0.05 },
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            sched: Decay::Cosine,
            warmup_epochs: None,
            warmup_steps: None,
            warmup_lr: 1e-5,
            min_lr: 0.0,
            decay_milestones: vec![],
            decay_rate: 0.1,
            smoothing: 0.0,
            clip_grad: None,
            model_ema_decay: None,
            seed: 0,
            device: "auto".into(),
            precision: "f32".into(),
            fuse: true,
            log_interval: 10,
            recovery_interval: 0,
            output: "runs".into(),
            experiment: None,
        }
    }

    /// The settings that prepare images as the model of `card` expects them.
    pub fn of_model(card: &ModelCard, batch_size: usize) -> TrainConfig {
        TrainConfig {
            model: card.model.clone(),
            form: card.form.clone(),
            objects: card.objects.as_ref().map_or("none", |objects| &objects.kind).into(),
            img_size: card.img_size,
            mean: card.mean,
            std: card.std,
            batch_size,
            ..TrainConfig::defaults(None)
        }
    }

    /// What pixel values become.
    pub fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean, std: self.std }
    }

    /// The model for such data.
    ///
    /// # Errors
    /// [`Error::Usage`] if model or form are unknown.
    pub fn model(&self, facts: impl Into<DataFacts>) -> Result<Model> {
        let facts = facts.into();
        let form = self.form.parse().map_err(|message| Error::Usage(format!("--form: {message}")))?;
        let objects = ObjectsKind::parse_optional(&self.objects)?
            .map(|kind| Objects { kind, num_classes: facts.num_object_classes });
        Model::new(&self.model, Options { num_classes: facts.num_classes, form, objects })
    }

    /// What the training graph is made from.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that cannot be used.
    pub fn step_config(&self, facts: impl Into<DataFacts>) -> Result<StepConfig> {
        self.validate()?;
        let facts = facts.into();
        Ok(StepConfig {
            network: Arc::new(self.model(facts)?),
            batch_size: self.batch_size,
            image_size: self.img_size,
            float: if self.precision == "bf16" { DType::Bf16 } else { DType::F32 },
            optimiser: self.optimiser()?,
            smoothing: self.smoothing,
            clip_grad: self.clip_grad,
            grad_accum_steps: self.grad_accum_steps,
            ema_decay: self.model_ema_decay,
            trained: match (self.freeze, self.backbone_lr_scale) {
                (true, _) => Trained::LastLayer,
                (false, 1.0) => Trained::All,
                (false, backbone_lr_scale) => Trained::TwoRates { backbone_lr_scale },
            },
            pixels: PixelSource::Host,
            normalization: self.normalization(),
            largest_annotation: facts.largest_annotation,
            mixes: self.augment.parse::<Augment>()?.mixes(),
            fuse: self.fuse,
            seed: self.seed,
            keep_inputs: false,
        })
    }

    /// The learning rate of a run of `total_steps` updates, `steps_per_epoch` of them in an epoch.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that cannot be used.
    pub fn schedule(&self, steps_per_epoch: u64, total_steps: u64) -> Result<Schedule> {
        Schedule::new(&self.schedule_config(total_steps), steps_per_epoch, total_steps)
    }

    fn schedule_config(&self, total_steps: u64) -> ScheduleConfig {
        let default_steps = (total_steps / 5).min(40);
        ScheduleConfig {
            decay: self.sched,
            lr: self.lr,
            min_lr: self.min_lr,
            warmup_lr: self.warmup_lr,
            warmup: match self.warmup_epochs {
                Some(epochs) => Warmup::Epochs(epochs),
                None => Warmup::Steps(self.warmup_steps.unwrap_or(default_steps)),
            },
            milestones: self.decay_milestones.clone(),
            decay_rate: self.decay_rate,
        }
    }

    /// Updates of an epoch and of the run, for so many training images.
    ///
    /// # Errors
    /// [`Error::Usage`] if an epoch has not enough images for one update.
    pub fn steps(&self, num_train: usize) -> Result<(u64, u64)> {
        let batches = batches_per_epoch(num_train, self.batch_size)?;
        let steps_per_epoch = self.steps_per_epoch.unwrap_or((batches / self.grad_accum_steps) as u64);
        if steps_per_epoch == 0 {
            return Err(Error::Usage(format!(
                "--batch-size {} times --grad-accum-steps {} is more than the {num_train} training images; lower one",
                self.batch_size, self.grad_accum_steps
            )));
        }
        let total = self.epochs.saturating_mul(steps_per_epoch);
        Ok((steps_per_epoch, self.max_steps.map_or(total, |most| most.min(total))))
    }

    fn optimiser(&self) -> Result<Optimiser> {
        let adam = |decoupled| {
            let weight_decay = self.weight_decay;
            Optimiser::Adam(AdamConfig {
                beta1: self.momentum,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay,
                decoupled,
            })
        };
        match self.opt.as_str() {
            "sgd" => Ok(Optimiser::Sgd(SgdConfig {
                momentum: self.momentum as f32,
                nesterov: self.nesterov,
                weight_decay: self.weight_decay,
            })),
            "adam" => Ok(adam(false)),
            "adamw" => Ok(adam(true)),
            other => Err(Error::Usage(format!("--opt `{other}` is unknown; take sgd, adam or adamw"))),
        }
    }

    /// Checks what can be checked without the data, which may take minutes to read.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that cannot be used.
    pub fn validate(&self) -> Result<()> {
        self.model(1)?;
        let takes_objects = ObjectsKind::parse_optional(&self.objects)?.is_some();
        if self.augment.parse::<Augment>()?.mixes() && takes_objects {
            return Err(Error::Usage(format!(
                "--objects {} with --augment {}: a mixed image would show the objects of one of its two photos; take a \
                 policy without mixup and cutmix",
                self.objects, self.augment
            )));
        }
        self.schedule_config(u64::MAX).validate()?;
        if self.experiment.as_deref().is_some_and(|name| name.contains(['/', '\\'])) {
            return Err(Error::Usage("--experiment: is a part of a folder's name; leave out slashes".into()));
        }
        let at_least_one = [
            ("--batch-size", self.batch_size as u64),
            ("--grad-accum-steps", self.grad_accum_steps as u64),
            ("--epochs", self.epochs),
            ("--steps-per-epoch", self.steps_per_epoch.unwrap_or(1)),
            ("--max-steps", self.max_steps.unwrap_or(1)),
            ("--limit-train", self.limit_train.unwrap_or(1) as u64),
            ("--limit-val", self.limit_val.unwrap_or(1) as u64),
            ("--log-interval", self.log_interval),
            ("--workers", self.workers as u64),
        ];
        if let Some((flag, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Usage(format!("{flag} 0: must be at least 1")));
        }
        check_image_size(self.img_size)?;
        let shares = [
            ("--momentum", self.momentum),
            ("--smoothing", f64::from(self.smoothing)),
            ("--model-ema-decay", f64::from(self.model_ema_decay.unwrap_or(0.0))),
        ];
        if let Some((flag, value)) = shares.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return Err(Error::Usage(format!("{flag} {value}: must be at least 0 and below 1")));
        }
        if !(self.backbone_lr_scale >= 0.0 && self.backbone_lr_scale.is_finite()) {
            return Err(Error::Usage(format!(
                "--backbone-lr-scale {}: must be a number from 0 up",
                self.backbone_lr_scale
            )));
        }
        if self.freeze && self.backbone_lr_scale != 1.0 {
            return Err(Error::Usage(
                "--freeze and --backbone-lr-scale: frozen layers have no rate; leave one out".into(),
            ));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::Usage(format!(
                "--weight-decay {}: must be a number from 0 up",
                self.weight_decay
            )));
        }
        if self.clip_grad.is_some_and(|norm| !(norm > 0.0 && norm.is_finite())) {
            return Err(Error::Usage("--clip-grad: must be a number above 0".into()));
        }
        if self.mean.iter().any(|mean| !mean.is_finite()) {
            return Err(Error::Usage(format!("--mean {:?}: each must be a number", self.mean)));
        }
        if self.std.iter().any(|std| !(*std > 0.0 && std.is_finite())) {
            return Err(Error::Usage(format!("--std {:?}: each must be a number above 0", self.std)));
        }
        match self.precision.as_str() {
            "f32" | "bf16" => Ok(()),
            other => Err(Error::Usage(format!("--precision `{other}` is unknown; take f32 or bf16"))),
        }
    }
}
