//! `residuum eval`: the error of a trained model on a data set.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::flags::{GraphArgs, check_picture, open_device, write_file};
use super::model::{ModelArgs, ViewArgs};
use super::output;
use crate::batch::Augment;
use crate::data::annotations::Capacity;
use crate::data::{Crop, Only, Split};
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::model_file::ModelFile;
use crate::report::{Align, Confusion, Table};
use crate::show::{show_text, tell};
use crate::step::evaluate::{CategoryError, EvaluatedImages, Evaluation, Evaluator, Views};
use crate::train::config::TrainConfig;
use crate::train::signal::{OnUsr1, Signals};
use crate::train::source::SplitSource;

/// Measure the error of a trained model on a data set
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    views: ViewArgs,
    /// Data set [default: the run's]
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which images: train, val or test; only these need to be there
    #[arg(long, value_name = "SPLIT", default_value = "val", value_parser = ["train", "val", "test"])]
    split: String,
    /// Images of a batch
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Leave out listed images that are missing or unreadable
    #[arg(long)]
    allow_missing: bool,
    /// Picture of the confusion matrix to write, PNG
    #[arg(long, value_name = "FILE.png")]
    confusion: Option<PathBuf>,
    /// Print everything that was measured as JSON
    #[arg(long)]
    json: bool,
    /// Print the table of categories as CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Where decoded photos are kept
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// auto, cpu, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    graph: GraphArgs,
}

impl EvalArgs {
    pub(super) fn run(self) -> Result<()> {
        if let Some(path) = &self.confusion {
            check_picture("--confusion", path)?;
        }
        let device = open_device(self.device)?;
        let (mut file, run) = self.model.open()?;
        self.graph.apply(&mut file, &device);
        let run = run.unwrap_or_else(|| TrainConfig::defaults(None));
        let config = TrainConfig {
            data_dir: self.data_dir.clone().or(run.data_dir),
            categories: run.categories,
            limit_train: run.limit_train,
            limit_val: run.limit_val,
            allow_missing: self.allow_missing || run.allow_missing,
            cache_dir: self.cache_dir.clone().or(run.cache_dir),
            ..TrainConfig::of_model(&file.card, self.batch_size)?
        };
        // Weights that do not fit are found before the data set is read.
        file.session(1, Device::Cpu)?;
        let crops = self.views.crops(file.card.img_size)?;
        let split = match &*self.split {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => Split::Val,
        };
        let named = if file.has_names() { file.card.categories.clone() } else { Vec::new() };
        let signals = Signals::install(OnUsr1::End)?;
        let stop = || signals.received();
        let source = SplitSource::open(&config, Only { split, categories: named }, &crops, &stop)?;
        source.remarks.iter().for_each(tell);
        check_categories(&file, &source.categories)?;
        let images: Vec<EvaluatedImages> =
            source.images.iter().map(|(pack, annotations)| (pack, annotations.as_deref())).collect();
        let evaluation = self.evaluate(&file, &config, (&crops, &images), device, &signals)?;
        if let Some(path) = &self.confusion {
            let counts = evaluation.confusion(source.categories.len());
            let confusion = Confusion::new(source.categories.clone(), &counts);
            write_file(path, &confusion.to_canvas().to_png())?;
        }
        let measured =
            Measured { file: &file, config: &config, crops: &crops, split, source: &source, evaluation };
        if self.json {
            say!("{:#}", self.to_json(&measured));
        } else if self.csv {
            output::print(measured.to_csv())?;
        } else {
            measured.print()?;
            if let Some(path) = &self.confusion {
                say!("confusion matrix: {}", path.display());
            }
        }
        Ok(())
    }

    fn evaluate(
        &self,
        file: &ModelFile,
        config: &TrainConfig,
        (crops, images): (&[Crop], &[EvaluatedImages]),
        device: Device,
        signals: &Signals,
    ) -> Result<Evaluation> {
        let mut rooms = images.iter().filter_map(|(_, annotations)| annotations.map(|all| all.capacity(1)));
        // The same objects at every size.
        let room = rooms.next().unwrap_or(Capacity { points: 1, objects: 1 });
        let sizes: Vec<usize> = crops.iter().map(|crop| crop.size).collect();
        let mut session = file.session_at_sizes(&sizes, self.batch_size, device, room)?;
        let evaluator = Evaluator::at_sizes(&session, &sizes)?;
        let options = config.loader_options(Augment::NONE);
        evaluator.with_views(self.views.views()).run(
            &mut session,
            images,
            &options,
            || signals.received(),
            None,
        )
    }

