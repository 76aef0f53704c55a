//! What a run shows of its epochs: a line each, `summary.csv` and `report.html`.

use std::fs;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::predictions;
use super::source::Source;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::grad_cam::Explainer;
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::Prepare;
use crate::report::{Confusion, heat_map};
use crate::run::metrics::{self, Epoch, summary_csv};
use crate::run::page::{JudgedPhoto, RunPage};
use crate::run::run_dir::{Env, RunDir};
use crate::step::evaluate::{Prediction, count_confusion};

const SUMMARY: &str = "summary.csv";
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
    /// Such as `finished`.
    pub status: &'a str,
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
    let confusion = predictions
        .as_ref()
        .map(|all| Confusion::new(source.categories.clone(), &count_confusion(all, num_classes)));
    let predictions = predictions.unwrap_or_default();
    let mut mistakes = surest(source, predictions.iter().filter(|p| p.guess != p.label), NUM_MISTAKES)?;
    let mut hits = surest(source, predictions.iter().filter(|p| p.guess == p.label), NUM_HITS)?;
    if let Some(model) = standing.model {
        let shown = mistakes.iter_mut().take(NUM_EXPLAINED).chain(hits.iter_mut().take(NUM_EXPLAINED));
        if let Err(error) = explain(source, model, shown) {
            // The run itself is done and safe; its page has one section less.
            dir.log(&format!("no Grad-CAM on the report: {error}"))?;
        }
    }
    let photos = |judged: Vec<Judged>| judged.into_iter().map(|judged| judged.photo).collect::<Vec<_>>();
    let (mistakes, hits) = (photos(mistakes), photos(hits));
    let records = metrics::read(&dir.metrics())?;
    let name = dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let page = RunPage {
        name: &name,
        status: standing.status,
        records: &records,
        env,
        confusion: confusion.as_ref(),
        mistakes: &mistakes,
        hits: &hits,
    };
    dir.write("report.html", page.page().to_html())
}

/// A prediction and how the page shows it.
struct Judged {
    prediction: Prediction,
    photo: JudgedPhoto,
}

/// The `count` of `predictions` that the model was surest of, the surest first.
fn surest<'a>(
    source: &Source,
    predictions: impl Iterator<Item = &'a Prediction>,
    count: usize,
) -> Result<Vec<Judged>> {
    let mut sorted: Vec<&Prediction> = predictions.collect();
    sorted.sort_by(|a, b| b.guess_probability.total_cmp(&a.guess_probability).then(a.index.cmp(&b.index)));
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
    sorted.iter().take(count).map(judge).collect()
}

/// Adds to each of `judged` where the model saw its guess. On the CPU, whatever trained: it is a handful of images.
fn explain<'a>(
    source: &Source,
    model: &ModelFile,
    judged: impl Iterator<Item = &'a mut Judged>,
) -> Result<()> {
    let mut explainer = Explainer::new(model, Device::Cpu)?;
    let (prepare, size, mut buffer) = (Prepare::new(model), source.val.image_size(), Vec::new());
    for Judged { prediction, photo } in judged {
        let pixels = source.val.pixels(prediction.index as usize, &mut buffer)?;
        let explanation = explainer.explain(&prepare.to_image(pixels), Some(prediction.guess as usize))?;
        let heat = heat_map(pixels, size, &explanation.heat(), explanation.extents[1]);
        photo.heat = Some(jpeg(&heat, size)?);
    }
    Ok(())
}

fn jpeg(pixels: &[u8], image_size: usize) -> Result<Vec<u8>> {
    let (mut bytes, side) = (Vec::new(), image_size as u32);
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder
        .write_image(pixels, side, side, ExtendedColorType::Rgb8)
        .map_err(|source| Error::data("report.html", format!("cannot encode a picture: {source}")))?;
    Ok(bytes)
}
