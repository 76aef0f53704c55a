//! What a run shows of its epochs: a line each, `summary.csv` and `report.html`.

use std::collections::HashSet;
use std::fs;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::config::TrainConfig;
use super::predictions;
use super::source::Source;
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::grad_cam::Explainer;
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::Prepare;
use crate::progress::Progress;
use crate::report::{Confusion, heat_map};
use crate::run::metrics::{self, Epoch, summary_csv};
use crate::run::page::{CategoryRow, Heats, JudgedPhoto, RunPage, Setting};
use crate::run::run_dir::{Env, RunDir, utc};
use crate::step::evaluate::{CategoryError, Prediction, count_confusion};

const SUMMARY: &str = "summary.csv";
/// The page of a run in its folder.
pub const REPORT: &str = "report.html";
/// Images shown as the surest mistakes.
const NUM_MISTAKES: usize = 14;
/// Images shown as the surest hits.
const NUM_HITS: usize = 7;
/// How many mistakes, and how many hits, are shown with the places that speak for the guess.
const NUM_EXPLAINED: usize = 3;
/// Quality of the photos on the page, 1 to 100.
const JPEG_QUALITY: u8 = 88;

/// `epoch 3/5  train loss 0.52  val loss 0.61 ...`.
pub fn epoch_line(row: &Epoch, epochs: u64) -> String {
    format!(
        "epoch {}/{epochs}  train loss {:.4}  val loss {:.4}  top-1 error {:.2} %  top-5 error {:.2} %  {:.1} images/s  \
         waiting for data {:.1} %",
        row.epoch + 1,
        row.train_loss,
        row.eval_loss,
        row.eval_err1,
        row.eval_err5,
        row.img_s,
        100.0 * row.data_wait_seconds / row.train_seconds
    )
}

/// How far a run has come, for its files.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Every epoch so far, as the state has it.
    pub history: &'a [Epoch],
    /// The weights that were evaluated, to show on the report where they saw what they guessed.
    pub model: Option<&'a ModelFile>,
    /// Whether it is in progress, or how it ended.
    pub status: Status<'a>,
}

/// Whether a run is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// This number of updates of the second number is done.
    Running(u64, u64),
    /// It ended in this way, such as `finished`.
    Ended(&'a str),
}

impl Status<'_> {
    fn text(self) -> String {
        match self {
            Status::Running(step, total) => format!("running: step {step} of {total} at {}", utc()),
            Status::Ended(how) => how.to_string(),
        }
    }
}

/// Writes `summary.csv` of a run with these epochs.
///
/// # Errors
/// [`Error::Io`] if it cannot be written.
pub fn write_csv(dir: &RunDir, history: &[Epoch]) -> Result<()> {
    dir.write(SUMMARY, summary_csv(history))
}

/// Whether `summary.csv` is that of these epochs.
pub fn csv_is_of(dir: &RunDir, history: &[Epoch]) -> bool {
    fs::read(dir.file(SUMMARY)).is_ok_and(|bytes| bytes == summary_csv(history))
}

/// Writes `report.html` of a run, with its newest evaluation as `predictions.jsonl` keeps it.
///
/// # Errors
/// [`Error::Io`] if it cannot be written, or what it is made from not be read; [`Error::Checkpoint`] if that is damaged.
pub fn write_report(dir: &RunDir, env: &Env, source: &Source, standing: &Standing) -> Result<()> {
    let num_classes = source.categories.len();
    let predictions = predictions::read(dir, &source.val, num_classes)?;
    let counts = predictions.as_ref().map(|all| count_confusion(all, num_classes));
    let confusion = counts.as_ref().map(|counts| Confusion::new(source.categories.clone(), counts));
    let category_errors = counts.map_or(Vec::new(), |counts| category_rows(&counts, &source.categories));
    let predictions = predictions.unwrap_or_default();
    let mistakes = surest_first(predictions.iter().filter(|p| p.guess != p.label));
    let hits = of_different_categories(&surest_first(predictions.iter().filter(|p| p.guess == p.label)));
    let mut mistakes = judge(source, &mistakes, NUM_MISTAKES)?;
    let mut hits = judge(source, &hits, NUM_HITS)?;
    let mut heats = None;
    if let Some(model) = standing.model {
        let shown = mistakes.iter_mut().take(NUM_EXPLAINED).chain(hits.iter_mut().take(NUM_EXPLAINED));
        match explain(source, model, shown) {
            Ok(explained) => heats = Some(explained),
            // The run itself is done and safe; its page has one section less.
            Err(error) => dir.log(&format!("no Grad-CAM on the report: {error}"))?,
        }
    }
    let photos = |judged: Vec<Judged>| judged.into_iter().map(|judged| judged.photo).collect::<Vec<_>>();
    let (mistakes, hits) = (photos(mistakes), photos(hits));
    let records = metrics::read(&dir.metrics())?;
    let name = dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let page = RunPage {
        name: &name,
        status: &standing.status.text(),
        is_running: matches!(standing.status, Status::Running(..)),
        records: &records,
        env,
        settings: &settings(&dir.read_config()?, env),
        categories: &source.categories,
        confusion: confusion.as_ref(),
        category_errors: &category_errors,
        mistakes: &mistakes,
        hits: &hits,
        heats: heats.as_ref(),
    };
    dir.write(REPORT, page.page().to_html())
}

