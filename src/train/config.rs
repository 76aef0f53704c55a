//! Every setting of a training run: one table, from which come the flags with their help, `config.toml`, the keys of
//! recipes, the defaults and the ranges.

mod ranks;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::PossibleValuesParser;

use super::growth::GROW_STEP;
use super::precision::{GradWire, PrecisionChoice};
use super::recipe::Recipe;
use super::schedule::{Decay, Schedule, Shape};
use super::setting::{ANY, SettingFlags, Subset, above, flag, given, off, on, settings};
use super::value::{Written, named_values, none_or};
use crate::batch::{Augment, BatchContents, LoaderOptions, batches_per_epoch};
use crate::data::annotations::{Capacity, SplitAnnotations};
use crate::device::{DeviceChoice, DeviceKind};
use crate::error::{Error, Result};
use crate::fuse::Fusion;
use crate::models::{self, Model, Objects, ObjectsKind, Options, Variant};
use crate::named::named;
use crate::ops::{AdamConfig, SgdConfig};
use crate::run::model_card::ModelCard;
use crate::step::{AllReduce, IMAGE_SIZES, Optimiser, PixelSource, StepConfig, SumOrder, Trained};
use crate::transform::Normalization;

settings! {
    /// Settings of a run. Two runs with equal settings on the same device end in the same bits.
    pub struct TrainConfig {
        ["Data"]
        /// Data set: MiniPlaces, or a folder per category under train/ and val/.
        data_dir: Option<PathBuf> = None, resume Free => flag("DIR").alias("data-path");
        /// Keep the first N categories.
        categories: Option<usize> = None, range 1.. => flag("N");
        /// Keep N training images, spread over the categories.
        limit_train: Option<usize> = None, range 1.. => flag("N");
        /// Keep N validation images, spread over the categories.
        limit_val: Option<usize> = None, range 1.. => flag("N");
        /// Leave out listed images that are missing or unreadable.
        allow_missing: bool = false, resume Free => on();
        /// Where decoded photos are kept.
        cache_dir: Option<PathBuf> = None, shown "RESIDUUM_CACHE, or residuum in the user's cache folder", resume Free
            => flag("DIR");
        /// Threads that prepare batches.
        workers: usize = 1, range 1..=1024, resume Free => flag("N").short('j');

        ["Model"]
        /// Network.
        model: String = "resnet18".into() => flag("NAME").value_parser(PossibleValuesParser::new(models::names()));
        /// Variant of the blocks: He 2015, torchvision, pre-activation.
        form: Variant = Variant::V1_5 => flag("FORM");
        /// Height and width of the images in pixels.
        img_size: usize = 128, scenes 32, range IMAGE_SIZES => flag("PIXELS").alias("train-crop-size");
        /// Height and width of the training images at first, which then grow to --img-size; evaluation takes full ones.
        grow_from: Option<usize> = None, range IMAGE_SIZES => flag("PIXELS");
        /// Pixels by which the training images grow at a time.
        grow_step: usize = GROW_STEP, range 1..=1024 => flag("PIXELS");
        /// Epochs before the first with full images.
        grow_epochs: Option<u64> = None, shown "such that each size has equally many" => flag("N");
        /// Take in where objects are: a second head for masks, a presence vector, or codes next to the image.
        #[serde(with = "none_or")]
        objects: Option<ObjectsKind> = None => flag("WAY");
        /// Start every last batch norm of a residual branch at zero, so that blocks begin as identities.
        zero_init_last: bool = false => on();
        /// Start from the weights in FILE, torchvision's (.pth, safetensors) or of a run, with a new last layer.
        pretrained: Option<PathBuf> = None, resume Free => flag("FILE").alias("pretrained-path");
        /// Train the last layer alone.
        freeze: bool = false => on();
        /// Factor of the learning rate before the last layer.
        backbone_lr_scale: f64 = 1.0, range 0.0.. => flag("FACTOR");

        ["Data"]
        /// Mean of each channel for pixels in 0..1.
        mean: [f32; 3] = [0.485, 0.456, 0.406], shown "ImageNet's", range ANY => flag("R,G,B");
        /// Standard deviation of each channel.
        std: [f32; 3] = [0.229, 0.224, 0.225], shown "ImageNet's", range above(0.0) => flag("R,G,B");
        /// Augmentations: none, paper, compose, modern, or names with strengths as in flip,rotate=45; `residuum augment
        /// --help` lists them.
        augment: Written<Augment> = Written::known("flip") => flag("NAMES");

        ["Optimisation"]
        /// Images of a batch.
        batch_size: usize = 64, range 1.., resume Changes => flag("N").short('b');
        /// Batches per update, of each rank where there are several.
        grad_accum_steps: usize = 1, range 1..=65536 => flag("N");
        /// Batches per update of all ranks, which have equal parts of them.
        micro_batches: Option<usize> = None, shown "--grad-accum-steps of each rank", range 1..=65536
            => flag("N").conflicts_with("grad_accum_steps");
        /// Who adds up the gradients of ranks: ordered has the bits of one rank, nccl sends less between machines.
        all_reduce: AllReduce = AllReduce::Ordered => flag("WAY");
        /// Order in which the gradients of the batches of an update are added, on one rank, too: chain is one after the other, tree
        /// in pairs, then their sums in pairs, which sends less between machines with several ranks each.
        sum_order: SumOrder = SumOrder::Chain => flag("ORDER");
        /// Type in which ranks send each other gradients: bf16 takes half the bytes, and rounds gradients and their sum, those of one
        /// rank alike.
        grad_wire: GradWire = GradWire::F32 => flag("TYPE");
        /// Least MiB of gradients that GPUs of several ranks send at once, while the backward pass goes on.
        bucket_mb: usize = StepConfig::BUCKET_BYTES >> 20, range 1..=65536, resume Free => flag("MIB");
        /// Batch norms take the statistics of the batches of all ranks together, for small batches.
        sync_bn: bool = false => on();
        /// Passes over the training images.
        epochs: u64 = 90, scenes 8, range 1.., resume Changes => flag("N");
        /// Updates of an epoch.
        steps_per_epoch: Option<u64> = None, shown "one pass over the training images", range 1.. => flag("N");
        /// Most updates; the schedule then spans these.
        max_steps: Option<u64> = None, range 1.., resume Changes => flag("N");
        /// Epochs without a lower top-1 error after which the run ends.
        patience: Option<u64> = None, range 1.., resume Changes => flag("N");
        /// Update rule.
        opt: OptimiserKind = OptimiserKind::Sgd => flag("NAME");
        /// Learning rate after the warm-up.
        lr: Option<f64> = None, shown "0.05, on fewer than 1600 photos in proportion; scenes: 0.03; adam and adamw: 0.001",
            range 0.0.. => flag("RATE");
        /// Momentum of SGD, first decay of Adam.
        momentum: f64 = 0.9, range 0.0..1.0 => flag("SHARE");
        /// Nesterov's momentum instead of plain.
        nesterov: bool = true => off("Plain momentum instead of Nesterov's");
        /// Weight decay.
        weight_decay: f32 = 1e-4, range 0.0.. => flag("FACTOR").alias("wd");
        /// Weight decay on biases and batch norms, too.
        norm_decay: bool = true => off("No weight decay on biases and batch norms");
        /// Learning rate over time.
        sched: Decay = Decay::Cosine => flag("SHAPE").alias("lr-scheduler");
        /// Epochs of linear warm-up.
        warmup_epochs: Option<f64> = None, range 0.0.. => flag("N").conflicts_with("warmup_steps");
        /// Updates of linear warm-up.
        warmup_steps: Option<u64> = None, shown "40, at most a fifth of the run" => flag("N");
        /// Learning rate at the start of the warm-up.
        warmup_lr: f64 = 1e-5, range 0.0.. => flag("RATE");
        /// Learning rate at the end of a cosine.
        min_lr: f64 = 0.0, range 0.0.. => flag("RATE");
        /// Epochs after which a step schedule lowers the rate, comma-separated.
        decay_milestones: Vec<f64> = vec![], range 0.0.. => flag("EPOCHS");
        /// Factor of a step schedule.
        decay_rate: f64 = 0.1, range 0.0.. => flag("FACTOR");
        /// Label smoothing.
        smoothing: f32 = 0.0, range 0.0..1.0 => flag("SHARE").alias("label-smoothing");
        /// Largest norm of all gradients together.
        clip_grad: Option<f32> = None, range above(0.0) => flag("NORM").alias("clip-grad-norm");
        /// Decay of the moving average of the weights, which is then what is evaluated and exported.
        model_ema_decay: Option<f32> = None, shown "0.9998", range 0.0..1.0
            => flag("DECAY").requires("model-ema").default_value_if("model-ema", "true", "0.9998"),
            with on().id("model-ema").long("model-ema")
                .help("Keep a moving average of the weights, evaluate and export it");

        ["Run"]
        /// Seed of weights, order and augmentation.
        seed: u64 = 0 => flag("N");
        /// Where to run: auto, cpu, cuda, cuda:N or simt.
        device: Written<DeviceChoice> = Written::known("auto"), resume Free => flag("DEVICE");
        /// Type of activations, or tf32 for f32 with convolutions on tensor cores; auto is bf16 on a GPU and f32 elsewhere.
        precision: PrecisionChoice = PrecisionChoice::Auto => flag("TYPE");
        /// Rewrites of the graph that run: all (true), none (false), or a list of names.
        fuse: Fusion = Fusion::ALL => off(Fusion::help());
        /// Updates between lines of the log.
        log_interval: u64 = 10, range 1.., resume Free => flag("N").alias("print-freq");
        /// Updates between checkpoints within an epoch; 0 for none.
        recovery_interval: u64 = 0, resume Free => flag("N");
        /// Minutes between checkpoints within an epoch; 0 for none.
        checkpoint_minutes: f64 = 10.0, range 0.0.., resume Free => flag("N");
        /// Epochs between checkpoints; the last epoch has one in any case.
        checkpoint_interval: u64 = 1, range 1.., resume Free => flag("N");
        /// Newest checkpoints of epochs that are kept besides the last and the best.
        checkpoint_hist: usize = 0, resume Free => flag("N");
        /// When the run is complete, remove the states that it could be resumed from; weights stay.
        weights_only: bool = false, resume Free => on();
        /// On SIGUSR1 write a checkpoint and go on, instead of ending.
        checkpoint_on_usr1: bool = false, resume Free => on();
        /// Folder that run folders go into.
        output: PathBuf = "runs".into(), resume Free => flag("DIR").alias("output-dir");
        /// Name of the run, after its time stamp.
        experiment: Option<String> = None, shown "model and size", resume Free => flag("NAME");
    }
}