    fn to_json(&self, measured: &Measured) -> Value {
        let Measured { file, config, crops, split, source, evaluation } = measured;
        let per_crop = |pixels: fn(&Crop) -> usize| crops.iter().map(pixels).collect::<Vec<_>>();
        json!({
            "model": file.card.model,
            "weights": file.path.to_string_lossy(),
            "data": config.data_dir.as_ref().map(|root| root.to_string_lossy()),
            "split": split.name(),
            "images": evaluation.num_images,
            "top1_error": evaluation.top1_error(),
            "top5_error": evaluation.top5_error(),
            "loss": evaluation.loss,
            "images_per_second": measured.images_per_second(),
            "sizes": per_crop(|crop| crop.size),
            "resized_to": per_crop(|crop| crop.resize),
            "mirrored": self.views.views() == Views::Mirrored,
            "remarks": source.remarks,
            "categories": measured.categories().map(|row| json!({
                "label": row.label,
                "category": row.name,
                "images": row.error.images,
                "top1_error": row.error.percent(),
                "most_taken_for": row.mistaken_for.map(|(name, _)| name),
                "times": row.mistaken_for.map_or(0, |(_, times)| times),
            })).collect::<Vec<_>>(),
        })
    }
}

/// An evaluation and what it is one of.
struct Measured<'a> {
    file: &'a ModelFile,
    config: &'a TrainConfig,
    crops: &'a [Crop],
    split: Split,
    source: &'a SplitSource,
    evaluation: Evaluation,
}

/// One category of an evaluation.
struct CategoryRow<'a> {
    label: usize,
    name: &'a str,
    error: CategoryError,
    mistaken_for: Option<(&'a str, u32)>,
}

impl Measured<'_> {
    fn images_per_second(&self) -> f64 {
        self.evaluation.num_images as f64 / self.evaluation.elapsed.as_secs_f64()
    }

    fn categories(&self) -> impl Iterator<Item = CategoryRow<'_>> {
        let names = &self.source.categories;
        let errors = CategoryError::of_each(&self.evaluation.confusion(names.len()), names.len());
        errors.into_iter().enumerate().map(|(label, error)| CategoryRow {
            label,
            name: &names[label],
            mistaken_for: error.mistaken_for.map(|(guess, times)| (names[guess].as_str(), times)),
            error,
        })
    }

    fn print(&self) -> Result<()> {
        let Measured { file, split, evaluation, .. } = self;
        say!(
            "{} on {} {} images: top-1 error {:.2} %, top-5 error {:.2} %, loss {:.4} ({:.1} images/s)",
            file.card.model,
            evaluation.num_images,
            split.name(),
            evaluation.top1_error(),
            evaluation.top5_error(),
            evaluation.loss,
            self.images_per_second()
        );
        let mut table = Table::new([
            ("category", Align::Left),
            ("images", Align::Right),
            ("top-1 error %", Align::Right),
            ("most often taken for", Align::Left),
        ]);
        for CategoryRow { name, error, mistaken_for, .. } in self.categories() {
            table.row([
                name.to_string(),
                error.images.to_string(),
                error.percent().map_or_else(String::new, |percent| format!("{percent:.1}")),
                mistaken_for.map_or_else(String::new, |(name, times)| format!("{name} ({times})")),
            ]);
        }
        output::print(table)
    }

    fn to_csv(&self) -> String {
        let mut csv =
            output::Csv::new(["label", "category", "images", "top1_error", "most_taken_for", "times"]);
        for CategoryRow { label, name, error, mistaken_for } in self.categories() {
            csv.row([
                label.to_string(),
                name.to_string(),
                error.images.to_string(),
                error.percent().map_or_else(String::new, |percent| percent.to_string()),
                mistaken_for.map_or_else(String::new, |(name, _)| name.to_string()),
                mistaken_for.map_or(0, |(_, times)| times).to_string(),
            ]);
        }
        csv.into_text()
    }
}

/// Fails unless the data set has exactly the categories of the model.
fn check_categories(file: &ModelFile, categories: &[String]) -> Result<()> {
    let remedy = "give the data set it was trained on with --data-dir, or its run folder with --run";
    let refused = |what: String| Err(Error::checkpoint(&file.path, format!("{what}; {remedy}")));
    let known = &file.card.categories;
    if let Some(unknown) = categories.iter().find(|name| file.has_names() && !known.contains(name)) {
        let (unknown, first) = (show_text(unknown), show_text(&known[0]));
        let count = known.len();
        return refused(format!(
            "does not know the category `{unknown}` of the data set (it knows {count}, `{first}` is the first)"
        ));
    }
    if known.len() < categories.len() {
        let (known, found) = (known.len(), categories.len());
        return refused(format!("knows {known} categories and the data set has {found}"));
    }
    file.check_labels(categories)
}
