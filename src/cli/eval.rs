//! `residuum eval`: the error of a trained model on a data set.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};

use super::flags::{check_picture, open_device, write_file};
use super::output;
use crate::batch::Augment;
use crate::data::Split;
use crate::data::annotations::Capacity;
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::model_file::{CardOverrides, ModelFile};
use crate::models::{self, Variant};
use crate::report::{Align, Confusion, Table};
use crate::run::run_dir::RunDir;
use crate::step::evaluate::{Evaluation, Evaluator, Views};
use crate::train::config::TrainConfig;
use crate::train::signal::{OnUsr1, Signals};
use crate::train::source::SplitSource;

/// Where a model comes from.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true))]
pub(super) struct ModelArgs {
    /// Run folder; its best weights are taken
    #[arg(long, value_name = "RUN", group = "source")]
    run: Option<PathBuf>,
    /// Weight file, of this program or torchvision's as safetensors
    #[arg(long, alias = "checkpoint", value_name = "FILE", group = "source")]
    weights: Option<PathBuf>,
    /// Network, where the file does not say
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(models::names()))]
    model: Option<String>,
    /// Variant of the blocks, where the file does not say
    #[arg(long, value_name = "FORM", value_parser = PossibleValuesParser::new(Variant::NAMES))]
    form: Option<String>,
    /// Height and width of the images [default: those of the training]
    #[arg(long, alias = "val-crop-size", value_name = "PIXELS")]
    img_size: Option<usize>,
}

/// Measure the error of a trained model on a data set
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set [default: the run's]
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which images: train or val
    #[arg(long, value_name = "SPLIT", default_value = "val", value_parser = ["train", "val"])]
    split: String,
    /// Images of a batch
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Leave out listed images that are missing or unreadable
    #[arg(long)]
    allow_missing: bool,
    /// Average the probabilities over each image and its mirror image
    #[arg(long)]
    tta: bool,
    /// Picture of the confusion matrix to write, PNG
    #[arg(long, value_name = "FILE.png")]
    confusion: Option<PathBuf>,
    /// Where decoded photos are kept
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// auto, cpu, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

impl ModelArgs {
    /// The weights, and the settings of their run if they come from one.
    pub(super) fn open(&self) -> Result<(ModelFile, Option<TrainConfig>)> {
        let overrides =
            CardOverrides { model: self.model.clone(), form: self.form.clone(), img_size: self.img_size };
        if let Some(run) = &self.run {
            let run = RunDir::open(run)?;
            return Ok((ModelFile::of_run(&run, &overrides)?, Some(run.read_config()?)));
        }
        let file = self.weights.as_deref().expect("one of --run and --weights is required");
        Ok((ModelFile::read(file, &overrides)?, None))
    }
}

impl EvalArgs {
    pub(super) fn run(self) -> Result<()> {
        if let Some(path) = &self.confusion {
            check_picture("--confusion", path)?;
        }
        let device = open_device(self.device)?;
        let (file, run) = self.model.open()?;
        let run = run.unwrap_or_else(|| TrainConfig::defaults(None));
        let config = TrainConfig {
            data_dir: self.data_dir.or(run.data_dir),
            categories: run.categories,
            limit_train: run.limit_train,
            limit_val: run.limit_val,
            allow_missing: self.allow_missing || run.allow_missing,
            cache_dir: self.cache_dir.or(run.cache_dir),
            ..TrainConfig::of_model(&file.card, self.batch_size)?
        };
        // Weights that do not fit are found before the data set is read.
        file.session(1, Device::Cpu)?;
        let split = if self.split == "train" { Split::Train } else { Split::Val };
        let signals = Signals::install(OnUsr1::End)?;
        let SplitSource { categories, pack, annotations } =
            SplitSource::open(&config, split, &|| signals.received())?;
        check_categories(&file, &categories)?;
        let room = annotations.as_ref().map_or(Capacity { points: 1, objects: 1 }, |all| all.capacity(1));
        let mut session = file.session_with_room(self.batch_size, device, room)?;
        let views = if self.tta { Views::Mirrored } else { Views::One };
        let mut evaluator = Evaluator::new(&session, 0)?.with_views(views);
        let options = config.loader_options(Augment::NONE);
        let evaluation =
            evaluator.run(&mut session, (&pack, annotations.as_deref()), &options, || signals.received())?;
        say!(
            "{} on {} {} images: top-1 error {:.2} %, top-5 error {:.2} %, loss {:.4} ({:.1} images/s)",
            file.card.model,
            evaluation.num_images,
            split.name(),
            evaluation.top1_error(),
            evaluation.top5_error(),
            evaluation.loss,
            evaluation.num_images as f64 / evaluation.elapsed.as_secs_f64()
        );
        output::print(per_category(&categories, &evaluation))?;
        if let Some(path) = &self.confusion {
            let confusion = Confusion::new(categories.clone(), &evaluation.confusion(categories.len()));
            write_file(path, &confusion.to_canvas().to_png())?;
            say!("confusion matrix: {}", path.display());
        }
        Ok(())
    }
}

/// Fails unless the data set has exactly the categories of the model.
fn check_categories(file: &ModelFile, categories: &[String]) -> Result<()> {
    let (known, found) = (file.card.categories.len(), categories.len());
    if known < found {
        let what = format!("knows {known} categories and the data set has {found}");
        let remedy = "give the data set it was trained on with --data-dir, or its run folder with --run";
        return Err(Error::checkpoint(&file.path, format!("{what}; {remedy}")));
    }
    file.check_labels(categories)
}

fn per_category(categories: &[String], evaluation: &Evaluation) -> Table {
    let mut table = Table::new([
        ("category", Align::Left),
        ("images", Align::Right),
        ("top-1 error %", Align::Right),
        ("most often taken for", Align::Left),
    ]);
    let confusion = evaluation.confusion(categories.len());
    for (label, row) in confusion.chunks_exact(categories.len()).enumerate() {
        let total: u32 = row.iter().sum();
        let wrong = row.iter().enumerate().filter(|&(guess, &count)| guess != label && count > 0);
        let mistaken = wrong.max_by_key(|&(guess, &count)| (count, std::cmp::Reverse(guess)));
        let error = 100.0 * f64::from(total - row[label]) / f64::from(total.max(1));
        table.row([
            categories[label].clone(),
            total.to_string(),
            format!("{error:.1}"),
            mistaken.map_or_else(String::new, |(guess, count)| format!("{} ({count})", categories[guess])),
        ]);
    }
    table
}