named! {
    /// The update rules, as `--opt` names them.
    pub enum OptimiserKind {
        /// Stochastic gradient descent.
        Sgd = "sgd",
        /// Adam, whose weight decay is part of the gradient.
        Adam = "adam",
        /// Adam with decoupled weight decay.
        AdamW = "adamw",
    }
}

named_values!(AllReduce SumOrder OptimiserKind Decay);

/// Photos from which on the usual learning rate of SGD serves. On 400 photos of 8 categories (ResNet-18, 64 pixels, batch
/// 64, one seed) the validation loss was up to 70 at 0.05 and 2.8 at 0.0125 in the epochs that were looked at.
const ENOUGH_PHOTOS: usize = 1600;

/// Batches that wait to be taken while each thread makes one more.
const READY_BATCHES: usize = 3;

/// What the network has to know of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFacts {
    /// Number of categories.
    pub num_classes: usize,
    /// Number of classes of objects; ignored without `objects`.
    pub num_object_classes: usize,
    /// Rows for the largest annotation of an image.
    pub largest_annotation: Capacity,
}

impl From<usize> for DataFacts {
    /// This number of categories, and MiniPlaces' objects without an annotated image.
    fn from(num_classes: usize) -> DataFacts {
        let largest_annotation = Capacity { points: 1, objects: 1 };
        DataFacts { num_classes, num_object_classes: MINIPLACES_OBJECT_CLASSES, largest_annotation }
    }
}