/// The settings `config` next to the defaults, on the device of `env`.
pub fn settings(config: &TrainConfig, env: &Env) -> Vec<Setting> {
    let mut defaults = config.defaults_beside();
    let device = env.device.split(' ').next().and_then(|name| name.parse::<DeviceChoice>().ok());
    if let Some(kind) = device.and_then(|device| device.kind().ok()) {
        // A run records what `auto` was.
        defaults.decide_precision(kind);
    }
    let defaults = defaults.records();
    let records = config.records().into_iter();
    records.map(|(name, value)| Setting { default: defaults[&name].clone(), name, value }).collect()
}

fn category_rows(counts: &[u32], categories: &[String]) -> Vec<CategoryRow> {
    let errors = CategoryError::of_each(counts, categories.len()).into_iter().zip(categories);
    let row = |(error, name): (CategoryError, &String)| CategoryRow {
        name: name.clone(),
        images: error.images,
        error: error.percent(),
        mistaken_for: error.mistaken_for.map(|(guess, times)| (categories[guess].clone(), times)),
    };
    errors.map(row).collect()
}

/// A prediction and how the page shows it.
struct Judged {
    prediction: Prediction,
    photo: JudgedPhoto,
}

/// The predictions that the model was surest of come first.
fn surest_first<'a>(predictions: impl Iterator<Item = &'a Prediction>) -> Vec<&'a Prediction> {
    let mut sorted: Vec<&Prediction> = predictions.collect();
    sorted.sort_by(|a, b| b.guess_probability.total_cmp(&a.guess_probability).then(a.index.cmp(&b.index)));
    sorted
}

/// The first prediction of each category, and after them the others.
fn of_different_categories<'a>(predictions: &[&'a Prediction]) -> Vec<&'a Prediction> {
    let mut seen = HashSet::new();
    let (mut first, others): (Vec<_>, Vec<_>) = predictions.iter().partition(|p| seen.insert(p.label));
    first.extend(others);
    first
}

/// The first `count` of `predictions`, as the page shows them.
fn judge(source: &Source, predictions: &[&Prediction], count: usize) -> Result<Vec<Judged>> {
    let judge = |prediction: &&Prediction| {
        let name = |label: u32| source.categories[label as usize].clone();
        let index = prediction.index as usize;
        let photo = JudgedPhoto {
            name: source.val.name(index).to_string(),
            image: jpeg(source.val.pixels(index, &mut Vec::new())?, source.val.image_size())?,
            truth: name(prediction.label),
            guess: name(prediction.guess),
            probability: f64::from(prediction.guess_probability),
            heat: None,
        };
        Ok(Judged { prediction: **prediction, photo })
    };
    predictions.iter().take(count).map(judge).collect()
}

/// Adds to each of `judged` where the model saw its guess. On the CPU, whatever trained: it is a handful of images.
fn explain<'a>(
    source: &Source,
    model: &ModelFile,
    judged: impl Iterator<Item = &'a mut Judged>,
) -> Result<Heats> {
    let mut explainer = Explainer::new(model, Device::Cpu)?;
    let (prepare, size, mut buffer) = (Prepare::new(model), source.val.image_size(), Vec::new());
    let progress = Progress::start("explaining", 2 * NUM_EXPLAINED);
    for Judged { prediction, photo } in judged {
        let pixels = source.val.pixels(prediction.index as usize, &mut buffer)?;
        let explanation = explainer.explain(&prepare.to_image(pixels), Some(prediction.guess as usize))?;
        let heat = heat_map(pixels, size, &explanation.heat(), explanation.extents[1]);
        photo.heat = Some(jpeg(&heat, size)?);
        progress.add(1);
    }
    Ok(Heats { layer: explainer.layer().to_string(), extents: explainer.extents() })
}

fn jpeg(pixels: &[u8], image_size: usize) -> Result<Vec<u8>> {
    let (mut bytes, side) = (Vec::new(), image_size as u32);
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder
        .write_image(pixels, side, side, ExtendedColorType::Rgb8)
        .map_err(|source| Error::data(REPORT, format!("cannot encode a picture: {source}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::precision::PrecisionChoice;

    #[test]
    fn the_surest_hits_are_of_different_categories_while_there_are_any() {
        let prediction = |(index, label, sure): (u32, u32, f32)| Prediction {
            index,
            label,
            guess: label,
            guess_probability: sure,
        };
        let all = [(0, 2, 0.5), (1, 2, 0.9), (2, 0, 0.3), (3, 2, 0.9), (4, 1, 0.7)].map(prediction);
        let shown = of_different_categories(&surest_first(all.iter()));
        assert_eq!(shown.iter().map(|p| p.index).collect::<Vec<_>>(), [1, 4, 2, 3, 0]);
    }

    #[test]
    fn settings_stand_next_to_the_defaults_of_their_data_set_optimiser_and_device() {
        let defaults = TrainConfig::defaults(Some("photos".into()));
        let config = TrainConfig { epochs: 77, precision: PrecisionChoice::F32, ..defaults };
        for (device, expected) in [
            ("cpu (2 threads)", &["epochs = 77, not 90"][..]),
            ("cuda:0 (NVIDIA H200)", &["epochs = 77, not 90", "precision = f32, not bf16"]),
        ] {
            let settings = settings(&config, &Env::of_this_process(device));
            let changed = settings.iter().filter(|setting| setting.value != setting.default);
            let changed: Vec<_> = changed
                .map(|Setting { name, value, default }| format!("{name} = {value}, not {default}"))
                .collect();
            assert_eq!(changed, expected, "{device}");
            assert!(settings.len() > 30, "{}", settings.len());
        }
    }
}
