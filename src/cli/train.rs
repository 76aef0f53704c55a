//! `residuum train`: flags over defaults, then a run.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::flags::{open_device, parse_channels};
use crate::error::{Error, Result};
use crate::models;
use crate::run::run_dir::RunDir;
use crate::train::config::TrainConfig;
use crate::train::recipe::Recipe;
use crate::train::schedule::Decay;
use crate::train::trainer::Trainer;

/// Train a network: on a data set, or on generated scenes if none is given
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(super) struct TrainArgs {
    /// Recipe: a TOML file with the settings of config.toml; flags override it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data set: MiniPlaces, or a folder per category under train/ and val/
    #[arg(long, alias = "data-path", value_name = "DIR", help_heading = "Data")]
    data_dir: Option<PathBuf>,
    /// Keep the first N categories
    #[arg(long, value_name = "N", help_heading = "Data")]
    categories: Option<usize>,
    /// Keep N training images, spread over the categories
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit_train: Option<usize>,
    /// Keep N validation images, spread over the categories
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit_val: Option<usize>,
    /// Leave out listed images that are missing or unreadable
    #[arg(long, help_heading = "Data")]
    allow_missing: bool,
    /// Where decoded photos are kept [default: RESIDUUM_CACHE, or residuum in the user's cache folder]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    cache_dir: Option<PathBuf>,
    /// Threads that prepare batches
    #[arg(short = 'j', long, value_name = "N", help_heading = "Data")]
    workers: Option<usize>,
    /// Augmentations: none, paper, compose, modern, or names with strengths as in flip,rotate=45; `residuum augment
    /// --help` lists them [default: flip]
    #[arg(long, value_name = "NAMES", help_heading = "Data")]
    augment: Option<String>,
    /// Mean of each channel for pixels in 0..1 [default: ImageNet's]
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels, help_heading = "Data")]
    mean: Option<[f32; 3]>,
    /// Standard deviation of each channel [default: ImageNet's]
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels, help_heading = "Data")]
    std: Option<[f32; 3]>,

    /// Network [default: resnet18]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(models::names()), help_heading = "Model")]
    model: Option<String>,
    /// Form of the blocks: He 2015, torchvision, pre-activation [default: v1.5]
    #[arg(long, value_name = "FORM", value_parser = ["v1", "v1.5", "v2"], help_heading = "Model")]
    form: Option<String>,
    /// Height and width of the images in pixels [default: 128; scenes: 32]
    #[arg(long, alias = "train-crop-size", value_name = "PIXELS", help_heading = "Model")]
    img_size: Option<usize>,

    /// Take in where objects are: a second head for masks, a presence vector, or codes beside the image [default: none]
    #[arg(long, value_name = "WAY", value_parser = ["none", "masks", "vector", "codes"], help_heading = "Model")]
    objects: Option<String>,
    /// Start from the weights in FILE, safetensors of torchvision's or of a run, with a new last layer
    #[arg(long, alias = "pretrained-path", value_name = "FILE", help_heading = "Model")]
    pretrained: Option<PathBuf>,
    /// Train the last layer alone
    #[arg(long, help_heading = "Model")]
    freeze: bool,
    /// Factor of the learning rate before the last layer [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Model")]
    backbone_lr_scale: Option<f64>,

    /// Images of a batch [default: 64]
    #[arg(short, long, value_name = "N", help_heading = "Optimisation")]
    batch_size: Option<usize>,
    /// Batches per update
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    grad_accum_steps: Option<usize>,
    /// Passes over the training images [default: 90; scenes: 8]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    epochs: Option<u64>,
    /// Updates of an epoch [default: one pass over the training images]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    steps_per_epoch: Option<u64>,
    /// Most updates; the schedule then spans these
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    max_steps: Option<u64>,
    /// Update rule [default: sgd]
    #[arg(long, value_name = "NAME", value_parser = ["sgd", "adam", "adamw"], help_heading = "Optimisation")]
    opt: Option<String>,
    /// Learning rate after the warm-up [default: 0.05; scenes: 0.03; adam and adamw: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Optimisation")]
    lr: Option<f64>,
    /// Momentum of SGD, first decay of Adam [default: 0.9]
    #[arg(long, value_name = "SHARE", help_heading = "Optimisation")]
    momentum: Option<f64>,
    /// Plain momentum instead of Nesterov's
    #[arg(long, help_heading = "Optimisation")]
    no_nesterov: bool,
    /// Weight decay, on every parameter [default: 0.0001]
    #[arg(long, alias = "wd", value_name = "FACTOR", help_heading = "Optimisation")]
    weight_decay: Option<f32>,
    /// Learning rate over time [default: cosine]
    #[arg(long, alias = "lr-scheduler", value_name = "SHAPE", help_heading = "Optimisation")]
    sched: Option<Decay>,
    /// Epochs of linear warm-up
    #[arg(long, value_name = "N", conflicts_with = "warmup_steps", help_heading = "Optimisation")]
    warmup_epochs: Option<f64>,
    /// Updates of linear warm-up [default: 40, at most a fifth of the run]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    warmup_steps: Option<u64>,
    /// Learning rate at the start of the warm-up [default: 0.00001]
    #[arg(long, value_name = "RATE", help_heading = "Optimisation")]
    warmup_lr: Option<f64>,
    /// Learning rate at the end of a cosine [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Optimisation")]
    min_lr: Option<f64>,
    /// Epochs after which a step schedule lowers the rate, comma-separated
    #[arg(long, value_name = "EPOCHS", value_delimiter = ',', help_heading = "Optimisation")]
    decay_milestones: Option<Vec<f64>>,
    /// Factor of a step schedule [default: 0.1]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimisation")]
    decay_rate: Option<f64>,
    /// Label smoothing [default: 0]
    #[arg(long, alias = "label-smoothing", value_name = "SHARE", help_heading = "Optimisation")]
    smoothing: Option<f32>,
    /// Largest norm of all gradients together
    #[arg(long, alias = "clip-grad-norm", value_name = "NORM", help_heading = "Optimisation")]
    clip_grad: Option<f32>,
    /// Keep a moving average of the weights, evaluate and export it
    #[arg(long, help_heading = "Optimisation")]
    model_ema: bool,
    /// Decay of that average [default: 0.9998]
    #[arg(long, value_name = "DECAY", requires = "model_ema", help_heading = "Optimisation")]
    model_ema_decay: Option<f32>,

    /// Seed of weights, order and augmentation [default: 0]
    #[arg(long, value_name = "N", help_heading = "Run")]
    seed: Option<u64>,
    /// auto, cpu, cuda[:N] or simt [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Run")]
    device: Option<String>,
    /// Type of activations [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "bf16"], help_heading = "Run")]
    precision: Option<String>,
    /// Run the textbook graph instead of fused operations
    #[arg(long, help_heading = "Run")]
    no_fuse: bool,
    /// Updates between lines of the log [default: 10]
    #[arg(long, alias = "print-freq", value_name = "N", help_heading = "Run")]
    log_interval: Option<u64>,
    /// Updates between checkpoints within an epoch; 0 for none [default: 0]
    #[arg(long, value_name = "N", help_heading = "Run")]
    recovery_interval: Option<u64>,
    /// Folder that run folders go into [default: runs]
    #[arg(long, alias = "output-dir", value_name = "DIR", help_heading = "Run")]
    output: Option<PathBuf>,
    /// Name of the run, behind its time stamp [default: model and size]
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    experiment: Option<String>,
    /// Go on with the run in this folder; its settings stay as they are
    #[arg(long, value_name = "RUN", exclusive = true, help_heading = "Run")]
    resume: Option<PathBuf>,
}