impl DataFacts {
    /// What this number of categories and these annotations come to.
    pub fn new(num_classes: usize, annotations: Option<&SplitAnnotations>) -> DataFacts {
        let Some(SplitAnnotations { train, val }) = annotations else { return num_classes.into() };
        let [train_room, val_room] = [train, val].map(|annotations| annotations.capacity(1));
        let largest_annotation = Capacity {
            points: train_room.points.max(val_room.points),
            objects: train_room.objects.max(val_room.objects),
        };
        DataFacts { num_classes, num_object_classes: train.num_classes(), largest_annotation }
    }
}

/// Names in MiniPlaces' object_categories.txt.
const MINIPLACES_OBJECT_CLASSES: usize = 175;

impl TrainConfig {
    /// The default settings for a data set, or for generated scenes.
    pub fn defaults(data_dir: Option<PathBuf>) -> TrainConfig {
        let mut config = TrainConfig { data_dir, ..TrainConfig::plain() };
        if config.data_dir.is_none() {
            config.set_scenes();
        }
        config
    }

    /// The settings of a command: the defaults, replaced by those of `recipe`, replaced by `flags`; on `data_dir` unless
    /// they name a data set.
    ///
    /// # Errors
    /// As [`Recipe::apply`].
    pub fn layered<S: Subset>(
        data_dir: Option<PathBuf>,
        recipe: Option<&Recipe>,
        flags: &SettingFlags<S>,
    ) -> Result<TrainConfig> {
        let over = |mut config: TrainConfig| {
            if let Some(recipe) = recipe {
                config = recipe.apply(&config)?;
            }
            Ok::<_, Error>(config.with(flags))
        };
        // Some defaults depend on settings that may be given.
        let given = over(TrainConfig::plain())?;
        let data_dir = given.data_dir.clone().or(data_dir);
        over(TrainConfig { data_dir, ..given }.defaults_beside())
    }