const EMA_DECAY: f32 = 0.9998;
const ADAM_LR: f64 = 0.001;

impl TrainArgs {
    pub(super) fn run(self) -> Result<()> {
        let trainer = match &self.resume {
            Some(path) => {
                let dir = RunDir::open(path)?;
                let config: TrainConfig = dir.read_config()?;
                let device = open_device(&config.device)?;
                Trainer::resume(dir, config, device)?
            }
            None => {
                let config = self.config()?;
                let device = open_device(&config.device)?;
                Trainer::start(config, device)?
            }
        };
        eprintln!("run folder: {}", trainer.dir().path().display());
        let dir = trainer.dir().path().to_path_buf();
        let outcome = trainer.run().inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                eprintln!("checkpoint written; go on with: residuum train --resume {}", dir.display());
            }
        })?;
        println!(
            "top-1 error {:.2} %, top-5 error {:.2} % on {} images after {} epochs (best top-1 {:.2} %, epoch {})",
            outcome.last.eval_err1,
            outcome.last.eval_err5,
            outcome.last.eval_n,
            outcome.last.epoch + 1,
            outcome.best.err1,
            outcome.best.epoch + 1
        );
        println!("report: {}", dir.join("report.html").display());
        Ok(())
    }

    /// The defaults under the recipe under these flags.
    fn config(self) -> Result<TrainConfig> {
        let recipe = self.config.as_deref().map(Recipe::read).transpose()?;
        let recipe = recipe.as_ref();
        // A run goes on from any folder: its configuration holds no relative path to read from.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let data_dir = match self.data_dir {
            Some(dir) => Some(dir),
            None => recipe.map_or(Ok(None), Recipe::data_dir)?,
        };
        let mut config = TrainConfig::defaults(data_dir.map(absolute));
        let opt_of_recipe = recipe.map_or(Ok(None), Recipe::opt)?;
        if self.opt.as_deref().or(opt_of_recipe).is_some_and(|opt| opt != "sgd") {
            config.lr = ADAM_LR;
        }
        if let Some(recipe) = recipe {
            let data_dir = config.data_dir.clone();
            config = TrainConfig { data_dir, ..recipe.apply(&config)? };
        }
        macro_rules! set {
            ($($field:ident),*) => { $(if let Some(value) = self.$field { config.$field = value; })* };
        }
        macro_rules! set_optional {
            ($($field:ident),*) => { $(config.$field = self.$field.or(config.$field);)* };
        }
        set!(
            workers,
            augment,
            mean,
            std,
            model,
            form,
            img_size,
            objects,
            backbone_lr_scale,
            batch_size,
            grad_accum_steps,
            epochs,
            opt,
            lr,
            momentum,
            weight_decay,
            sched,
            warmup_lr,
            min_lr,
            decay_milestones,
            decay_rate,
            smoothing,
            seed,
            device,
            precision,
            log_interval,
            recovery_interval,
            output
        );
        set_optional!(
            categories,
            limit_train,
            limit_val,
            steps_per_epoch,
            max_steps,
            warmup_epochs,
            warmup_steps,
            clip_grad,
            experiment
        );
        config.cache_dir = self.cache_dir.or(config.cache_dir).map(absolute);
        config.pretrained = self.pretrained.or(config.pretrained).map(absolute);
        config.freeze |= self.freeze;
        config.allow_missing |= self.allow_missing;
        config.nesterov &= !self.no_nesterov;
        config.fuse &= !self.no_fuse;
        if self.model_ema {
            config.model_ema_decay = Some(self.model_ema_decay.unwrap_or(EMA_DECAY));
        }
        Ok(config)
    }
}