    /// The default settings for this data set and optimiser.
    pub(super) fn defaults_beside(&self) -> TrainConfig {
        let mut defaults = TrainConfig::defaults(self.data_dir.clone());
        if self.opt != OptimiserKind::Sgd {
            defaults.set_adam();
        }
        defaults
    }

    /// These settings, replaced by `flags`.
    pub fn with<S: Subset>(mut self, flags: &SettingFlags<S>) -> TrainConfig {
        if given::<usize>(flags.given(), "grad_accum_steps").is_some() {
            // Whoever says how many batches a rank takes means that many, whatever they came to before.
            self.micro_batches = None;
        }
        self.set(flags.given());
        // A run is resumed from any folder: its configuration holds no relative path to read from.
        let read = [&mut self.data_dir, &mut self.cache_dir, &mut self.pretrained];
        for path in read.into_iter().flatten() {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
        self
    }

    /// The settings that prepare images as the model of `card` expects them.
    ///
    /// # Errors
    /// [`Error::Usage`] if the card names a form, or a way to take objects in, that is unknown.
    pub fn of_model(card: &ModelCard, batch_size: usize) -> Result<TrainConfig> {
        Ok(TrainConfig {
            model: card.model.clone(),
            form: card.form.parse()?,
            objects: card.objects.as_ref().map(|objects| objects.kind.parse()).transpose()?,
            img_size: card.img_size,
            mean: card.mean,
            std: card.std,
            batch_size,
            ..TrainConfig::defaults(None)
        })
    }

    /// What pixel values become.
    pub fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean, std: self.std }
    }

    /// The model for such data.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no model of this name.
    pub fn model(&self, facts: impl Into<DataFacts>) -> Result<Model> {
        let facts = facts.into();
        let objects = self.objects.map(|kind| Objects { kind, num_classes: facts.num_object_classes });
        let options = Options {
            num_classes: facts.num_classes,
            form: self.form,
            objects,
            zero_init_last: self.zero_init_last,
        };
        Model::new(&self.model, options)
    }

    /// Decides on the type of activations for a device of this kind, where that is left to the program; what to say of it.
    pub fn decide_precision(&mut self, device: DeviceKind) -> Option<String> {
        let remark = self.precision.remark(device);
        self.precision = self.precision.on(device).into();
        remark
    }

    /// What the training graph is made from, on a device of this kind.
    ///
    /// # Errors
    /// As [`TrainConfig::model`].
    pub fn step_config(&self, facts: impl Into<DataFacts>, device: DeviceKind) -> Result<StepConfig> {
        let facts = facts.into();
        Ok(self.step_of(&self.model(facts)?, facts, device))
    }

    pub(super) fn step_of(&self, model: &Model, facts: DataFacts, device: DeviceKind) -> StepConfig {
        let precision = self.precision.on(device);
        StepConfig {
            network: Arc::new(model.clone()),
            batch_size: self.batch_size,
            image_size: self.img_size,
            smaller_sizes: self.growth(0).smaller_sizes(),
            float: precision.into(),
            allow_tf32: precision.allows_tf32(device),
            optimiser: self.optimiser(),
            norm_decay: self.norm_decay,
            smoothing: self.smoothing,
            clip_grad: self.clip_grad,
            grad_accum_steps: self.batches_per_update(),
            num_ranks: 1,
            ranks_per_node: 1,
            all_reduce: self.all_reduce,
            sum_order: self.sum_order,
            bucket_bytes: self.bucket_mb << 20,
            grad_wire: self.grad_wire.into(),
            sync_bn: self.sync_bn,
            ema_decay: self.model_ema_decay,
            trained: match (self.freeze, self.backbone_lr_scale) {
                (true, _) => Trained::LastLayer,
                (false, 1.0) => Trained::All,
                (false, backbone_lr_scale) => Trained::TwoRates { backbone_lr_scale },
            },
            pixels: PixelSource::Host,
            normalization: self.normalization(),
            largest_annotation: facts.largest_annotation,
            mixes: self.augment.mixes(),
            has_steps: self.augment.has_steps(),
            fuse: self.fuse,
            seed: self.seed,
            keep_inputs: false,
            keep_results: false,
        }
    }

    fn optimiser(&self) -> Optimiser {
        let (momentum, weight_decay) = (self.momentum, self.weight_decay);
        let adam =
            |decoupled| AdamConfig { beta1: momentum, beta2: 0.999, eps: 1e-8, weight_decay, decoupled };
        match self.opt {
            OptimiserKind::Sgd => {
                let (momentum, nesterov) = (momentum as f32, self.nesterov);
                Optimiser::Sgd(SgdConfig { momentum, nesterov, weight_decay })
            }
            OptimiserKind::Adam => Optimiser::Adam(adam(false)),
            OptimiserKind::AdamW => Optimiser::Adam(adam(true)),
        }
    }

    /// How the loader prepares batches.
    pub fn loader_options(&self, augment: Augment) -> LoaderOptions {
        LoaderOptions {
            augment,
            normalization: self.normalization(),
            contents: BatchContents::Images,
            seed: self.seed,
            workers: self.workers,
            prefetch: READY_BATCHES + self.workers,
            ..LoaderOptions::new(self.batch_size)
        }
    }

    /// The learning rate of a run on `num_train` images: what is set, or what suits them.
    pub fn lr_for(&self, num_train: usize) -> f64 {
        let usual = match (self.opt, &self.data_dir) {
            (OptimiserKind::Adam | OptimiserKind::AdamW, _) => 0.001,
            (OptimiserKind::Sgd, Some(_)) => 0.05 * (num_train as f64 / ENOUGH_PHOTOS as f64).min(1.0),
            // Scenes are few: at 0.05 some seeds end at twice the error of others.
            (OptimiserKind::Sgd, None) => 0.03,
        };
        self.lr.unwrap_or(usual)
    }

    /// What to say of the learning rate of a run on `num_train` images, where their number lowers it.
    pub fn lr_remark(&self, num_train: usize) -> Option<String> {
        let (lr, usual) = (self.lr_for(num_train), self.lr_for(ENOUGH_PHOTOS));
        (lr != usual).then(|| {
            format!(
                "learning rate {lr:.5} instead of {usual}: in proportion to {num_train} of {ENOUGH_PHOTOS} photos; --lr sets \
                 another"
            )
        })
    }

    /// Updates of an epoch and of the run, for this number of training images.
    ///
    /// # Errors
    /// [`Error::Usage`] if an epoch has not enough images for one update.
    pub fn steps(&self, num_train: usize) -> Result<(u64, u64)> {
        let batches = batches_per_epoch(num_train, self.batch_size)?;
        let steps_per_epoch = self.steps_per_epoch.unwrap_or((batches / self.batches_per_update()) as u64);
        if steps_per_epoch == 0 {
            let (flag, count) = match self.micro_batches {
                Some(batches) => ("--micro-batches", batches),
                None => ("--grad-accum-steps", self.grad_accum_steps),
            };
            return Err(Error::Usage(format!(
                "--batch-size {} times {flag} {count} is more than the {num_train} training images; lower one",
                self.batch_size
            )));
        }
        let total = self.epochs.saturating_mul(steps_per_epoch);
        Ok((steps_per_epoch, self.max_steps.map_or(total, |most| most.min(total))))
    }

    /// The learning rate `lr` over a run of `total_steps` updates, `steps_per_epoch` of them in an epoch.
    ///
    /// # Errors
    /// [`Error::Usage`] if the warm-up is as long as the run.
    pub fn schedule(&self, lr: f64, steps_per_epoch: u64, total_steps: u64) -> Result<Schedule> {
        let to_steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        let warmup_steps = match self.warmup_epochs {
            Some(epochs) => to_steps(epochs),
            None => self.warmup_steps.unwrap_or((total_steps / 5).min(40)),
        };
        if warmup_steps > 0 && warmup_steps >= total_steps {
            return Err(Error::Usage(format!(
                "the warm-up takes {warmup_steps} steps and the run only {total_steps}; shorten it with \
                 --warmup-epochs or train longer"
            )));
        }
        let shape = match self.sched {
            Decay::Constant => Shape::Constant,
            Decay::Step => Shape::Step {
                milestones: self.decay_milestones.iter().map(|&epoch| to_steps(epoch)).collect(),
                rate: self.decay_rate,
            },
            Decay::Cosine => Shape::Cosine { min_lr: self.min_lr, steps: total_steps - warmup_steps },
        };
        Ok(Schedule { lr, warmup_lr: self.warmup_lr, warmup_steps, shape })
    }
}

#[cfg(test)]
mod tests;
